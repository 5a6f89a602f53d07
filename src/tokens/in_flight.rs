//! The upstream calls of one bucket that are in flight, where their number is
//! bounded (rule: calls in flight).
//!
//! Invariants: a call holds its place from its token until it has ended or was
//! given up, and gives it back exactly once, in whatever task that happens. Under
//! the lock here only that of [`slots`](super::slots) is taken, for the times of
//! tokens, and never the other way round.
//!
//! When a call will end cannot be known. A prediction takes each call to last as
//! long as recent calls did; one that lasts longer is taken to begin anew.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How long calls are taken to last before one has ended. Rather short: a request
/// that was admitted in vain waits for its deadline, but one that is refused in
/// vain fails.
const FIRST_GUESS: Duration = Duration::from_millis(250);

/// The least that a call is taken to last: a simulation must make progress.
const SHORTEST: Duration = Duration::from_millis(1);

/// The least time after which a late call may end: until then nothing looks again.
const LATE: Duration = Duration::from_millis(100);

/// The weight of the last call in the mean, as a divisor.
const WEIGHT: u32 = 8;

/// The places of one bucket.
#[derive(Debug)]
pub(crate) struct InFlight {
    state: Mutex<State>,
    /// Wakes the task that serves the bucket's queue.
    pub(crate) changed: Arc<Notify>,
}

#[derive(Debug)]
struct State {
    /// `None` after a reload without a bound, until no call is in flight.
    cap: Option<NonZeroU32>,
    /// When each call began, the oldest first.
    began: VecDeque<Instant>,
    /// The mean duration of recent calls; `None` before the first has ended.
    usual: Option<Duration>,
    /// Wakes the task of the egress while the bucket is held there.
    egress: Option<Arc<Notify>>,
}

/// The place of one call. Dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct Place {
    in_flight: Arc<InFlight>,
    began: Instant,
    /// Its call was sent: its duration counts.
    is_sent: bool,
    /// Takes up no place, and only measures (rule: observe mode).
    only_measures: bool,
}

/// The calls in flight in a forecast.
#[derive(Clone, Debug)]
pub(crate) struct Prediction {
    cap: Option<NonZeroU32>,
    usual: Duration,
    /// When each call ends, in order.
    ends: VecDeque<Instant>,
}

impl InFlight {
    /// `changed` wakes the task that serves the bucket's queue.
    pub(crate) fn new(cap: NonZeroU32, changed: Arc<Notify>) -> Self {
        Self {
            state: Mutex::new(State {
                cap: Some(cap),
                began: VecDeque::new(),
                usual: None,
                egress: None,
            }),
            changed,
        }
    }

    pub(crate) fn set_cap(&self, cap: Option<NonZeroU32>) {
        self.lock().cap = cap;
    }

    /// The task of the egress that serves the bucket, if one does.
    pub(crate) fn set_egress(&self, egress: Option<Arc<Notify>>) {
        self.lock().egress = egress;
    }

    pub(crate) fn cap(&self) -> Option<NonZeroU32> {
        self.lock().cap
    }

    /// Calls in flight.
    pub(crate) fn count(&self) -> usize {
        self.lock().began.len()
    }

    /// Further calls that may begin now.
    pub(crate) fn free(&self) -> usize {
        let state = self.lock();
        let cap = state.cap.map_or(usize::MAX, |cap| cap.get() as usize);
        cap.saturating_sub(state.began.len())
    }

    /// Takes a place, which must be there.
    pub(crate) fn enter(self: &Arc<Self>, now: Instant) -> Place {
        let mut state = self.lock();
        // A later time may come first: `now` is read before the lock is taken.
        let index = state.began.partition_point(|began| *began <= now);
        state.began.insert(index, now);
        drop(state);
        self.place(now, false)
    }

    /// Measures a call that takes up no place.
    pub(crate) fn measure(self: &Arc<Self>, now: Instant) -> Place {
        self.place(now, true)
    }

    fn place(self: &Arc<Self>, began: Instant, only_measures: bool) -> Place {
        Place {
            in_flight: Arc::clone(self),
            began,
            is_sent: false,
            only_measures,
        }
    }

    /// When the call after `before` others can begin, if `paced(n)` is the time of
    /// the n-th token.
    pub(crate) fn due(&self, now: Instant, before: u32, paced: impl Fn(u32) -> Instant) -> Instant {
        let state = self.lock();
        let Some(cap) = state.cap else {
            return paced(before);
        };
        let late = state.late(now);
        let end_of = |index| state.end_of(index, late, now);
        let ends = (state.began.len(), &end_of as &dyn Fn(usize) -> Instant);
        due(now, before, paced, cap, state.usual(), ends)
    }

    /// What a forecast made now assumes.
    pub(crate) fn prediction(&self, now: Instant) -> Prediction {
        let state = self.lock();
        let late = state.late(now);
        let ends = 0..state.began.len();
        Prediction {
            cap: state.cap,
            usual: state.usual(),
            ends: ends.map(|index| state.end_of(index, late, now)).collect(),
        }
    }

    /// How long a call is taken to last.
    fn usual(&self) -> Duration {
        self.lock().usual()
    }

    fn leave(&self, place: &Place, took: Option<Duration>) {
        let mut state = self.lock();
        if !place.only_measures
            && let Ok(index) = state.began.binary_search(&place.began)
        {
            // Calls that began at the same time are equal: any of them may go.
            state.began.remove(index);
        }
        if let Some(took) = took {
            let usual = state.usual.unwrap_or(took);
            state.usual = Some(usual - usual / WEIGHT + took / WEIGHT);
        }
        let egress = state.egress.clone();
        drop(state);
        // What waits is served by the task of the bucket or by that of the egress.
        self.changed.notify_one();
        if let Some(egress) = egress {
            egress.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No change under this lock panics halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The call is sent now: its duration counts.
    pub(crate) fn sent(mut self) -> Self {
        self.is_sent = true;
        self
    }

    /// How long its call is taken to last.
    pub(crate) fn usual(&self) -> Duration {
        self.in_flight.usual()
    }

    /// Ends the call at a time that is not the clock's.
    pub(crate) fn end(mut self, now: Instant) {
        let took = now.saturating_duration_since(self.began);
        self.in_flight.leave(&self, Some(took));
        // What `drop` gives back is no place any more.
        (self.only_measures, self.is_sent) = (true, false);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let took = self.is_sent.then(|| self.began.elapsed());
        self.in_flight.leave(self, took);
    }
}

impl State {
    fn usual(&self) -> Duration {
        self.usual.unwrap_or(FIRST_GUESS).max(SHORTEST)
    }

    /// How many calls last longer than they were taken to.
    fn late(&self, now: Instant) -> usize {
        let usual = self.usual();
        self.began.partition_point(|began| *began + usual <= now)
    }

    /// When the call ends that is this many calls from the first to end: late ones
    /// begin anew, so they are the last.
    fn end_of(&self, index: usize, late: usize, now: Instant) -> Instant {
        let usual = self.usual();
        let began = self.began.get(late + index);
        began.map_or(now + usual.max(LATE), |began| *began + usual)
    }
}

impl Prediction {
    /// As [`InFlight::due`].
    pub(crate) fn due(&self, now: Instant, before: u32, paced: impl Fn(u32) -> Instant) -> Instant {
        let Some(cap) = self.cap else {
            return paced(before);
        };
        // Ends that are over count as free places, so they need not be removed here.
        let end_of = |index: usize| self.ends[index];
        let ends = (self.ends.len(), &end_of as &dyn Fn(usize) -> Instant);
        due(now, before, paced, cap, self.usual, ends)
    }

    /// A simulated call begins.
    pub(crate) fn enter(&mut self, now: Instant) {
        while self.ends.front().is_some_and(|end| *end <= now) {
            self.ends.pop_front();
        }
        let end = now + self.usual;
        let index = self.ends.partition_point(|other| *other <= end);
        self.ends.insert(index, end);
    }
}

/// When the call after `before` others can begin. `ends`: how many calls are in
/// flight, and when the n-th of them ends.
///
/// Exact where every call lasts `usual`: a call begins when its token is there and
/// the call `cap` before it has ended. Along such a chain of calls the times of
/// the tokens grow ever faster or evenly, so the longest wait for a token is at
/// one of its two ends.
fn due(
    now: Instant,
    before: u32,
    paced: impl Fn(u32) -> Instant,
    cap: NonZeroU32,
    usual: Duration,
    (count, end_of): (usize, &dyn Fn(usize) -> Instant),
) -> Instant {
    let (rounds, first) = (before / cap, before % cap);
    // Each call of the chain waits for the one before it.
    let rounds = usual.saturating_mul(rounds);
    // The first call of the chain needs a place of those that are taken now.
    let must_end = (count + first as usize + 1).saturating_sub(cap.get() as usize);
    let free = match must_end {
        0 => now,
        n => end_of(n.min(count) - 1).max(now),
    };
    let of_token = paced(before).max(paced(first) + rounds);
    of_token.max(free + rounds)
}
