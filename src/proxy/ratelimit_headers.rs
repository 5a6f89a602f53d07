//! The `RateLimit` and `RateLimit-Policy` fields.
//!
//! Syntax of draft-ietf-httpapi-ratelimit-headers-10: `q` and `r` count requests, `w`
//! and `t` are whole seconds. The fields describe the policies of the gateway: per
//! instance and class, per tenant, and for the egress. Fields of the upstream stay as
//! they are.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::config::Quota;
use crate::http::response_head::ResponseHead;
use crate::http::retry_after;
use crate::limit::Scope;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Describes a bucket that holds `remaining` tokens and gets its next one in `next`.
pub(crate) fn describe(
    head: &mut ResponseHead,
    scope: Scope,
    quota: Option<Quota>,
    remaining: u32,
    next: Duration,
) {
    let Some(quota) = quota else { return };
    let name = match scope {
        Scope::Instance => "instance",
        Scope::Tenant => "tenant",
        Scope::Egress => "egress",
    };
    let window = retry_after::seconds(quota.interval() * quota.burst.get());
    let policy = format!("\"{name}\";q={};w={window};qu=\"requests\"", quota.burst);
    let state = format!("\"{name}\";r={remaining};t={}", retry_after::seconds(next));
    for (name, value) in [(POLICY, policy), (RATE_LIMIT, state)] {
        head.append(
            name,
            HeaderValue::from_str(&value).expect("digits and quotes are a field value"),
        );
    }
}
