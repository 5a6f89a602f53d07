//! Random histories of several gateways: what must hold whatever happens.
//!
//! The random numbers follow from a seed, which a failure names.

use std::cell::Cell;

use super::*;

/// Seeds of an ordinary run; `WAWP_CLUSTER_SEEDS` names another number of them.
const SEEDS: u64 = 60;

/// The longest round trip to the server.
const ROUND_TRIP: u64 = 20;

/// A small generator (SplitMix64).
pub(super) struct Random(Cell<u64>);

impl Random {
    fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `below`, without it.
    pub(super) fn below(&self, below: u64) -> u64 {
        self.next() % below
    }

    pub(super) fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// One request, from its arrival to its end.
#[derive(Clone, Copy, Debug)]
struct Done {
    gateway: usize,
    arrived: Instant,
    ended: Instant,
    is_sent: bool,
    /// The end of the pause that the upstream named.
    paused: Option<(Instant, Instant)>,
}

/// What happens in a history.
#[derive(Debug)]
struct Plan {
    rate: f64,
    burst: u32,
    max_wait: u64,
    gateways: u32,
    round_trip: Duration,
    lasts: u64,
    has_faults: bool,
    /// Faults are those of the server, and all gateways see them.
    has_common_faults: bool,
    has_pauses: bool,
    /// Some requests leave before they are sent.
    has_leavers: bool,
    /// Some of them are batches of receipts.
    has_receipts: bool,
}

impl Plan {
    fn new(random: &Random) -> Self {
        // With the last one, slots are reserved ahead.
        let rate = [1.0, 5.0, 20.0, 1_000.0][random.below(4) as usize];
        Self {
            rate,
            burst: [1, 3, 10, 100][random.below(4) as usize],
            max_wait: [500, 2_000, 4_000][random.below(3) as usize],
            gateways: 2 + random.below(2) as u32,
            round_trip: ms(1 + random.below(ROUND_TRIP)),
            lasts: if rate > 20.0 { 300 } else { 20_000 },
            has_faults: random.one_in(2),
            has_common_faults: random.one_in(2),
            has_pauses: random.one_in(3),
            has_leavers: random.one_in(2),
            has_receipts: random.one_in(2),
        }
    }
}

/// Runs a history and returns what became of each request.
async fn run(plan: &Plan, random: &Random) -> Vec<Done> {
    let config = of_rate(plan.rate, plan.burst, plan.max_wait);
    let all = Arc::new(Members::start(plan.gateways, plan.round_trip, config).await);
    let began = Instant::now();
    let mut requests = Vec::new();
    while began.elapsed() < ms(plan.lasts) {
        let gateway = random.below(u64::from(plan.gateways)) as usize;
        let count = if random.one_in(20) { 10 } else { 1 };
        for _ in 0..count {
            let is_receipt = plan.has_receipts && random.one_in(3);
            let kind = |opened| match is_receipt {
                true => Kind::Receipt { opened },
                false => Kind::Request,
            };
            let (request, arrived) = (all[gateway].send_kind("123", kind), Instant::now());
            let leaves = plan.has_leavers && random.one_in(10);
            let leaves = leaves.then(|| ms(random.below(2_000)));
            let pause = plan.has_pauses && random.one_in(30);
            let pause = pause.then(|| ms(1_000 + random.below(2_000)));
            let end = (leaves, pause, ms(random.below(300)));
            requests.push(tokio::spawn(finish(
                Arc::clone(&all),
                gateway,
                (request, arrived),
                end,
            )));
        }
        if plan.has_faults && random.one_in(60) {
            disturb(&all, random, plan.round_trip, plan.has_common_faults);
        }
        tokio::time::sleep(ms(random.below((4_000.0 / plan.rate) as u64))).await;
    }
    let mut done = Vec::new();
    for request in requests {
        // Every request ends: this would never return otherwise.
        let longest = ms(plan.max_wait + 2_000);
        let finished = tokio::time::timeout(longest, request).await;
        done.push(finished.expect("a request has no end").unwrap());
    }
    done
}

/// `end`: when it leaves, the pause that the upstream names, and how long the upstream takes.
async fn finish(
    all: Arc<Members>,
    gateway: usize,
    (mut request, arrived): (Sending, Instant),
    end: (Option<Duration>, Option<Duration>, Duration),
) -> Done {
    let (leaves, pause, takes) = end;
    let mut done = Done {
        gateway,
        arrived,
        ended: arrived,
        is_sent: false,
        paused: None,
    };
    let leave = tokio::time::sleep(leaves.unwrap_or(ms(3_600_000)));
    tokio::select! {
        result = &mut request => {
            let (acquired, at) = result.unwrap();
            done.ended = at;
            if let Ok(acquired) = acquired {
                done.is_sent = true;
                tokio::time::sleep(takes).await;
                let status = if pause.is_some() { 429 } else { 200 };
                all[gateway].respond("123", &acquired, status, pause);
                done.paused = pause.map(|pause| (Instant::now(), Instant::now() + pause));
            }
        }
        () = leave => {
            request.abort();
            done.ended = Instant::now();
        }
    }
    done
}

/// From a round trip after a 429 until the end of its pause, no gateway sends a request.
fn assert_paused(done: &[Done], round_trip: Duration) {
    for (from, until) in done.iter().filter_map(|it| it.paused) {
        let held = from + round_trip + ms(5)..until;
        let sent = done
            .iter()
            .filter(|it| it.is_sent && held.contains(&it.ended));
        assert_eq!(sent.count(), 0, "in a pause from {from:?} until {until:?}");
    }
}

/// Requests leave in the order of their arrival, to within a round trip, while the server is there.
fn assert_order(done: &[Done], plan: &Plan) {
    // A slot that was reserved ahead is used before those that requests of other gateways wait for.
    let ahead = if plan.rate > 20.0 { ms(20) } else { ms(0) };
    let mut sent: Vec<_> = done.iter().filter(|it| it.is_sent).collect();
    sent.sort_by_key(|it| it.ended);
    for (index, first) in sent.iter().enumerate() {
        for later in &sent[index + 1..] {
            // A request asks at once, or together with those that come during a round trip.
            let slack = 2 * plan.round_trip + ms(5) + ahead;
            assert!(
                later.arrived + slack >= first.arrived,
                "of gateways {} and {}: {first:?} left before {later:?}",
                first.gateway,
                later.gateway
            );
        }
    }
}

/// Breaks or mends the way of one gateway to the server, or that of all.
pub(super) fn disturb(all: &Members, random: &Random, round_trip: Duration, is_common: bool) {
    let path = match random.below(6) {
        0 => Path::Lost,
        1 => Path::Refused,
        2 => Path::RepliesLost,
        _ => Path::Open(round_trip),
    };
    let one = random.below(all.members.len() as u64) as usize;
    for (index, member) in all.members.iter().enumerate() {
        if is_common || index == one {
            member.link.set(path);
        }
    }
}

/// Checks the history of each seed, in simulated time.
pub(super) fn in_simulated_time<F: Future<Output = ()>>(history: impl Fn(Random) -> F) {
    let seeds = std::env::var("WAWP_CLUSTER_SEEDS");
    let seeds = seeds.map_or(SEEDS, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let random = Random(Cell::new(seed));
        let check = std::panic::AssertUnwindSafe(|| runtime.block_on(history(random)));
        if let Err(panic) = std::panic::catch_unwind(check) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn in_every_history_the_budget_is_kept_and_every_request_ends_in_time() {
    in_simulated_time(|random| async move {
        let plan = Plan::new(&random);
        // A test that fails shows it.
        println!("{plan:?}");
        let done = run(&plan, &random).await;
        for request in &done {
            let took = request.ended - request.arrived;
            assert!(took <= ms(plan.max_wait + 10), "{request:?} took {took:?}");
        }
        let sent: Vec<_> = done
            .iter()
            .filter(|it| it.is_sent)
            .map(|it| it.ended)
            .collect();
        // Gateways notice an outage at different times, and the others notice after
        // eight seconds that one is cut off.
        let extra = match (plan.has_faults, plan.has_common_faults) {
            (false, _) => 0.0,
            (true, true) => 2.0 * plan.rate,
            (true, false) => 8.0 * plan.rate,
        };
        assert_conform(&sent, plan.rate, plan.burst, extra);
        if !plan.has_faults {
            assert_paused(&done, plan.round_trip);
        }
        // The slot of a request that leaves, or that is too late after a pause, goes to
        // the next of its gateway.
        let is_undisturbed = !plan.has_faults && !plan.has_leavers && !plan.has_pauses;
        // Receipts yield.
        if is_undisturbed && !plan.has_receipts {
            assert_order(&done, &plan);
        }
    });
}
