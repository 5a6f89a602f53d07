//! The `RateLimit` and `RateLimit-Policy` headers.
//!
//! Syntax of draft-ietf-httpapi-ratelimit-headers-10: `q` and `r` count requests, `w`
//! and `t` are whole seconds. The headers describe the limits of the gateway: per
//! instance and class, per tenant, and for the egress. Invariant: headers of the upstream
//! do not change.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::config::Quota;
use crate::http::response_head::ResponseHead;
use crate::http::retry_after;
use crate::limit::Scope;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Describes a bucket that holds `remaining` tokens and gets the next one in `next`.
pub(crate) fn describe(
    head: &mut ResponseHead,
    scope: Scope,
    quota: Option<Quota>,
    remaining: u32,
    next: Duration,
) {
    let Some(quota) = quota else { return };
    let name = scope.as_str();
    // A bucket has no window. The time in which an empty one fills up is the same promise:
    // `burst` requests in `w` seconds.
    let window = retry_after::seconds(quota.interval() * quota.burst.get());
    let policy = format!("\"{name}\";q={};w={window};qu=\"requests\"", quota.burst);
    let state = format!("\"{name}\";r={remaining};t={}", retry_after::seconds(next));
    for (name, value) in [(POLICY, policy), (RATE_LIMIT, state)] {
        // Appended: both headers are lists, and the upstream may have sent its own.
        head.append(
            name,
            HeaderValue::from_str(&value).expect("digits and quotes are a header value"),
        );
    }
}
