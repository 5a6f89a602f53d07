//! The tokens of a bucket, and its pause after an upstream 429 (rule: pauses).
//!
//! [`Tokens`] is what the wait queue and the forecast need to know of a bucket. The
//! bound on calls in flight is part of `due`: it is the time at which a call may
//! begin.
//!
//! A pause belongs to one bucket: one instance, one class, and either its
//! verified or its other credentials.
//!
//! Invariants: only a response to a request sent after a pause ended can begin
//! another or end the doubling. A 429 to a request sent before can only move the
//! end of the pause, by a later `Retry-After`. After a pause the bucket is empty: one probe
//! goes, then the rate applies, without a burst.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

#[cfg(test)]
mod tests;

use super::gcra::Gcra;
use super::in_flight::{InFlight, Place, Prediction};
use crate::config::{InstanceLimit, Quota};

/// The first pause where the upstream names none; it doubles with each 429.
const INITIAL_PAUSE: Duration = Duration::from_secs(1);

/// If a named pause (`Retry-After`) was too short, the next is at least twice as
/// long, up to this length; otherwise a receipt would be retried in a tight loop.
const MIN_REPEATED_PAUSE_CAP: Duration = Duration::from_secs(1);

/// A longer `Retry-After` is cut to this length: the upstream has been seen to send six days.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// If the probe has no response after this time, the next request goes as
/// another probe: a probe may be a video that uploads for minutes.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

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
}

impl Pause {
    pub(super) fn new(now: Instant, retry_after: Option<Duration>) -> Self {
        let mut pause = Self {
            until: now,
            step: INITIAL_PAUSE,
            min_named: Duration::ZERO,
            probe: None,
            previous_probe_timed_out: false,
        };
        pause.begin(now, retry_after);
        pause
    }

    /// Until when requests are held back by the pause, or by a probe without a
    /// response; `None` if they are not.
    pub(super) fn holds(&self, now: Instant) -> Option<Instant> {
        let probing = self.probe.map(|sent| sent + PROBE_TIMEOUT);
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
        self.previous_probe_timed_out = self.probe.is_some();
        self.probe = Some(now);
    }

    /// Records another 429, to a request sent at `sent`.
    pub(super) fn on_429(&mut self, now: Instant, sent: Instant, retry_after: Option<Duration>) {
        if sent >= self.until {
            self.begin(now, retry_after);
        } else if let Some(named) = clamped(retry_after) {
            // A late 429 from before the pause; its `Retry-After` may extend it.
            self.until = self.until.max(now + named);
        }
    }

    /// Records any other response, or none, to a request sent at `sent`.
    /// `is_accepted`: the status is neither 429 nor 5xx.
    pub(super) fn on_other_result(&mut self, sent: Instant, is_accepted: bool) -> Probed {
        if sent < self.until {
            return Probed::Stale;
        }
        self.probe = None;
        self.previous_probe_timed_out = false;
        if is_accepted {
            Probed::Success
        } else {
            Probed::Failure
        }
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

/// What a response says about a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probed {
    /// Nothing: its request was sent before the pause ended.
    Stale,
    /// The pause is over, and its doubling with it.
    Success,
    /// The probe failed: the next request is another probe.
    Failure,
}

/// The pause that the upstream named, at most [`MAX_PAUSE`]. A `Retry-After: 0`
/// counts as none.
fn clamped(retry_after: Option<Duration>) -> Option<Duration> {
    retry_after
        .filter(|wait| !wait.is_zero())
        .map(|wait| wait.min(MAX_PAUSE))
}

/// The tokens of one bucket, with its pause.
pub(super) trait Tokens {
    /// When the token after `before` others can be taken, from `now` on.
    fn due(&self, now: Instant, before: u32) -> Instant;

    /// Takes a token; returns how many are left (`None`: unlimited).
    ///
    /// # Errors
    /// No token is there; the error is the time of the next one.
    fn take(&mut self, now: Instant) -> Result<Option<u32>, Instant>;

    /// Takes the place of a call in flight for a token that was taken; `None` where
    /// calls in flight are unlimited.
    fn enter(&mut self, now: Instant) -> Option<Place>;

    /// Updates the pause after an upstream 429 to a request sent at `sent`.
    fn on_429(&mut self, now: Instant, sent: Instant, retry_after: Option<Duration>);

    /// Updates the pause after any other response, or none, to a request sent at
    /// `sent`; true if that lets waiting requests go sooner.
    fn on_other_result(&mut self, now: Instant, sent: Instant, is_accepted: bool) -> bool;

    /// Until when no waiting request can get a token, where that is certain.
    fn refuses_until(&self) -> Option<Instant>;

    /// Until when requests are held back by a pause or its probe.
    fn held_until(&self, now: Instant) -> Option<Instant>;

    /// A copy for a forecast. In the copy a probe counts as successful at once, and
    /// calls last as long as recent ones.
    fn simulated(&self, now: Instant) -> Self;
}

/// The tokens of a bucket that only this process uses.
#[derive(Debug)]
pub(super) struct LocalTokens {
    gcra: Gcra,
    /// There only after an upstream 429, so that most buckets stay small.
    pause: Option<Box<Pause>>,
    places: Places,
}

/// The calls in flight.
#[derive(Debug)]
enum Places {
    Unlimited,
    Limited(Arc<InFlight>),
    /// In a forecast. `None`: unlimited.
    Simulated(Option<Box<Prediction>>),
}

impl LocalTokens {
    /// A full bucket.
    pub(super) fn new(limit: &InstanceLimit, now: Instant) -> Self {
        let in_flight = limit.max_in_flight.map(InFlight::new);
        Self {
            gcra: Gcra::new(limit.quota, now),
            pause: None,
            places: match in_flight {
                Some(in_flight) => Places::Limited(Arc::new(in_flight)),
                None => Places::Unlimited,
            },
        }
    }

    pub(super) fn unlimited(now: Instant) -> Self {
        Self {
            gcra: Gcra::new(None, now),
            pause: None,
            places: Places::Unlimited,
        }
    }

    /// Sets another limit; debt and calls in flight are kept. Calls that were sent
    /// without a bound are not known, and not counted.
    pub(super) fn set_limit(&mut self, limit: &InstanceLimit, now: Instant) {
        self.gcra.set_quota(limit.quota, now);
        match (&self.places, limit.max_in_flight) {
            (Places::Limited(in_flight), None) if in_flight.count() == 0 => {
                self.places = Places::Unlimited;
            }
            (Places::Limited(in_flight), cap) => in_flight.set_cap(cap),
            (_, None) => {}
            (_, Some(cap)) => self.places = Places::Limited(Arc::new(InFlight::new(cap))),
        }
    }

    /// The calls in flight, where their number is bounded.
    pub(super) fn in_flight(&self) -> Option<&Arc<InFlight>> {
        match &self.places {
            Places::Limited(in_flight) => Some(in_flight),
            Places::Unlimited | Places::Simulated(_) => None,
        }
    }

    /// The present quota; `None`: unlimited.
    pub(super) fn quota(&self) -> Option<Quota> {
        self.gcra.quota()
    }

    /// Tokens in the bucket; `None` where they are unlimited.
    pub(super) fn tokens(&self, now: Instant) -> Option<f64> {
        self.gcra.tokens(now)
    }

    /// Whether nothing would be lost if the bucket were made anew.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.gcra.is_full(now)
            && self
                .pause
                .as_ref()
                .is_none_or(|pause| pause.is_forgotten(now))
            && self.in_flight().is_none_or(|it| it.count() == 0)
    }

    /// Whether a 429 has not yet been followed by a success.
    pub(super) fn is_recovering(&self) -> bool {
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

impl LocalTokens {
    /// When the token after `before` others is there, whatever is in flight.
    fn paced(&self, now: Instant, before: u32) -> Instant {
        let Some(pause) = &self.pause else {
            return self.gcra.due(now, before);
        };
        let first = self.gcra.due(now, 0);
        let first = pause.holds(now).map_or(first, |until| until.max(first));
        first + self.interval().saturating_mul(before)
    }
}

impl Tokens for LocalTokens {
    fn due(&self, now: Instant, before: u32) -> Instant {
        let paced = |before| self.paced(now, before);
        match &self.places {
            Places::Unlimited | Places::Simulated(None) => paced(before),
            Places::Limited(in_flight) => in_flight.due(now, before, paced),
            Places::Simulated(Some(prediction)) => prediction.due(now, before, paced),
        }
    }

    fn take(&mut self, now: Instant) -> Result<Option<u32>, Instant> {
        if self.pause.is_none() && matches!(self.places, Places::Unlimited) {
            return self.gcra.take(now);
        }
        match self.due(now, 0) {
            due if due > now => return Err(due),
            _ if self.pause.is_none() => return self.gcra.take(now),
            _ => {}
        }
        let remaining = self.gcra.take(now)?.map(|_| 0);
        self.gcra.empty_until(now + self.interval());
        if matches!(self.places, Places::Simulated(_)) {
            self.pause = None;
        } else if let Some(pause) = &mut self.pause {
            pause.probe(now);
        }
        Ok(remaining)
    }

    fn enter(&mut self, now: Instant) -> Option<Place> {
        match &mut self.places {
            Places::Limited(in_flight) => return Some(in_flight.enter(now)),
            Places::Simulated(Some(prediction)) => prediction.enter(now),
            Places::Unlimited | Places::Simulated(None) => {}
        }
        None
    }

    fn on_429(&mut self, now: Instant, sent: Instant, retry_after: Option<Duration>) {
        let pause = match &mut self.pause {
            Some(pause) => {
                pause.on_429(now, sent, retry_after);
                pause
            }
            none => none.insert(Box::new(Pause::new(now, retry_after))),
        };
        if let Some(until) = pause.holds(now) {
            let debt = self.gcra.due(now, 0);
            self.gcra.empty_until(until.max(debt));
        }
    }

    fn on_other_result(&mut self, now: Instant, sent: Instant, is_accepted: bool) -> bool {
        let Some(pause) = &mut self.pause else {
            return false;
        };
        match pause.on_other_result(sent, is_accepted) {
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

    fn simulated(&self, now: Instant) -> Self {
        let prediction = match &self.places {
            Places::Unlimited => None,
            Places::Limited(in_flight) => Some(Box::new(in_flight.prediction(now))),
            Places::Simulated(prediction) => prediction.clone(),
        };
        Self {
            gcra: self.gcra,
            pause: self.pause.clone(),
            places: Places::Simulated(prediction),
        }
    }
}
