//! When a response says something about a credential (rule: verification).
//!
//! Invariant: this is the only place that decides it.

use http::Method;

use super::findings::{Certainty, Identity};
use crate::http::path;

/// Below it every request needs a credential; pages elsewhere are public.
const API_SEGMENT: &str = "v2";

/// Whether the response to a request shows if the upstream accepts the
/// request's credential: a 2xx then verifies it, a 401 revokes it.
///
/// `OPTIONS` is answered by any CORS layer, `TRACE` by any server. A path with
/// dot segments may lead to a public page. If the request was not read to its
/// end, or states several identities, the response may be about another one.
pub(crate) fn is_conclusive(
    method: &Method,
    path: &str,
    is_receipt: bool,
    identity: &Identity,
) -> bool {
    identity.certainty == Certainty::Certain
        && !matches!(*method, Method::OPTIONS | Method::TRACE)
        && path::has_one_reading(path)
        && (is_receipt || is_of_api(path))
}

/// Whether a path lies below [`API_SEGMENT`].
fn is_of_api(path: &str) -> bool {
    let mut segments = path::segments(path);
    segments.next() == Some(API_SEGMENT) && segments.next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unambiguous_request_to_the_api_is_conclusive() {
        let identity = |certainty| Identity {
            instance: None,
            credential: None,
            certainty,
        };
        let certain = identity(Certainty::Certain);
        for (method, path, is_receipt, conclusive) in [
            (Method::GET, "/v2/chats", false, true),
            (Method::DELETE, "//v2/chats", false, true),
            (Method::POST, "/wp-json/awp/v1/sendSeen", true, true),
            (Method::POST, "/wp-json/awp/v1/sendSeen", false, false),
            (Method::GET, "/", false, false),
            (Method::GET, "/v2", false, false),
            (Method::GET, "/v2/", false, false),
            (Method::GET, "/v20/chats", false, false),
            (Method::OPTIONS, "/v2/chats", false, false),
            (Method::TRACE, "/v2/chats", false, false),
            (Method::OPTIONS, "/v2/send/seen", true, false),
            (Method::GET, "/v2/../public", false, false),
            (Method::GET, "/v2/%2e%2e/public", false, false),
            (Method::GET, "/v2/..%2fpublic", false, false),
        ] {
            let found = is_conclusive(&method, path, is_receipt, &certain);
            assert_eq!(found, conclusive, "{method} {path}");
            for certainty in [Certainty::Partial, Certainty::Ambiguous] {
                let found = is_conclusive(&method, path, is_receipt, &identity(certainty));
                assert!(!found, "{method} {path} {certainty:?}");
            }
        }
    }
}
