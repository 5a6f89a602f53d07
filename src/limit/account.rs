//! The budget of one instance (or credential) in one class of calls.
//!
//! Owns who draws on which bucket (design §3.1): a credential which the
//! upstream has accepted draws on the main bucket, everybody else on a second
//! one of the same size. Until somebody has been accepted there is only the
//! main bucket, so the first app's debt stays where its calls will be paid.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::bucket::{Admission, Bucket, Permit};
use super::clock::TokioClock;
use super::line::Kind;
use super::look::Budget;
use super::sharing::Terms;
use super::{Refused, Rules};
use crate::config::Quota;
use crate::identity::Fingerprint;
use crate::metrics::{InstanceSeries, Metrics, Standing, TenantSeries};

/// Accepted credentials remembered per account; the oldest makes room. An app
/// has one token, and may spell it in a few places.
const MAX_PROVEN: usize = 16;

/// An account that was accepted is remembered this long without a call.
const REMEMBER: Duration = Duration::from_secs(3600);

/// The budget of one instance (or credential) in one class of calls.
#[derive(Debug)]
pub(crate) struct Account {
    /// The instance as metrics may name it; `None` where a call names none.
    instance: Option<Box<str>>,
    main: Arc<Bucket>,
    /// For credentials not yet accepted, once another one is.
    strangers: OnceLock<Arc<Bucket>>,
    /// Least recently used first.
    proven: Mutex<Vec<Fingerprint>>,
    /// Set when the instance has been accepted, so that made-up names never
    /// take up a label.
    series: OnceLock<Arc<InstanceSeries>>,
    clock: TokioClock,
}

impl Account {
    pub(super) fn new(instance: Option<&str>, terms: &Terms, clock: TokioClock) -> Self {
        let main = Bucket::new(terms.quota, clock);
        main.reshare(terms.sharing.of(instance, false));
        Self {
            instance: instance.map(Box::from),
            main: Arc::new(main),
            strangers: OnceLock::new(),
            proven: Mutex::new(Vec::new()),
            series: OnceLock::new(),
            clock,
        }
    }

    /// The bucket a credential draws on: by its standing, but not while calls
    /// of its own wait at the other one, which it would overtake (design §7.3).
    fn bucket(&self, credential: Option<Fingerprint>, terms: &Terms) -> &Arc<Bucket> {
        let Some(known) = self.is_proven(credential) else {
            return &self.main;
        };
        let strangers = match self.strangers.get() {
            None if known => return &self.main,
            Some(strangers) => strangers,
            None => self.strangers.get_or_init(|| {
                let strangers = Bucket::new(terms.quota, self.clock);
                strangers.reshare(terms.sharing.strangers());
                Arc::new(strangers)
            }),
        };
        let (own, other) = if known {
            (&self.main, strangers)
        } else {
            (strangers, &self.main)
        };
        if other.has_waiting(credential) {
            other
        } else {
            own
        }
    }

    /// Whether a credential was accepted; `None` while none ever was.
    fn is_proven(&self, credential: Option<Fingerprint>) -> Option<bool> {
        let mut proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        if proven.is_empty() {
            return None;
        }
        let place = proven.iter().position(|known| Some(*known) == credential);
        if let Some(place) = place {
            // In use: the last to be forgotten.
            proven[place..].rotate_left(1);
        }
        Some(place.is_some())
    }

    /// Remembers that the upstream took this credential for this instance.
    fn prove(&self, credential: Fingerprint, terms: &Terms) {
        let mut proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        if proven.contains(&credential) {
            return;
        }
        if proven.len() == MAX_PROVEN {
            proven.remove(0);
        }
        let first = proven.is_empty();
        proven.push(credential);
        drop(proven);
        if first {
            // From now on its owner's share, not one with all made-up names.
            self.main
                .reshare(terms.sharing.of(self.instance.as_deref(), true));
        }
    }

    /// What an operator sees of it: the main bucket.
    pub(super) fn look(&self, class: Option<Box<str>>, now: Instant) -> Budget {
        self.main.look(class, now)
    }

    /// Puts other terms in force.
    pub(super) fn renew(&self, terms: &Terms) {
        let accepted = !self
            .proven
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty();
        self.main.requote(terms.quota);
        self.main
            .reshare(terms.sharing.of(self.instance.as_deref(), accepted));
        if let Some(strangers) = self.strangers.get() {
            strangers.requote(terms.quota);
            strangers.reshare(terms.sharing.strangers());
        }
    }

    /// How the bucket of accepted credentials stands.
    pub(super) fn standing(&self, now: Instant) -> Standing {
        self.main.standing(now)
    }

    /// True when dropping the account would lose nothing. An accepted one is
    /// kept for a while, else a flood could make it a stranger again.
    pub(super) fn is_idle(&self, now: Instant, pressed: bool) -> bool {
        let idle = |now| {
            self.main.is_idle(now)
                && self
                    .strangers
                    .get()
                    .is_none_or(|bucket| bucket.is_idle(now))
        };
        let known = !self
            .proven
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty();
        match (known, now.checked_sub(REMEMBER)) {
            (true, Some(then)) if !pressed => idle(then),
            (true, None) if !pressed => false,
            _ => idle(now),
        }
    }
}

/// One caller's access to an account: which bucket its calls draw on.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    account: Arc<Account>,
    bucket: Arc<Bucket>,
    credential: Option<Fingerprint>,
    /// A 2xx here says that the upstream took credential and instance. Only
    /// that does: whoever knows an instance id gets 404, 400 or a public page
    /// without being anybody.
    proves: bool,
    terms: Arc<Terms>,
    metrics: Arc<Metrics>,
    /// In whose figures its upstream calls count.
    tenant: Option<Arc<TenantSeries>>,
}

impl Lane {
    pub(super) fn new(
        account: Arc<Account>,
        credential: Option<Fingerprint>,
        proves: bool,
        terms: Arc<Terms>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let bucket = Arc::clone(account.bucket(credential, &terms));
        Self {
            account,
            bucket,
            credential,
            proves,
            terms,
            metrics,
            tenant: None,
        }
    }

    /// Counts the upstream calls made here in a tenant's figures.
    pub(crate) fn counted_for(mut self, tenant: Arc<TenantSeries>) -> Self {
        self.tenant = Some(tenant);
        self
    }

    /// Takes a token or a place in line.
    ///
    /// # Errors
    /// The line is full, or the token would come after `deadline`.
    pub(crate) fn admit(
        &self,
        kind: Kind,
        deadline: Instant,
        rules: &Rules,
    ) -> Result<Admission, Refused> {
        self.bucket
            .admit(kind, deadline, self.credential, rules, self.series())
    }

    /// Tells whether a call could be admitted now, taking nothing.
    ///
    /// # Errors
    /// As [`admit`](Self::admit).
    pub(crate) fn check(
        &self,
        kind: Kind,
        deadline: Instant,
        rules: &Rules,
    ) -> Result<(), Refused> {
        self.bucket.check(kind, deadline, rules)
    }

    /// Learns from the upstream's answer to a call sent with `permit`.
    pub(crate) fn answered(
        &self,
        permit: &Permit,
        status: StatusCode,
        retry_after: Option<Duration>,
    ) {
        self.count_sent();
        if status == StatusCode::TOO_MANY_REQUESTS {
            // Proves nothing: it may have been said before anybody looked at
            // the credential (design §7.3).
            self.bucket.throttled(permit.granted, retry_after);
            self.series().throttled.inc();
            return;
        }
        self.bucket
            .answered(permit.granted, !status.is_server_error());
        if status.is_success() && self.proves {
            if let Some(credential) = self.credential {
                self.account.prove(credential, &self.terms);
            }
            if let Some(instance) = &self.account.instance {
                self.account
                    .series
                    .get_or_init(|| self.metrics.instance(instance));
            }
        }
    }

    /// Learns that a call sent with `permit` got no answer at all.
    pub(crate) fn unanswered(&self, permit: &Permit) {
        self.count_sent();
        self.bucket.answered(permit.granted, false);
    }

    fn count_sent(&self) {
        if let Some(tenant) = &self.tenant {
            tenant.upstream().inc();
        }
    }

    /// The figures of this instance, as far as it may be named.
    pub(crate) fn series(&self) -> &Arc<InstanceSeries> {
        match (&self.account.instance, self.account.series.get()) {
            (_, Some(series)) => series,
            (Some(_), None) => self.metrics.other_instances(),
            (None, None) => self.metrics.no_instance(),
        }
    }

    /// The quota in force here.
    pub(crate) fn quota(&self) -> Option<Quota> {
        self.bucket.quota()
    }
}
