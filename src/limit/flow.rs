//! Tenants that share a budget, as flows of start-time fair queueing.
//!
//! Start-time fair queueing (P. Goyal, H. Vin, H. Cheng: "Start-time Fair
//! Queuing", SIGCOMM 1996): a tenant is a flow; each of its upstream calls has
//! a start tag, the virtual time at which it would begin if every flow had its
//! share, and the smallest start tag goes first. Sharing is work-conserving,
//! and a flow that was idle has neither credit nor debt.
//!
//! Invariant: no clock, and nothing of what waits: that is in
//! [`shared_queue`](super::shared_queue).

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

use super::queue::{Alternator, Side};
use super::request::Scope;
use super::tokens::gcra::{Gcra, Usage};
use crate::config::Quota;

/// The virtual length of a call of weight 1: weights divide it with little
/// rounding, and 128 bits outlast any uptime.
const CALL: u128 = 1 << 40;

/// Identifies a tenant at the shared budgets.
pub(super) type FlowId = u64;

/// The shared budgets, and the flows that share them.
#[derive(Clone, Debug)]
pub(super) struct Flows {
    /// `[egress]`. Where it is unlimited, tenants may still have budgets.
    pub(super) budget: Gcra,
    /// The start tag of the call that was served last.
    virtual_time: u128,
    /// The largest finish tag: virtual time when nothing is ready.
    last_finish: u128,
    /// `limit.max_wait`: how far back a flow counts as active.
    horizon: Duration,
    flows: BTreeMap<FlowId, Flow>,
    /// Numbers flows, buckets and calls.
    serial: u64,
}

/// A tenant: its weight, its own budget, and its past.
#[derive(Clone, Debug)]
struct Flow {
    weight: NonZeroU32,
    budget: Gcra,
    /// The virtual time at which its last call ends.
    finish: u128,
    /// The start tag of its next call, while that is ready to go.
    start: Option<u128>,
    /// Grows with each call: of equal start tags the flow that was served
    /// longest ago goes first.
    served: u64,
    alternator: Alternator,
    usage: Usage,
    /// Its calls that were no receipts.
    requests: Usage,
    /// Largest number of other buckets with waiting requests within the horizon,
    /// and when it was seen.
    peak_contention: (usize, Instant),
}

/// What waits in a flow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FlowLoad {
    /// Requests at the bucket of the newcomer.
    pub(super) own: usize,
    /// Other buckets with requests.
    pub(super) other_buckets: usize,
    pub(super) requests: usize,
    pub(super) receipts: usize,
}

impl Flows {
    /// Opens the budget of the egress, full; without a quota it is unlimited.
    pub(super) fn new(quota: Option<Quota>, horizon: Duration, now: Instant) -> Self {
        Self {
            budget: Gcra::new(quota, now),
            virtual_time: 0,
            last_finish: 0,
            horizon,
            flows: BTreeMap::new(),
            serial: 0,
        }
    }

    /// A copy for a forecast: the flows in use, and those that were active,
    /// which count in [`Pace`].
    pub(super) fn copy(&self, used: &BTreeSet<FlowId>, now: Instant) -> Self {
        let flows = self.flows.iter();
        let known = flows.filter(|(id, flow)| self.is_active(flow, now) || used.contains(id));
        Self {
            flows: known.map(|(id, flow)| (*id, flow.clone())).collect(),
            ..*self
        }
    }

    pub(super) fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn is_active(&self, flow: &Flow, now: Instant) -> bool {
        flow.usage.recent(now, self.horizon) > 0
    }

    /// Sets the quota of the egress; debt is kept.
    pub(super) fn set_quota(&mut self, quota: Option<Quota>, horizon: Duration, now: Instant) {
        self.budget.set_quota(quota, now);
        self.horizon = horizon;
    }

    /// Opens a flow with a full budget.
    pub(super) fn open(
        &mut self,
        weight: NonZeroU32,
        quota: Option<Quota>,
        now: Instant,
    ) -> FlowId {
        let id = self.serial();
        let flow = Flow {
            weight,
            budget: Gcra::new(quota, now),
            finish: 0,
            start: None,
            served: id,
            alternator: Alternator::default(),
            usage: Usage::new(now),
            requests: Usage::new(now),
            peak_contention: (0, now),
        };
        self.flows.insert(id, flow);
        id
    }

    /// Applies the weight and the quota of a flow; debt is kept.
    pub(super) fn reconfigure(
        &mut self,
        id: FlowId,
        weight: NonZeroU32,
        quota: Option<Quota>,
        now: Instant,
    ) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.weight = weight;
            flow.budget.set_quota(quota, now);
        }
    }

    /// Drops the flows that have no state worth keeping; returns those that are
    /// left.
    pub(super) fn forget_idle(
        &mut self,
        used: &BTreeSet<FlowId>,
        now: Instant,
    ) -> BTreeSet<FlowId> {
        let (virtual_time, horizon) = (self.virtual_time, self.horizon);
        self.flows.retain(|id, flow| {
            used.contains(id)
                || !flow.budget.is_full(now)
                || flow.finish > virtual_time
                || flow.usage.recent(now, horizon) > 0
        });
        self.flows.keys().copied().collect()
    }

    pub(super) fn count(&self) -> usize {
        self.flows.len()
    }

    /// When the flow's own budget has a token.
    pub(super) fn due(&self, id: FlowId, now: Instant) -> Instant {
        let flow = self.flows.get(&id);
        flow.map_or(now, |flow| flow.budget.due(now, 0))
    }

    /// The own budget of a flow.
    pub(super) fn budget_of(&self, id: FlowId) -> Option<&Gcra> {
        Some(&self.flows.get(&id)?.budget)
    }

    /// Whether the rule allows an overdue receipt of the flow to go before a
    /// waiting request.
    pub(super) fn allows_receipt(&self, id: FlowId) -> bool {
        let flow = self.flows.get(&id);
        flow.is_some_and(|flow| flow.alternator.allows_receipt())
    }

    /// The start tag of the next call of a flow.
    pub(super) fn start_tag(&self, id: FlowId) -> u128 {
        self.flows.get(&id).map_or(self.virtual_time, |flow| {
            let next = || flow.finish.max(self.virtual_time);
            flow.start.unwrap_or_else(next)
        })
    }

    /// Gives a flow that is ready its start tag; returns its key in the order
    /// of flows.
    pub(super) fn start(&mut self, id: FlowId) -> Option<(u128, u64, FlowId)> {
        let tag = self.start_tag(id);
        let flow = self.flows.get_mut(&id)?;
        flow.start = Some(tag);
        Some((tag, flow.served, id))
    }

    /// Takes the start tag from a flow that is not ready any more, which saves
    /// nothing; returns the key that it had.
    pub(super) fn stop(&mut self, id: FlowId) -> Option<(u128, u64, FlowId)> {
        let flow = self.flows.get_mut(&id)?;
        Some((flow.start.take()?, flow.served, id))
    }

    /// Takes the start tags from all flows but these.
    pub(super) fn stop_others(&mut self, ready: &BTreeSet<(u128, u64, FlowId)>) {
        for (id, flow) in &mut self.flows {
            let served = flow.served;
            flow.start
                .take_if(|start| !ready.contains(&(*start, served, *id)));
        }
    }

    /// Nothing is ready any more: the busy period is over (rule 2 of the paper).
    pub(super) fn end_busy_period(&mut self) {
        self.virtual_time = self.last_finish;
    }

    /// Takes the tokens of egress and flow for a call with this start tag, which
    /// are there; returns the sequence number of the call.
    pub(super) fn spend(&mut self, id: FlowId, tag: u128, side: Side, now: Instant) -> u64 {
        let serial = self.serial();
        let Some(flow) = self.flows.get_mut(&id) else {
            return serial;
        };
        self.budget.take(now).ok();
        flow.budget.take(now).ok();
        flow.start = None;
        flow.served = serial;
        flow.finish = tag + flow.length();
        flow.alternator.record(side);
        flow.usage.record(now, self.horizon);
        if side == Side::Requests {
            flow.requests.record(now, self.horizon);
        }
        self.virtual_time = tag;
        self.last_finish = self.last_finish.max(flow.finish);
        serial
    }

    /// How fast the calls of a flow follow each other while all active flows use
    /// their shares.
    pub(super) fn pace(&self, id: FlowId, now: Instant) -> Option<Pace<'_>> {
        let flow = self.flows.get(&id)?;
        let tag = self.start_tag(id);
        let mut ahead = 0_u32;
        let mut weights = 0.0;
        for (other, calls) in self.other_active_flows(id, tag, now) {
            ahead = ahead.saturating_add(calls);
            weights += f64::from(other.weight.get());
        }
        Some(Pace {
            egress: &self.budget,
            own: &flow.budget,
            now,
            ahead,
            between: weights / f64::from(flow.weight.get()),
        })
    }

    /// The other flows that were served lately, with the calls that each may
    /// make before a call with this start tag: its share, but no more than it
    /// used lately.
    fn other_active_flows(
        &self,
        id: FlowId,
        tag: u128,
        now: Instant,
    ) -> impl Iterator<Item = (&Flow, u32)> + use<'_> {
        let others = self.flows.iter().filter(move |(other, _)| **other != id);
        others.filter_map(move |(other, flow)| {
            let used = flow.usage.recent(now, self.horizon);
            if used == 0 {
                return None;
            }
            let share = match tag.saturating_sub(self.start_tag(*other)) {
                0 => 0,
                behind => behind / flow.length() + 1,
            };
            // Arrivals are irregular: half as many again.
            let most = used + used / 2;
            Some((flow, u32::try_from(share).unwrap_or(u32::MAX).min(most)))
        })
    }

    /// When a newcomer has its token if the active flows and buckets use their
    /// shares meanwhile, and the budget that it then waits for.
    pub(super) fn guaranteed(
        &mut self,
        id: FlowId,
        load: FlowLoad,
        side: Side,
        now: Instant,
    ) -> (Instant, Scope, Option<Quota>) {
        let (horizon, tag) = (self.horizon, self.start_tag(id));
        let Some(flow) = self.flows.get_mut(&id) else {
            return (now, Scope::Egress, None);
        };
        if load.other_buckets >= flow.peak_contention.0 || now >= flow.peak_contention.1 + horizon {
            flow.peak_contention = (load.other_buckets, now);
        }
        let calls_ahead = match side {
            // Buckets with requests are served round-robin; receipts yield.
            Side::Requests => load.own * (1 + flow.peak_contention.0) + load.other_buckets,
            // As many requests will come as came lately, and go first.
            Side::Receipts => {
                let expected = flow.requests.recent(now, horizon);
                load.requests + load.receipts + expected as usize
            }
        };
        let calls_ahead = u32::try_from(calls_ahead).unwrap_or(u32::MAX);
        let tag = tag + u128::from(calls_ahead) * flow.length();
        let tenant = flow.budget.due(now, calls_ahead);
        let quota = flow.budget.quota();
        let others = self
            .other_active_flows(id, tag, now)
            .map(|(_, calls)| calls);
        let before = others.fold(calls_ahead, u32::saturating_add);
        let egress = self.budget.due(now, before);
        if tenant >= egress && quota.is_some() {
            (tenant, Scope::Tenant, quota)
        } else {
            (egress, Scope::Egress, self.budget.quota())
        }
    }
}

impl Flow {
    fn length(&self) -> u128 {
        CALL / u128::from(self.weight.get())
    }
}

/// How fast the calls of a flow follow each other while all active flows use
/// their shares.
pub(super) struct Pace<'q> {
    egress: &'q Gcra,
    own: &'q Gcra,
    now: Instant,
    /// Calls of other flows before the first call of this flow.
    ahead: u32,
    /// Calls of other flows for each call of this flow.
    between: f64,
}

impl Pace<'_> {
    /// The time of the n-th call from now on.
    pub(super) fn slot_at(&self, n: u32) -> Instant {
        let others = (f64::from(n) * self.between).ceil() as u32;
        let before = n.saturating_add(self.ahead).saturating_add(others);
        let egress = self.egress.due(self.now, before);
        egress.max(self.own.due(self.now, n))
    }
}
