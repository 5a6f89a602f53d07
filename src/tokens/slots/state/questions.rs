//! The scripts that a gateway calls for a bucket, and their arguments.
//!
//! `src/cluster/scripts/*.lua` explains each argument.

use std::time::Duration;

use tokio::time::Instant;

use super::State;
use crate::cluster::{Cluster, Script, micros};
use crate::tokens::micros::limit_of;
use crate::tokens::pause::PROBE_TIMEOUT;

/// Slots in one reservation.
const MAX_SLOTS: usize = 256;

/// A script whose reply is needed before requests can go.
#[derive(Debug)]
pub(in crate::tokens::slots) struct Question {
    pub(super) kind: QuestionKind,
    pub(in crate::tokens::slots) arguments: Vec<i64>,
}

#[derive(Debug)]
pub(super) enum QuestionKind {
    Reserve {
        /// For a batch of receipts that yields.
        yields: bool,
        /// For how many requests that wait.
        asked: usize,
        /// How many slots more, which no request needs yet.
        ahead: usize,
        /// The connection on which it is asked.
        generation: u64,
    },
    /// The right to send a probe, which is here until this time at most.
    Probe { until: Instant },
}

/// A response of the upstream that the other gateways have to know of.
#[derive(Clone, Copy, Debug)]
pub(in crate::tokens::slots) enum Report {
    Throttled { epoch: i64, named: Duration },
    Settled { epoch: i64, is_accepted: bool },
}

impl State {
    /// What to ask now, if anything.
    pub(in crate::tokens::slots) fn question(
        &mut self,
        now: Instant,
        cluster: &Cluster,
    ) -> Option<Question> {
        if self.fallback.is_some() || self.ask_at.is_some_and(|at| at > now) {
            return None;
        }
        self.drop_unusable(now);
        self.probe(now).or_else(|| self.reservation(now, cluster))
    }

    /// Asks for the right to send a probe.
    fn probe(&self, now: Instant) -> Option<Question> {
        let (pause, slot) = (self.pause?, self.reserved.front()?);
        let asks = pause.asks_at(now).is_some_and(|at| at <= now);
        // A probe waits for its own slot: otherwise it would go
        // before the slots of other gateways.
        if pause.until > now || slot.from > now || !asks || self.demand.is_empty() {
            return None;
        }
        let late = now - slot.from;
        let mut arguments = limit_of(self.quota).to_vec();
        arguments.extend([PROBE_TIMEOUT, late].map(micros));
        Some(Question {
            kind: QuestionKind::Probe {
                until: now + PROBE_TIMEOUT,
            },
            arguments,
        })
    }

    /// Asks for the slots that are missing, and gives back those that are left over.
    fn reservation(&mut self, now: Instant, cluster: &Cluster) -> Option<Question> {
        let (wanted, reserved) = (self.demand.deadlines.len(), self.reserved.len());
        // As far as is known, the others are late whatever the server says.
        let in_time = |(before, at): &(u32, Instant)| self.due(now, *before) <= *at;
        let missing = (0..)
            .zip(self.demand.deadlines.iter().copied())
            .skip(reserved);
        let (live, known) = (
            i64::from(cluster.live().get()),
            i64::from(cluster.known().get()),
        );
        // The part of the rate is soon another, and so are the slots that it allows.
        let (most, wanted_ahead) = match live == known && !self.one_at_a_time {
            true => (MAX_SLOTS, self.wanted_ahead(now)),
            false => (usize::from(reserved == 0), 0),
        };
        let missing: Vec<_> = missing.filter(in_time).take(most).map(|it| it.1).collect();
        let ahead = self.missing_ahead(wanted_ahead);
        let ahead = ahead.min(MAX_SLOTS - missing.len());
        // A slot is due here as much later as the reply takes.
        let now_there = now + cluster.round_trip();
        let left = |at: &Instant| micros(at.saturating_duration_since(now_there));
        // A receipt that yields has at most one.
        let needed = wanted.max(usize::from(self.demand.yielding.is_some())) + wanted_ahead;
        // Only the last slots: others may have reserved since the earlier ones. None while a report of
        // this gateway is under way, because it may move them.
        let back = match self.reports {
            0 => reserved.saturating_sub(needed).min(self.last.count),
            _ => 0,
        };
        let yielding = self
            .demand
            .yielding
            .filter(|_| wanted == 0 && reserved == 0);
        let generation = cluster.generation();
        let is_new = self.generation != generation;
        // On a new connection debt and a pause are asserted, also where nothing waits.
        let is_paused = self.pause.is_some_and(|pause| pause.until > now);
        let has_more = !self.known.is_full(now) || is_paused;
        let is_idle = missing.is_empty() && back == 0 && yielding.is_none() && ahead == 0;
        if is_idle && !(is_new && has_more) {
            return None;
        }
        // Now, not with the reply: a request that comes meanwhile must not use what goes back.
        self.reserved.truncate(reserved - back);
        let birth = if is_new { 0 } else { self.birth };
        // Lengths and not times: the clock of the server is another one.
        let known_tat = self.known.full().saturating_duration_since(now);
        let known_pause = self.pause.map_or(Duration::ZERO, |pause| {
            pause.until.saturating_duration_since(now)
        });
        let mut arguments = limit_of(self.quota).to_vec();
        arguments.extend([birth, micros(known_tat), micros(known_pause)]);
        let tat = self.last.tat;
        arguments.extend([self.last.give_back(back), tat]);
        // Gateways that have vanished may go on without the server, with their share.
        arguments.extend([i64::from(yielding.is_some()), 1000 * known / live]);
        arguments.extend(missing.iter().chain(yielding.as_ref()).map(left));
        // One that no request needs yet is reserved only if it is due now.
        arguments.extend(std::iter::repeat_n(0, ahead));
        Some(Question {
            kind: QuestionKind::Reserve {
                yields: yielding.is_some(),
                asked: missing.len() + usize::from(yielding.is_some()),
                ahead,
                generation,
            },
            arguments,
        })
    }

    pub(in crate::tokens::slots) fn report_arguments(&self, report: &Report) -> Vec<i64> {
        let mut arguments = limit_of(self.quota).to_vec();
        arguments.extend(match *report {
            Report::Throttled { epoch, named } => [epoch, micros(named)],
            Report::Settled { epoch, is_accepted } => [epoch, i64::from(is_accepted)],
        });
        arguments
    }
}

impl Question {
    /// The only generation in which it may be asked: in another one, slots have to be asserted.
    pub(in crate::tokens::slots) fn generation(&self) -> Option<u64> {
        match self.kind {
            QuestionKind::Reserve { generation, .. } => Some(generation),
            QuestionKind::Probe { .. } => None,
        }
    }

    pub(in crate::tokens::slots) fn script(&self) -> Script {
        match self.kind {
            QuestionKind::Reserve { .. } => Script::Reserve,
            QuestionKind::Probe { .. } => Script::Probe,
        }
    }
}

impl Report {
    pub(in crate::tokens::slots) fn script(&self) -> Script {
        match self {
            Self::Throttled { .. } => Script::Throttled,
            Self::Settled { .. } => Script::Settled,
        }
    }
}
