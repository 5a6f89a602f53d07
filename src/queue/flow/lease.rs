//! The tokens of shared budgets, where several gateways share them (rule: cluster).
//!
//! While the server of the cluster is used, it lends tokens to each flow, in
//! small numbers. A token that is lent counts for the egress and for the budget
//! of the flow at once: it is a slot, the right to send one call of the flow,
//! from a time on. While the server cannot be used, this gateway has its part of
//! each budget, which is empty at the beginning.
//!
//! Invariants: no clock, no task, no server. No slot is used before it is due,
//! and none more than [`USABLE`] later. What no slot covers is only expected: a
//! forecast counts on it, and nothing is sent for it.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

use super::source::Source;
use super::terms::{AskedFlow, LeaseQuestion, LeaseReply, LentFlow};
use super::{Flow, FlowId, Flows};
use crate::config::Quota;
use crate::tokens::gcra::Gcra;
use crate::tokens::micros::offset;
use crate::tokens::slots::{UNKNOWN, USABLE};

/// A flow that did not get all it needs asks again after this time. Where the egress
/// is the reason, so do the others of its gateway.
pub(crate) const PERIOD: Duration = Duration::from_millis(50);

/// What the server says of others counts for this time, as it does there.
const FRESH: Duration = Duration::from_millis(300);

/// Shared budgets count as scarce for this time after some request had to wait for them.
const SCARCE: Duration = Duration::from_secs(1);

/// What a reply says of all flows together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Learned {
    /// The birth of the data set.
    pub(crate) birth: i64,
    /// The egress had not enough for this gateway.
    pub(crate) is_scarce: bool,
}

/// What the server has lent to a flow.
#[derive(Clone, Debug, Default)]
pub(super) struct Lease {
    /// From when on each slot may be used, in this order.
    slots: VecDeque<Instant>,
    /// No question about the flow before this time.
    ask_at: Option<Instant>,
    /// How many slots were missing after the last reply.
    missing: u32,
    /// Until then the shared budgets count as scarce.
    scarce_until: Option<Instant>,
    /// How many of its requests wait on other gateways.
    elsewhere: u32,
    /// In a forecast, what it will get of the egress.
    expected: Option<Gcra>,
}

/// What others wait for, as of the last reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rivals {
    /// The weights of the flows that wait for the egress, in sum.
    weights: u32,
    /// Until when this counts.
    until: Instant,
}

impl Rivals {
    pub(super) fn none(now: Instant) -> Self {
        Self {
            weights: 0,
            until: now,
        }
    }
}

impl Lease {
    /// Where the slots begin that are not too old.
    fn usable(&self, now: Instant) -> usize {
        self.slots.partition_point(|from| *from + USABLE < now)
    }

    /// How many slots there are.
    fn count(&self, now: Instant) -> u32 {
        u32::try_from(self.slots.len() - self.usable(now)).unwrap_or(u32::MAX)
    }

    /// From when on a slot may be used, after others.
    fn slot(&self, now: Instant, before: u32) -> Option<Instant> {
        let slot = self.slots.get(self.usable(now) + before as usize)?;
        Some((*slot).max(now))
    }

    fn drop_unusable(&mut self, now: Instant) {
        self.slots.drain(..self.usable(now));
    }

    fn take(&mut self, now: Instant) -> bool {
        self.drop_unusable(now);
        self.slots.pop_front().is_some()
    }
}

impl Flow {
    /// When a token can be taken, or when to look again.
    pub(super) fn ready_at(&self, now: Instant) -> Instant {
        let Some(lease) = &self.lease else {
            return self.budget.due(now, 0);
        };
        // In a forecast both budgets must have a token, as for a slot.
        let expected = |expected: Gcra| expected.due(now, 0).max(self.budget.due(now, 0));
        // A reply wakes.
        let other = || lease.expected.map_or(now + UNKNOWN, expected);
        lease.slot(now, 0).unwrap_or_else(other)
    }

    /// Takes a token that is there.
    pub(super) fn take(&mut self, now: Instant) {
        if let Some(lease) = &mut self.lease {
            if lease.take(now) {
                return;
            }
            lease.expected.as_mut().map(|egress| egress.take(now));
        }
        self.budget.take(now).ok();
    }
}

impl Flows {
    /// Changes where tokens come from; true if that was another source.
    pub(crate) fn follow(&mut self, source: Source, now: Instant) -> bool {
        let before = std::mem::replace(&mut self.source, source);
        if before == source {
            return false;
        }
        self.budget = source.take_over(before, self.budget, self.quota, now);
        self.rivals = Rivals::none(now);
        for flow in self.flows.values_mut() {
            flow.budget = source.take_over(before, flow.budget, flow.quota, now);
            // Slots of the old source are lost: the new one gives
            // its own tokens for the same calls.
            flow.lease = None;
        }
        self.open_leases();
        true
    }

    /// Opens the leases that are needed, and ends the others.
    pub(super) fn open_leases(&mut self) {
        let all: Vec<_> = self.flows.keys().copied().collect();
        for id in all {
            self.open_lease(id);
        }
    }

    /// A flow with a budget that a server has needs a lease, and no other.
    pub(super) fn open_lease(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        let is_limited = self.quota.is_some() || flow.quota.is_some();
        if self.source != Source::Server || !is_limited {
            flow.lease = None;
        } else if flow.lease.is_none() {
            flow.lease = Some(Box::default());
        }
    }

    /// What a flow is expected to get: of the egress, and of its own budget.
    pub(super) fn expected(&self, flow: &Flow, now: Instant) -> [Gcra; 2] {
        let lease = flow.lease.as_ref();
        if let Some(egress) = lease.and_then(|lease| lease.expected) {
            // A copy for a forecast is slowed down already.
            return [egress, flow.budget];
        }
        let Some(lease) = lease.filter(|_| now < self.rivals.until) else {
            return [self.budget, flow.budget];
        };
        // The server divides the slots of a flow by what waits on each gateway.
        let waiting = f64::from(lease.missing.max(1));
        let among = (f64::from(lease.elsewhere) + waiting) / waiting;
        let weight = f64::from(flow.weight.get());
        // While slots are missing here, the sum includes the weight of this flow.
        let others = match lease.missing {
            0 => f64::from(self.rivals.weights),
            _ => f64::from(self.rivals.weights) - weight,
        };
        let of_egress = match self.rivals.weights {
            0 => 1.0,
            _ => (others.max(0.0) + weight) / weight * among,
        };
        [
            slowed(self.budget, of_egress, now),
            slowed(flow.budget, among, now),
        ]
    }

    /// When the flow has the token after `before` others, of the egress and of its
    /// own budget, if no other flow takes one meanwhile.
    pub(super) fn due_after(&self, flow: &Flow, now: Instant, before: u32) -> [Instant; 2] {
        let lease = flow.lease.as_ref();
        if let Some(slot) = lease.and_then(|lease| lease.slot(now, before)) {
            return [slot; 2];
        }
        // The first of them use the slots that are there.
        let before = before.saturating_sub(lease.map_or(0, |lease| lease.count(now)));
        self.expected(flow, now).map(|it| it.due(now, before))
    }

    /// A flow in a copy for a forecast.
    pub(super) fn forecast(&self, flow: &Flow, now: Instant) -> Flow {
        let [egress, budget] = self.expected(flow, now);
        let mut copy = Flow {
            budget,
            ..flow.clone()
        };
        if let Some(lease) = &mut copy.lease {
            lease.expected = Some(egress);
        }
        copy
    }

    /// How many slots a flow lacks that needs so many, and when to ask for them.
    pub(crate) fn missing(&self, id: FlowId, needed: u32, now: Instant) -> Option<(u32, Instant)> {
        let lease = self.flows.get(&id)?.lease.as_ref()?;
        let missing = needed.saturating_sub(lease.count(now));
        (missing > 0).then(|| (missing, lease.ask_at.map_or(now, |at| at.max(now))))
    }

    /// Whether the server has the tokens.
    pub(crate) fn are_lent(&self) -> bool {
        self.source == Source::Server
    }

    /// How many slots a flow has whose shared budgets are scarce; `None` where they are not.
    pub(crate) fn scarce(&self, id: FlowId, now: Instant) -> Option<usize> {
        let lease = self.flows.get(&id)?.lease.as_ref()?;
        // A forecast reserves nothing, so scarcity has no effect there.
        let is_scarce = lease.expected.is_none() && lease.scarce_until.is_some_and(|at| now < at);
        is_scarce.then(|| lease.count(now) as usize)
    }

    /// The flows whose own budget has to be asserted at a server that may have lost
    /// it; `None` if there is nothing to assert, not even of the egress.
    pub(crate) fn debts(&self, now: Instant) -> Option<Vec<FlowId>> {
        let is_debtor = |flow: &Flow| flow.lease.is_some() && !flow.budget.is_full(now);
        let debtors = self.flows.iter().filter(|(_, flow)| is_debtor(flow));
        let debtors: Vec<_> = debtors.map(|(id, _)| *id).collect();
        let has_debt = !debtors.is_empty() || !self.budget.is_full(now);
        (has_debt && self.source == Source::Server).then_some(debtors)
    }

    /// Asks for so many slots for each of these flows, whose first request has
    /// waited so long.
    pub(crate) fn question(
        &self,
        flows: impl IntoIterator<Item = (FlowId, u32, Duration)>,
        now: Instant,
    ) -> LeaseQuestion {
        let mut question = LeaseQuestion::new(&self.budget, self.quota, now);
        for (id, missing, waited) in flows {
            if let Some(flow) = self.flows.get(&id) {
                let own = (&flow.budget, flow.quota);
                question.push((id, flow.weight.get()), (missing, waited), own, now);
            }
        }
        question
    }

    /// The name of a flow.
    pub(crate) fn name_of(&self, id: FlowId) -> &str {
        self.flows.get(&id).map_or("", |flow| &flow.name)
    }

    /// Takes over what the server has lent. `None`: no script can have returned this,
    /// and what was lent is lost.
    pub(crate) fn on_reply(
        &mut self,
        question: &LeaseQuestion,
        reply: &[i64],
        now: Instant,
    ) -> Option<Learned> {
        let reply = question.read(reply)?;
        // In fallback this gateway uses its part: a slot that
        // comes now would be a token beyond it.
        if self.source == Source::Server {
            if let Some(egress) = reply.egress {
                self.budget = egress.budget(now);
            }
            self.rivals = Rivals {
                weights: reply.weights,
                until: now + FRESH,
            };
            // The slots before the tat of the egress belong to the flows in their order.
            let mut from_last = reply.flows.iter().map(|lent| lent.count).sum();
            for (asked, lent) in question.flows.iter().zip(&reply.flows) {
                self.on_lent(asked, lent, (&reply, from_last), now);
                from_last -= lent.count;
            }
        }
        let mut flows = question.flows.iter().zip(&reply.flows);
        // If no flow waits for the egress any more, a tenant's own rate was the reason.
        let is_missing = flows.any(|(asked, lent)| lent.count < asked.missing);
        Some(Learned {
            birth: reply.birth,
            is_scarce: is_missing && reply.weights > 0,
        })
    }

    /// Takes over what was lent to one flow; its first slot of the egress is the
    /// `from_last`-th last.
    fn on_lent(
        &mut self,
        asked: &AskedFlow,
        lent: &LentFlow,
        (reply, from_last): (&LeaseReply, u32),
        now: Instant,
    ) {
        let Some(flow) = self.flows.get_mut(&asked.id) else {
            return;
        };
        if let Some(own) = lent.own {
            flow.budget = own.budget(now);
        }
        let Some(lease) = &mut flow.lease else {
            return;
        };
        lease.drop_unusable(now);
        for index in 0..lent.count {
            let of_egress = reply.egress.map(|egress| egress.slot(from_last - index));
            let own = lent.own.map(|own| own.slot(lent.count - index));
            // It counts for both budgets, so it is due when both have a token.
            let due = of_egress.max(own).unwrap_or(0).max(0);
            // `usable` searches by halves, so the slots stay in the order of their times.
            let last = lease.slots.back().copied().unwrap_or(now);
            lease.slots.push_back(offset(now, due).max(last));
        }
        lease.missing = asked.missing - lent.count;
        lease.elsewhere = lent.elsewhere;
        lease.ask_at = (lease.missing > 0).then(|| now + PERIOD);
        if lease.missing > 0 || reply.weights > 0 {
            lease.scarce_until = Some(now + SCARCE);
        }
    }
}

/// A budget of which others take so many times as much.
fn slowed(budget: Gcra, factor: f64, now: Instant) -> Gcra {
    let Some(quota) = budget.quota().filter(|_| factor > 1.0) else {
        return budget;
    };
    // The next token is due as before. A burst is not counted on: others may take it first.
    let mut slowed = Gcra::new(
        Some(Quota {
            rate: quota.rate / factor,
            burst: NonZeroU32::MIN,
        }),
        now,
    );
    slowed.empty_until(budget.due(now, 0));
    slowed
}
