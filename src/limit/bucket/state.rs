//! A bucket's tokens, line and pause: what is decided about a call, at a moment
//! that the caller names.
//!
//! Invariants: nothing here reads a clock, waits or starts a task, so that the
//! gateway and an estimate decide alike; a token goes to the call at the head
//! of the line, and nobody takes one past it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Permit;
use crate::config::Quota;
use crate::identity::Fingerprint;
use crate::limit::gcra::Gcra;
use crate::limit::line::{Grant, Kind, Line, Waiter};
use crate::limit::pause::Pause;
use crate::limit::share::Share;
use crate::limit::{Refused, Rules};
use crate::observe::metrics::Standing;

/// "Until told": the plan of a line that only waits for the egress.
const PATIENCE: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(crate) struct State<G> {
    /// Where its rate is unlimited, a pause still holds calls back.
    pub(in crate::limit) gcra: Gcra,
    /// Its place in the sharing of the egress, where that is scarce.
    pub(in crate::limit) share: Option<Arc<Share>>,
    /// There only while something waits, so that an idle bucket stays small.
    pub(in crate::limit) line: Option<Box<Line<G>>>,
    /// There only after the upstream said 429.
    pub(in crate::limit) pause: Option<Box<Pause>>,
}

/// Tickets handed out, by all buckets: a served ticket may be dropped when a
/// later line stands already, and must not be taken for one of that.
static TICKETS: AtomicU64 = AtomicU64::new(0);

/// The answer to a request for a token.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry {
    /// The token was there.
    Now(Permit),
    /// There is a place in line.
    Queued {
        /// What the place is called.
        ticket: u64,
        /// The line has just been made: somebody must serve it.
        first: bool,
    },
}

impl<G: Grant> State<G> {
    /// A full bucket.
    pub(in crate::limit) fn new(quota: Option<Quota>, now: Instant) -> Self {
        Self {
            gcra: Gcra::new(quota, now),
            share: None,
            line: None,
            pause: None,
        }
    }

    /// Takes a token, or a place in line, or says at once that neither will do.
    pub(in crate::limit) fn admit(
        &mut self,
        kind: Kind,
        (now, deadline): (Instant, Instant),
        credential: Option<Fingerprint>,
        rules: &Rules,
        grant: impl FnOnce() -> G,
    ) -> Result<Entry, Refused> {
        let first = self.line.is_none();
        if first && let Some(permit) = self.pass(now) {
            return Ok(Entry::Now(permit));
        }
        self.check_turn(kind, now, deadline, rules)?;
        if first {
            self.line = Some(Box::new(Line::new(rules.max_delay)));
        }
        let ticket = TICKETS.fetch_add(1, Ordering::Relaxed);
        // One that waits for its own bucket, or a pause, is in nobody's way.
        let share = self.share.as_ref().filter(|_| self.ready(now).is_ok());
        let waiting = share.map(|share| share.member.wait());
        let line = self.line.as_mut().expect("a line was just made or found");
        line.push(
            kind,
            Waiter {
                ticket,
                opened: kind.opened(now),
                credential,
                grant: grant(),
                _waiting: waiting,
            },
        );
        if line
            .claimed
            .is_some_and(|(_, claimed)| line.claim() != Some(claimed))
        {
            // A call that came after receipts need not yield with them.
            line.changed.notify_one();
        }
        Ok(Entry::Queued { ticket, first })
    }

    /// Gives the bucket another place in the sharing of the egress, or none;
    /// and those who wait for that with it.
    pub(in crate::limit) fn reshare(&mut self, share: Option<Arc<Share>>, now: Instant) {
        self.share = share;
        let is_ready = self.ready(now).is_ok();
        let share = self.share.as_ref().filter(|_| is_ready);
        if let Some(line) = &mut self.line {
            line.claimed = None;
            for waiter in line.calls.iter_mut().chain(&mut line.receipts) {
                waiter._waiting = share.map(|share| share.member.wait());
            }
        }
    }

    /// Takes somebody out of the line who no longer waits.
    pub(in crate::limit) fn leave(&mut self, ticket: u64) {
        if let Some(line) = &mut self.line {
            line.remove(ticket);
            line.changed.notify_one();
        }
    }

    /// True when dropping the bucket would lose nothing: nobody waits, no
    /// pause is on and every token is back.
    pub(in crate::limit) fn is_idle(&self, now: Instant) -> bool {
        self.line.is_none()
            && self.pause.as_ref().is_none_or(|pause| pause.is_over(now))
            && self.gcra.is_full(now)
    }

    /// The quota in force.
    pub(in crate::limit) fn quota(&self) -> Option<Quota> {
        self.gcra.quota()
    }

    /// How it stands.
    pub(in crate::limit) fn standing(&self, now: Instant) -> Standing {
        let held = self.pause.as_ref().and_then(|pause| pause.holds(now));
        Standing {
            tokens: self.gcra.tokens(now),
            paused: held.map_or(Duration::ZERO, |until| until.saturating_duration_since(now)),
        }
    }

    /// Takes a token for a call that finds nobody before it, here or at the
    /// egress.
    fn pass(&mut self, now: Instant) -> Option<Permit> {
        if let Some(share) = &self.share {
            // The egress is not asked for a call that has no token here.
            self.ready(now).ok()?;
            if !share.pass(now) {
                return None;
            }
        }
        self.take(now).ok()
    }

    /// Takes a token, or says when the next one is due.
    fn take(&mut self, now: Instant) -> Result<Permit, Instant> {
        if self.pause.is_some() {
            self.ready(now)?;
        }
        let remaining = self.gcra.take(now)?;
        if let Some(pause) = &mut self.pause {
            pause.probe(now);
        }
        Ok(Permit {
            granted: now,
            remaining,
        })
    }

    /// Hands out every token that is there; says when to look again, or
    /// nothing when nobody waits any more.
    pub(in crate::limit) fn advance(
        &mut self,
        now: Instant,
        claim: impl Fn(&mut Self),
    ) -> Option<(Instant, Arc<Notify>)> {
        loop {
            if self.line.as_ref().is_none_or(|line| line.len() == 0) {
                self.line = None;
                return None;
            }
            let look = match self.ready(now) {
                Err(next) => next,
                Ok(()) if self.share.is_some() => {
                    claim(self);
                    // The egress will call.
                    now + PATIENCE
                }
                Ok(()) => match self.grant(now) {
                    Ok(()) => continue,
                    Err(next) => next,
                },
            };
            let line = self.line.as_ref().expect("checked above");
            return Some((look, Arc::clone(&line.changed)));
        }
    }

    /// Takes a token for the head of the line.
    pub(in crate::limit) fn grant(&mut self, now: Instant) -> Result<(), Instant> {
        let permit = self.take(now)?;
        if let Some(line) = &mut self.line {
            // A ticket dropped at this very moment passes its token on.
            while let Some(waiter) = line.pop(now) {
                if waiter.grant.grant(permit) {
                    break;
                }
            }
        }
        Ok(())
    }

    pub(in crate::limit) fn wake(&self) {
        if let Some(line) = &self.line {
            line.changed.notify_one();
        }
    }
}
