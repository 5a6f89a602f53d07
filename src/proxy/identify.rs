//! Finds the instance, the credential and the tenant key of a request, and its lane at
//! the limiter.
//!
//! Invariant: a request body is read ahead for a bounded time and size; after that
//! the request goes on with what is known (rule: identity).

use std::future::poll_fn;
use std::ops::Deref;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use http::header::EXPECT;
use http::request::Parts;

use super::Proxy;
use super::error::Error;
use super::request_ctx::RequestCtx;
use crate::body::{self, ClientBody};
use crate::config::Classes;
use crate::http::request_head::RequestHead;
use crate::http::{hop_by_hop, path};
use crate::identity::scan::{self, Extent};
use crate::identity::{Findings, Fingerprint, Identity, InstanceId, verification};
use crate::limit::Lane;
use crate::observe::metrics::Route;
use crate::tenant::Denied;
use crate::tenant::key::Substitution;

/// How long a body may take to be scanned for an identity that contradicts the head.
/// Clients send head and body together, so more time would only delay slow bodies.
const CONTRADICTION_SCAN: Duration = Duration::from_millis(25);

impl Proxy {
    /// Replaces a tenant's key by the real token, before the credentials are read.
    ///
    /// # Errors
    /// The key does not open this instance, or cannot be replaced.
    pub(super) async fn substitute_key(
        &self,
        ctx: &mut RequestCtx<'_>,
        head: &mut RequestHead,
        body: &mut ClientBody,
    ) -> Result<Option<Substitution>, Error> {
        let Some(keyring) = &ctx.settings.keyring else {
            return Ok(None);
        };
        // The access rules are applied later. The client matters here, because a key from
        // outside its tenant's networks must have no effect (rule: tenant keys).
        let mut search = keyring.search(head, ctx.client);
        if !body.is_empty() {
            let mut scan = Box::pin(search.scan_body(&head.headers, body));
            self.in_time(self.shared.settings.header_timeout, scan.as_mut())
                .await?;
        }
        let replaced = search.replace(head, body);
        Ok(replaced.inspect_err(|_| {
            let identity = Findings::of_head(head).identity();
            ctx.name_refused(&identity, &self.shared.metrics);
        })?)
    }

    /// Finds instance and credential in the head and the beginning of the body.
    ///
    /// # Errors
    /// The body broke off.
    pub(super) async fn identify(
        &self,
        ctx: &RequestCtx<'_>,
        head: &Parts,
        body: &mut ClientBody,
    ) -> Result<Identity, Error> {
        let mut findings = Findings::of_head(head);
        let extent = match self.scan_limit(ctx, head, &findings) {
            _ if body.is_empty() => Extent::Whole,
            None => Extent::Part,
            // Nearly every body has arrived with its head.
            Some(_) if body.is_held() => {
                scan::scan_pieces(&mut findings, &head.headers, body.held_pieces())
            }
            Some(limit) => {
                // Boxed: many requests have no body.
                let mut scan = Box::pin(scan::scan_body(&mut findings, &head.headers, body));
                let extent = self.in_time(limit, scan.as_mut()).await?;
                extent.unwrap_or(Extent::Part)
            }
        };
        if extent == Extent::Part {
            findings.set_partial();
        }
        let mut identity = findings.identity();
        if identity.may_be_hidden() {
            // Otherwise they would share one bucket with all requests without an
            // identity, and exhaust it for them.
            identity.credential = Some(Fingerprint::of_client(ctx.client.address()));
        }
        Ok(identity)
    }

    /// How long a body may take to be scanned; `None` if it is not scanned, and the
    /// request verifies nothing.
    fn scan_limit(
        &self,
        ctx: &RequestCtx<'_>,
        head: &Parts,
        findings: &Findings,
    ) -> Option<Duration> {
        if ctx.settings.tenants.depends_on_instance() || !findings.is_complete() {
            return Some(self.shared.settings.header_timeout);
        }
        // The head names the identity, and only a contradiction in the body is searched.
        // That must not delay a slow body, nor send `100 Continue` for a body that the
        // upstream may refuse by the head alone.
        (!hop_by_hop::has(&head.headers, &EXPECT)).then_some(CONTRADICTION_SCAN)
    }

    /// Bounds reading ahead: `None` if it took longer than `limit`. Then the body is
    /// forwarded as it arrives.
    ///
    /// # Errors
    /// The body broke off.
    pub(super) async fn in_time<T>(
        &self,
        limit: Duration,
        mut reading: Pin<&mut impl Future<Output = Result<T, body::Error>>>,
    ) -> Result<Option<T>, Error> {
        // Nearly every body arrived with its head and needs no timer.
        if let Poll::Ready(read) = poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await {
            return Ok(Some(read?));
        }
        // What was read stays in the body's buffer, so dropping `reading` loses nothing.
        match Box::pin(tokio::time::timeout(limit, reading)).await {
            Ok(read) => Ok(Some(read?)),
            Err(_) => Ok(None),
        }
    }

    /// The lane of an identified request, if the access rules allow it.
    ///
    /// # Errors
    /// An access rule forbids the request.
    pub(super) fn lane(
        &self,
        ctx: &mut RequestCtx<'_>,
        identity: &Identity,
        head: &Parts,
    ) -> Result<Lane, Denied> {
        // Logged before the rules are applied, so that a refusal shows the instance.
        ctx.log_identity(identity, head);
        let tenant = ctx.admit(identity);
        let tenant = tenant.inspect_err(|_| ctx.name_refused(identity, &self.shared.metrics))?;
        let is_receipt = ctx.route == Route::ReceiptPath;
        let verifies = verification::is_conclusive(head, is_receipt, identity);
        let class = |classes: &Classes, instance: Option<&InstanceId>| {
            if classes.is_empty() {
                return None;
            }
            let path = path::normalize(head.uri.path());
            classes.class_of(&head.method, &path, is_receipt, instance.map(Deref::deref))
        };
        let limits = &ctx.settings.limits;
        let lane = self.shared.limiter.lane(limits, identity, class, verifies);
        Ok(lane.counted_in(tenant))
    }
}
