//! One token bucket with the calls that wait for its tokens.
//!
//! Owns the only place where a token is taken; [`turn`] foretells when one will
//! be. Invariant: a token goes to the call at the head of the queue, and nobody
//! takes one past a queue.
//!
//! Order (design §3.6): calls leave first come, first served; read receipts
//! yield to calls, until a receipt has waited `max_delay`.

mod turn;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::clock::TokioClock;
use super::egress::{Claim, Claimant, Released};
use super::gcra::Gcra;
use super::line::{Kind, Line, Waiter};
use super::look::{Budget, Waiting};
use super::pause::Pause;
use super::share::Share;
use super::ticket::Ticket;
use super::{Refused, Rules};
use crate::config::Quota;
use crate::identity::Fingerprint;
use crate::metrics::{InstanceSeries, Standing};

/// A token taken, and what is known of the bucket after it.
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
    /// Its place in the sharing of the egress, where that is scarce.
    share: Option<Arc<Share>>,
    /// There only while something waits, so that an idle bucket stays small.
    line: Option<Box<Line>>,
    /// There only after the upstream said 429.
    pause: Option<Box<Pause>>,
    /// Tickets handed out. Kept over the life of many lines: a served ticket
    /// may be dropped when a later line stands already.
    tickets: u64,
    used: Instant,
}

/// "Until told": the plan of a line that only waits for the egress.
const PATIENCE: Duration = Duration::from_secs(3600);

impl Bucket {
    /// Makes a full bucket.
    pub(super) fn new(quota: Option<Quota>, clock: TokioClock) -> Self {
        Self {
            clock,
            state: Mutex::new(State {
                gcra: quota.map(|quota| Gcra::new(quota, clock)),
                share: None,
                line: None,
                pause: None,
                tickets: 0,
                used: Instant::now(),
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
        if state.line.is_none()
            && let Some(permit) = state.pass(now)
        {
            return Ok(Admission::Now(permit));
        }
        state.check_turn(kind, now, deadline, rules)?;
        if state.line.is_none() {
            state.line = Some(Box::new(Line::new(rules.max_delay)));
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
        let series = Arc::clone(series);
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
        Gcra::requote(&mut state.gcra, quota, self.clock);
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

    /// What an operator sees of it.
    pub(super) fn look(&self, class: Option<Box<str>>, now: Instant) -> Budget {
        let state = self.lock();
        let waiting = state.line.as_ref().map(|line| Waiting {
            calls: line.calls.len(),
            receipts: line.receipts.len(),
        });
        let standing = state.standing(now);
        let quota = state.quota();
        Budget {
            class,
            tokens: standing.tokens,
            burst: quota.map(|quota| quota.burst.get()),
            rate: quota.map(|quota| quota.rate),
            waiting: waiting.unwrap_or_default(),
            pause: standing.paused.as_secs_f64(),
        }
    }

    /// The quota in force.
    pub(crate) fn quota(&self) -> Option<Quota> {
        self.lock().quota()
    }

    /// How the bucket stands.
    pub(super) fn standing(&self, now: Instant) -> Standing {
        self.lock().standing(now)
    }

    /// True when dropping the bucket would lose nothing: nobody waits, no
    /// pause is on and every token is back.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        let state = self.lock();
        let refilled = state
            .quota()
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
    fn quota(&self) -> Option<Quota> {
        self.gcra.as_ref().map(Gcra::quota)
    }

    fn standing(&self, now: Instant) -> Standing {
        let held = self.pause.as_ref().and_then(|pause| pause.holds(now));
        Standing {
            tokens: self.gcra.as_ref().map(|gcra| gcra.tokens(now)),
            paused: held.map_or(Duration::ZERO, |until| until.saturating_duration_since(now)),
        }
    }

    /// Whether a token is there, or when it will be.
    fn ready(&self, now: Instant) -> Result<(), Instant> {
        match self.due(now, 0) {
            next if next > now => Err(next),
            _ => Ok(()),
        }
    }

    /// Takes a token for a call that finds nobody before it, here or at the
    /// egress.
    fn pass(&mut self, now: Instant) -> Option<Permit> {
        self.ready(now).ok()?;
        if let Some(share) = &self.share
            && !share.pass(now)
        {
            return None;
        }
        self.take(now).ok()
    }

    /// Takes a token, or says when the next one is due.
    fn take(&mut self, now: Instant) -> Result<Permit, Instant> {
        self.ready(now)?;
        let remaining = match &self.gcra {
            None => None,
            Some(gcra) => Some(gcra.take(now)?),
        };
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
    fn advance(&mut self, now: Instant, bucket: &Arc<Bucket>) -> Option<(Instant, Arc<Notify>)> {
        loop {
            if self.line.as_ref().is_none_or(|line| line.len() == 0) {
                self.line = None;
                return None;
            }
            let look = match self.ready(now) {
                Err(next) => next,
                Ok(()) if self.share.is_some() => {
                    self.claim(bucket);
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
