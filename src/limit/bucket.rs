//! One token bucket with the calls that wait for its tokens.
//!
//! Owns the only place where a token is taken; [`turn`] foretells when one will
//! be. Invariant: a token goes to the call at the head of the queue, and nobody
//! takes one past a queue.
//!
//! Order (design §3.6): calls leave first come, first served; read receipts
//! yield to calls, until a receipt has waited `max_delay`.

mod state;
mod turn;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::egress::{Claim, Claimant, Released};
use super::line::Kind;
use super::look::{Budget, Waiting};
use super::pause::Pause;
use super::share::Share;
use super::ticket::Ticket;
use super::{Refused, Rules};
pub(crate) use state::{Entry, State};
pub(super) use turn::Turn;

use crate::config::Quota;
use crate::identity::Fingerprint;
use crate::observe::metrics::{InstanceSeries, Standing};

/// A token taken (or let off, where budgets are only observed), and what is
/// known of the bucket after it.
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

/// What a bucket decides by, for calls that wait on a channel.
type Held = State<oneshot::Sender<Permit>>;

/// A token bucket (GCRA) and its line of waiting calls.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// Held for a few instructions at a time, never across an await; shared
    /// only by the calls of this one bucket.
    state: Mutex<Held>,
}

/// What a bucket is part of. Those who wait and the task that serves them
/// share it: a bucket of its own allocation would cost every call that comes a
/// look at cold memory, and every instance the room.
pub(super) trait Holder: std::fmt::Debug + Send + Sync + 'static {
    /// The bucket.
    fn bucket(&self) -> &Bucket;
}

impl Bucket {
    /// Makes a full bucket.
    pub(super) fn new(quota: Option<Quota>, share: Option<Arc<Share>>) -> Self {
        let mut state = State::new(quota, Instant::now());
        state.share = share;
        Self {
            state: Mutex::new(state),
        }
    }

    /// Takes a token, or a place in line, or says at once that neither will do.
    ///
    /// # Errors
    /// The line is full, or the token would come after `deadline`.
    pub(super) fn admit<H: Holder>(
        holder: &Arc<H>,
        kind: Kind,
        (now, deadline): (Instant, Instant),
        credential: Option<Fingerprint>,
        rules: &Rules,
        series: &Arc<InstanceSeries>,
    ) -> Result<Admission, Refused> {
        let mut granted = None;
        let grant = || {
            let (grant, told) = oneshot::channel();
            granted = Some(told);
            grant
        };
        let entry =
            holder
                .bucket()
                .lock()
                .admit(kind, (now, deadline), credential, rules, grant)?;
        let (ticket, first) = match entry {
            Entry::Now(permit) => return Ok(Admission::Now(permit)),
            Entry::Queued { ticket, first } => (ticket, first),
        };
        if first {
            tokio::spawn(serve(Arc::clone(holder)));
        }
        let granted = granted.expect("whoever is in line was asked for a channel");
        // A ghost is nobody who waits.
        let series = (!rules.observes).then(|| Arc::clone(series));
        Ok(Admission::Queued(Ticket::new(
            Arc::clone(holder) as Arc<dyn Holder>,
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

    /// The refusal of a call that stood in line until its deadline came.
    pub(crate) fn too_late(&self, rules: &Rules) -> Refused {
        self.lock().too_late(Instant::now(), rules)
    }

    /// Learns from an upstream 429 to a call admitted at `granted`.
    pub(crate) fn throttled(&self, granted: Instant, retry_after: Option<Duration>) {
        let now = Instant::now();
        let mut state = self.lock();
        match &mut state.pause {
            Some(pause) => pause.throttled(now, granted, retry_after),
            None => state.pause = Some(Box::new(Pause::new(now, retry_after))),
        }
        // Whoever waits does so for this now, and not for its share.
        let share = state.share.clone();
        state.reshare(share, now);
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
        state.gcra.requote(quota, Instant::now());
        state.wake();
    }

    /// Gives the bucket another place in the sharing of the egress, or none.
    pub(super) fn reshare(&self, share: Option<Arc<Share>>) {
        let mut state = self.lock();
        state.reshare(share, Instant::now());
        state.wake();
    }

    /// Takes somebody out of the line who no longer waits.
    pub(super) fn leave(&self, ticket: u64) {
        self.lock().leave(ticket);
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
        self.lock().is_idle(now)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // Nothing under this lock panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<H: Holder> Claimant for H {
    fn release(&self, ticket: u64, now: Instant) -> Option<Released> {
        let mut state = self.bucket().lock();
        let line = state.line.as_mut()?;
        let is_current = |(current, _)| current == ticket;
        if !line.claimed.is_some_and(is_current) || line.len() == 0 {
            // Another claim has taken this one's place, or all have left.
            return None;
        }
        line.claimed = None;
        let granted = state.grant(now);
        let ready = state.ready(now).is_ok();
        let line = state.line.as_mut()?;
        let next = line.claim().filter(|_| ready);
        line.claimed = next.map(|next| (ticket, next));
        // Its task puts an empty line away, or waits for the next token.
        line.changed.notify_one();
        granted.ok().map(|()| Released { next })
    }
}

/// Asks the egress for what the head of the line needs, once.
fn claim<H: Holder>(state: &mut Held, holder: &Arc<H>) {
    let (Some(share), Some(line)) = (&state.share, &mut state.line) else {
        return;
    };
    let claim = line.claim();
    let claimed = line.claimed.map(|(_, claimed)| claimed);
    let asked = claimed == Some(Claim::Call) || claimed == claim;
    if let (Some(claim), false) = (claim, asked) {
        let claimant = Arc::clone(holder) as Arc<dyn Claimant>;
        let ticket = share.egress.claim(&share.member, claimant, claim);
        line.claimed = Some((ticket, claim));
    }
}

/// Serves a line until it is empty: the one task of a bucket under pressure.
async fn serve<H: Holder>(holder: Arc<H>) {
    loop {
        let plan = holder
            .bucket()
            .lock()
            .advance(Instant::now(), |state| claim(state, &holder));
        let Some((next, changed)) = plan else { return };
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = changed.notified() => {}
        }
    }
}
