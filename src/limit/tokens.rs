//! Where the tokens of a bucket come from.
//!
//! [`Tokens`] is what the wait queue and the forecast need to know. A bucket of
//! this process implements it with arithmetic ([`LocalTokens`]). A bucket that
//! several gateways share can implement it as well: it reserves slots, `due` is
//! the time of a reserved slot (or a bound for slots not reserved yet), `take`
//! uses the first of them, and pauses shift the slots that are held. It wakes
//! the queue when a reservation arrives, and returns slots when the queue
//! shrinks. A bound on concurrent calls belongs here too: `due` is then also
//! the time at which a call may begin.
//!
//! Invariant: after a pause the bucket is empty. One probe goes, then the rate
//! applies, without a burst (rule: pauses).

use std::time::Duration;

use tokio::time::Instant;

use super::gcra::Gcra;
use super::pause::{Pause, Probed};
use crate::config::Quota;

/// The tokens of one bucket, with its pause.
pub(super) trait Tokens {
    /// When the token behind `before` others can be taken, from `now` on.
    fn due(&self, now: Instant, before: u32) -> Instant;

    /// Takes a token; returns how many are left (`None`: unlimited).
    ///
    /// # Errors
    /// No token is there; the error is the moment when the next one is.
    fn take(&mut self, now: Instant) -> Result<Option<u32>, Instant>;

    /// Learns from an upstream 429 to a request sent at `sent`.
    fn throttled(&mut self, now: Instant, sent: Instant, retry_after: Option<Duration>);

    /// Learns from any other response, or from none, to a request sent at
    /// `sent`; true if that lets waiting requests go sooner.
    fn answered(&mut self, now: Instant, sent: Instant, let_through: bool) -> bool;

    /// Until when no waiting request can get a token, where that is certain.
    fn refuses_until(&self) -> Option<Instant>;

    /// Until when requests are held back by a pause or its probe.
    fn held_until(&self, now: Instant) -> Option<Instant>;

    /// A copy for a forecast. It expects that a probe succeeds at once.
    fn foreseen(&self) -> Self;
}

/// The tokens of a bucket that only this process uses.
#[derive(Debug)]
pub(super) struct LocalTokens {
    gcra: Gcra,
    /// There only after an upstream 429, so that most buckets stay small.
    pause: Option<Box<Pause>>,
    /// Belongs to a forecast.
    is_copy: bool,
}

impl LocalTokens {
    /// A full bucket.
    pub(super) fn new(quota: Option<Quota>, now: Instant) -> Self {
        Self {
            gcra: Gcra::new(quota, now),
            pause: None,
            is_copy: false,
        }
    }

    /// Puts another quota in force; what is owed stays owed.
    pub(super) fn requote(&mut self, quota: Option<Quota>, now: Instant) {
        self.gcra.requote(quota, now);
    }

    /// The quota in force; `None`: unlimited.
    pub(super) fn quota(&self) -> Option<Quota> {
        self.gcra.quota()
    }

    /// Tokens in the bucket; `None` where they are unlimited.
    pub(super) fn tokens(&self, now: Instant) -> Option<f64> {
        self.gcra.tokens(now)
    }

    /// Whether nothing would be lost if the bucket were made anew.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.gcra.is_full(now) && self.pause.as_ref().is_none_or(|pause| pause.is_over(now))
    }

    /// Whether a 429 has not yet been followed by a success.
    pub(super) fn is_paused(&self) -> bool {
        self.pause.is_some()
    }

    fn interval(&self) -> Duration {
        let quota = self.gcra.quota();
        quota.map(|quota| quota.interval()).unwrap_or_default()
    }

    /// Drops the tokens that came back while nothing could be sent.
    fn empty(&mut self, now: Instant) {
        if self.gcra.due(now, 0) <= now {
            self.gcra.empty_until(now);
        }
    }
}

impl Tokens for LocalTokens {
    fn due(&self, now: Instant, before: u32) -> Instant {
        let Some(pause) = &self.pause else {
            return self.gcra.due(now, before);
        };
        let first = self.gcra.due(now, 0);
        let first = pause.holds(now).map_or(first, |until| until.max(first));
        first + self.interval().saturating_mul(before)
    }

    fn take(&mut self, now: Instant) -> Result<Option<u32>, Instant> {
        if self.pause.is_none() {
            return self.gcra.take(now);
        }
        match self.due(now, 0) {
            due if due > now => return Err(due),
            _ => {}
        }
        let remaining = self.gcra.take(now)?.map(|_| 0);
        self.gcra.empty_until(now + self.interval());
        if self.is_copy {
            self.pause = None;
        } else if let Some(pause) = &mut self.pause {
            pause.probe(now);
        }
        Ok(remaining)
    }

    fn throttled(&mut self, now: Instant, sent: Instant, retry_after: Option<Duration>) {
        let pause = match &mut self.pause {
            Some(pause) => {
                pause.throttled(now, sent, retry_after);
                pause
            }
            none => none.insert(Box::new(Pause::new(now, retry_after))),
        };
        if let Some(until) = pause.holds(now) {
            let owed = self.gcra.due(now, 0);
            self.gcra.empty_until(until.max(owed));
        }
    }

    fn answered(&mut self, now: Instant, sent: Instant, let_through: bool) -> bool {
        let Some(pause) = &mut self.pause else {
            return false;
        };
        match pause.answered(sent, let_through) {
            Probed::Stale => return false,
            Probed::Success => self.pause = None,
            Probed::Failure => {}
        }
        self.empty(now);
        true
    }

    fn refuses_until(&self) -> Option<Instant> {
        self.pause.as_ref().map(|pause| pause.refuses_until())
    }

    fn held_until(&self, now: Instant) -> Option<Instant> {
        self.pause.as_ref()?.holds(now)
    }

    fn foreseen(&self) -> Self {
        Self {
            gcra: self.gcra,
            pause: self.pause.clone(),
            is_copy: true,
        }
    }
}
