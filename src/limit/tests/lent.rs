//! Flows to which a server lends tokens.

use crate::queue::flow::{FlowId, FlowLoad, Flows, Source};
use crate::queue::wait_queue::Side;

use super::*;

const UNKNOWN: Duration = Duration::from_secs(60);

struct World {
    flows: Flows,
    flow: FlowId,
    start: Instant,
}

impl World {
    fn new(egress: Option<Quota>, own: Option<Quota>) -> Self {
        let start = Instant::now();
        let mut flows = Flows::new(egress, ms(4_000), start);
        flows.follow(Source::Server, start);
        let flow = flows.open(&Arc::from("a"), NonZeroU32::MIN, own, start);
        Self { flows, flow, start }
    }

    /// Asks for slots and gets a reply, at this time.
    fn lend(&mut self, missing: u32, reply: &[i64], at: u64) -> Option<i64> {
        let now = self.start + ms(at);
        let question = self.flows.question([(self.flow, missing, ms(0))], now);
        let learned = self.flows.on_reply(&question, reply, now)?;
        Some(learned.birth)
    }

    /// When the flow can take a token, in ms; `None`: it is not known.
    fn due(&self, at: u64) -> Option<u128> {
        let due = self.flows.due(self.flow, self.start + ms(at));
        Some(due - self.start)
            .filter(|it| *it < UNKNOWN)
            .map(|it| it.as_millis())
    }

    fn take(&mut self, at: u64) {
        let tag = self.flows.start_tag(self.flow);
        let now = self.start + ms(at);
        self.flows.spend(self.flow, tag, Side::Requests, now);
    }

    /// How many slots are missing for one request more than there are, and when to ask.
    fn missing(&self, needed: u32, at: u64) -> Option<(u32, u128)> {
        let missing = self.flows.missing(self.flow, needed, self.start + ms(at));
        missing.map(|(missing, at)| (missing, (at - self.start).as_millis()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_used_from_the_time_that_it_is_due_and_for_a_tenth_of_a_second() {
    let mut world = World::new(quota(50.0, 1), None);
    assert_eq!(world.due(0), None);
    // Three slots, 20 ms apart; the last is due at 60 ms, one interval before the tat.
    let reply = [7, 80_000, 20_000, 0, 0, 3, 0, 0, 0, 0];
    assert_eq!(world.lend(3, &reply, 0), Some(7));
    assert_eq!(world.due(0), Some(20));
    assert_eq!(world.due(30), Some(30));
    world.take(30);
    assert_eq!(world.due(30), Some(40));
    assert_eq!(world.due(140), Some(140));
    assert_eq!(world.due(141), Some(141), "the third");
    assert_eq!(world.due(161), None);
    assert_eq!(world.missing(2, 141), Some((1, 141)));
    assert_eq!(world.missing(2, 161), Some((2, 161)));
    assert_eq!(world.missing(0, 161), None);
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_due_when_both_budgets_have_a_token() {
    let mut world = World::new(quota(50.0, 1), quota(10.0, 1));
    // The egress: 0 and 20 ms; its own rate: -50 and 50 ms.
    let reply = [7, 40_000, 20_000, 0, 0, 2, 0, 150_000, 100_000, 0];
    assert_eq!(world.lend(2, &reply, 100), Some(7));
    assert_eq!(world.due(100), Some(100));
    world.take(100);
    assert_eq!(world.due(100), Some(150));
    // Without an egress, its own rate counts alone.
    let mut world = World::new(None, quota(10.0, 1));
    let reply = [7, 0, 0, 0, 0, 1, 0, 130_000, 100_000, 0];
    assert_eq!(world.lend(1, &reply, 0), Some(7));
    assert_eq!(world.due(0), Some(30));
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_got_less_than_it_needs_asks_again_later() {
    let mut world = World::new(quota(50.0, 1), None);
    let reply = [7, 20_000, 20_000, 0, 1, 1, 0, 0, 0, 0];
    world.lend(3, &reply, 0).unwrap();
    assert_eq!(world.missing(3, 10), Some((2, 50)));
    let reply = [7, 20_000, 20_000, 0, 0, 2, 0, 0, 0, 0];
    world.lend(2, &reply, 50).unwrap();
    assert_eq!(world.missing(4, 60), Some((1, 60)));
}

/// What a newcomer expects, beyond the slots that are there.
#[tokio::test(start_paused = true)]
async fn a_flow_expects_the_part_of_the_egress_that_others_leave() {
    let expected = |world: &mut World, before, at| {
        let load = FlowLoad {
            own: before,
            requests: before,
            ..FlowLoad::default()
        };
        let now = world.start + ms(at);
        let side = Side::Requests;
        let (token, ..) = world.flows.guaranteed(world.flow, load, side, now);
        (token - world.start).as_millis()
    };
    let mut world = World::new(quota(10.0, 1), None);
    // Three of the weight 4 that waits is of others, and as many of its own requests elsewhere.
    world.lend(1, &[7, 100_000, 100_000, 0, 4, 0, 1, 0, 0, 0], 0);
    assert_eq!(
        [0, 1, 2].map(|before| expected(&mut world, before, 0)),
        [100, 900, 1700]
    );
    // Nothing is known of them any more.
    assert_eq!(
        [0, 1, 2].map(|before| expected(&mut world, before, 400)),
        [400, 500, 600]
    );
    // Nothing else waits.
    world.lend(1, &[7, 100_000, 100_000, 0, 0, 1, 0, 0, 0, 0], 500);
    assert_eq!(
        [0, 1, 2].map(|before| expected(&mut world, before, 500)),
        [500, 600, 700]
    );
}

#[tokio::test(start_paused = true)]
async fn a_part_of_a_budget_is_empty_at_first_and_what_it_owes_is_asserted() {
    let mut world = World::new(quota(9.0, 9), quota(3.0, 3));
    let three = NonZeroU32::new(3).unwrap();
    assert!(world.flows.follow(Source::Part(three), world.start));
    assert!(!world.flows.follow(Source::Part(three), world.start));
    assert_eq!(world.due(0), Some(1_000));
    assert_eq!(world.flows.debts(world.start + ms(1)), None);
    world.take(1_000);
    assert_eq!(world.due(1_000), Some(2_000));
    let now = world.start + ms(1_000);
    assert!(world.flows.follow(Source::Server, now));
    assert_eq!(world.due(1_000), None);
    assert_eq!(world.flows.debts(now), Some(vec![world.flow]));
    let question = world.flows.question([(world.flow, 1, ms(30))], now);
    let interval = 111_112;
    // Of the egress the next token is due at once, of its own rate in a second.
    let egress = [8 * interval, interval, 8 * interval];
    let own = [1, 1, 30_000, 1_000_000 + 2 * 333_334, 333_334, 2 * 333_334];
    let arguments = question.arguments;
    let near = |given: i64, expected: i64| (given - expected).abs() <= 10;
    assert!(
        arguments
            .iter()
            .zip(egress.iter().chain(&own))
            .all(|(a, b)| near(*a, *b)),
        "{arguments:?}"
    );
}
