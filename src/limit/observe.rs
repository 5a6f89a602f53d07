//! What enforcing would have done to calls that are not held (`limit.mode`).
//!
//! Invariants: the call itself goes at once and pays nothing; a ghost of it
//! goes through the very lane it would have gone through and takes the token it
//! would have taken, so that the buckets are as warm as if they had been
//! enforced. A ghost holds a place in a line like any other, so
//! `limit.max_queue` bounds them too, and nobody waits for one: a drain ends
//! without them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Admission, Kind, Lane, Limiter, Pass, Permit, Refused, Rules, TICK};
use crate::observe::metrics::Route;

impl Limiter {
    /// Whether nobody is held or refused.
    pub(crate) fn observes(&self) -> bool {
        self.rules.load().observes
    }

    /// Lets a call go for which no token is taken.
    pub(crate) fn unheld(&self, route: Route) -> Pass {
        let permit = Permit {
            granted: Instant::now(),
            remaining: None,
        };
        self.passed(permit, None, route)
    }

    /// Sends a ghost of a call through its lane, and counts what becomes of it.
    pub(super) fn haunt(
        &self,
        lane: &Lane,
        kind: Kind,
        (asked, deadline): (Instant, Instant),
        rules: &Arc<Rules>,
        route: Route,
    ) {
        let ticket = match lane.admit(kind, (asked, deadline), rules) {
            Ok(Admission::Now(_)) => {
                return self.metrics.would_delay(route).observe(0.0);
            }
            Ok(Admission::Queued(ticket)) => ticket,
            Err(refused) => return would_refuse(lane, refused, 1),
        };
        let (lane, metrics) = (lane.clone(), Arc::clone(&self.metrics));
        let rules = Arc::clone(rules);
        // Not one of the tasks that a drain waits for.
        tokio::spawn(async move {
            match tokio::time::timeout_at(deadline + TICK, ticket).await {
                Ok(_) => metrics
                    .would_delay(route)
                    .observe(asked.elapsed().as_secs_f64()),
                Err(_) => would_refuse(&lane, lane.too_late(&rules), 1),
            }
        });
    }

    /// Counts what a batch of ghosts waited for its token.
    pub(crate) fn would_have_passed(&self, waited: Option<Duration>, route: Route) {
        let seconds = waited.unwrap_or_default().as_secs_f64();
        self.metrics.would_delay(route).observe(seconds);
    }
}

/// Counts calls that would have been refused.
pub(crate) fn would_refuse(lane: &Lane, refused: Refused, calls: usize) {
    let reason = refused.refusal.reason();
    lane.series().would_reject(reason).inc_by(calls as u64);
}
