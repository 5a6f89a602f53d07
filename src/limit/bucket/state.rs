//! A bucket's tokens, line and pause: what is decided about a call, at a moment
//! that the caller names.
//!
//! Invariants: nothing here reads a clock, waits or starts a task, so that the
//! gateway and an estimate decide alike; a token goes to the call at the head
//! of the line, and nobody takes one past it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Permit;
use crate::config::Quota;
use crate::identity::Fingerprint;
use crate::limit::clock::TokioClock;
use crate::limit::gcra::Gcra;
use crate::limit::line::{Grant, Kind, Line, Waiter};
use crate::limit::pause::Pause;
use crate::limit::share::Share;
use crate::limit::{Refusal, Refused, Rules};

/// "Until told": the plan of a line that only waits for the egress.
const PATIENCE: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(crate) struct State<G> {
    /// `None`: the rate is unlimited (a pause still holds calls back).
    pub(in crate::limit) gcra: Option<Gcra>,
    pub(in crate::limit) quota: Option<Quota>,
    /// Its place in the sharing of the egress, where that is scarce.
    pub(in crate::limit) share: Option<Arc<Share>>,
    /// There only while something waits, so that an idle bucket stays small.
    pub(in crate::limit) line: Option<Box<Line<G>>>,
    /// There only after the upstream said 429.
    pub(in crate::limit) pause: Option<Box<Pause>>,
    /// Tickets handed out. Kept over the life of many lines: a served ticket
    /// may be dropped when a later line stands already.
    tickets: u64,
    /// When every token will be back: the theoretical arrival time of the
    /// GCRA, which governor keeps to itself.
    pub(in crate::limit) full: Instant,
    pub(in crate::limit) used: Instant,
}

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
    pub(in crate::limit) fn new(quota: Option<Quota>, clock: TokioClock, now: Instant) -> Self {
        Self {
            gcra: quota.map(|quota| Gcra::new(quota, clock, now)),
            share: None,
            quota,
            line: None,
            pause: None,
            tickets: 0,
            full: now,
            used: now,
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
        self.used = now;
        let first = self.line.is_none();
        if first {
            let next = match self.pass(now) {
                Ok(permit) => return Ok(Entry::Now(permit)),
                Err(next) => next,
            };
            self.check_turn(kind, next, now, deadline, rules)?;
            self.line = Some(Box::new(Line::new(next, rules.max_delay)));
        } else {
            self.check(kind, now, deadline, rules)?;
        }
        self.tickets += 1;
        let ticket = self.tickets;
        let waiting = self.share.as_ref().map(|share| share.member.wait());
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
        if line.claimed.is_some() && line.claim() != line.claimed {
            // A call that came after receipts need not yield with them.
            line.changed.notify_one();
        }
        Ok(Entry::Queued { ticket, first })
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
        let refilled = self
            .quota
            .map_or(Duration::ZERO, |quota| quota.interval() * quota.burst.get());
        self.line.is_none()
            && self.pause.as_ref().is_none_or(|pause| pause.is_over(now))
            && now.saturating_duration_since(self.used) >= refilled
    }

    /// Whether a token is there, or when it will be.
    pub(in crate::limit) fn ready(&self, now: Instant) -> Result<(), Instant> {
        let held = self.pause.as_ref().and_then(|pause| pause.holds(now));
        match held.or_else(|| self.token_at(0)) {
            Some(next) if next > now => Err(next),
            _ => Ok(()),
        }
    }

    /// Takes a token for a call that finds nobody before it, here or at the
    /// egress; or says about when there will be one.
    fn pass(&mut self, now: Instant) -> Result<Permit, Instant> {
        self.ready(now)?;
        if let Some(share) = &self.share
            && !share.pass(now)
        {
            return Err(now);
        }
        self.take(now)
    }

    /// Takes a token, or says when the next one is due.
    fn take(&mut self, now: Instant) -> Result<Permit, Instant> {
        if let Some(until) = self.pause.as_ref().and_then(|pause| pause.holds(now)) {
            return Err(until);
        }
        let remaining = match &self.gcra {
            None => None,
            Some(gcra) => {
                let remaining = gcra.take(now)?;
                self.full = self.full.max(now) + gcra.quota().interval();
                Some(remaining)
            }
        };
        if let Some(pause) = &mut self.pause {
            pause.probe(now);
        }
        Ok(Permit {
            granted: now,
            remaining,
        })
    }

    /// Whether a call could be admitted now; takes nothing.
    pub(in crate::limit) fn check(
        &self,
        kind: Kind,
        now: Instant,
        deadline: Instant,
        rules: &Rules,
    ) -> Result<(), Refused> {
        let held = self.pause.as_ref().and_then(|pause| pause.holds(now));
        match (&self.line, held.or_else(|| self.token_at(0))) {
            (Some(line), _) => self.check_turn(kind, line.next, now, deadline, rules),
            (None, Some(next)) if next > now => self.check_turn(kind, next, now, deadline, rules),
            _ => Ok(()),
        }
    }

    /// When a call would have its token that has this many before it, were
    /// there no pause; `None`: any time.
    fn token_at(&self, place: usize) -> Option<Instant> {
        let quota = self.quota?;
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        let last = self.full + quota.interval().saturating_mul(place);
        last.checked_sub(quota.interval() * (quota.burst.get() - 1))
    }

    /// Refuses a call whose turn would come too late or that finds no place.
    fn check_turn(
        &self,
        kind: Kind,
        next: Instant,
        now: Instant,
        deadline: Instant,
        rules: &Rules,
    ) -> Result<(), Refused> {
        let turn = self.turn(kind, next, now, rules.max_delay);
        let share = self
            .share
            .as_ref()
            .map_or(Duration::ZERO, |share| share.estimate());
        let turn = turn.max(now + share);
        let waiting = self.line.as_ref().map_or(0, |line| line.len());
        let paused = self
            .pause
            .as_ref()
            .is_some_and(|pause| pause.holds(now).is_some());
        let late = turn > deadline;
        let refusal = if waiting >= rules.max_queue {
            Refusal::QueueFull
        } else if late && paused {
            Refusal::Paused
        } else if late {
            Refusal::WaitTooLong
        } else {
            return Ok(());
        };
        Err(Refused {
            refusal,
            quota: self.quota,
            waiting,
            retry_after: turn.saturating_duration_since(now),
        })
    }

    /// When a call that joins now would get its token, if nobody else came.
    fn turn(&self, kind: Kind, next: Instant, now: Instant, max_delay: Duration) -> Instant {
        let interval = self.quota.map_or(Duration::ZERO, |quota| quota.interval());
        let pause = self.pause.as_ref().and_then(|pause| pause.holds(now));
        let at = |place: usize| match pause {
            // Tokens come back during a pause, and leave together after it.
            Some(until) => self.token_at(place).map_or(until, |token| token.max(until)),
            None => {
                let place = u32::try_from(place).unwrap_or(u32::MAX);
                next + interval.saturating_mul(place)
            }
        };
        let Some(line) = &self.line else { return at(0) };
        match kind {
            Kind::Call => {
                // Receipts that grow too old before this call's turn go first.
                let mut place = line.calls.len();
                for receipt in &line.receipts {
                    if receipt.opened + max_delay > at(place) {
                        break;
                    }
                    place += 1;
                }
                at(place)
            }
            Kind::Receipt { opened } => {
                let receipts = line.older_than(opened);
                let in_line = at(receipts + line.calls.len());
                let overdue = (opened + max_delay).max(at(receipts)) + interval;
                in_line.min(overdue)
            }
        }
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
            let (next, look) = match self.ready(now) {
                Err(next) => (next, next),
                Ok(()) if self.share.is_some() => {
                    claim(self);
                    // The egress will call.
                    (now, now + PATIENCE)
                }
                Ok(()) => match self.grant(now) {
                    Ok(()) => continue,
                    Err(next) => (next, next),
                },
            };
            let line = self.line.as_mut().expect("checked above");
            line.next = next;
            return Some((look, Arc::clone(&line.changed)));
        }
    }

    /// Takes a token for the head of the line.
    pub(in crate::limit) fn grant(&mut self, now: Instant) -> Result<(), Instant> {
        let permit = self.take(now)?;
        self.used = now;
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
