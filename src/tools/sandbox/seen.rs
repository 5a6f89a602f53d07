//! Read receipts, as WAHA takes them.
//!
//! Owns which ids are well formed, and the two success bodies and the one failure of a receipt.
//! Invariant: a list is marked whole or not at all; one malformed id fails all of it.

use http::{Response, StatusCode};
use serde_json::json;

use super::Shared;
use super::answers::{self, Body, Failure};
use super::credentials::{Asked, Ids};

/// Answers a receipt whose credentials are in order.
pub(super) fn mark(shared: &Shared, chat: &str, asked: &Asked) -> Result<Response<Body>, Failure> {
    match asked.ids() {
        Ids::NotAList => {
            let text = "Invalid parameter format: messageIds must be an array of strings";
            Err(Failure::new(StatusCode::BAD_REQUEST, "invalid_param", text))
        }
        Ids::Whole => {
            // As NOWEB and GOWS: the ids that were unread, and now are not.
            let ids = [1, 2].map(|n| format!("false_{chat}_3EB0{n:016X}"));
            Ok(answers::json(StatusCode::CREATED, &json!({ "ids": ids })))
        }
        Ids::Listed(ids) => match ids.iter().find(|id| !is_well_formed(id)) {
            Some(id) => Ok(broken(shared, id)),
            None => Ok(answers::empty(StatusCode::CREATED)),
        },
    }
}

/// Says whether an id is `{true|false}_{chat}_{id}` with an optional `_{participant}`.
fn is_well_formed(id: &str) -> bool {
    let parts: Vec<_> = id.split('_').collect();
    matches!(parts[0], "true" | "false")
        && (3..=4).contains(&parts.len())
        && parts.iter().all(|part| !part.is_empty())
}

/// WAHA's own error, which does not have the vendor's shape.
fn broken(shared: &Shared, id: &str) -> Response<Body> {
    let now = u64::try_from(shared.now().as_millis()).unwrap_or(u64::MAX);
    let message = format!(
        "message id {id:?} is not in the format false_11111111111@c.us_AAAAAAAAAAAAAAAAAAAA[_participant]"
    );
    let value = json!({
        "statusCode": 500,
        "timestamp": now,
        "exception": { "message": message, "name": "Error" },
    });
    answers::json(StatusCode::INTERNAL_SERVER_ERROR, &value)
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
