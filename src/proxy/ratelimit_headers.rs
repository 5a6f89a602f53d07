//! The `RateLimit` and `RateLimit-Policy` fields.
//!
//! Syntax of draft-ietf-httpapi-ratelimit-headers-10: `q` and `r` count calls,
//! `w` and `t` are whole seconds. They describe the gateway's own policies, one
//! per instance and class, tenant, and over all; the upstream's fields are left
//! alone.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::config::Quota;
use crate::http::response_head::ResponseHead;
use crate::http::retry_after;
use crate::limit::Scope;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Tells of a bucket that has `remaining` tokens and the next in `next`.
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
