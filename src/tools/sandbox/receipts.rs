//! Read receipts, as WAHA processes them.
//!
//! Owns which message ids are well formed, and the responses to a receipt.
//! Invariant: either all ids of a list are marked as read or none: one malformed id fails the request.

use http::{Response, StatusCode};
use serde_json::json;

use super::params::{Ids, Params};
use super::responses::{self, Body, Failure};
use super::state::State;

/// Responds to a receipt whose credentials are valid.
pub(super) fn mark(state: &State, chat: &str, params: &Params) -> Result<Response<Body>, Failure> {
    match params.ids() {
        Ids::NotAList => {
            let text = "Invalid parameter format: messageIds must be an array of strings";
            Err(Failure::new(StatusCode::BAD_REQUEST, "invalid_param", text))
        }
        Ids::Whole => {
            // WAHA's engines NOWEB and GOWS return the ids that were unread until then.
            let ids = [1, 2].map(|n| format!("false_{chat}_3EB0{n:016X}"));
            Ok(responses::json(StatusCode::CREATED, &json!({ "ids": ids })))
        }
        Ids::Listed(ids) => match ids.iter().find(|id| !is_well_formed(id)) {
            // The whole request fails because of one id. This is why the gateway must split batches
            // (rule: splitting).
            Some(id) => Ok(malformed_id(state, id)),
            None => Ok(responses::empty(StatusCode::CREATED)),
        },
    }
}

/// Whether an id is `{true|false}_{chat}_{id}` with an optional `_{participant}`.
fn is_well_formed(id: &str) -> bool {
    let parts: Vec<_> = id.split('_').collect();
    matches!(parts[0], "true" | "false")
        && (3..=4).contains(&parts.len())
        // `false__A` has three parts too, but no chat.
        && parts.iter().all(|part| !part.is_empty())
}

/// WAHA's own error, which is not in the vendor's format.
fn malformed_id(state: &State, id: &str) -> Response<Body> {
    let now = u64::try_from(state.now().as_millis()).unwrap_or(u64::MAX);
    let message = format!(
        "message id {id:?} is not in the format false_11111111111@c.us_AAAAAAAAAAAAAAAAAAAA[_participant]"
    );
    let value = json!({
        "statusCode": 500,
        "timestamp": now,
        "exception": { "message": message, "name": "Error" },
    });
    responses::json(StatusCode::INTERNAL_SERVER_ERROR, &value)
}

#[cfg(test)]
mod tests {
    use super::is_well_formed;

    #[test]
    fn ids_have_three_or_four_parts() {
        for good in [
            "false_1@c.us_AAA",
            "true_1@c.us_AAA",
            "false_1@g.us_AAA_2@c.us",
        ] {
            assert!(is_well_formed(good), "{good}");
        }
        for bad in [
            "",
            "AAA",
            "false_1@c.us",
            "False_1@c.us_A",
            "x_1@c.us_A",
            "false_1@g.us_A_2_3",
            "false__A",
            "null",
        ] {
            assert!(!is_well_formed(bad), "{bad}");
        }
    }
}
