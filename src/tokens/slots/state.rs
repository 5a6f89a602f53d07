//! What a gateway knows of a bucket that it shares.
//!
//! Invariants: no clock, no task, no server. What the server says last is true; between two
//! replies the bucket is only known not to have a slot earlier than the last reply said.
//!
//! - [`ahead`]: slots that are reserved before a request needs them;
//! - [`fallback`]: the time without a server;
//! - [`pauses`]: a pause of all gateways, as one of them knows it;
//! - [`questions`]: the scripts that a gateway calls for a bucket;
//! - [`slot`]: what is reserved.

mod ahead;
mod fallback;
mod pauses;
mod questions;
mod slot;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{RETRY, UNKNOWN, USABLE};
use crate::config::Quota;
use crate::tokens::gcra::Gcra;
use crate::tokens::micros::{length, offset, quota_of};
use crate::tokens::pause::{LocalTokens, PROBE_TIMEOUT};
use crate::tokens::{Demand, SimulatedTokens, Tokens};
use ahead::{Ahead, USABLE_AHEAD};
use pauses::{Held, Probe};
use questions::QuestionKind;
pub(super) use questions::{Question, Report};
use slot::{Reservation, Slot};

/// In the state of a bucket: a pause is not over, and no request was sent that may end it.
const RECOVERS: i64 = 1;
/// The same, and a probe is out.
const PROBED: i64 = 2;

/// A reply that is older than one which came before it is not older than this.
const OVERTAKEN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct State {
    quota: Quota,
    /// Its key on the server, as of the last call.
    pub(super) key: Option<Box<[u8]>>,
    /// What waits at the bucket, as of the last time that it was served.
    pub(super) demand: Demand,
    /// The task of the egress that serves the bucket, if one does.
    pub(super) egress: Option<Arc<Notify>>,
    /// A question is under way.
    pub(super) is_asking: bool,
    /// Only one slot is reserved at a time: what waits may belong to another bucket.
    pub(super) one_at_a_time: bool,
    /// No more slots are to be reserved than a number that is set with the demand.
    is_bounded: bool,
    /// Reports that are under way.
    pub(super) reports: u32,
    /// The server has replied since the bucket was last served.
    pub(super) has_news: bool,

    /// In the order in which they are due.
    reserved: VecDeque<Slot>,
    /// Until when the slot that was taken last may be used; `None`: it was no slot.
    pub(super) usable_until: Option<Instant>,
    /// The bucket as of the last reply. Others may have reserved since.
    known: Gcra,
    last: Reservation,
    ahead: Ahead,
    /// The connection and the data set of the last reply.
    generation: u64,
    birth: i64,
    /// No question before this time.
    ask_at: Option<Instant>,

    pause: Option<Held>,
    epoch: i64,
    /// When the epoch was learned: what was sent before belongs to an earlier one.
    epoch_since: Option<Instant>,
    shift: i64,
    shifted: Option<Instant>,

    /// In the place of the server while there is none.
    fallback: Option<Box<LocalTokens>>,
}

impl State {
    pub(super) fn new(quota: Quota, now: Instant) -> Self {
        Self {
            quota,
            key: None,
            demand: Demand::default(),
            egress: None,
            is_asking: false,
            one_at_a_time: false,
            is_bounded: false,
            reports: 0,
            has_news: false,
            reserved: VecDeque::new(),
            usable_until: None,
            known: Gcra::new(Some(quota), now),
            last: Reservation::default(),
            ahead: Ahead::new(now),
            generation: 0,
            birth: 0,
            ask_at: None,
            pause: None,
            epoch: 0,
            epoch_since: None,
            shift: 0,
            shifted: None,
            fallback: None,
        }
    }

    /// How many slots are reserved and may still be used.
    pub(super) fn count(&mut self, now: Instant) -> usize {
        self.drop_unusable(now);
        self.reserved.len()
    }

    pub(super) fn quota(&self) -> Quota {
        self.quota
    }

    pub(super) fn set_quota(&mut self, quota: Quota) {
        self.quota = quota;
    }

    /// `most`: no more slots are to be reserved.
    pub(super) fn set_demand(&mut self, mut demand: Demand, most: usize, now: Instant) {
        if most < demand.deadlines.len().max(1) {
            self.drop_unusable(now);
            // What is reserved stays: otherwise a slot would go
            // back and be asked for without an end.
            let most = most.max(self.reserved.len());
            demand.deadlines.truncate(most);
            demand.yielding = demand.yielding.filter(|_| most > 0);
        }
        self.is_bounded = most < usize::MAX;
        self.demand = demand;
    }

    pub(super) fn due(&self, now: Instant, before: u32) -> Instant {
        let index = before as usize;
        if let Some(slot) = self.reserved.get(index) {
            return slot.from.max(self.held(now)).max(now);
        }
        let beyond = before.saturating_sub(self.reserved.len().try_into().unwrap_or(u32::MAX));
        match (&self.fallback, self.pause) {
            (Some(fallback), _) => fallback.due(now, beyond),
            (None, None) => self.known.due(now, beyond),
            // Behind the probe the rate applies, without a burst.
            (None, Some(pause)) => {
                let interval = self.known.quota().map(|quota| quota.interval());
                let first = self.known.due(now, 0).max(pause.until);
                first + interval.unwrap_or_default().saturating_mul(beyond)
            }
        }
    }

    fn held(&self, now: Instant) -> Instant {
        self.pause.map_or(now, |pause| pause.until)
    }

    /// When a token can be taken, or when to look again.
    pub(super) fn ready_at(&mut self, now: Instant) -> Instant {
        self.drop_unusable(now);
        let usable = self.usable_at(now);
        let asks = self.ask_at.filter(|at| *at > now);
        match asks.filter(|_| !self.demand.is_empty()) {
            // Also where a slot is due later: what waits behind it may need another.
            Some(asks) => usable.min(asks),
            None => usable,
        }
    }

    /// When a token can be taken; far away where a reply of the server comes first.
    fn usable_at(&self, now: Instant) -> Instant {
        // Also without a server: what was reserved before is used first.
        let Some(slot) = self.reserved.front() else {
            let fallback = self.fallback.as_ref();
            return fallback.map_or(now + UNKNOWN, |fallback| fallback.due(now, 0));
        };
        let from = slot.from.max(now);
        match self.pause {
            None => from,
            Some(pause) if pause.until > now => pause.until,
            Some(pause) => match pause.asks_at(now) {
                None => from,
                // At that time the right is asked for; the reply wakes.
                Some(at) if at.max(from) > now => at.max(from),
                Some(_) => now + UNKNOWN,
            },
        }
    }

    /// Drops slots that are too old. During a pause none is: they move when it ends.
    fn drop_unusable(&mut self, now: Instant) {
        if self.pause.is_none() {
            self.reserved.retain(|slot| slot.is_usable(now));
        }
    }

    pub(super) fn take(&mut self, now: Instant) -> Result<Option<u32>, Instant> {
        let ready = self.ready_at(now);
        if ready > now {
            return Err(ready);
        }
        let slot = self.reserved.pop_front();
        // A slot that moved with a pause is usable from now on.
        self.usable_until = slot.map(|slot| {
            let from = if self.pause.is_some() { now } else { slot.from };
            from + slot.usable
        });
        if slot.is_none() {
            let fallback = self.fallback.as_mut();
            return fallback.map_or(Err(now + UNKNOWN), |fallback| fallback.take(now));
        }
        self.ahead.on_used(now);
        if let Some(pause) = &mut self.pause {
            // The right was for one request. The next has to ask, if this one gets no response.
            pause.probe = Probe::AskAt(now + PROBE_TIMEOUT);
            return Ok(Some(0));
        }
        let left = self.known.tokens(now).unwrap_or_default();
        Ok(Some(left as u32))
    }

    pub(super) fn on_reply(&mut self, question: &Question, reply: &[i64], now: Instant) {
        self.ask_at = None;
        match question.kind {
            QuestionKind::Probe { until } => {
                let &[is_mine, wait, ref state @ ..] = reply else {
                    return;
                };
                self.learn(state, now);
                if let Some(pause) = &mut self.pause {
                    pause.probe = match is_mine {
                        1 => Probe::Mine { until },
                        _ => Probe::AskAt(now + length(wait).max(Duration::from_millis(1))),
                    };
                }
            }
            QuestionKind::Reserve {
                yields,
                asked,
                ahead,
                generation,
            } => {
                let &[count, first, tat, birth, step, ref state @ ..] = reply else {
                    return;
                };
                if birth != self.birth
                    && let &[_, _, _, shift, ..] = state
                {
                    // Another data set counts anew.
                    (self.shift, self.shifted) = (shift, None);
                }
                (self.generation, self.birth) = (generation, birth);
                // A pause may have been announced while the reply was under way.
                let missed = self.learn(state, now);
                // A broken server can name any number.
                let count = usize::try_from(count).unwrap_or(0).min(asked + ahead);
                for index in 0..count {
                    let due = offset(now, first + index as i64 * step + missed);
                    let usable = if index < asked { USABLE } else { USABLE_AHEAD };
                    self.reserved.push_back(Slot::new(due, now, usable));
                }
                let tat = tat + missed;
                self.last = self.last.then(Reservation { tat, step, count });
                self.drop_paused(now);
                if count < asked + ahead {
                    self.ahead.on_scarce(now);
                }
                if count == 0 && asked > 0 {
                    // Otherwise, where the server and this gateway disagree, questions follow each
                    // other without a pause.
                    let wait = if yields {
                        length(first)
                    } else {
                        Duration::ZERO
                    };
                    self.ask_at = Some(now + wait.max(Duration::from_millis(1)));
                }
            }
        }
    }

    pub(super) fn on_no_reply(&mut self, question: &Question, now: Instant) {
        if matches!(question.kind, QuestionKind::Reserve { .. }) {
            self.last = Reservation::default();
        }
        self.ask_at = Some(now + RETRY);
    }

    /// Takes over what the server says of the bucket. Returns by how much slots have been
    /// moved that the reply does not know of, because another overtook it.
    pub(super) fn learn(&mut self, state: &[i64], now: Instant) -> i64 {
        let &[epoch, paused, recovers, shift, tat, interval, spare] = state else {
            return 0;
        };
        self.has_news = true;
        let missed = self.shift - shift;
        if missed > 0 && self.shifted.is_some_and(|at| now < at + OVERTAKEN) {
            // An older state: its tat and its pause are out of date.
            return missed;
        }
        if missed < 0 {
            for slot in &mut self.reserved {
                // Moved as on the server, so that all gateways keep the order of their requests.
                slot.shift(-missed);
            }
            self.last.tat -= missed;
            self.shifted = Some(now);
        }
        self.shift = shift;
        if epoch != self.epoch {
            (self.epoch, self.epoch_since) = (epoch, Some(now));
        }
        // The limit that applies is the strictest that a gateway uses.
        self.known = Gcra::new(Some(quota_of(interval, spare)), offset(now, tat.max(0)));
        let until = offset(now, paused);
        match (recovers, &mut self.pause) {
            // The pause that is known, or a shorter one: the right to send its probe stays.
            (RECOVERS | PROBED, Some(pause)) if until <= pause.until.max(now) => {
                pause.until = until;
                // The probe of another gateway has failed.
                if let (RECOVERS, Probe::AskAt(at)) = (recovers, &mut pause.probe) {
                    *at = until.min(*at);
                }
            }
            (RECOVERS | PROBED, pause) => {
                let probe = Probe::AskAt(until);
                *pause = Some(Held { until, probe });
            }
            // A 429 is not known there yet.
            _ if self.reports > 0 => {}
            (_, pause) => *pause = None,
        }
        self.drop_paused(now);
        0
    }

    pub(super) fn tokens(&self, now: Instant) -> Option<f64> {
        match &self.fallback {
            Some(fallback) => fallback.tokens(now),
            None => self.known.tokens(now),
        }
    }

    pub(super) fn is_full(&self, now: Instant) -> bool {
        let fallback = self.fallback.as_ref();
        let mut reserved = self.reserved.iter();
        // A reply that finds no bucket would lose its slots, or its pause.
        let is_used = self.is_asking || self.reports > 0 || reserved.any(|it| it.is_usable(now));
        !is_used
            && self.pause.is_none_or(|pause| pause.is_forgotten(now))
            && self.known.is_full(now)
            && fallback.is_none_or(|fallback| fallback.is_full(now))
    }

    pub(super) fn simulated(&self, now: Instant) -> SimulatedTokens {
        let reserved = (0..self.reserved.len()).map(|index| self.due(now, index as u32));
        let mut bucket = match &self.fallback {
            Some(fallback) => (**fallback).clone(),
            None => LocalTokens::of(self.known),
        };
        if let Some(pause) = self.pause {
            // After the pause the rate applies, without a burst.
            bucket.empty_until(bucket.due(now, 0).max(pause.until));
        }
        SimulatedTokens {
            reserved: reserved.collect(),
            bucket,
        }
    }
}
