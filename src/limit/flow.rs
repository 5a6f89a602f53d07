//! Tenants and instances that share a budget: which of them is next.
//!
//! Start-time fair queueing (P. Goyal, H. Vin, H. Cheng: "Start-time Fair
//! Queuing", SIGCOMM 1996): a tenant is a flow; each of its upstream calls has
//! a start tag, the virtual time at which it would begin if every flow had its
//! share, and the smallest start tag goes first. Sharing is work-conserving,
//! and a flow that was quiet has saved nothing and owes nothing. Within a flow
//! the instances take turns, and receipts yield to the requests of all its
//! instances as they do at a bucket.
//!
//! Invariants: no clock, no task, and nothing but the buckets themselves says
//! what waits: the ordered sets of a run ([`Agenda`]) are built from them. The
//! tokens of the bucket, the tenant and the egress are taken together, at the
//! moment at which a request goes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

use super::bucket::{Bucket, expiry};
use super::gcra::Gcra;
use super::queue::{Alternator, Grant, Permit, Scope, Side, WaitQueue, Waiter};
use crate::config::Quota;

/// The virtual length of a call of weight 1: weights divide it with little
/// rounding, and 128 bits outlast any uptime.
const CALL: u128 = 1 << 40;

/// A bucket that waits for a shared budget.
pub(super) type SeatId = u64;

/// A tenant at the shared budgets.
pub(super) type FlowId = u64;

/// The buckets that wait for shared budgets, and the budgets.
#[derive(Debug)]
pub(super) struct SharedQueue<G> {
    /// `[egress]`. Where it is unlimited, tenants may still have budgets.
    budget: Gcra,
    /// The start tag of the call that was served last.
    virtual_time: u128,
    /// The largest finish tag: virtual time when nothing is ready.
    last_finish: u128,
    /// `limit.max_wait`: how far back a flow counts as active.
    horizon: Duration,
    flows: BTreeMap<FlowId, Flow>,
    seats: BTreeMap<SeatId, Seat<G>>,
    /// Numbers flows, seats and turns.
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
    /// The most other buckets with requests that waited at one time lately, and
    /// when.
    crowd: (usize, Instant),
}

/// The calls of a flow in the present and the previous period.
#[derive(Clone, Copy, Debug)]
struct Usage {
    since: Instant,
    current: u32,
    previous: u32,
}

/// A bucket of a flow.
#[derive(Debug)]
struct Seat<G> {
    bucket: Bucket<G>,
    flow: FlowId,
    /// Grows with each turn: the smallest is next.
    turn: u64,
}

/// What is ready at a moment of a run, and what will be.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    /// Flows with a token of their own and a bucket that is ready, by start tag.
    ready: BTreeSet<(u128, u64, FlowId)>,
    heads: HashMap<FlowId, Heads>,
    /// When a bucket or a flow will have a token.
    later: BTreeSet<(Instant, Due)>,
    /// When the first request of a bucket will have to be refused.
    expiries: BTreeSet<(Instant, SeatId)>,
}

/// The waiters of a flow that are next in their buckets, which have a token.
#[derive(Debug, Default)]
struct Heads {
    /// By turn.
    requests: BTreeSet<(u64, SeatId)>,
    /// By the moment from which they no longer yield.
    receipts: BTreeSet<(Instant, SeatId)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Seat(SeatId),
    Flow(FlowId),
}

impl<G: Grant> SharedQueue<G> {
    /// Opens the budget of the egress, full; without a quota it is unlimited.
    pub(super) fn new(quota: Option<Quota>, horizon: Duration, now: Instant) -> Self {
        Self {
            budget: Gcra::new(quota, now),
            virtual_time: 0,
            last_finish: 0,
            horizon,
            flows: BTreeMap::new(),
            seats: BTreeMap::new(),
            serial: 0,
        }
    }

    /// A copy for a forecast: what waits, with one flow besides.
    pub(super) fn copy<H: Grant>(
        &self,
        besides: FlowId,
        now: Instant,
        grant: impl Fn(&Waiter<G>) -> H,
    ) -> SharedQueue<H> {
        let seats = self.seats.iter();
        let waiting = seats.filter(|(_, seat)| seat.bucket.waiting().is_some());
        let seats: BTreeMap<_, _> = waiting
            .map(|(id, seat)| {
                let seat = Seat {
                    bucket: seat.bucket.copy(&grant),
                    flow: seat.flow,
                    turn: seat.turn,
                };
                (*id, seat)
            })
            .collect();
        let mut used: BTreeSet<_> = seats.values().map(|seat| seat.flow).collect();
        used.insert(besides);
        let flows = self.flows.iter();
        // Flows that were active count in [`Pace`].
        let known = flows
            .filter(|(id, flow)| flow.usage.recent(now, self.horizon) > 0 || used.contains(id))
            .map(|(id, flow)| (*id, flow.clone()));
        SharedQueue {
            flows: known.collect(),
            seats,
            budget: self.budget,
            virtual_time: self.virtual_time,
            last_finish: self.last_finish,
            horizon: self.horizon,
            serial: self.serial,
        }
    }

    fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    // === budgets and flows ===

    /// Puts the egress' quota in force; what is owed stays owed.
    pub(super) fn requote(&mut self, quota: Option<Quota>, horizon: Duration, now: Instant) {
        self.budget.requote(quota, now);
        self.horizon = horizon;
    }

    /// Opens a flow with a full budget.
    pub(super) fn open_flow(
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
            crowd: (0, now),
        };
        self.flows.insert(id, flow);
        id
    }

    /// Puts the weight and the quota of a flow in force.
    pub(super) fn renew_flow(
        &mut self,
        id: FlowId,
        weight: NonZeroU32,
        quota: Option<Quota>,
        now: Instant,
    ) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.weight = weight;
            flow.budget.requote(quota, now);
        }
    }

    /// Drops the flows of which there is nothing left to know.
    pub(super) fn forget_idle_flows(&mut self, now: Instant) -> BTreeSet<FlowId> {
        let used: BTreeSet<_> = self.seats.values().map(|seat| seat.flow).collect();
        let (virtual_time, horizon) = (self.virtual_time, self.horizon);
        self.flows.retain(|id, flow| {
            used.contains(id)
                || !flow.budget.is_full(now)
                || flow.finish > virtual_time
                || flow.usage.recent(now, horizon) > 0
        });
        self.flows.keys().copied().collect()
    }

    pub(super) fn flow_count(&self) -> usize {
        self.flows.len()
    }

    // === seats ===

    /// Takes in a bucket that has something to wait for.
    pub(super) fn seat(&mut self, bucket: Bucket<G>, flow: FlowId) -> SeatId {
        let id = self.serial();
        let turn = id;
        self.seats.insert(id, Seat { bucket, flow, turn });
        id
    }

    /// The bucket of a seat.
    pub(super) fn bucket_of(&self, id: SeatId) -> Option<&Bucket<G>> {
        Some(&self.seats.get(&id)?.bucket)
    }

    /// The bucket of a seat, to be changed.
    pub(super) fn bucket(&mut self, id: SeatId) -> Option<&mut Bucket<G>> {
        Some(&mut self.seats.get_mut(&id)?.bucket)
    }

    /// Gives a bucket back.
    pub(super) fn unseat(&mut self, id: SeatId) -> Option<Bucket<G>> {
        Some(self.seats.remove(&id)?.bucket)
    }

    pub(super) fn has_seats(&self) -> bool {
        !self.seats.is_empty()
    }

    /// The seats where nothing waits any more.
    pub(super) fn drained(&self) -> Vec<SeatId> {
        let seats = self.seats.iter();
        let drained = seats.filter(|(_, seat)| seat.bucket.waiting().is_none());
        drained.map(|(id, _)| *id).collect()
    }

    // === serving ===

    /// Takes the tokens for a request of a bucket without a queue, while no
    /// other bucket is ready to go.
    pub(super) fn pass(
        &mut self,
        flow: FlowId,
        bucket: &mut Bucket<G>,
        now: Instant,
    ) -> Option<Permit> {
        let budget = &self.flows.get(&flow)?.budget;
        if bucket.due(now, 0) > now || budget.due(now, 0) > now || self.budget.due(now, 0) > now {
            return None;
        }
        let permit = bucket.pass(now)?;
        let tag = self.start_tag(flow);
        self.spend(flow, tag, now);
        self.virtual_time = self.last_finish;
        Some(permit)
    }

    /// Hands out every token that is there and refuses the requests whose
    /// deadline has passed. Returns when something can be done next; `None` if
    /// nothing waits.
    pub(super) fn serve(&mut self, now: Instant) -> Option<Instant> {
        let mut agenda = self.agenda(now);
        self.serve_by(&mut agenda, now)
    }

    /// The agenda of a run that begins now.
    pub(super) fn agenda(&mut self, now: Instant) -> Agenda {
        let mut agenda = Agenda::default();
        let seats: Vec<_> = self.seats.keys().copied().collect();
        for id in seats {
            self.list(&mut agenda, id, now);
        }
        // A flow that cannot go any more keeps no start tag: it saves nothing.
        for (id, flow) in &mut self.flows {
            let served = flow.served;
            let is_listed = |start: &u128| agenda.ready.contains(&(*start, served, *id));
            flow.start.take_if(|start| !is_listed(start));
        }
        agenda
    }

    /// As [`serve`](Self::serve), in a run of several moments.
    pub(super) fn serve_by(&mut self, agenda: &mut Agenda, now: Instant) -> Option<Instant> {
        loop {
            while let Some(&(at, due)) = agenda.later.first()
                && at <= now
            {
                agenda.later.pop_first();
                match due {
                    Due::Seat(id) => self.list(agenda, id, now),
                    Due::Flow(id) => self.list_flow(agenda, id, now),
                }
            }
            let due = self.budget.due(now, 0);
            let ready = agenda.ready.first().filter(|_| due <= now);
            let Some(&(tag, _, flow)) = ready else {
                // What could be served is: the others can wait no longer.
                if let Some(&(at, id)) = agenda.expiries.first()
                    && at <= now
                {
                    self.expire(agenda, id, now);
                    continue;
                }
                return agenda.next(due);
            };
            let Some((side, id)) = self.choose(agenda, flow, now) else {
                self.unlist_flow(agenda, flow);
                continue;
            };
            agenda.remove(flow, id, &self.seats[&id]);
            if self.grant(id, side, now) {
                self.unlist_flow(agenda, flow);
                let serial = self.spend(flow, tag, now);
                if let Some(flow) = self.flows.get_mut(&flow) {
                    flow.alternator.record(side);
                    if side == Side::Requests {
                        flow.requests.record(now, self.horizon);
                    }
                }
                if let Some(seat) = self.seats.get_mut(&id) {
                    seat.turn = serial;
                }
            }
            self.list(agenda, id, now);
            self.list_flow(agenda, flow, now);
            if agenda.ready.is_empty() {
                // The busy period is over (rule 2 of the paper).
                self.virtual_time = self.last_finish;
            }
        }
    }

    /// Refuses the requests of a seat whose deadline has passed.
    fn expire(&mut self, agenda: &mut Agenda, id: SeatId, now: Instant) {
        if let Some(seat) = self.seats.get_mut(&id) {
            agenda.remove(seat.flow, id, seat);
            seat.bucket.expire(now);
        }
        self.list(agenda, id, now);
    }

    fn grant(&mut self, id: SeatId, side: Side, now: Instant) -> bool {
        let seat = self.seats.get_mut(&id);
        seat.is_some_and(|seat| seat.bucket.grant(side, now))
    }

    /// Takes the tokens of egress and flow for a call with this start tag;
    /// returns the number of the turn.
    fn spend(&mut self, flow: FlowId, tag: u128, now: Instant) -> u64 {
        let serial = self.serial();
        let Some(flow) = self.flows.get_mut(&flow) else {
            return serial;
        };
        // They are there: `serve_by` and `pass` have looked.
        self.budget.take(now).ok();
        flow.budget.take(now).ok();
        flow.start = None;
        flow.served = serial;
        flow.finish = tag + flow.length();
        flow.usage.record(now, self.horizon);
        self.virtual_time = tag;
        self.last_finish = self.last_finish.max(flow.finish);
        serial
    }

    /// Puts a seat on the agenda: it is ready, or it will be.
    fn list(&mut self, agenda: &mut Agenda, id: SeatId, now: Instant) {
        let Some(seat) = self.seats.get(&id) else {
            return;
        };
        let Some(queue) = seat.bucket.waiting() else {
            return;
        };
        if let Some(request) = queue.head(Side::Requests) {
            agenda.expiries.insert((expiry(request), id));
        }
        let due = seat.bucket.due(now, 0);
        if due > now {
            agenda.later.insert((due, Due::Seat(id)));
            return;
        }
        let heads = agenda.heads.entry(seat.flow).or_default();
        if queue.head(Side::Requests).is_some() {
            heads.requests.insert((seat.turn, id));
        }
        if let Some(receipt) = queue.head(Side::Receipts) {
            heads.receipts.insert((receipt.overdue, id));
        }
        let flow = seat.flow;
        self.list_flow(agenda, flow, now);
    }

    /// Puts a flow with a ready bucket on the agenda.
    fn list_flow(&mut self, agenda: &mut Agenda, id: FlowId, now: Instant) {
        if agenda.heads.get(&id).is_none_or(Heads::is_empty) {
            return;
        }
        let tag = self.start_tag(id);
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        let due = flow.budget.due(now, 0);
        if due > now {
            agenda.later.insert((due, Due::Flow(id)));
        } else {
            flow.start = Some(tag);
            agenda.ready.insert((tag, flow.served, id));
        }
    }

    fn unlist_flow(&mut self, agenda: &mut Agenda, id: FlowId) {
        if let Some(flow) = self.flows.get_mut(&id)
            && let Some(tag) = flow.start.take()
        {
            agenda.ready.remove(&(tag, flow.served, id));
        }
    }

    /// The start tag of the next call of a flow.
    fn start_tag(&self, id: FlowId) -> u128 {
        self.flows.get(&id).map_or(self.virtual_time, |flow| {
            let next = || flow.finish.max(self.virtual_time);
            flow.start.unwrap_or_else(next)
        })
    }

    /// What goes next of a flow whose turn it is. The oldest receipt goes
    /// before requests only if bucket and flow both allow it, and if that makes
    /// no request of the flow late.
    fn choose(&self, agenda: &Agenda, flow: FlowId, now: Instant) -> Option<(Side, SeatId)> {
        let heads = agenda.heads.get(&flow)?;
        let request = heads.requests.first().map(|&(_, id)| id);
        let receipt = heads.receipts.first().copied();
        let (request, (overdue, receipt)) = match (request, receipt) {
            (Some(request), Some(receipt)) => (request, receipt),
            (Some(request), None) => return Some((Side::Requests, request)),
            (None, receipt) => return Some((Side::Receipts, receipt?.1)),
        };
        let may_go = overdue <= now
            && self.flows.get(&flow)?.alternator.allows_receipt()
            && self.receipt_may_go(heads, flow, receipt, now);
        Some(if may_go {
            (Side::Receipts, receipt)
        } else {
            (Side::Requests, request)
        })
    }

    fn receipt_may_go(&self, heads: &Heads, flow: FlowId, receipt: SeatId, now: Instant) -> bool {
        let Some(pace) = self.pace(flow, now) else {
            return false;
        };
        let seats = u32::try_from(heads.requests.len())
            .unwrap_or(u32::MAX)
            .max(1);
        let bucket = &self.seats[&receipt].bucket;
        let slot = |n: u32| {
            let own = bucket.due(now, n as usize);
            own.max(pace.turn(n.saturating_mul(seats)))
        };
        let others = heads.requests.iter().filter(|(_, id)| *id != receipt);
        let mut others = others.filter_map(|(_, id)| Some((id, self.seats.get(id)?)));
        bucket
            .waiting()
            .is_some_and(|queue| queue.receipt_may_go(now, slot))
            && !others.any(|(_, seat)| {
                // Every other bucket may have its turn first.
                let turn = |n: u32| n.saturating_mul(seats).saturating_add(seats - 1);
                let slot = |n: u32, lost: u32| {
                    let own = seat.bucket.due(now, n as usize);
                    own.max(pace.turn(turn(n).saturating_add(lost)))
                };
                seat.bucket
                    .waiting()
                    .is_some_and(|queue| queue.is_late(|n| slot(n, 0), |n| slot(n, 1)))
            })
    }
}

impl Agenda {
    /// Takes a seat off whose waiters are about to change.
    fn remove<G: Grant>(&mut self, flow: FlowId, id: SeatId, seat: &Seat<G>) {
        let Some(queue) = seat.bucket.waiting() else {
            return;
        };
        let heads = self.heads.entry(flow).or_default();
        if let Some(request) = queue.head(Side::Requests) {
            self.expiries.remove(&(expiry(request), id));
            heads.requests.remove(&(seat.turn, id));
        }
        if let Some(receipt) = queue.head(Side::Receipts) {
            heads.receipts.remove(&(receipt.overdue, id));
        }
    }

    /// When something can be done next, if the egress has a token at `due`.
    fn next(&self, due: Instant) -> Option<Instant> {
        let served = match self.ready.is_empty() {
            true => self.later.first().map(|(at, _)| *at),
            false => Some(due),
        };
        let expired = self.expiries.first().map(|(at, _)| *at);
        [served, expired].into_iter().flatten().min()
    }
}

impl Heads {
    fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.receipts.is_empty()
    }
}

impl Flow {
    fn length(&self) -> u128 {
        CALL / u128::from(self.weight.get())
    }
}

impl Usage {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            current: 0,
            previous: 0,
        }
    }

    fn record(&mut self, now: Instant, period: Duration) {
        let (current, previous) = self.at(now, period);
        if now.saturating_duration_since(self.since) >= period {
            self.since = now;
        }
        (self.current, self.previous) = (current + 1, previous);
    }

    /// Calls of the present and of the previous period.
    fn at(&self, now: Instant, period: Duration) -> (u32, u32) {
        let age = now.saturating_duration_since(self.since);
        if age < period {
            (self.current, self.previous)
        } else if age < period * 2 {
            (0, self.current)
        } else {
            (0, 0)
        }
    }

    /// Calls of the last period, to within how evenly they came (a sliding
    /// window of two counters).
    fn recent(&self, now: Instant, period: Duration) -> u32 {
        let (current, previous) = self.at(now, period);
        let age = now.saturating_duration_since(self.since);
        let age = if age < period {
            age
        } else {
            age.saturating_sub(period)
        };
        let left = 1.0 - (age.as_secs_f64() / period.as_secs_f64()).min(1.0);
        current + (f64::from(previous) * left).ceil() as u32
    }
}

// === what a flow can count on ===

/// How fast the turns of a flow come while all active flows use their shares.
struct Pace<'q> {
    egress: &'q Gcra,
    own: &'q Gcra,
    now: Instant,
    /// Turns of other flows before the first turn of this flow.
    ahead: u32,
    /// Turns of other flows for each turn of this flow.
    between: f64,
}

impl Pace<'_> {
    /// The time of the n-th turn from now on.
    fn turn(&self, n: u32) -> Instant {
        let others = (f64::from(n) * self.between).ceil() as u32;
        let before = n.saturating_add(self.ahead).saturating_add(others);
        let egress = self.egress.due(self.now, before);
        egress.max(self.own.due(self.now, n))
    }
}

impl<G: Grant> SharedQueue<G> {
    fn pace(&self, id: FlowId, now: Instant) -> Option<Pace<'_>> {
        let flow = self.flows.get(&id)?;
        let tag = self.start_tag(id);
        let mut ahead = 0_u32;
        let mut weights = 0.0;
        for (other, calls) in self.rivals(id, tag, now) {
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
    fn rivals(
        &self,
        id: FlowId,
        tag: u128,
        now: Instant,
    ) -> impl Iterator<Item = (&Flow, u32)> + use<'_, G> {
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
    /// shares meanwhile, and the budget that it then waits for. `seat` is its
    /// bucket's, where something waits there already.
    pub(super) fn guaranteed(
        &mut self,
        flow: FlowId,
        seat: Option<SeatId>,
        side: Side,
        now: Instant,
    ) -> (Instant, Scope, Option<Quota>) {
        let horizon = self.horizon;
        let (mut own, mut rivals, mut requests, mut receipts) = (0, 0, 0, 0);
        for (id, other) in self.seats.iter().filter(|(_, other)| other.flow == flow) {
            let counts = other.bucket.waiting().map(WaitQueue::counts);
            let counts = counts.unwrap_or_default();
            match Some(*id) == seat {
                true => own = counts.0,
                false => rivals += usize::from(counts.0 > 0),
            }
            requests += counts.0;
            receipts += counts.1;
        }
        let tag = self.start_tag(flow);
        let Some(state) = self.flows.get_mut(&flow) else {
            return (now, Scope::Egress, None);
        };
        if rivals >= state.crowd.0 || now >= state.crowd.1 + horizon {
            state.crowd = (rivals, now);
        }
        let turns = match side {
            // Buckets with requests take turns; receipts yield.
            Side::Requests => own * (1 + state.crowd.0) + rivals,
            // As many requests will come as came lately, and go first.
            Side::Receipts => requests + receipts + state.requests.recent(now, horizon) as usize,
        };
        let turns = u32::try_from(turns).unwrap_or(u32::MAX);
        let tag = tag + u128::from(turns) * state.length();
        let tenant = state.budget.due(now, turns);
        let quota = state.budget.quota();
        let others = self.rivals(flow, tag, now).map(|(_, calls)| calls);
        let before = others.fold(turns, u32::saturating_add);
        let egress = self.budget.due(now, before);
        if tenant >= egress && quota.is_some() {
            (tenant, Scope::Tenant, quota)
        } else {
            (egress, Scope::Egress, self.budget.quota())
        }
    }

    /// Whether no shared budget can keep a bucket of this flow waiting: the
    /// buckets that wait have at most a token each now, and together they are
    /// not faster than the budgets.
    pub(super) fn is_ample(&self, flow: FlowId, newcomer: Option<Quota>, now: Instant) -> bool {
        let is_ample = |budget: &Gcra, seats: &mut dyn Iterator<Item = &Seat<G>>| {
            let (Some(quota), Some(tokens)) = (budget.quota(), budget.tokens(now)) else {
                return true;
            };
            let mut rate = newcomer.map_or(f64::INFINITY, |quota| quota.rate);
            let mut first = 2.0;
            for seat in seats.filter(|seat| seat.bucket.waiting().is_some()) {
                rate += seat
                    .bucket
                    .quota()
                    .map_or(f64::INFINITY, |quota| quota.rate);
                first += 1.0;
            }
            rate <= quota.rate && first <= tokens
        };
        let own = self.flows.get(&flow);
        own.is_some_and(|own| {
            let mut seats = self.seats.values().filter(|seat| seat.flow == flow);
            is_ample(&own.budget, &mut seats) && is_ample(&self.budget, &mut self.seats.values())
        })
    }
}
