//! Flows: which are kept, and how fast their calls follow each other.

use std::collections::BTreeSet;

use crate::queue::flow::{FlowId, FlowLoad, Flows};
use crate::queue::wait_queue::Side;

use super::*;

const HORIZON: Duration = ms(4000);

struct World {
    flows: Flows,
    start: Instant,
}

impl World {
    fn new(egress: Option<Quota>) -> Self {
        let start = Instant::now();
        let flows = Flows::new(egress, HORIZON, start);
        Self { flows, start }
    }

    fn open(&mut self, weight: u32, own: Option<Quota>) -> FlowId {
        let weight = NonZeroU32::new(weight).unwrap();
        self.flows.open(&Arc::from("a"), weight, own, self.start)
    }

    fn spend(&mut self, flow: FlowId, at: u64) {
        let tag = self.flows.start_tag(flow);
        let now = self.start + ms(at);
        self.flows.spend(flow, tag, Side::Requests, now);
    }

    fn kept(&mut self, used: &[FlowId], at: u64) -> Vec<FlowId> {
        let used = BTreeSet::from_iter(used.iter().copied());
        let kept = self.flows.forget_idle(&used, self.start + ms(at));
        assert_eq!(self.flows.count(), kept.len());
        kept.into_iter().collect()
    }

    /// When the calls of a flow come, in ms, from `at` on.
    fn paced(&self, flow: FlowId, at: u64) -> [u128; 3] {
        let pace = self.flows.pace(flow, self.start + ms(at)).unwrap();
        [0, 1, 2].map(|n| (pace.slot_at(n) - self.start).as_millis())
    }
}

#[tokio::test(start_paused = true)]
async fn a_flow_is_kept_while_it_has_debt_a_claim_or_recent_calls() {
    let mut world = World::new(None);
    let debtor = world.open(1, quota(0.1, 1));
    let active = world.open(1, quota(10.0, 1));
    let claimant = world.open(1, None);
    let waiting = world.open(1, None);
    world.open(1, quota(10.0, 1));
    world.spend(debtor, 0);
    world.spend(claimant, 0);
    world.spend(active, 5000);
    // The claimant has used more of the present busy period than others.
    let kept = world.kept(&[waiting], 8000);
    assert_eq!(kept, [debtor, active, claimant, waiting]);
    world.flows.end_busy_period();
    assert_eq!(world.kept(&[waiting], 8000), [debtor, active, waiting]);
    assert_eq!(world.kept(&[], 9999), [debtor, active]);
    // The debt is paid, and the call of the other one is a horizon ago.
    assert_eq!(world.kept(&[], 10_000), [active]);
    assert!(world.kept(&[], 13_000).is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_calls_of_a_flow_follow_each_other_by_its_share() {
    // The weight of the flow and of the other one, the quota of the flow, and when its
    // next calls come.
    for (weight, other, own, expected) in [
        (1, 2, None, [300, 600, 900]),
        (2, 1, None, [200, 400, 500]),
        (1, 1, None, [200, 400, 600]),
        // Its own budget is slower than its share.
        (1, 1, quota(1.0, 1), [1100, 2100, 3100]),
    ] {
        let mut world = World::new(quota(10.0, 1));
        let (flow, other) = (world.open(weight, own), world.open(other, None));
        world.spend(other, 0);
        world.spend(flow, 100);
        assert_eq!(world.paced(flow, 200), expected, "{weight} {own:?}");
        // Two horizons later the other one is not active any more.
        let alone = world.paced(flow, 8200);
        let interval = own.map_or(100, |_| 1000);
        assert_eq!(alone, [0, 1, 2].map(|n| 8200 + n * interval));
    }
}

/// When a newcomer has its token at the latest if all active flows use their shares.
#[tokio::test(start_paused = true)]
async fn what_waits_and_what_came_lately_is_counted_before_a_newcomer() {
    let mut world = World::new(quota(10.0, 1));
    let (flow, bound) = (world.open(1, None), world.open(1, quota(1.0, 1)));
    let start = world.start;
    let guaranteed = |world: &mut World, flow, side, load, at| {
        let (token, scope, quota) = world.flows.guaranteed(flow, load, side, start + ms(at));
        ((token - start).as_millis(), scope, quota.map(|it| it.rate))
    };
    let of_egress = |at| (at, Scope::Egress, Some(10.0));
    let load = |own, other_buckets, requests, receipts| FlowLoad {
        own,
        other_buckets,
        requests,
        receipts,
    };
    world.spend(flow, 0);
    // Receipts: two requests and three receipts wait, and one request came lately.
    let six = guaranteed(&mut world, flow, Side::Receipts, load(0, 0, 2, 3), 100);
    assert_eq!(six, of_egress(100 + 600));
    // Requests: one of the other bucket before each of its own, and before itself.
    let five = guaranteed(&mut world, flow, Side::Requests, load(2, 1, 3, 9), 100);
    assert_eq!(five, of_egress(100 + 500));
    // The other bucket is counted on for as long as a request may wait.
    let four = guaranteed(&mut world, flow, Side::Requests, load(2, 0, 2, 0), 4099);
    assert_eq!(four, of_egress(4099 + 400));
    let two = guaranteed(&mut world, flow, Side::Requests, load(2, 0, 2, 0), 4100);
    assert_eq!(two, of_egress(4100 + 200));
    // A budget of its own that comes later is the one it waits for.
    world.spend(bound, 20_000);
    let own = guaranteed(&mut world, bound, Side::Requests, load(1, 0, 1, 0), 20_000);
    assert_eq!(own, (22_000, Scope::Tenant, Some(1.0)));
}

/// A forecast needs the flows that wait or were active lately, and copies no others.
#[tokio::test(start_paused = true)]
async fn a_copy_for_a_forecast_has_the_same_pace() {
    let mut world = World::new(quota(10.0, 1));
    let (flow, active) = (world.open(1, None), world.open(2, None));
    world.open(1, None);
    world.spend(active, 0);
    let used = BTreeSet::from([flow]);
    for (at, copied) in [(100, 2), (9000, 1)] {
        let expected = world.paced(flow, at);
        let flows = world.flows.copy(&used, world.start + ms(at));
        assert_eq!(flows.count(), copied);
        let copy = World {
            flows,
            start: world.start,
        };
        assert_eq!(copy.paced(flow, at), expected);
    }
}
