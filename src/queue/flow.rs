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
//!
//! - [`source`]: where the tokens come from; [`lease`]: those that a server lends;
//!   [`terms`]: how it is asked for them;
//! - [`pace`]: how fast the calls of a flow follow each other.

mod lease;
mod pace;
mod source;
mod terms;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::request::Scope;
use super::wait_queue::{Alternator, Side};
use crate::config::Quota;
use crate::tokens::gcra::{Gcra, Usage};
pub(crate) use lease::PERIOD;
use lease::{Lease, Rivals};
pub(crate) use source::Source;
pub(crate) use terms::LeaseQuestion;

/// The virtual length of a call of weight 1: weights divide it with little
/// rounding, and 128 bits outlast any uptime.
const CALL: u128 = 1 << 40;

/// Identifies a tenant at the shared budgets.
pub(crate) type FlowId = u64;

/// The shared budgets, and the flows that share them.
#[derive(Clone, Debug)]
pub(crate) struct Flows {
    /// `[egress]`. Where it is unlimited, tenants may still have budgets.
    quota: Option<Quota>,
    source: Source,
    /// Its tokens. Where a server has them, as it is known there.
    budget: Gcra,
    rivals: Rivals,
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
    name: Arc<str>,
    weight: NonZeroU32,
    quota: Option<Quota>,
    /// Its tokens. Where a server has them, as it is known there.
    budget: Gcra,
    /// What that server has lent.
    lease: Option<Box<Lease>>,
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
pub(crate) struct FlowLoad {
    /// Requests at the bucket of the newcomer.
    pub(crate) own: usize,
    /// Other buckets with requests.
    pub(crate) other_buckets: usize,
    pub(crate) requests: usize,
    pub(crate) receipts: usize,
}

impl Flows {
    /// Opens the budget of the egress, full; without a quota it is unlimited.
    pub(crate) fn new(quota: Option<Quota>, horizon: Duration, now: Instant) -> Self {
        Self {
            quota,
            source: Source::Own,
            budget: Gcra::new(quota, now),
            rivals: Rivals::none(now),
            virtual_time: 0,
            last_finish: 0,
            horizon,
            flows: BTreeMap::new(),
            serial: 0,
        }
    }

    /// A copy for a forecast: the flows in use, and those that were active,
    /// which count in [`pace::Pace`].
    pub(crate) fn copy(&self, used: &BTreeSet<FlowId>, now: Instant) -> Self {
        let flows = self.flows.iter();
        let known = flows.filter(|(id, flow)| self.is_active(flow, now) || used.contains(id));
        Self {
            flows: known
                .map(|(id, flow)| (*id, self.forecast(flow, now)))
                .collect(),
            ..*self
        }
    }

    pub(crate) fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn is_active(&self, flow: &Flow, now: Instant) -> bool {
        flow.usage.recent(now, self.horizon) > 0
    }

    /// Sets the quota of the egress; debt is kept.
    pub(crate) fn set_quota(&mut self, quota: Option<Quota>, horizon: Duration, now: Instant) {
        self.quota = quota;
        self.budget.set_quota(self.source.quota(quota), now);
        self.horizon = horizon;
        self.open_leases();
    }

    /// Opens a flow with a full budget; with an empty one where it is the part of a gateway.
    pub(crate) fn open(
        &mut self,
        name: &Arc<str>,
        weight: NonZeroU32,
        quota: Option<Quota>,
        now: Instant,
    ) -> FlowId {
        let id = self.serial();
        let budget = Gcra::new(quota, now);
        let flow = Flow {
            name: Arc::clone(name),
            weight,
            quota,
            budget: self.source.take_over(Source::Own, budget, quota, now),
            lease: None,
            finish: 0,
            start: None,
            served: id,
            alternator: Alternator::default(),
            usage: Usage::new(now),
            requests: Usage::new(now),
            peak_contention: (0, now),
        };
        self.flows.insert(id, flow);
        self.open_lease(id);
        id
    }

    /// Applies the weight and the quota of a flow; debt is kept.
    pub(crate) fn reconfigure(
        &mut self,
        id: FlowId,
        weight: NonZeroU32,
        quota: Option<Quota>,
        now: Instant,
    ) {
        if let Some(flow) = self.flows.get_mut(&id) {
            (flow.weight, flow.quota) = (weight, quota);
            flow.budget.set_quota(self.source.quota(quota), now);
            self.open_lease(id);
        }
    }

    /// Drops the flows that have no state worth keeping; returns those that are
    /// left.
    pub(crate) fn forget_idle(
        &mut self,
        used: &BTreeSet<FlowId>,
        now: Instant,
    ) -> BTreeSet<FlowId> {
        let (virtual_time, horizon) = (self.virtual_time, self.horizon);
        self.flows.retain(|id, flow| {
            used.contains(id)
                || !flow.budget.is_full(now)
                // It has had more than others in this busy period: a
                // new flow would not know of that.
                || flow.finish > virtual_time
                || flow.usage.recent(now, horizon) > 0
        });
        self.flows.keys().copied().collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.flows.len()
    }

    /// When the egress has a token. One that a server lends to a flow counts for both.
    pub(crate) fn egress_due(&self, now: Instant) -> Instant {
        match self.source {
            Source::Server => now,
            Source::Own | Source::Part(_) => self.budget.due(now, 0),
        }
    }

    /// When the flow has a token.
    pub(crate) fn due(&self, id: FlowId, now: Instant) -> Instant {
        let flow = self.flows.get(&id);
        flow.map_or(now, |flow| flow.ready_at(now))
    }

    /// The budgets that a flow draws on: the egress, and its own.
    pub(crate) fn budgets_of(&self, id: FlowId, now: Instant) -> Option<[Gcra; 2]> {
        Some(self.expected(self.flows.get(&id)?, now))
    }

    /// Whether the rule allows an overdue receipt of the flow to go before a
    /// waiting request.
    pub(crate) fn allows_receipt(&self, id: FlowId) -> bool {
        let flow = self.flows.get(&id);
        flow.is_some_and(|flow| flow.alternator.allows_receipt())
    }

    /// The start tag of the next call of a flow.
    pub(crate) fn start_tag(&self, id: FlowId) -> u128 {
        self.flows.get(&id).map_or(self.virtual_time, |flow| {
            // A flow that was idle begins at the virtual time: it has saved nothing.
            let next = || flow.finish.max(self.virtual_time);
            flow.start.unwrap_or_else(next)
        })
    }

    /// Gives a flow that is ready its start tag; returns its key in the order
    /// of flows.
    pub(crate) fn start(&mut self, id: FlowId) -> Option<(u128, u64, FlowId)> {
        let tag = self.start_tag(id);
        let flow = self.flows.get_mut(&id)?;
        flow.start = Some(tag);
        Some((tag, flow.served, id))
    }

    /// Takes the start tag from a flow that is not ready any more, which saves
    /// nothing; returns the key that it had.
    pub(crate) fn stop(&mut self, id: FlowId) -> Option<(u128, u64, FlowId)> {
        let flow = self.flows.get_mut(&id)?;
        Some((flow.start.take()?, flow.served, id))
    }

    /// Takes the start tags from all flows but these.
    pub(crate) fn stop_others(&mut self, ready: &BTreeSet<(u128, u64, FlowId)>) {
        for (id, flow) in &mut self.flows {
            let served = flow.served;
            flow.start
                .take_if(|start| !ready.contains(&(*start, served, *id)));
        }
    }

    /// Nothing is ready any more: the busy period is over (rule 2 of the paper).
    pub(crate) fn end_busy_period(&mut self) {
        self.virtual_time = self.last_finish;
    }

    /// Takes the tokens of egress and flow for a call with this start tag, which
    /// are there; returns the sequence number of the call.
    pub(crate) fn spend(&mut self, id: FlowId, tag: u128, side: Side, now: Instant) -> u64 {
        let serial = self.serial();
        let Some(flow) = self.flows.get_mut(&id) else {
            return serial;
        };
        // A slot that the server has lent is paid for at the egress already.
        if self.source != Source::Server {
            self.budget.take(now).ok();
        }
        flow.take(now);
        flow.start = None;
        flow.served = serial;
        flow.finish = tag + flow.length();
        flow.alternator.record(side);
        flow.usage.record(now, self.horizon);
        if side == Side::Requests {
            flow.requests.record(now, self.horizon);
        }
        // The start tag of the call in service (rule 2 of Goyal et al.).
        self.virtual_time = tag;
        self.last_finish = self.last_finish.max(flow.finish);
        serial
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
                // Its next call has no smaller start tag.
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
    pub(crate) fn guaranteed(
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
        // A bucket that has just become empty may soon have requests
        // again, so the peak counts for as long as a request may wait.
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
        let quota = flow.quota;
        let Some(flow) = self.flows.get(&id) else {
            return (now, Scope::Egress, None);
        };
        let [mut egress, tenant] = self.due_after(flow, now, calls_ahead);
        // What others take of the egress is in `expected` where the server lends.
        if self.source != Source::Server {
            let others = self
                .other_active_flows(id, tag, now)
                .map(|(_, calls)| calls);
            let before = others.fold(calls_ahead, u32::saturating_add);
            egress = self.budget.due(now, before);
        }
        if tenant >= egress && quota.is_some() {
            (tenant, Scope::Tenant, quota)
        } else {
            (egress, Scope::Egress, self.quota)
        }
    }
}

impl Flow {
    fn length(&self) -> u128 {
        CALL / u128::from(self.weight.get())
    }
}
