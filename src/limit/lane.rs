//! The access of one request, or of one batch, to its account.
//!
//! A lane knows the account, the credential and the rules of waiting. Invariant: which
//! of the account's buckets gives the token is decided when a token is requested, not
//! when the lane is opened.

mod ticket;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::Guard;
use http::StatusCode;
use tokio::time::Instant;

use super::account::Account;
use super::credentials::Change;
use super::policy::Policy;
use super::registry::{self, Registry};
use crate::queue::bucket::Bucket;
use crate::queue::egress::{Joined, QueueLimits};
use crate::queue::request::{BucketRole, Kind, Newcomer, Permit, RateLimited, Refusal, Scope};
use crate::tokens::in_flight::Place;
use ticket::Ticket;

use crate::config::{InstanceLimit, Quota};
use crate::identity::Fingerprint;
use crate::observe::metrics::{InstanceSeries, Metrics, TenantSeries};

/// What a request for a token gets.
#[derive(Debug)]
pub(crate) enum Admission {
    /// The token was there.
    Now(Permit),
    /// A queue position.
    Queued(Ticket),
}

/// What the settings say about the wait of a request. A request keeps those with
/// which it began (rule: reload).
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitRules {
    pub(crate) max_wait: Duration,
    pub(super) limits: QueueLimits,
    /// No request is held or refused: shadow requests draw on the buckets.
    pub(crate) observes: bool,
}

/// The access of one request, or of one batch, to its account.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    account: Arc<Account>,
    rules: WaitRules,
    credential: Option<Fingerprint>,
    /// Whether a 2xx or a 401 says if the upstream accepts the credential for the
    /// instance.
    verifies: bool,
    /// The group of its class: an index of `registries`.
    group: usize,
    /// One for each group of classes.
    registries: Arc<[Arc<Registry>]>,
    metrics: Arc<Metrics>,
    /// Counts the upstream calls made here, and those that merging saved.
    tenant: Option<Arc<TenantSeries>>,
}

/// A share of the egress, and the budget of its tenant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SharedBudget {
    pub(crate) weight: NonZeroU32,
    /// The tenant's, or for unverified credentials a second one of the same size.
    pub(crate) quota: Option<Quota>,
}

/// A request for a token, without the credential of the lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenRequest {
    pub(super) kind: Kind,
    pub(super) now: Instant,
    pub(super) deadline: Instant,
    pub(super) limits: QueueLimits,
    /// It is a shadow request (`limit.mode = "observe"`).
    pub(super) is_shadow: bool,
}

impl WaitRules {
    pub(super) fn token_request(
        &self,
        kind: Kind,
        now: Instant,
        deadline: Instant,
    ) -> TokenRequest {
        TokenRequest {
            kind,
            now,
            deadline,
            limits: self.limits,
            is_shadow: self.observes,
        }
    }
}

impl Lane {
    pub(super) fn new(
        account: Arc<Account>,
        credential: Option<Fingerprint>,
        verifies: bool,
        (registries, group): (&Arc<[Arc<Registry>]>, usize),
        rules: WaitRules,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            account,
            rules,
            credential,
            verifies,
            group,
            registries: Arc::clone(registries),
            metrics,
            tenant: None,
        }
    }

    /// The rules of waiting with which its request began.
    pub(crate) fn rules(&self) -> &WaitRules {
        &self.rules
    }

    /// Counts the upstream calls made here for this tenant.
    pub(crate) fn counted_in(mut self, tenant: Arc<TenantSeries>) -> Self {
        self.tenant = Some(tenant);
        self
    }

    /// Takes a token or a queue position.
    ///
    /// # Errors
    /// The queue is full, or the token would come after the deadline.
    pub(super) fn admit(&self, request: TokenRequest) -> Result<Admission, RateLimited> {
        let newcomer = self.newcomer(&request);
        let joined = self
            .account
            .admit(&newcomer, || self.policy(), request.limits)?;
        Ok(match joined {
            Joined::Now(permit) => Admission::Now(permit),
            Joined::Waits { ticket, verdict } => {
                let series = (!request.is_shadow).then(|| Arc::clone(self.series()));
                if let Some(series) = &series {
                    series.queued.inc();
                }
                Admission::Queued(Ticket {
                    account: Arc::clone(&self.account),
                    series,
                    ticket,
                    verdict: Some(verdict),
                })
            }
        })
    }

    /// Whether a request could be admitted now; takes nothing.
    ///
    /// # Errors
    /// As [`admit`](Self::admit).
    pub(super) fn check(&self, request: TokenRequest) -> Result<(), RateLimited> {
        let newcomer = self.newcomer(&request);
        self.account
            .check(&newcomer, || self.policy(), request.limits)
    }

    fn newcomer(&self, request: &TokenRequest) -> Newcomer {
        Newcomer {
            kind: request.kind,
            now: request.now,
            deadline: request.deadline,
            credential: self.credential,
        }
    }

    fn registry(&self) -> &Registry {
        &self.registries[self.group]
    }

    fn policy(&self) -> Arc<Policy> {
        Guard::into_inner(self.registry().policy())
    }

    /// Refuses a deadline that lies within a pause of the upstream: for a
    /// receipt that would join a batch which waits already.
    ///
    /// # Errors
    /// The deadline lies within a pause.
    pub(crate) fn check_pause(&self, deadline: Instant) -> Result<(), RateLimited> {
        let now = Instant::now();
        let inspect = |bucket: &Bucket<_>| bucket.check_pause(now, deadline);
        self.account
            .inspect(self.credential, inspect)
            .unwrap_or(Ok(()))
    }

    /// Which bucket a call without a token is counted at.
    pub(super) fn role(&self) -> BucketRole {
        self.account.role_of(self.credential)
    }

    /// Measures a call that takes no place, where calls in flight are bounded.
    pub(super) fn measure(&self, now: Instant) -> Option<Place> {
        let inspect = |bucket: &Bucket<_>| Some(bucket.in_flight()?.measure(now));
        self.account.inspect(self.credential, inspect).flatten()
    }

    /// Until when a pause certainly lets no request go; it may be over.
    pub(crate) fn paused_until(&self) -> Option<Instant> {
        self.account
            .inspect(self.credential, Bucket::paused_until)
            .flatten()
    }

    /// The refusal of a request that waited until its deadline came.
    pub(crate) fn too_late(&self) -> RateLimited {
        let refused = self.account.too_late(self.credential);
        refused.unwrap_or(RateLimited {
            refusal: Refusal::WaitTooLong,
            scope: Scope::Egress,
            quota: None,
            max_in_flight: None,
            waiting: 0,
            retry_after: Duration::ZERO,
        })
    }

    /// Updates pause and verification after the upstream's response to a request
    /// sent with `permit`.
    pub(crate) fn on_response(
        &self,
        permit: &Permit,
        status: StatusCode,
        retry_after: Option<Duration>,
    ) {
        self.count_sent();
        if status == StatusCode::TOO_MANY_REQUESTS {
            // It verifies nothing: it may have been sent before the upstream
            // checked the credential.
            self.account.on_429(permit, Instant::now(), retry_after);
            self.series().throttled.inc();
            return;
        }
        self.account
            .on_other_result(permit, !status.is_server_error());
        if status.is_success() && self.verifies {
            self.verify();
        } else if status == StatusCode::UNAUTHORIZED && self.verifies {
            self.revoke();
        }
    }

    /// Updates the pause after a request sent with `permit` got no response.
    pub(crate) fn on_no_response(&self, permit: &Permit) {
        self.count_sent();
        self.account.on_other_result(permit, false);
    }

    /// Records that the upstream accepts the credential for the instance.
    pub(crate) fn verify(&self) {
        self.set_verified(true);
        if let (Some(instance), None) = (self.account.instance(), self.account.series.get())
            // A client that sends its token as the instance id would show it in a label.
            && !self.credential.is_some_and(|it| it.is_of(instance))
        {
            self.account
                .series
                .get_or_init(|| self.metrics.instance(instance));
        }
    }

    /// Records that the upstream does not accept the credential any more.
    pub(crate) fn revoke(&self) {
        self.set_verified(false);
    }

    fn set_verified(&self, is_accepted: bool) {
        let Some(credential) = self.credential else {
            return;
        };
        let change = Change {
            credential,
            is_accepted,
        };
        let has_changed = self.account.verify(change, || self.policy());
        if let (true, Some(instance)) = (has_changed, self.account.instance()) {
            // For the instance: the accounts of its other classes follow.
            registry::verify(&self.registries, instance, change);
        }
        if self.account.is_shared() {
            let policy = self.later_policy();
            self.account.report_to_cluster(change, has_changed, policy);
        }
    }

    /// Asks what other gateways have verified for the instance, unless that is known.
    pub(super) fn ask_cluster(&self) {
        if self.account.is_shared() {
            self.account.ask_cluster(self.later_policy());
        }
    }

    /// Reads the policy that applies when it is called.
    fn later_policy(&self) -> impl FnOnce() -> Arc<Policy> + Send + use<> {
        let registry = Arc::clone(&self.registries[self.group]);
        move || Guard::into_inner(registry.policy())
    }

    fn count_sent(&self) {
        if let Some(tenant) = &self.tenant {
            tenant.upstream().inc();
        }
    }

    /// Counts what a batch saved, for its instance and its tenant: callers that got a
    /// response of the upstream, and its upstream calls.
    pub(crate) fn record_savings(&self, responses: u64, calls: u64) {
        self.series().savings.settle(responses, calls);
        if let Some(tenant) = &self.tenant {
            tenant.savings.settle(responses, calls);
        }
    }

    /// The metrics of this instance, as far as it may be named.
    pub(crate) fn series(&self) -> &Arc<InstanceSeries> {
        match (self.account.instance(), self.account.series.get()) {
            (_, Some(series)) => series,
            (Some(_), None) => self.metrics.other_instances(),
            (None, None) => self.metrics.no_instance(),
        }
    }

    /// The limit of its class for its instance.
    pub(crate) fn limit(&self) -> InstanceLimit {
        let instance = self.account.instance().map(|it| &**it);
        self.registry().policy().limit_of(instance).clone()
    }

    /// Whether a 2xx verifies the credential.
    pub(crate) fn verifies(&self) -> bool {
        self.verifies
    }

    /// The shared budgets on which verified and other credentials draw.
    pub(crate) fn shared_budgets(&self) -> [Option<SharedBudget>; 2] {
        let sharing = Arc::clone(&self.registry().policy().sharing);
        let instance = self.account.instance().map(|it| &**it);
        let shares = [
            sharing.of_verified(instance),
            sharing.of_unverified(instance),
        ];
        shares.map(|share| {
            let flow = share?;
            Some(SharedBudget {
                weight: flow.flow.weight,
                quota: flow.flow.quota,
            })
        })
    }

    /// Whether responses carry `RateLimit` headers.
    pub(crate) fn sends_ratelimit_headers(&self) -> bool {
        self.registry().policy().headers
    }

    /// The present quota of its bucket.
    pub(crate) fn quota(&self) -> Option<Quota> {
        self.account
            .inspect(self.credential, Bucket::quota)
            .flatten()
    }
}

#[cfg(test)]
impl Lane {
    /// When a request would get its token.
    pub(super) fn forecast(&self, request: TokenRequest) -> Instant {
        let max_delay = request.limits.max_delay;
        self.account
            .forecast(&self.newcomer(&request), || self.policy(), max_delay)
    }
}
