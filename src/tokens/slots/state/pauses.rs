//! A pause of all gateways, as one of them knows it (rule: pauses).
//!
//! Invariant: from a 429 on nothing is sent, also before the server has replied how long the pause
//! is.

use std::time::Duration;

use tokio::time::Instant;

use super::State;
use super::questions::Report;
use crate::tokens::Tokens;
use crate::tokens::pause::{MAX_PAUSE, assumed_pause};

/// A pause, until a request has succeeded after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) until: Instant,
    pub(super) probe: Probe,
}

/// The right to send the request that ends a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// To be asked for at this time.
    AskAt(Instant),
    /// It is here until this time, and the next slot may be used.
    Mine { until: Instant },
}

impl Held {
    /// When the right to send a probe is asked for; `None` while it is here.
    pub(super) fn asks_at(&self, now: Instant) -> Option<Instant> {
        match self.probe {
            Probe::AskAt(at) => Some(at),
            // Then another gateway may have it.
            Probe::Mine { until } => (until <= now).then_some(until),
        }
    }

    /// Whether it ended so long ago that the server has forgotten it.
    pub(super) fn is_forgotten(&self, now: Instant) -> bool {
        now >= self.until + MAX_PAUSE
    }
}

impl State {
    /// Takes over a pause that the server does not know of.
    pub(in crate::tokens::slots) fn pause_until(&mut self, until: Option<Instant>) {
        self.pause = until.map(|until| Held {
            until,
            probe: Probe::AskAt(until),
        });
    }

    /// The report of a 429, if the server is to learn of it.
    pub(in crate::tokens::slots) fn on_429(
        &mut self,
        now: Instant,
        sent: Instant,
        retry_after: Option<Duration>,
    ) -> Option<Report> {
        if let Some(fallback) = &mut self.fallback {
            // There is no server that could pause the other gateways.
            fallback.on_429(now, sent, retry_after);
            self.drop_paused(now);
            return None;
        }
        let named = retry_after.unwrap_or_default();
        let epoch = self.epoch_of(sent);
        // Until the server replies.
        if epoch == self.epoch || !named.is_zero() {
            let until = now + assumed_pause(retry_after);
            let known = self.pause.map_or(until, |pause| pause.until.max(until));
            let probe = Probe::AskAt(known);
            self.pause = Some(Held {
                until: known,
                probe,
            });
        }
        self.reports += 1;
        Some(Report::Throttled { epoch, named })
    }

    /// The report of another result, or whether waiting requests go sooner.
    pub(in crate::tokens::slots) fn on_other_result(
        &mut self,
        now: Instant,
        sent: Instant,
        is_accepted: bool,
    ) -> Result<bool, Report> {
        if let Some(fallback) = &mut self.fallback {
            return Ok(fallback.on_other_result(now, sent, is_accepted));
        }
        let epoch = self.epoch_of(sent);
        // A response to a request from before the pause does not end it.
        if self.pause.is_none() || epoch != self.epoch {
            return Ok(false);
        }
        self.reports += 1;
        Err(Report::Settled { epoch, is_accepted })
    }

    /// The epoch in which a request was sent; −1 for one that has passed.
    fn epoch_of(&self, sent: Instant) -> i64 {
        match self.epoch_since {
            Some(since) if sent < since => -1,
            _ => self.epoch,
        }
    }

    pub(in crate::tokens::slots) fn refuses_until(&self) -> Option<Instant> {
        match &self.fallback {
            Some(fallback) => fallback.refuses_until(),
            None => self.pause.map(|pause| pause.until),
        }
    }

    pub(in crate::tokens::slots) fn held_until(&self, now: Instant) -> Option<Instant> {
        match (&self.fallback, self.pause) {
            (Some(fallback), _) => fallback.held_until(now),
            (None, pause) => {
                let pause = pause?;
                // Until then the probe of another gateway may be under way.
                let until = pause
                    .asks_at(now)
                    .map_or(pause.until, |at| pause.until.max(at));
                (until > now).then_some(until)
            }
        }
    }

    pub(in crate::tokens::slots) fn is_recovering(&self) -> bool {
        match &self.fallback {
            Some(fallback) => fallback.is_recovering(),
            None => self.pause.is_some(),
        }
    }
}
