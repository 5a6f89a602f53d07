//! Random histories of gateways that share an egress and the rates of tenants.
//!
//! The random numbers follow from a seed, which a failure names.

use super::super::histories::{Random, disturb, in_simulated_time};
use super::*;

/// The instances of four tenants, and one without a tenant.
const INSTANCES: [&str; 5] = ["a", "b", "c", "d", "e"];

#[derive(Debug)]
struct Plan {
    egress: Option<(f64, u32)>,
    /// The rate of each tenant, if it has one.
    rates: [Option<(f64, u32)>; 4],
    weights: [u32; 4],
    gateways: u32,
    round_trip: Duration,
    max_wait: u64,
    /// The requests of all tenants, on all gateways, in a second.
    load: u64,
    faults: Faults,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Faults {
    None,
    /// Those of the server, and all gateways see them.
    Common,
    OfOneGateway,
}

impl Plan {
    fn new(random: &Random) -> Self {
        let rate = || {
            let rate = [1.0, 4.0, 20.0][random.below(3) as usize];
            Some((rate, [1, 5][random.below(2) as usize])).filter(|_| random.one_in(3))
        };
        let rates = [(); 4].map(|()| rate());
        let egress = [5.0, 30.0, 100.0][random.below(3) as usize];
        let egress = (egress, [1, 10][random.below(2) as usize]);
        Self {
            egress: Some(egress).filter(|_| !random.one_in(5)),
            rates,
            weights: [(); 4].map(|()| 1 + random.below(4) as u32),
            gateways: 2 + random.below(2) as u32,
            round_trip: ms(1 + random.below(20)),
            max_wait: [500, 4_000][random.below(2) as usize],
            load: [4, 40, 120][random.below(3) as usize],
            faults: match random.below(4) {
                0 => Faults::Common,
                1 => Faults::OfOneGateway,
                _ => Faults::None,
            },
        }
    }

    fn config(&self) -> Config {
        let quota = |it: Option<(f64, u32)>| it.and_then(|(rate, burst)| quota(rate, burst));
        let tenants = (0..4).map(|index| {
            let instance = INSTANCES[index];
            tenant(
                instance,
                self.weights[index],
                quota(self.rates[index]),
                &[instance],
            )
        });
        let mut config = sharing(quota(self.egress), tenants.collect());
        config.limit.max_wait = ms(self.max_wait);
        config
    }
}

/// When the requests of each instance left.
async fn run(plan: &Plan, random: &Random) -> [Vec<Instant>; 5] {
    let all = Members::start(plan.gateways, plan.round_trip, plan.config()).await;
    for member in &all.members {
        for instance in INSTANCES {
            let (acquired, _) = member.send(instance).await.unwrap();
            if let Ok(acquired) = acquired {
                member.respond(instance, &acquired, 201, None);
            }
        }
        // Their tokens come back.
        tokio::time::sleep(ms(15_000)).await;
    }
    let began = Instant::now();
    let mut requests = Vec::new();
    while began.elapsed() < ms(15_000) {
        let index = random.below(5) as usize;
        let gateway = random.below(u64::from(plan.gateways)) as usize;
        let count = if random.one_in(20) { 10 } else { 1 };
        for _ in 0..count {
            requests.push((index, Instant::now(), all[gateway].send(INSTANCES[index])));
        }
        if random.one_in(20)
            && let Some((_, _, request)) = requests.last()
        {
            request.abort();
            requests.pop();
        }
        if plan.faults != Faults::None && random.one_in(2 * plan.load) {
            let is_common = plan.faults == Faults::Common;
            disturb(&all, random, plan.round_trip, is_common);
        }
        tokio::time::sleep(ms(random.below(2_000 / plan.load))).await;
    }
    let mut sent = [(); 5].map(|()| Vec::new());
    for (index, arrived, request) in requests {
        // Every request ends, and in time.
        let longest = ms(plan.max_wait + 2_000);
        let ended = tokio::time::timeout(longest, request).await;
        let (acquired, at) = ended.expect("a request has no end").unwrap();
        assert!(at - arrived <= ms(plan.max_wait + 10), "{:?}", at - arrived);
        if acquired.is_ok() {
            sent[index].push(at);
        }
    }
    sent
}

#[test]
fn in_every_history_the_egress_and_the_rates_of_tenants_are_kept() {
    in_simulated_time(|random| async move {
        let plan = Plan::new(&random);
        // A test that fails shows it.
        println!("{plan:?}");
        let sent = run(&plan, &random).await;
        // Gateways notice an outage at different times, and the others notice after eight
        // seconds that one is cut off.
        let extra = match plan.faults {
            Faults::None => 0.1,
            Faults::Common => 2.0,
            Faults::OfOneGateway => 8.0,
        };
        for (sent, rate) in sent.iter().zip(plan.rates) {
            if let Some((rate, burst)) = rate {
                // With a part of less than one, each gateway has a burst of one.
                let bursts = if plan.faults == Faults::None {
                    0.0
                } else {
                    f64::from(plan.gateways)
                };
                assert_conform(sent, rate, burst, extra * rate + bursts);
            }
        }
        if let Some((rate, burst)) = plan.egress {
            let all: Vec<_> = sent.into_iter().flatten().collect();
            let bursts = if plan.faults == Faults::None {
                0.0
            } else {
                f64::from(plan.gateways)
            };
            assert_conform(&all, rate, burst, extra * rate + bursts);
        }
    });
}
