//! The tokens of one bucket: from where they come, and what bounds their calls.
//!
//! Invariant: serving, forecasts and pages ask here and nowhere else, so that none of them knows
//! whether a bucket belongs to this process or to several gateways.
//!
//! - [`gcra`]: a token bucket in this process; [`pause`]: the same with its pause;
//! - [`slots`]: tokens that several gateways reserve from one bucket on a server;
//! - [`in_flight`]: the bound on concurrent calls; [`micros`]: times as a server counts them.

pub(crate) mod gcra;
pub(crate) mod in_flight;
pub(crate) mod micros;
pub(crate) mod pause;
pub(crate) mod slots;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::{InstanceLimit, Quota};
use in_flight::{InFlight, Place, Prediction};
use pause::LocalTokens;
use slots::SharedTokens;
pub(crate) use slots::{BucketName, SharedBuckets, SharedGroup};

/// What the wait queue and the forecast need to know of tokens.
pub(crate) trait Tokens {
    /// When the token after `before` others can be taken, from `now` on, as far as that is known.
    fn due(&self, now: Instant, before: u32) -> Instant;

    /// When to try to take the next token: `now` if one can be taken.
    fn ready_at(&self, now: Instant) -> Instant {
        self.due(now, 0)
    }

    /// Takes a token; returns how many are left (`None`: unlimited).
    ///
    /// # Errors
    /// No token is there; the error is the time at which to try again.
    fn take(&mut self, now: Instant) -> Result<Option<u32>, Instant>;

    /// Updates the pause after an upstream 429 to a request sent at `sent`.
    fn on_429(&mut self, now: Instant, sent: Instant, retry_after: Option<Duration>);

    /// Updates the pause after any other response, or none, to a request sent at
    /// `sent`; true if that lets waiting requests go sooner.
    fn on_other_result(&mut self, now: Instant, sent: Instant, is_accepted: bool) -> bool;

    /// Until when no waiting request can get a token, where that is certain.
    fn refuses_until(&self) -> Option<Instant>;

    /// Until when requests are held back by a pause or its probe.
    fn held_until(&self, now: Instant) -> Option<Instant>;

    /// Whether a 429 has not yet been followed by a success.
    fn is_recovering(&self) -> bool;

    /// The present quota; `None`: unlimited.
    fn quota(&self) -> Option<Quota>;

    /// Tokens in the bucket; `None` where they are unlimited.
    fn tokens(&self, now: Instant) -> Option<f64>;

    /// Whether nothing would be lost if the bucket were made anew.
    fn is_full(&self, now: Instant) -> bool;

    /// A copy for a forecast. In the copy a probe counts as successful at once.
    fn simulated(&self, now: Instant) -> SimulatedTokens;
}

/// The requests that need a token, for tokens that have to be reserved.
#[derive(Clone, Debug, Default)]
pub(crate) struct Demand {
    /// The deadlines of those that do not yield, the next to go first.
    pub(crate) deadlines: Vec<Instant>,
    /// The deadline of a batch of receipts that yields.
    pub(crate) yielding: Option<Instant>,
}

/// The tokens of a forecast: those that are reserved, then those of a bucket.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedTokens {
    pub(crate) reserved: VecDeque<Instant>,
    pub(crate) bucket: LocalTokens,
}

/// The tokens of one bucket, and the places of its calls.
#[derive(Debug)]
pub(crate) struct BucketTokens {
    source: TokenSource,
    /// `None`: calls in flight are unlimited. Boxed, so that most buckets stay small.
    places: Option<Box<Places>>,
}

#[derive(Debug)]
enum TokenSource {
    Local(LocalTokens),
    Shared(SharedTokens),
    Simulated(Box<SimulatedTokens>),
}

/// The calls in flight, where their number is bounded.
#[derive(Debug)]
enum Places {
    Limited(Arc<InFlight>),
    /// In a forecast.
    Simulated(Prediction),
}

impl Demand {
    pub(crate) fn is_empty(&self) -> bool {
        self.deadlines.is_empty() && self.yielding.is_none()
    }
}

impl BucketTokens {
    /// A full bucket; with a name, one that gateways share.
    pub(crate) fn new(limit: &InstanceLimit, name: Option<BucketName>, now: Instant) -> Self {
        let source = match (name, limit.quota) {
            (Some(name), Some(quota)) => {
                TokenSource::Shared(SharedTokens::new(name, quota, Arc::default(), now))
            }
            _ => TokenSource::Local(LocalTokens::new(limit.quota, now)),
        };
        let mut tokens = Self {
            source,
            places: None,
        };
        tokens.bound_calls(limit);
        tokens
    }

    pub(crate) fn unlimited(now: Instant) -> Self {
        Self {
            source: TokenSource::Local(LocalTokens::new(None, now)),
            places: None,
        }
    }

    /// Sets another limit; debt and calls in flight are kept. Calls that were sent
    /// without a bound are not known, and not counted.
    pub(crate) fn set_limit(
        &mut self,
        limit: &InstanceLimit,
        name: impl FnOnce() -> Option<BucketName>,
        now: Instant,
    ) {
        // Only an unlimited bucket is not shared although it has a name.
        let becomes_shared = match &self.source {
            TokenSource::Local(local) => local.quota().is_none() && limit.quota.is_some(),
            _ => false,
        };
        let name = becomes_shared.then(name).flatten();
        // The task waits for this one, so other tokens have to wake it by the same.
        let changed = self.changed();
        let held = self.source().held_until(now);
        match (&mut self.source, limit.quota, name) {
            (source, Some(quota), Some(name)) => {
                let shared = SharedTokens::new(name, quota, changed.unwrap_or_default(), now);
                shared.pause_until(held);
                *source = TokenSource::Shared(shared);
            }
            (TokenSource::Shared(shared), Some(quota), None) => shared.set_quota(quota),
            (TokenSource::Local(local), quota, _) => local.set_quota(quota, now),
            (source, ..) => {
                let mut local = LocalTokens::new(limit.quota, now);
                if let Some(until) = held {
                    local.pause_until(until, now);
                }
                *source = TokenSource::Local(local);
            }
        }
        self.bound_calls(limit);
    }

    fn bound_calls(&mut self, limit: &InstanceLimit) {
        match (self.in_flight(), limit.max_in_flight) {
            // While calls are in flight they stay counted: a reload may set a bound again.
            (Some(in_flight), None) if in_flight.count() == 0 => self.places = None,
            (Some(in_flight), cap) => in_flight.set_cap(cap),
            (None, None) => {}
            (None, Some(cap)) => {
                // The task waits for one `Notify`: slots and calls in flight have to share it.
                let changed = self.changed().unwrap_or_default();
                let in_flight = Arc::new(InFlight::new(cap, changed));
                self.places = Some(Box::new(Places::Limited(in_flight)));
            }
        }
    }

    /// What wakes the task that serves the bucket, where something else than its queue does.
    pub(crate) fn changed(&self) -> Option<Arc<Notify>> {
        match (&self.source, self.in_flight()) {
            (TokenSource::Shared(shared), _) => Some(shared.changed()),
            (_, in_flight) => in_flight.map(|it| Arc::clone(&it.changed)),
        }
    }

    /// The task of the egress that serves the bucket, if one does.
    pub(crate) fn set_egress(&self, egress: Option<&Arc<Notify>>) {
        if let TokenSource::Shared(shared) = &self.source {
            shared.set_egress(egress.cloned());
        }
        if let Some(in_flight) = self.in_flight() {
            in_flight.set_egress(egress.cloned());
        }
    }

    /// Has tokens reserved for what waits, where they have to be, up to this number: no more than calls
    /// can begin, because a reserved slot is lost if it is not used soon.
    pub(crate) fn reserve(&self, now: Instant, most: usize, demand: impl FnOnce() -> Demand) {
        if let TokenSource::Shared(shared) = &self.source {
            let places = self.in_flight().map_or(usize::MAX, |it| it.free());
            shared.reserve(now, most.min(places), demand());
        }
    }

    /// Whether only one token is reserved at a time, where they have to be.
    pub(crate) fn set_one_at_a_time(&self, one_at_a_time: bool) {
        if let TokenSource::Shared(shared) = &self.source {
            shared.set_one_at_a_time(one_at_a_time);
        }
    }

    /// Whether the token times have changed by more than the passing of time, since this was
    /// last asked: what was admitted may be late now.
    pub(crate) fn has_news(&self) -> bool {
        matches!(&self.source, TokenSource::Shared(shared) if shared.take_news())
    }

    /// The calls in flight, where their number is bounded.
    pub(crate) fn in_flight(&self) -> Option<&Arc<InFlight>> {
        match self.places.as_deref()? {
            Places::Limited(in_flight) => Some(in_flight),
            Places::Simulated(_) => None,
        }
    }

    /// Takes the place of a call in flight for a token that was taken; `None` where
    /// calls in flight are unlimited.
    pub(crate) fn enter(&mut self, now: Instant) -> Option<Place> {
        match self.places.as_deref_mut()? {
            Places::Limited(in_flight) => Some(in_flight.enter(now)),
            Places::Simulated(prediction) => {
                prediction.enter(now);
                None
            }
        }
    }

    /// As [`Tokens::due`]: the time at which the call may begin.
    pub(crate) fn due(&self, now: Instant, before: u32) -> Instant {
        self.placed(now, before, |before| match &self.source {
            TokenSource::Simulated(simulated) => simulated.due(now, before),
            _ => self.source().due(now, before),
        })
    }

    /// As [`Tokens::ready_at`].
    pub(crate) fn ready_at(&self, now: Instant) -> Instant {
        self.placed(now, 0, |_| match &self.source {
            TokenSource::Simulated(simulated) => simulated.due(now, 0),
            _ => self.source().ready_at(now),
        })
    }

    fn placed(&self, now: Instant, before: u32, paced: impl Fn(u32) -> Instant) -> Instant {
        match self.places.as_deref() {
            None => paced(before),
            Some(Places::Limited(in_flight)) => in_flight.due(now, before, paced),
            Some(Places::Simulated(prediction)) => prediction.due(now, before, paced),
        }
    }

    /// As [`Tokens::take`].
    pub(crate) fn take(&mut self, now: Instant) -> Result<Option<u32>, Instant> {
        // A token alone is not enough: its call needs a place.
        if self.places.is_some() {
            let ready = self.ready_at(now);
            if ready > now {
                return Err(ready);
            }
        }
        match &mut self.source {
            TokenSource::Local(local) => local.take(now),
            TokenSource::Shared(shared) => shared.take(now),
            TokenSource::Simulated(simulated) => simulated.take(now),
        }
    }

    /// Until when the token that was taken last may be used, if that is limited.
    pub(crate) fn usable_until(&self) -> Option<Instant> {
        match &self.source {
            TokenSource::Shared(shared) => shared.usable_until(),
            _ => None,
        }
    }

    /// Where the tokens come from, to be read.
    pub(crate) fn source(&self) -> &dyn Tokens {
        match &self.source {
            TokenSource::Local(local) => local,
            TokenSource::Shared(shared) => shared,
            // Times of tokens apart, a forecast asks only for the pause.
            TokenSource::Simulated(simulated) => &simulated.bucket,
        }
    }

    /// Where the tokens come from, to be notified of a response.
    pub(crate) fn source_mut(&mut self) -> &mut dyn Tokens {
        match &mut self.source {
            TokenSource::Local(local) => local,
            TokenSource::Shared(shared) => shared,
            TokenSource::Simulated(simulated) => &mut simulated.bucket,
        }
    }

    /// Whether nothing would be lost if the bucket were made anew.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.source().is_full(now) && self.in_flight().is_none_or(|it| it.count() == 0)
    }

    /// A copy for a forecast. In the copy calls last as long as recent ones.
    pub(crate) fn simulated(&self, now: Instant) -> Self {
        let places = self.places.as_deref().map(|places| match places {
            Places::Limited(in_flight) => in_flight.prediction(now),
            Places::Simulated(prediction) => prediction.clone(),
        });
        Self {
            source: TokenSource::Simulated(match &self.source {
                TokenSource::Simulated(simulated) => simulated.clone(),
                _ => Box::new(self.source().simulated(now)),
            }),
            places: places.map(|prediction| Box::new(Places::Simulated(prediction))),
        }
    }
}

impl SimulatedTokens {
    fn due(&self, now: Instant, before: u32) -> Instant {
        match self.reserved.get(before as usize) {
            Some(slot) => (*slot).max(now),
            None => {
                let reserved = u32::try_from(self.reserved.len()).unwrap_or(u32::MAX);
                self.bucket.due(now, before.saturating_sub(reserved))
            }
        }
    }

    fn take(&mut self, now: Instant) -> Result<Option<u32>, Instant> {
        match self.reserved.front() {
            Some(slot) if *slot > now => Err(*slot),
            Some(_) => {
                self.reserved.pop_front();
                Ok(Some(0))
            }
            None => {
                let taken = self.bucket.take(now);
                self.bucket.end_pause();
                taken
            }
        }
    }
}
