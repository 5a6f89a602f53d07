//! Budgets: how fast each instance may be driven, and who waits for how long.
//!
//! Owns the rules of design §3.6. It never sees a request, only an identity,
//! a class of calls and a deadline. Invariant: one token per upstream call,
//! taken here and nowhere else.
//!
//! - [`table`]: the accounts of a class, bounded;
//! - [`account`]: which of an instance's two buckets a credential draws on;
//! - [`bucket`]: the tokens; [`mod@line`]: those who wait for them; [`ticket`]: a place there;
//! - [`egress`]: one budget over all calls; [`sharing`]: whose share of it counts;
//! - [`pause`]: what an upstream 429 teaches;
//! - [`look`]: what operators see of all this.
//! - [`observe`]: what enforcing would have done, where it does not;
//! - [`paper`]: buckets in the time of a log.

mod account;
mod bucket;
mod egress;
mod gcra;
mod line;
mod look;
mod observe;
mod paper;
mod pause;
mod share;
mod sharing;
mod table;
mod ticket;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use http::Method;
use tokio::time::Instant;

pub(crate) use account::Lane;
pub(crate) use bucket::{Admission, Entry, Permit};
pub(crate) use line::{Grant, Kind};
pub(crate) use look::Budget;
pub(crate) use observe::would_refuse;
pub(crate) use paper::{Paper, Purse, class_of};
use sharing::{Sharing, Terms};
use table::Table;

use crate::config::{self, Config, LimitMode, Quota};
use crate::http::path;
use crate::identity::Identity;
use crate::observe::metrics::{Metrics, Reason, Route, Standing};

/// What two timers set for the same moment may be apart (tokio's wheel turns
/// once a millisecond).
const TICK: Duration = Duration::from_millis(2);

/// The name of the base limit: none that a class can have.
const BASE: &str = "";

/// All budgets of the gateway.
#[derive(Debug)]
pub(crate) struct Limiter {
    rules: ArcSwap<Rules>,
    metrics: Arc<Metrics>,
}

/// The limits in force; replaced whole on reload.
#[derive(Debug)]
pub(crate) struct Rules {
    limit: config::Limit,
    /// Paths of read receipts: wildcard classes do not match them.
    receipt_paths: Vec<String>,
    pub(crate) max_wait: Duration,
    pub(crate) max_queue: usize,
    pub(crate) max_delay: Duration,
    /// Nobody is held or refused: whoever draws on a bucket is a ghost.
    pub(crate) observes: bool,
    sharing: Arc<Sharing>,
    /// The base limit, then one table per class in the order of the settings.
    tables: Vec<Arc<Table>>,
}

/// A call that was not admitted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Refused {
    /// Why.
    pub(crate) refusal: Refusal,
    /// Whose budget was in the way.
    pub(crate) scope: Scope,
    /// What that is; `None` where it is unlimited, and a pause alone was in
    /// the way.
    pub(crate) quota: Option<Quota>,
    /// Calls of the instance waiting in line at that moment.
    pub(crate) waiting: usize,
    /// After this time a token would be free for the caller.
    pub(crate) retry_after: Duration,
}

/// Whose budget a call draws on; on all three at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Its instance's, in its class of calls.
    Instance,
    /// That of its instance's tenant.
    Tenant,
    /// The one over all calls.
    Egress,
}

/// Why a call was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// `limit.max_queue` calls wait already.
    QueueFull,
    /// The token would come after the call's deadline.
    WaitTooLong,
    /// The upstream asked for a pause that outlasts the call's deadline.
    Paused,
}

impl Refusal {
    /// The metric label for this refusal.
    pub(crate) fn reason(self) -> Reason {
        match self {
            Self::QueueFull => Reason::QueueFull,
            Self::WaitTooLong => Reason::MaxWait,
            Self::Paused => Reason::Paused,
        }
    }
}

/// A token, and how long it was waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass {
    /// The token.
    pub(crate) permit: Permit,
    /// Time spent in line; `None` for a call that found a token at once.
    pub(crate) waited: Option<Duration>,
}

impl Limiter {
    /// Opens full buckets under these settings.
    pub(crate) fn new(config: &Config, metrics: Arc<Metrics>) -> Self {
        metrics.scraped().max_queue(config.limit.max_queue);
        Self {
            rules: ArcSwap::from_pointee(Rules::new(config, None)),
            metrics,
        }
    }

    /// Puts other settings in force. Classes that keep their name keep their
    /// buckets, and buckets keep their debt.
    pub(crate) fn reconfigure(&self, config: &Config) {
        self.metrics.scraped().max_queue(config.limit.max_queue);
        let old = self.rules.load();
        self.rules.store(Arc::new(Rules::new(config, Some(&old))));
    }

    /// Finds the lane in which a request to this normalized path travels.
    /// `verifies`: its response says whether the upstream accepts its credential.
    pub(crate) fn lane(
        &self,
        method: &Method,
        path: &str,
        identity: &Identity,
        verifies: bool,
    ) -> Lane {
        let rules = self.rules.load();
        let table = rules.table(method, path);
        let account = table.account(identity);
        Lane::new(
            account,
            identity.credential,
            verifies,
            table,
            Arc::clone(&self.metrics),
        )
    }

    /// Sets the gauges that tell how each instance with a label stands.
    pub(crate) fn report(&self) {
        let (rules, now) = (self.rules.load(), Instant::now());
        self.metrics.stand(|instance| {
            let standings = rules
                .tables
                .iter()
                .map(|table| table.standing(instance, now));
            standings.fold(Standing::default(), Standing::scarcer)
        });
    }

    /// The limits in force, to be looked at and not kept.
    pub(crate) fn rules(&self) -> Guard<Arc<Rules>> {
        self.rules.load()
    }

    /// Takes a token for a call of this lane that `asked` just now, waiting in
    /// line for it.
    ///
    /// # Errors
    /// The line is full, or no token can be had within `limit.max_wait`: said
    /// at once.
    pub(crate) async fn pass(
        &self,
        lane: &Lane,
        kind: Kind,
        asked: Instant,
        route: Route,
    ) -> Result<Pass, Refused> {
        let (admission, deadline) = {
            let rules = self.rules.load();
            let deadline = asked + rules.max_wait;
            if rules.observes {
                self.haunt(lane, kind, (asked, deadline), &rules, route);
                return Ok(self.unheld(route));
            }
            (lane.admit(kind, (asked, deadline), &rules)?, deadline)
        };
        let ticket = match admission {
            Admission::Now(permit) => return Ok(self.passed(permit, None, route)),
            Admission::Queued(ticket) => ticket,
        };
        // The promise made on joining can be outrun by receipts that grew too
        // old to yield: then the deadline has the last word. A token due at
        // that very moment still counts. Boxed: most calls find a token.
        let permit = Box::pin(tokio::time::timeout_at(deadline + TICK, ticket))
            .await
            .map_err(|_| self.too_late(lane))?;
        Ok(self.passed(permit, Some(asked.elapsed()), route))
    }

    /// Takes a token or a place in line, for a caller that waits in its own way
    /// and tells with [`passed`](Self::passed) what came of it.
    ///
    /// # Errors
    /// As [`pass`](Self::pass).
    pub(crate) fn admit(
        &self,
        lane: &Lane,
        kind: Kind,
        deadline: Instant,
    ) -> Result<Admission, Refused> {
        lane.admit(kind, (Instant::now(), deadline), &self.rules.load())
    }

    /// Tells whether a call could be admitted now, taking nothing.
    ///
    /// # Errors
    /// As [`pass`](Self::pass).
    pub(crate) fn check(&self, lane: &Lane, kind: Kind, deadline: Instant) -> Result<(), Refused> {
        lane.check(kind, deadline, &self.rules.load())
    }

    /// Records a token taken after this wait.
    pub(crate) fn passed(&self, permit: Permit, waited: Option<Duration>, route: Route) -> Pass {
        let seconds = waited.unwrap_or_default().as_secs_f64();
        self.metrics.limit_wait(route).observe(seconds);
        Pass { permit, waited }
    }

    /// The refusal of a call whose deadline came while it stood in line.
    pub(crate) fn too_late(&self, lane: &Lane) -> Refused {
        lane.too_late(&self.rules.load())
    }
}

impl Rules {
    fn new(config: &Config, old: Option<&Self>) -> Self {
        let Config { limit, batch, .. } = config;
        let shares = old.map(|old| &*old.sharing);
        let sharing = Arc::new(Sharing::new(&config.egress, &config.tenants, shares));
        let known = old.and_then(|old| old.tables.split_first());
        let table = |name: &str, quota| {
            let terms = Terms {
                quota,
                sharing: Arc::clone(&sharing),
                headers: limit.headers,
            };
            let table = known.and_then(|(base, classes)| match name {
                BASE => Some(base),
                name => classes.iter().find(|table| *table.name == *name),
            });
            let Some(table) = table else {
                return Arc::new(Table::new(name, terms));
            };
            table.renew(terms);
            Arc::clone(table)
        };
        let base = std::iter::once(table(BASE, limit.quota));
        let classes = limit
            .classes
            .iter()
            .map(|class| table(&class.name, class.quota));
        let tables = base.chain(classes).collect();
        sharing.renew(&config.egress);
        Self {
            tables,
            limit: limit.clone(),
            receipt_paths: batch.paths.clone(),
            max_wait: limit.max_wait,
            max_queue: limit.max_queue,
            max_delay: batch.max_delay,
            observes: limit.mode == LimitMode::Observe,
            sharing,
        }
    }

    fn table(&self, method: &Method, path: &str) -> &Arc<Table> {
        let class = self.limit.class_of(method, path, self.is_receipt(path));
        &self.tables[class.map_or(0, |class| class + 1)]
    }

    fn is_receipt(&self, path: &str) -> bool {
        self.receipt_paths
            .iter()
            .any(|receipt| path::same_segments(receipt, path))
    }
}
