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
use super::{Caller, Proxy};
use crate::body::{ClientBody, ClientResponse, RequestBody, UpstreamRequest};
use crate::http::method;
use crate::http::request_head::RequestHead;
use crate::identity::Findings;
use crate::observe::access_log::LogEntry;
use crate::observe::metrics::Route;
use crate::upstream::UpstreamResponse;

/// Whether a request is a preflight and nothing else.
pub(super) fn is_preflight(head: &Parts, body: &ClientBody) -> bool {
    head.method == Method::OPTIONS
        && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
        && body.is_empty()
        && !method::is_overridden(head)
}

impl Proxy {
    /// Forwards a preflight without charge.
    pub(super) async fn forward_preflight(
        &self,
        head: &mut RequestHead,
        body: &mut ClientBody,
        caller: Caller<'_>,
        route: Route,
        log_entry: &mut LogEntry,
    ) -> Result<Box<ClientResponse>, Error> {
        let identity = Findings::of_head(head).identity();
        log_entry.set_identity(&identity, head, || caller.tenant_of(&identity));
        let instance = identity.instance.as_deref();
        caller.tenants.may_preflight(caller.client, instance)?;
        if let Some(keyring) = self.shared.keyring.load_full() {
            // The browser repeats the request's URL, and the upstream need not
            // learn a key. One that opens nothing here is no reason to refuse.
            keyring.search(head, caller.client).replace(head, body).ok();
        }
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
