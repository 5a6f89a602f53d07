//! CORS preflights (Fetch §3.2.2): forwarded at once (rule: preflights).
//!
//! A browser sends them before its request, without credentials, and reports
//! any refusal as a network error. Invariant: a preflight takes no token and
//! waits in no queue; only network rules and the caps on requests in flight
//! apply to it.

use std::collections::VecDeque;

use http::Method;
use http::header::ACCESS_CONTROL_REQUEST_METHOD;
use http::request::Parts;
use tokio::time::Instant;

use super::error::Error;
use super::{Proxy, Who};
use crate::body::{ClientBody, ClientResponse, RequestBody, UpstreamRequest};
use crate::http::request_head::RequestHead;
use crate::identity::{Findings, pairs};
use crate::observe::access_log::LogEntry;
use crate::observe::metrics::Route;
use crate::upstream::UpstreamResponse;

/// Headers and a field by which frameworks let a request stand for one with
/// another method (WordPress, Laravel, Rails): a preflight has none.
const METHOD_OVERRIDES: [&str; 3] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];
const METHOD_FIELD: &str = "_method";

/// Whether a request is a preflight and nothing else.
pub(super) fn is_preflight(head: &Parts, body: &ClientBody) -> bool {
    let is_override = || {
        let mut fields = pairs(head.uri.query().unwrap_or_default());
        METHOD_OVERRIDES
            .iter()
            .any(|name| head.headers.contains_key(*name))
            || fields.any(|field| crate::identity::decode(field.key) == METHOD_FIELD)
    };
    head.method == Method::OPTIONS
        && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
        && body.is_empty()
        && !is_override()
}

impl Proxy {
    /// Forwards a preflight without charge.
    pub(super) async fn forward_preflight(
        &self,
        head: &mut RequestHead,
        body: &mut ClientBody,
        who: Who<'_>,
        route: Route,
        log_entry: &mut LogEntry,
    ) -> Result<Box<ClientResponse>, Error> {
        let identity = Findings::of_head(head).identity();
        log_entry.set_identity(&identity, head, || who.tenant(&identity));
        let instance = identity.instance.as_deref();
        who.tenants.may_preflight(who.client, instance)?;
        let mut request = UpstreamRequest {
            head: head.take(),
            body: RequestBody::streamed(body.take()),
        };
        let began = Instant::now();
        let response = self.upstream.call(&mut request, route).await;
        log_entry.upstream_responded(began);
        let UpstreamResponse { head, body, .. } = response?;
        let body = body.into_client_body(VecDeque::new());
        Ok(Box::new(ClientResponse { head, body }))
    }
}
