//! One token bucket with the calls that wait for its tokens.
//!
//! Owns the only place where a token is taken. Invariant: a token goes to the
//! call at the head of the queue, and nobody takes one past a queue.
//!
//! Order (design §3.6): calls leave first come, first served; read receipts
//! yield to calls, until a receipt has waited `max_delay`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::clock::TokioClock;
use super::egress::{Claim, Claimant, Released};
use super::gcra::Gcra;
use super::line::{Kind, Line, Waiter};
use super::pause::Pause;
use super::share::Share;
use super::ticket::Ticket;
use super::{Refusal, Refused, Rules};
use crate::config::Quota;
use crate::identity::Fingerprint;
use crate::metrics::InstanceSeries;

/// A token taken (or let off, where budgets are only observed), and what is known of the bucket after it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permit {
    /// When the token was taken.
    pub(crate) granted: Instant,
    /// Tokens left at that moment; `None` where the bucket is unlimited.
    pub(crate) remaining: Option<u32>,
}

/// The answer to a request for a token.
#[derive(Debug)]
pub(crate) enum Admission {
    /// The token was there.
    Now(Permit),
    /// The call waits in line.
    Queued(Ticket),
}

/// A token bucket (GCRA) and its line of waiting calls.
#[derive(Debug)]
pub(crate) struct Bucket {
    clock: TokioClock,
    /// Held for a few instructions at a time, never across an await; shared
    /// only by the calls of this one bucket.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None`: the rate is unlimited (a pause still holds calls back).
    gcra: Option<Gcra>,
    quota: Option<Quota>,
    /// Its place in the sharing of the egress, where that is scarce.
    share: Option<Arc<Share>>,
    /// There only while something waits, so that an idle bucket stays small.
    line: Option<Box<Line>>,
    /// There only after the upstream said 429.
    pause: Option<Box<Pause>>,
    /// Tickets handed out. Kept over the life of many lines: a served ticket
    /// may be dropped when a later line stands already.
    tickets: u64,
    /// When every token will be back: the theoretical arrival time of the
    /// GCRA, which governor keeps to itself.
    full: Instant,
    used: Instant,
}

/// "Until told": the plan of a line that only waits for the egress.
const PATIENCE: Duration = Duration::from_secs(3600);

impl Bucket {
    /// Makes a full bucket.
    pub(super) fn new(quota: Option<Quota>, clock: TokioClock) -> Self {
        let now = Instant::now();
        Self {
            clock,
            state: Mutex::new(State {
                gcra: quota.map(|quota| Gcra::new(quota, clock)),
                share: None,
                quota,
                line: None,
                pause: None,
                tickets: 0,
                full: now,
                used: now,
            }),
        }
    }

    /// Takes a token, or a place in line, or says at once that neither will do.
    ///
    /// # Errors
    /// The line is full, or the token would come after `deadline`.
    pub(crate) fn admit(
        self: &Arc<Self>,
        kind: Kind,
        deadline: Instant,
        credential: Option<Fingerprint>,
        rules: &Rules,
        series: &Arc<InstanceSeries>,
    ) -> Result<Admission, Refused> {
        let now = Instant::now();
        let mut state = self.lock();
        state.used = now;
        if state.line.is_some() {
            state.check(kind, now, deadline, rules)?;
        } else {
            let next = match state.pass(now) {
                Ok(permit) => return Ok(Admission::Now(permit)),
                Err(next) => next,
            };
            state.check_turn(kind, next, now, deadline, rules)?;
            state.line = Some(Box::new(Line::new(next, rules.max_delay)));
            tokio::spawn(serve(Arc::clone(self)));
        }
        state.tickets += 1;
        let ticket = state.tickets;
        let waiting = state.share.as_ref().map(|share| share.member.wait());
        let line = state.line.as_mut().expect("a line was just made or found");
        let (grant, granted) = oneshot::channel();
        let opened = kind.opened(now);
        line.push(
            kind,
            Waiter {
                ticket,
                opened,
                credential,
                grant,
                _waiting: waiting,
            },
        );
        if line.claimed.is_some() && line.claim() != line.claimed {
            // A call that came after receipts need not yield with them.
            line.changed.notify_one();
        }
        // A ghost is nobody who waits.
        let series = (!rules.observes).then(|| Arc::clone(series));
        Ok(Admission::Queued(Ticket::new(
            Arc::clone(self),
            series,
            ticket,
            granted,
        )))
    }

    /// Tells whether a call of this kind could be admitted now, taking nothing.
    ///
    /// # Errors
    /// As [`admit`](Self::admit).
    pub(crate) fn check(
        &self,
        kind: Kind,
        deadline: Instant,
        rules: &Rules,
    ) -> Result<(), Refused> {
        self.lock().check(kind, Instant::now(), deadline, rules)
    }

    /// Learns from an upstream 429 to a call admitted at `granted`.
    pub(crate) fn throttled(&self, granted: Instant, retry_after: Option<Duration>) {
        let now = Instant::now();
        let mut state = self.lock();
        match &mut state.pause {
            Some(pause) => pause.throttled(now, granted, retry_after),
            None => state.pause = Some(Box::new(Pause::new(now, retry_after))),
        }
        state.wake();
    }

    /// Learns from any other answer to a call admitted at `granted`.
    pub(crate) fn answered(&self, granted: Instant, let_through: bool) {
        let mut state = self.lock();
        let Some(pause) = &mut state.pause else {
            return;
        };
        if pause.answered(granted, let_through) {
            state.pause = None;
        }
        state.wake();
    }

    /// Puts another quota in force, keeping what is owed.
    pub(super) fn requote(&self, quota: Option<Quota>) {
        let mut state = self.lock();
        if state.quota == quota {
            return;
        }
        let owed = state.gcra.as_ref().map_or(0, Gcra::owed);
        state.gcra = quota.map(|quota| Gcra::owing(quota, owed, self.clock));
        state.full = Instant::now();
        if let Some(quota) = quota {
            state.full += quota.interval() * owed.min(quota.burst.get());
        }
        state.quota = quota;
        state.wake();
    }

    /// Gives the bucket another place in the sharing of the egress, or none.
    pub(super) fn reshare(&self, share: Option<Arc<Share>>) {
        let mut state = self.lock();
        state.share = share;
        if let Some(line) = &mut state.line {
            line.claimed = None;
        }
        state.wake();
    }

    /// Takes somebody out of the line who no longer waits.
    pub(super) fn leave(&self, ticket: u64) {
        let mut state = self.lock();
        if let Some(line) = &mut state.line {
            line.remove(ticket);
            line.changed.notify_one();
        }
    }

    /// Whether calls with this credential wait in line.
    pub(super) fn has_waiting(&self, credential: Option<Fingerprint>) -> bool {
        let state = self.lock();
        let Some(line) = &state.line else {
            return false;
        };
        let mut waiting = line.calls.iter().chain(&line.receipts);
        waiting.any(|waiter| waiter.credential == credential)
    }

    /// The quota in force.
    pub(crate) fn quota(&self) -> Option<Quota> {
        self.lock().quota
    }

    /// True when dropping the bucket would lose nothing: nobody waits, no
    /// pause is on and every token is back.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        let state = self.lock();
        let refilled = state
            .quota
            .map_or(Duration::ZERO, |quota| quota.interval() * quota.burst.get());
        state.line.is_none()
            && state.pause.as_ref().is_none_or(|pause| pause.is_over(now))
            && now.saturating_duration_since(state.used) >= refilled
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// Whether a token is there, or when it will be.
    fn ready(&self, now: Instant) -> Result<(), Instant> {
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
    fn check(
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
    fn advance(&mut self, now: Instant, bucket: &Arc<Bucket>) -> Option<(Instant, Arc<Notify>)> {
        loop {
            if self.line.as_ref().is_none_or(|line| line.len() == 0) {
                self.line = None;
                return None;
            }
            let (next, look) = match self.ready(now) {
                Err(next) => (next, next),
                Ok(()) if self.share.is_some() => {
                    self.claim(bucket);
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
    fn grant(&mut self, now: Instant) -> Result<(), Instant> {
        let permit = self.take(now)?;
        self.used = now;
        if let Some(line) = &mut self.line {
            // A ticket dropped at this very moment passes its token on.
            while let Some(waiter) = line.pop(now) {
                if waiter.grant.send(permit).is_ok() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Asks the egress for what the head of the line needs, once.
    fn claim(&mut self, bucket: &Arc<Bucket>) {
        let (Some(share), Some(line)) = (&self.share, &mut self.line) else {
            return;
        };
        let claim = line.claim();
        let asked = (line.claimed == Some(Claim::Call)) || line.claimed == claim;
        if let (Some(claim), false) = (claim, asked) {
            line.claimed = Some(claim);
            let claimant = Arc::clone(bucket) as Arc<dyn Claimant>;
            share.egress.claim(&share.member, claimant, claim);
        }
    }

    fn wake(&self) {
        if let Some(line) = &self.line {
            line.changed.notify_one();
        }
    }
}

impl Claimant for Bucket {
    fn release(&self, claim: Claim, now: Instant) -> Option<Released> {
        let mut state = self.lock();
        let line = state.line.as_mut()?;
        if line.claimed != Some(claim) || line.len() == 0 {
            // Another claim has taken this one's place, or all have left.
            return None;
        }
        line.claimed = None;
        let granted = state.grant(now);
        let ready = state.ready(now).is_ok();
        let line = state.line.as_mut()?;
        let next = line.claim().filter(|_| ready);
        line.claimed = next;
        // Its task puts an empty line away, or waits for the next token.
        line.changed.notify_one();
        granted.ok().map(|()| Released { next })
    }
}

/// Serves a line until it is empty: the one task of a bucket under pressure.
async fn serve(bucket: Arc<Bucket>) {
    loop {
        let plan = bucket.lock().advance(Instant::now(), &bucket);
        let Some((next, changed)) = plan else { return };
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = changed.notified() => {}
        }
    }
}
