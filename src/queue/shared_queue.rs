//! The buckets that wait for a shared budget, and which of them is next.
//!
//! The flow with the smallest start tag goes first ([`flow`](super::flow)).
//! Within a flow the instances are served round-robin, and receipts yield to the
//! requests of all its instances as they do at a bucket.
//!
//! Invariants: no clock, no task, and nothing but the buckets themselves says
//! what waits: the ordered sets of a run ([`Agenda`]) are built from them. The
//! tokens of the bucket, the tenant and the egress are taken together, at the
//! time at which a request goes.

mod agenda;
mod demand;

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::bucket::{Bucket, expiry};
use super::flow::{FlowId, FlowLoad, Flows};
use super::request::{Completion, Permit, RateLimited, Scope};
use super::wait_queue::{Side, WaitQueue, Waiter};
use crate::config::Quota;
pub(crate) use agenda::Agenda;
use agenda::{Due, NextWaiters};

/// Identifies a bucket that waits for a shared budget.
pub(crate) type EntryId = u64;

/// The buckets that wait for shared budgets, and the budgets.
#[derive(Debug)]
pub(crate) struct SharedQueue<G> {
    pub(crate) flows: Flows,
    entries: BTreeMap<EntryId, Entry<G>>,
}

/// A waiting bucket, with its flow.
#[derive(Debug)]
struct Entry<G> {
    bucket: Bucket<G>,
    flow: FlowId,
    /// The round-robin sequence number of its last call: the smallest is next.
    served: u64,
}

impl<G: Completion> SharedQueue<G> {
    pub(crate) fn new(flows: Flows) -> Self {
        let entries = BTreeMap::new();
        Self { flows, entries }
    }

    /// A copy for a forecast: all waiting buckets; keeps the flow `also` even if
    /// it is idle.
    pub(crate) fn copy<H: Completion>(
        &self,
        also: FlowId,
        now: Instant,
        completion: impl Fn(&Waiter<G>) -> H,
    ) -> SharedQueue<H> {
        let entries = self.entries.iter();
        let waiting = entries.filter(|(_, entry)| entry.bucket.waiting().is_some());
        let copies = waiting.map(|(id, entry)| {
            let entry = Entry {
                bucket: entry.bucket.copy(now, &completion),
                flow: entry.flow,
                served: entry.served,
            };
            (*id, entry)
        });
        let entries: BTreeMap<_, _> = copies.collect();
        let mut used: BTreeSet<_> = entries.values().map(|entry| entry.flow).collect();
        used.insert(also);
        SharedQueue {
            flows: self.flows.copy(&used, now),
            entries,
        }
    }

    /// The flows with a bucket here.
    pub(crate) fn used_flows(&self) -> BTreeSet<FlowId> {
        self.entries.values().map(|entry| entry.flow).collect()
    }

    /// Adds a bucket in which something waits.
    pub(crate) fn register(&mut self, bucket: Bucket<G>, flow: FlowId) -> EntryId {
        let id = self.flows.serial();
        let entry = Entry {
            bucket,
            flow,
            // Behind all buckets that wait already: serial numbers only grow.
            served: id,
        };
        self.entries.insert(id, entry);
        id
    }

    /// The bucket of an entry.
    pub(crate) fn bucket_of(&self, id: EntryId) -> Option<&Bucket<G>> {
        Some(&self.entries.get(&id)?.bucket)
    }

    /// The bucket of an entry, to be changed.
    pub(crate) fn bucket(&mut self, id: EntryId) -> Option<&mut Bucket<G>> {
        Some(&mut self.entries.get_mut(&id)?.bucket)
    }

    /// Removes a bucket and returns it.
    pub(crate) fn unregister(&mut self, id: EntryId) -> Option<Bucket<G>> {
        Some(self.entries.remove(&id)?.bucket)
    }

    pub(crate) fn has_entries(&self) -> bool {
        !self.entries.is_empty()
    }

    /// The entries where nothing waits any more.
    pub(crate) fn empty_entries(&self) -> Vec<EntryId> {
        let entries = self.entries.iter();
        let empty = entries.filter(|(_, entry)| entry.bucket.waiting().is_none());
        empty.map(|(id, _)| *id).collect()
    }

    /// Takes the tokens for a request of a bucket without a queue. Call
    /// `serve(now)` first, so that no other bucket is ready.
    pub(crate) fn try_acquire(
        &mut self,
        flow: FlowId,
        bucket: &mut Bucket<G>,
        side: Side,
        now: Instant,
    ) -> Option<Permit> {
        let flows = &mut self.flows;
        if bucket.ready_at(now) > now || flows.due(flow, now) > now || flows.egress_due(now) > now {
            return None;
        }
        let permit = bucket.try_acquire(now)?;
        let tag = flows.start_tag(flow);
        flows.spend(flow, tag, side, now);
        // After `serve(now)` nothing else is ready: the busy period ends with this call.
        flows.end_busy_period();
        Some(permit)
    }

    /// Hands out every token that is there and refuses the requests whose
    /// deadline has passed. Returns when something can be done next; `None` if
    /// nothing waits.
    pub(crate) fn serve(&mut self, now: Instant) -> Option<Instant> {
        let mut agenda = self.agenda(now);
        self.serve_by(&mut agenda, now)
    }

    /// The agenda of a run that begins now.
    pub(crate) fn agenda(&mut self, now: Instant) -> Agenda {
        let mut agenda = Agenda {
            reservable: self.reservable(now),
            ..Agenda::default()
        };
        let entries: Vec<_> = self.entries.keys().copied().collect();
        for id in entries {
            if let Some(entry) = self.entries.get_mut(&id) {
                // Before it is on the agenda, whose keys are made of its waiters.
                entry.bucket.refuse_unreachable(now);
            }
            self.list(&mut agenda, id, now);
        }
        // A start tag of an earlier run would be credit for a flow that is not ready now.
        self.flows.stop_others(&agenda.ready);
        agenda
    }

    /// As [`serve`](Self::serve), for repeated calls with increasing `now`.
    pub(crate) fn serve_by(&mut self, agenda: &mut Agenda, now: Instant) -> Option<Instant> {
        loop {
            while let Some(&(at, due)) = agenda.later.first()
                && at <= now
            {
                agenda.later.pop_first();
                match due {
                    Due::Entry(id) => self.list(agenda, id, now),
                    Due::Flow(id) => self.list_flow(agenda, id, now),
                }
            }
            let due = self.flows.egress_due(now);
            let ready = agenda.ready.first().filter(|_| due <= now);
            let Some(&(tag, _, flow)) = ready else {
                // All that can be served has been. Now refuse what is past its deadline.
                if let Some(&(at, id)) = agenda.expiries.first()
                    && at <= now
                {
                    self.expire(agenda, id, now);
                    continue;
                }
                return agenda.next(due);
            };
            // A grant that failed can have left the flow without a ready waiter.
            let Some((side, id)) = self.choose(agenda, flow, now) else {
                self.unlist_flow(agenda, flow);
                continue;
            };
            agenda.remove(flow, id, &self.entries[&id]);
            if self.grant(id, side, now) {
                self.unlist_flow(agenda, flow);
                let serial = self.flows.spend(flow, tag, side, now);
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.served = serial;
                }
            }
            self.list(agenda, id, now);
            self.list_flow(agenda, flow, now);
            if agenda.ready.is_empty() {
                self.flows.end_busy_period();
            }
        }
    }

    /// Refuses the requests of an entry whose deadline has passed.
    fn expire(&mut self, agenda: &mut Agenda, id: EntryId, now: Instant) {
        let refused = self.too_late(id, now);
        if let (Some(entry), Some(refused)) = (self.entries.get_mut(&id), refused) {
            agenda.remove(entry.flow, id, entry);
            entry.bucket.expire(now, |_| refused);
        }
        self.list(agenda, id, now);
    }

    /// The refusal of a request whose deadline came while it waited here. It names
    /// the budget that had no token.
    pub(crate) fn too_late(&mut self, id: EntryId, now: Instant) -> Option<RateLimited> {
        let entry = self.entries.get(&id)?;
        let (own, flow) = (entry.bucket.too_late(now), entry.flow);
        if entry.bucket.ready_at(now) > now {
            // The shared budgets would not have helped.
            return Some(own);
        }
        let (at, scope, quota) = self.guaranteed(flow, Some(id), Side::Requests, now);
        Some(RateLimited {
            scope,
            quota,
            max_in_flight: None,
            retry_after: at.saturating_duration_since(now),
            ..own
        })
    }

    fn grant(&mut self, id: EntryId, side: Side, now: Instant) -> bool {
        let entry = self.entries.get_mut(&id);
        entry.is_some_and(|entry| entry.bucket.grant(side, now))
    }

    /// Puts an entry on the agenda: it is ready, or it will be.
    fn list(&mut self, agenda: &mut Agenda, id: EntryId, now: Instant) {
        let Some(entry) = self.entries.get(&id) else {
            return;
        };
        let Some(queue) = entry.bucket.waiting() else {
            entry.bucket.reserve(now, agenda.reservable(id));
            return;
        };
        if let Some(request) = queue.head(Side::Requests) {
            // Also while the bucket has no token.
            agenda.expiries.insert((expiry(request), id));
        }
        if entry.bucket.ready_at(now) > now {
            entry.bucket.reserve(now, agenda.reservable(id));
            // Only now: it depends on the demand that `reserve` has set.
            let ready = entry.bucket.ready_at(now);
            agenda.later.insert((ready, Due::Entry(id)));
            return;
        }
        let next_waiters = agenda.next_waiters.entry(entry.flow).or_default();
        if queue.head(Side::Requests).is_some() {
            next_waiters.requests.insert((entry.served, id));
        }
        if let Some(receipt) = queue.head(Side::Receipts) {
            next_waiters.receipts.insert((receipt.overdue, id));
        }
        let flow = entry.flow;
        self.list_flow(agenda, flow, now);
    }

    /// Puts a flow with a ready bucket on the agenda.
    fn list_flow(&mut self, agenda: &mut Agenda, id: FlowId, now: Instant) {
        if agenda
            .next_waiters
            .get(&id)
            .is_none_or(NextWaiters::is_empty)
        {
            return;
        }
        let due = self.flows.due(id, now);
        if due > now {
            agenda.later.insert((due, Due::Flow(id)));
        } else {
            agenda.ready.extend(self.flows.start(id));
        }
    }

    fn unlist_flow(&mut self, agenda: &mut Agenda, id: FlowId) {
        if let Some(key) = self.flows.stop(id) {
            agenda.ready.remove(&key);
        }
    }

    /// What goes next of the flow that is served next. The oldest receipt goes
    /// before requests only if bucket and flow both allow it, and if that makes
    /// no request of the flow late.
    fn choose(&self, agenda: &Agenda, flow: FlowId, now: Instant) -> Option<(Side, EntryId)> {
        let next_waiters = agenda.next_waiters.get(&flow)?;
        let request = next_waiters.requests.first().map(|&(_, id)| id);
        let receipt = next_waiters.receipts.first().copied();
        let (request, (overdue, receipt)) = match (request, receipt) {
            (Some(request), Some(receipt)) => (request, receipt),
            (Some(request), None) => return Some((Side::Requests, request)),
            (None, receipt) => return Some((Side::Receipts, receipt?.1)),
        };
        let may_go = overdue <= now
            && self.flows.allows_receipt(flow)
            && self.receipt_may_go(next_waiters, flow, receipt, now);
        Some(if may_go {
            (Side::Receipts, receipt)
        } else {
            (Side::Requests, request)
        })
    }

    fn receipt_may_go(
        &self,
        next_waiters: &NextWaiters,
        flow: FlowId,
        receipt: EntryId,
        now: Instant,
    ) -> bool {
        let Some(pace) = self.flows.pace(flow, now) else {
            return false;
        };
        // Round-robin: between two requests of one bucket each other bucket has one.
        let buckets = u32::try_from(next_waiters.requests.len())
            .unwrap_or(u32::MAX)
            .max(1);
        let bucket = &self.entries[&receipt].bucket;
        let slot = |n: u32| {
            let own = bucket.due(now, n as usize);
            own.max(pace.slot_at(n.saturating_mul(buckets)))
        };
        let others = next_waiters
            .requests
            .iter()
            .filter(|(_, id)| *id != receipt);
        let mut others = others.filter_map(|(_, id)| Some((id, self.entries.get(id)?)));
        bucket
            .waiting()
            .is_some_and(|queue| queue.receipt_may_go(now, slot))
            && !others.any(|(_, entry)| {
                // Every other bucket may be served first.
                let call = |n: u32| n.saturating_mul(buckets).saturating_add(buckets - 1);
                let slot = |n: u32, lost: u32| {
                    let own = entry.bucket.due(now, n as usize);
                    own.max(pace.slot_at(call(n).saturating_add(lost)))
                };
                // `lost`: the receipt has taken one call of the flow before.
                let waiting = entry.bucket.waiting();
                waiting.is_some_and(|queue| queue.is_late(|n| slot(n, 0), |n| slot(n, 1)))
            })
    }

    /// When a newcomer has its token if the active flows and buckets use their
    /// shares meanwhile, and the budget that it then waits for. `entry` is its
    /// bucket's, where something waits there already.
    pub(crate) fn guaranteed(
        &mut self,
        flow: FlowId,
        entry: Option<EntryId>,
        side: Side,
        now: Instant,
    ) -> (Instant, Scope, Option<Quota>) {
        let mut load = FlowLoad::default();
        for (id, other) in self.entries.iter().filter(|(_, other)| other.flow == flow) {
            let counts = other.bucket.waiting().map(WaitQueue::counts);
            let (requests, receipts) = counts.unwrap_or_default();
            match Some(*id) == entry {
                true => load.own = requests,
                false => load.other_buckets += usize::from(requests > 0),
            }
            load.requests += requests;
            load.receipts += receipts;
        }
        self.flows.guaranteed(flow, load, side, now)
    }

    /// The quotas of the buckets that wait, with their flows.
    pub(crate) fn quotas(&self) -> impl Iterator<Item = (FlowId, Option<Quota>)> {
        let waiting = self.entries.values();
        let waiting = waiting.filter(|entry| entry.bucket.waiting().is_some());
        waiting.map(|entry| (entry.flow, entry.bucket.quota()))
    }
}
