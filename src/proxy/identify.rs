//! From a request to its lane: its identity is read and checked against the rules of access.
//!
//! Owns how far a request is read ahead, and for how long (rules: identity,
//! tenant keys, access). Invariant: a request is checked before it takes a token
//! or joins a batch.

use std::sync::Arc;
use std::time::Duration;

use http::header::EXPECT;
use http::request::Parts;

use super::Proxy;
use super::error::Error;
use crate::body::{self, ClientBody};
use crate::http::forwarded_for::Client;
use crate::http::path;
use crate::http::request_head::RequestHead;
use crate::identity::scan::{self, Extent};
use crate::identity::{Certainty, Findings, Fingerprint, Identity, verification};
use crate::limit::Lane;
use crate::observe::access_log::LogEntry;
use crate::observe::metrics::{Route, TenantSeries};
use crate::tenant::key::Substitution;
use crate::tenant::{Denied, Tenants};

/// How long a body may take to be scanned for an identity that contradicts the
/// head's. Clients send head and body together; anything longer would be felt.
const CONTRADICTION_SCAN: Duration = Duration::from_millis(25);

impl Proxy {
    /// Replaces a tenant's key by the real token before the credentials are read.
    /// The rules of access are applied afterwards; so a key that is shown from
    /// outside its tenant's networks does not count as one.
    pub(super) async fn unlock(
        &self,
        head: &mut RequestHead,
        body: &mut ClientBody,
        client: Client,
    ) -> Result<Option<Substitution>, Error> {
        let Some(keyring) = self.shared.keyring.load_full() else {
            return Ok(None);
        };
        let mut search = keyring.search(head, client);
        if !body.is_empty() {
            let scan = Box::pin(search.scan_body(&head.headers, body));
            self.in_time(self.shared.settings.header_timeout, scan)
                .await?;
        }
        Ok(search.replace(head, body)?)
    }

    /// Bounds reading ahead: `None` when it takes longer. A body that arrives
    /// slowly is then passed on as it comes.
    pub(super) async fn in_time<T>(
        &self,
        limit: Duration,
        reading: impl Future<Output = Result<T, body::Error>>,
    ) -> Result<Option<T>, Error> {
        match tokio::time::timeout(limit, reading).await {
            Ok(read) => Ok(Some(read?)),
            Err(_) => Ok(None),
        }
    }

    /// Reads the identity from the head and the beginning of the body.
    pub(super) async fn identify(
        &self,
        head: &Parts,
        body: &mut ClientBody,
        caller: Caller<'_>,
    ) -> Result<Identity, Error> {
        let mut findings = Findings::of_head(head);
        let extent = match self.scan_limit(head, &findings, caller) {
            _ if body.is_empty() => Extent::Whole,
            None => Extent::Part,
            Some(limit) => {
                // Boxed: many requests have no body.
                let scan = Box::pin(scan::scan_body(&mut findings, &head.headers, body));
                self.in_time(limit, scan).await?.unwrap_or(Extent::Part)
            }
        };
        if extent == Extent::Part {
            findings.set_partial();
        }
        let mut identity = findings.identity();
        if identity.is_hidden() {
            // With all requests that have no identity such requests would exhaust
            // one bucket.
            identity.credential = Some(Fingerprint::of_client(caller.client.address()));
        }
        Ok(identity)
    }

    /// How long a body may take to be scanned; `None` if it is not scanned.
    ///
    /// If the head states the identity and no rule depends on it, the scan only
    /// finds out whether the body contradicts it. Then it must neither hold up
    /// a slow body nor ask for one that the upstream may refuse unseen; a
    /// request that is not scanned verifies nothing.
    fn scan_limit(
        &self,
        head: &Parts,
        findings: &Findings,
        caller: Caller<'_>,
    ) -> Option<Duration> {
        if caller.tenants.depends_on_instance() || !findings.is_complete() {
            return Some(self.shared.settings.header_timeout);
        }
        (!head.headers.contains_key(EXPECT)).then_some(CONTRADICTION_SCAN)
    }

    /// The lane of an identified request.
    pub(super) fn lane(
        &self,
        identity: &Identity,
        head: &Parts,
        caller: Caller<'_>,
        route: Route,
        log_entry: &mut LogEntry,
    ) -> Result<Lane, Denied> {
        log_entry.set_identity(identity, head, || caller.tenant_of(identity));
        let tenant = caller.check_access(identity, route)?;
        let verifies = verification::is_conclusive(head, route == Route::Seen, identity);
        let path = path::normalize(head.uri.path());
        let limiter = &self.shared.limiter;
        let lane = limiter.lane(&head.method, &path, identity, verifies);
        Ok(lane.counted_for(tenant))
    }
}

/// The client of a request, and the rules of access when the request began: a
/// reload does not change them.
#[derive(Clone, Copy)]
pub(super) struct Caller<'c> {
    pub(super) client: Client,
    pub(super) tenants: &'c Tenants,
}

impl Caller<'_> {
    /// Applies the rules of access, and counts the request for its tenant.
    fn check_access(&self, identity: &Identity, route: Route) -> Result<Arc<TenantSeries>, Denied> {
        let instance = identity.instance.as_deref();
        let is_ambiguous = identity.certainty == Certainty::Ambiguous;
        let series = self.tenants.may_use(self.client, instance, is_ambiguous)?;
        series.requests(route).inc();
        Ok(Arc::clone(series))
    }

    /// The name of the tenant that the instance belongs to.
    pub(super) fn tenant_of(&self, identity: &Identity) -> Option<Arc<str>> {
        self.tenants.name_of(identity.instance.as_deref()?)
    }
}
