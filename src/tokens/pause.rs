//! The tokens of a bucket, and its pause after an upstream 429 (rule: pauses).
//!
//! A pause belongs to one bucket: one instance, one class, and either its
//! verified or its other credentials.
//!
//! Invariants: only a response to a request sent after a pause ended can begin
//! another or end the doubling. A 429 to a request sent before can only move the
//! end of the pause, by a later `Retry-After`. After a pause the bucket is empty: one probe
//! goes, then the rate applies, without a burst.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

#[cfg(test)]
mod tests;

use super::gcra::Gcra;
use super::{SimulatedTokens, Tokens};
use crate::config::Quota;

/// The first pause where the upstream names none; it doubles with each 429.
const INITIAL_PAUSE: Duration = Duration::from_secs(1);

/// If a named pause (`Retry-After`) was too short, the next is at least twice as
/// long, up to this length; otherwise a receipt would be retried in a tight loop.
const MIN_REPEATED_PAUSE_CAP: Duration = Duration::from_secs(1);

/// A longer `Retry-After` is cut to this length: the upstream has been seen to send six days.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(60);

/// If the probe has no response after this time, the next request goes as
/// another probe: a probe may be a video that uploads for minutes.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// A pause after an upstream 429.
#[derive(Clone, Debug)]
pub(super) struct Pause {
    until: Instant,
    /// The length of the next pause, if the next 429 names none.
    step: Duration,
    /// The smallest length of the next pause, if the next 429 names one.
    min_named: Duration,
    /// When the probe was sent that has no response yet.
    probe: Option<Instant>,
    /// The probe before this one had no response within [`PROBE_TIMEOUT`].
    previous_probe_timed_out: bool,
    /// A request has succeeded. Kept for 429s to requests from before.
    is_over: bool,
}

impl Pause {
    /// The pause that a first 429 begins.
    pub(super) fn new(now: Instant, retry_after: Option<Duration>) -> Self {
        let mut pause = Self::known(now);
        pause.begin(now, retry_after);
        pause
    }

    /// A pause of which only the end is known.
    fn known(until: Instant) -> Self {
        Self {
            until,
            step: INITIAL_PAUSE,
            min_named: Duration::ZERO,
            probe: None,
            previous_probe_timed_out: false,
            is_over: false,
        }
    }

    /// Whether it has no effect any more, but on 429s to requests from before.
    fn is_past(&self, now: Instant) -> bool {
        self.is_over || self.is_forgotten(now)
    }

    /// Until when requests are held back by the pause, or by a probe without a
    /// response; `None` if they are not.
    pub(super) fn holds(&self, now: Instant) -> Option<Instant> {
        let probing = self.probe.map(|sent| sent + PROBE_TIMEOUT);
        // A late 429 can have moved the end of the pause beyond the time of the probe.
        let until = probing.map_or(self.until, |probing| probing.max(self.until));
        (now < until).then_some(until)
    }

    /// Until when certainly no waiting request gets a token. An outstanding probe
    /// counts only if the previous one timed out; the first usually has its
    /// response soon.
    pub(super) fn refuses_until(&self) -> Instant {
        let probing = self.probe.filter(|_| self.previous_probe_timed_out);
        probing.map_or(self.until, |sent| self.until.max(sent + PROBE_TIMEOUT))
    }

    /// Whether it ended so long ago that its doubling no longer counts.
    pub(super) fn is_forgotten(&self, now: Instant) -> bool {
        self.holds(now).is_none() && now >= self.until + MAX_PAUSE
    }

    /// Records that a request is sent now: it is the probe.
    pub(super) fn probe(&mut self, now: Instant) {
        // A probe that had a response was removed, so one that is still there had none. If a late 429
        // has moved the end of the pause since, its response did not count.
        self.previous_probe_timed_out = self.probe.is_some_and(|sent| sent >= self.until);
        self.probe = Some(now);
    }

    /// Records another 429, to a request sent at `sent`.
    pub(super) fn on_429(&mut self, now: Instant, sent: Instant, retry_after: Option<Duration>) {
        if sent >= self.until {
            if self.is_past(now) {
                *self = Self::new(now, retry_after);
            } else {
                self.begin(now, retry_after);
            }
        } else if let Some(named) = clamped(retry_after) {
            // A late 429 from before the pause; its `Retry-After` may extend it.
            self.until = self.until.max(now + named);
            self.is_over = false;
        }
    }

    /// Records any other response, or none, to a request sent at `sent`; false if that was before the
    /// pause had ended, and says nothing of it. `is_accepted`: the status is neither 429 nor 5xx.
    pub(super) fn on_other_result(&mut self, sent: Instant, is_accepted: bool) -> bool {
        if sent < self.until {
            return false;
        }
        self.probe = None;
        self.previous_probe_timed_out = false;
        // After a failure the pause stays, so that the next request is a probe as well.
        self.is_over = is_accepted;
        true
    }

    fn begin(&mut self, now: Instant, retry_after: Option<Duration>) {
        let length = match clamped(retry_after) {
            Some(named) => named.max(self.min_named),
            None => {
                let step = self.step;
                self.step = (step * 2).min(MAX_PAUSE);
                step
            }
        };
        self.min_named = (length * 2).min(MIN_REPEATED_PAUSE_CAP);
        self.until = now + length;
        self.probe = None;
        self.previous_probe_timed_out = false;
    }
}

/// The pause that the upstream named, at most [`MAX_PAUSE`]. A `Retry-After: 0`
/// counts as none.
fn clamped(retry_after: Option<Duration>) -> Option<Duration> {
    retry_after
        .filter(|wait| !wait.is_zero())
        .map(|wait| wait.min(MAX_PAUSE))
}

/// How long a pause is taken to last, at least, before it is known.
pub(super) fn assumed_pause(retry_after: Option<Duration>) -> Duration {
    clamped(retry_after).unwrap_or(INITIAL_PAUSE)
}

/// The tokens of a bucket that only this process uses.
#[derive(Clone, Debug)]
pub(crate) struct LocalTokens {
    gcra: Gcra,
    /// There only after an upstream 429, so that most buckets stay small.
    pause: Option<Box<Pause>>,
}

impl LocalTokens {
    /// A full bucket; `None` is unlimited.
    pub(super) fn new(quota: Option<Quota>, now: Instant) -> Self {
        Self::of(Gcra::new(quota, now))
    }

    pub(super) fn of(gcra: Gcra) -> Self {
        Self { gcra, pause: None }
    }

    /// Sets another quota; debt is kept.
    pub(super) fn set_quota(&mut self, quota: Option<Quota>, now: Instant) {
        self.gcra.set_quota(quota, now);
    }

    /// Empties the bucket, so that the next token is due at `next`.
    pub(super) fn empty_until(&mut self, next: Instant) {
        self.gcra.empty_until(next);
    }

    /// Forgets the pause, as after a successful probe.
    pub(super) fn end_pause(&mut self) {
        self.pause = None;
    }

    /// Takes over a pause that ends then.
    pub(super) fn pause_until(&mut self, until: Instant, now: Instant) {
        self.pause = Some(Box::new(Pause::known(until)));
        self.gcra.empty_until(until.max(self.gcra.due(now, 0)));
    }

    /// The pause, until it is over.
    fn pause(&self, now: Instant) -> Option<&Pause> {
        self.pause.as_deref().filter(|pause| !pause.is_past(now))
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
        let Some(pause) = self.pause(now) else {
            return self.gcra.due(now, before);
        };
        let first = self.gcra.due(now, 0);
        let first = pause.holds(now).map_or(first, |until| until.max(first));
        // After a pause there is no burst, so not the times of the bucket.
        first + self.interval().saturating_mul(before)
    }

    fn take(&mut self, now: Instant) -> Result<Option<u32>, Instant> {
        if self
            .pause
            .as_ref()
            .is_some_and(|pause| pause.is_forgotten(now))
        {
            self.pause = None;
        }
        if self.pause(now).is_none() {
            return self.gcra.take(now);
        }
        let due = self.due(now, 0);
        if due > now {
            return Err(due);
        }
        let remaining = self.gcra.take(now)?.map(|_| 0);
        // Tokens that came back during the pause must not go as a burst behind the probe.
        self.gcra.empty_until(now + self.interval());
        if let Some(pause) = &mut self.pause {
            pause.probe(now);
        }
        Ok(remaining)
    }

    fn on_429(&mut self, now: Instant, sent: Instant, retry_after: Option<Duration>) {
        let pause = match &mut self.pause {
            Some(pause) => {
                pause.on_429(now, sent, retry_after);
                pause
            }
            none => none.insert(Box::new(Pause::new(now, retry_after))),
        };
        if let Some(until) = pause.holds(now).filter(|_| !pause.is_over) {
            // Debt that lasts longer than the pause is kept.
            let debt = self.gcra.due(now, 0);
            self.gcra.empty_until(until.max(debt));
        }
    }

    fn on_other_result(&mut self, now: Instant, sent: Instant, is_accepted: bool) -> bool {
        let Some(pause) = self.pause.as_mut().filter(|pause| !pause.is_past(now)) else {
            return false;
        };
        if !pause.on_other_result(sent, is_accepted) {
            return false;
        }
        self.empty(now);
        true
    }

    fn refuses_until(&self) -> Option<Instant> {
        let pause = self.pause.as_ref().filter(|pause| !pause.is_over);
        pause.map(|pause| pause.refuses_until())
    }

    fn held_until(&self, now: Instant) -> Option<Instant> {
        self.pause(now)?.holds(now)
    }

    fn is_recovering(&self) -> bool {
        self.pause.as_ref().is_some_and(|pause| !pause.is_over)
    }

    fn quota(&self) -> Option<Quota> {
        self.gcra.quota()
    }

    fn tokens(&self, now: Instant) -> Option<f64> {
        self.gcra.tokens(now)
    }

    fn is_full(&self, now: Instant) -> bool {
        self.gcra.is_full(now) && self.pause(now).is_none()
    }

    fn simulated(&self, _: Instant) -> SimulatedTokens {
        SimulatedTokens {
            reserved: VecDeque::new(),
            bucket: self.clone(),
        }
    }
}
