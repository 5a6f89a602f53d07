//! The budget of one instance (or credential) in one class of calls.
//!
//! Owns who draws on which bucket (design §3.1): a credential which the
//! upstream has accepted draws on the main bucket, everybody else on a second
//! one of the same size. Until somebody has been accepted there is only the
//! main bucket, so the first app's debt stays where its calls will be paid.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::Guard;
use http::StatusCode;
use tokio::time::Instant;

use super::bucket::{Admission, Bucket, Holder, Permit};
use super::line::Kind;
use super::look::Budget;
use super::share::Share;
use super::sharing::Terms;
use super::table::Table;
use super::{Refused, Rules};
use crate::config::Quota;
use crate::identity::{Fingerprint, InstanceId};
use crate::observe::metrics::{InstanceSeries, Metrics, Standing, TenantSeries};

/// Accepted credentials remembered per account; the oldest makes room. An app
/// has one token, and may spell it in a few places.
const MAX_PROVEN: usize = 16;

/// An account that was accepted is remembered this long without a call.
const REMEMBER: Duration = Duration::from_secs(3600);

/// The budget of one instance (or credential) in one class of calls. There
/// may be a hundred thousand: what few have is behind a pointer.
#[derive(Debug)]
pub(crate) struct Account {
    /// The instance as metrics may name it; `None` where a call names none.
    pub(super) instance: Option<InstanceId>,
    main: Bucket,
    known: Mutex<Known>,
    /// Set when the instance has been accepted, so that made-up names never
    /// take up a label.
    series: OnceLock<Arc<InstanceSeries>>,
}

/// Who draws on what.
#[derive(Debug, Default)]
struct Known {
    proven: Proven,
    /// For credentials not yet accepted, once another one is.
    strangers: Option<Arc<Account>>,
}

/// Credentials that were accepted, least recently used first. Most accounts
/// have one, which takes no memory of its own.
#[derive(Debug, Default)]
enum Proven {
    #[default]
    None,
    One(Fingerprint),
    More(Box<[Fingerprint]>),
}

impl Proven {
    fn all(&mut self) -> &mut [Fingerprint] {
        match self {
            Self::None => &mut [],
            Self::One(one) => std::slice::from_mut(one),
            Self::More(all) => all,
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Adds one that is none of them.
    fn add(&mut self, credential: Fingerprint) {
        let all = self.all();
        let forgotten = (all.len() + 1).saturating_sub(MAX_PROVEN);
        let kept = all[forgotten..].iter().copied();
        let all: Box<[_]> = kept.chain([credential]).collect();
        *self = match *all {
            [one] => Self::One(one),
            _ => Self::More(all),
        };
    }
}

impl Holder for Account {
    fn bucket(&self) -> &Bucket {
        &self.main
    }
}

impl Account {
    pub(super) fn new(instance: Option<InstanceId>, terms: &Terms) -> Self {
        let share = terms.sharing.of(instance.as_deref(), false);
        Self::sharing(instance, terms, share)
    }

    fn sharing(instance: Option<InstanceId>, terms: &Terms, share: Option<Arc<Share>>) -> Self {
        Self {
            instance,
            main: Bucket::new(terms.quota, share),
            known: Mutex::default(),
            series: OnceLock::new(),
        }
    }

    /// The account whose main bucket a credential draws on, if not this one's:
    /// by its standing, but not while calls of its own wait at the other one,
    /// which it would overtake (design §7.3).
    fn payer(&self, credential: Option<Fingerprint>, table: &Table) -> Option<Arc<Self>> {
        let mut known = self.known();
        if known.proven.is_empty() {
            return None;
        }
        let proven = known.proven.all();
        let place = proven.iter().position(|it| Some(*it) == credential);
        if let Some(place) = place {
            // In use: the last to be forgotten.
            proven[place..].rotate_left(1);
        }
        if place.is_some() {
            let strangers = known.strangers.as_ref()?;
            let waits_there = strangers.main.has_waiting(credential);
            return waits_there.then(|| Arc::clone(strangers));
        }
        if self.main.has_waiting(credential) {
            return None;
        }
        let strangers = known.strangers.get_or_insert_with(|| {
            // Asked for under the lock that a reload's `renew` takes.
            let terms = table.terms();
            let share = terms.sharing.strangers(self.instance.as_deref());
            Arc::new(Self::sharing(self.instance.clone(), &terms, share))
        });
        Some(Arc::clone(strangers))
    }

    /// Remembers that the upstream took this credential for this instance. The
    /// terms are those in force now, whenever the call began: asked for and put
    /// in force under the lock that [`renew`](Self::renew) holds, too.
    fn prove(&self, credential: Fingerprint, terms: impl FnOnce() -> Arc<Terms>) {
        let mut known = self.known();
        if known.proven.all().contains(&credential) {
            return;
        }
        let first = known.proven.is_empty();
        known.proven.add(credential);
        if first {
            // From now on its owner's share, not one with all made-up names.
            self.main
                .reshare(terms().sharing.of(self.instance.as_deref(), true));
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an operator sees of it: the main bucket.
    pub(super) fn look(&self, class: Option<Box<str>>, now: Instant) -> Budget {
        self.main.look(class, now)
    }

    /// Puts other terms in force.
    pub(super) fn renew(&self, terms: &Terms) {
        let known = self.known();
        let (instance, accepted) = (self.instance.as_deref(), !known.proven.is_empty());
        self.main.requote(terms.quota);
        self.main.reshare(terms.sharing.of(instance, accepted));
        if let Some(strangers) = &known.strangers {
            strangers.main.requote(terms.quota);
            strangers.main.reshare(terms.sharing.strangers(instance));
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
            let strangers = self.known().strangers.clone();
            self.main.is_idle(now) && strangers.is_none_or(|other| other.main.is_idle(now))
        };
        let known = !self.known().proven.is_empty();
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
    /// Whose main bucket pays, if not the account's own.
    payer: Option<Arc<Account>>,
    credential: Option<Fingerprint>,
    /// A 2xx here says that the upstream took credential and instance. Only
    /// that does: whoever knows an instance id gets 404, 400 or a public page
    /// without being anybody.
    proves: bool,
    /// Whether `RateLimit` fields go with every answer.
    tells_limit: bool,
    /// That of its class.
    table: Arc<Table>,
    metrics: Arc<Metrics>,
    /// In whose figures its upstream calls count.
    tenant: Option<Arc<TenantSeries>>,
}

impl Lane {
    pub(super) fn new(
        account: Arc<Account>,
        credential: Option<Fingerprint>,
        proves: bool,
        table: &Arc<Table>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            payer: account.payer(credential, table),
            account,
            credential,
            proves,
            tells_limit: table.terms().headers,
            table: Arc::clone(table),
            metrics,
            tenant: None,
        }
    }

    /// Counts the upstream calls made here in a tenant's figures.
    pub(crate) fn counted_for(mut self, tenant: Arc<TenantSeries>) -> Self {
        self.tenant = Some(tenant);
        self
    }

    /// Takes a token or a place in line, for a call that asks `now`.
    ///
    /// # Errors
    /// The line is full, or the token would come after `deadline`.
    pub(crate) fn admit(
        &self,
        kind: Kind,
        (now, deadline): (Instant, Instant),
        rules: &Rules,
    ) -> Result<Admission, Refused> {
        let (payer, series) = (self.payer(), self.series());
        Bucket::admit(payer, kind, (now, deadline), self.credential, rules, series)
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
        self.bucket().check(kind, deadline, rules)
    }

    /// The refusal of a call that stood in line until its deadline came.
    pub(crate) fn too_late(&self, rules: &Rules) -> Refused {
        self.bucket().too_late(rules)
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
            self.bucket().throttled(permit.granted, retry_after);
            self.series().throttled.inc();
            return;
        }
        self.bucket()
            .answered(permit.granted, !status.is_server_error());
        if status.is_success() && self.proves {
            if let Some(credential) = self.credential {
                let terms = || Guard::into_inner(self.table.terms());
                self.account.prove(credential, terms);
            }
            if let (Some(instance), None) = (&self.account.instance, self.account.series.get())
                && !self.credential.is_some_and(|it| it.is_of(instance))
            {
                self.account
                    .series
                    .get_or_init(|| self.metrics.instance(instance));
            }
        }
    }

    /// Learns that a call sent with `permit` got no answer at all.
    pub(crate) fn unanswered(&self, permit: &Permit) {
        self.count_sent();
        self.bucket().answered(permit.granted, false);
    }

    fn payer(&self) -> &Arc<Account> {
        self.payer.as_ref().unwrap_or(&self.account)
    }

    fn bucket(&self) -> &Bucket {
        self.payer().bucket()
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

    /// Whether `RateLimit` fields go with every answer.
    pub(crate) fn tells_limit(&self) -> bool {
        self.tells_limit
    }

    /// The quota in force here.
    pub(crate) fn quota(&self) -> Option<Quota> {
        self.bucket().quota()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_thousand_accounts_are_small() {
        // With the two counters of its `Arc`: a size of mimalloc's.
        assert!(size_of::<Account>() + 2 * size_of::<usize>() <= 160);
    }
}
