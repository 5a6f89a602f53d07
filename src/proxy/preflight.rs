//! CORS preflights (Fetch §3.2.2): forwarded at once (rule: preflights).
//!
//! A browser sends one before its request, without credentials, and reports any
//! refusal as a network error. Invariant: a preflight takes no bucket token and
//! waits in no queue; only network rules and the caps on requests in flight apply.

use std::collections::VecDeque;

use http::Method;
use http::header::ACCESS_CONTROL_REQUEST_METHOD;
use http::request::Parts;
use tokio::time::Instant;

use super::Proxy;
use super::error::Error;
use super::request_ctx::RequestCtx;
use crate::body::{ClientBody, ClientResponse, RequestBody, UpstreamRequest};
use crate::http::method;
use crate::http::request_head::RequestHead;
use crate::identity::{Findings, Identity};
use crate::tenant::Denied;
use crate::upstream::UpstreamResponse;

/// Whether a request is a preflight and nothing else.
pub(super) fn is_preflight(head: &Parts, body: &ClientBody) -> bool {
    // Strict, because a preflight is not limited: with a method override, a framework
    // could send a message for it.
    head.method == Method::OPTIONS
        && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
        && body.is_empty()
        && !method::is_overridden(head)
}

impl Proxy {
    /// Identifies a preflight, applies the access rules, and removes tenant keys.
    pub(super) fn prepare_preflight(
        &self,
        ctx: &mut RequestCtx<'_>,
        head: &mut RequestHead,
    ) -> (Identity, Result<(), Denied>) {
        let identity = Findings::of_head(head).identity();
        ctx.log_identity(&identity, head);
        let instance = identity.instance.as_deref();
        if let Err(denied) = ctx.settings.tenants.may_preflight(ctx.client, instance) {
            ctx.name_refused(&identity, &self.shared.metrics);
            return (identity, Err(denied));
        }
        if let Some(keyring) = &ctx.settings.keyring {
            // The URL is that of the request that follows, and may contain a key, which
            // the upstream must not learn. A key that opens nothing here is removed: the
            // request that follows may name its instance in the body, or is refused.
            keyring.search(head, ctx.client).replace_or_remove(head);
        }
        (identity, Ok(()))
    }

    /// Forwards a preflight. It takes no bucket token.
    ///
    /// # Errors
    /// The tenant's networks forbid it, or there is no response.
    pub(super) async fn forward_preflight(
        &self,
        ctx: &mut RequestCtx<'_>,
        mut head: Box<RequestHead>,
        body: &mut ClientBody,
    ) -> Result<ClientResponse, Error> {
        self.prepare_preflight(ctx, &mut head).1?;
        let mut request = UpstreamRequest {
            head,
            body: RequestBody::take(body),
        };
        let sent_at = Instant::now();
        let response = self.upstream.call(&mut request, ctx.route).await;
        ctx.log_entry.upstream_responded(sent_at);
        let UpstreamResponse { head, body, .. } = response?;
        let body = body.into_client_body(VecDeque::new());
        Ok(ClientResponse { head, body })
    }
}
