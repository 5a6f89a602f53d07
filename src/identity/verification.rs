//! Whether a response shows if a credential is valid (rule: verification).
//!
//! Invariant: only this file decides it.

use http::Method;
use http::request::Parts;

use super::findings::{Certainty, Identity};
use crate::http::{method, path};

/// The first segment of paths that need a credential; other pages are public.
const API_SEGMENT: &str = "v2";

/// Whether the response to a request shows if the upstream accepts the
/// request's credential: then a 2xx verifies it, and a 401 removes the verification.
pub(crate) fn is_conclusive(head: &Parts, is_receipt: bool, identity: &Identity) -> bool {
    let path = head.uri.path();
    identity.credential.is_some()
        // Otherwise the response may be about an identity that was not found.
        && identity.certainty == Certainty::Certain
        // A CORS layer responds to `OPTIONS`, any server to `TRACE`, without a credential.
        && !matches!(head.method, Method::OPTIONS | Method::TRACE)
        // The request may be an `OPTIONS` for the backend.
        && !method::is_overridden(head)
        // With dot segments it may lead to a public page.
        && path::has_one_reading(path)
        && (is_receipt || is_of_api(path))
}

/// Whether a path lies below [`API_SEGMENT`].
fn is_of_api(path: &str) -> bool {
    // As nearly all paths are written.
    if let Some([b'/', b'v', b'2', b'/', first, ..]) = path.as_bytes().get(..5)
        && *first != b'/'
    {
        return true;
    }
    let mut segments = path::segments(path);
    segments.next() == Some(API_SEGMENT) && segments.next().is_some()
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};

    use super::*;
    use crate::identity::Fingerprint;

    #[test]
    fn only_an_unambiguous_request_to_the_api_is_conclusive() {
        let identity = |certainty| Identity {
            instance: None,
            credential: Some(Fingerprint::of_client(None)),
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
            (Method::GET, "/v2/chats?a=b&_%6Dethod=OPTIONS", false, false),
        ] {
            let request = Request::builder().method(method).uri(path);
            let (mut head, ()) = request.body(()).unwrap().into_parts();
            let found = is_conclusive(&head, is_receipt, &certain);
            assert_eq!(found, conclusive, "{head:?}");
            let anonymous = Identity {
                credential: None,
                ..certain.clone()
            };
            for identity in [
                identity(Certainty::Partial),
                identity(Certainty::Ambiguous),
                anonymous,
            ] {
                assert!(!is_conclusive(&head, is_receipt, &identity), "{head:?}");
            }
            let options = HeaderValue::from_static("OPTIONS");
            head.headers.insert("x-http-method-override", options);
            assert!(!is_conclusive(&head, is_receipt, &certain));
        }
    }
}
