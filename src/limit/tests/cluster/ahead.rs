//! Slots that a gateway reserves before requests need them.

use super::*;

/// Requests on one gateway, evenly, and how long each waited.
async fn steady(member: &Member, count: u32, between: Duration) -> Vec<Duration> {
    let mut requests = Vec::new();
    for _ in 0..count {
        requests.push((Instant::now(), member.send("123")));
        tokio::time::sleep(between).await;
    }
    let mut waits = Vec::new();
    for (arrived, request) in requests {
        let (acquired, at) = request.await.unwrap();
        acquired.unwrap();
        waits.push(at - arrived);
    }
    waits
}

/// Operations on the server for each of these requests.
async fn operations(all: &Members, count: u32, between: Duration) -> f64 {
    // Credentials are asked for with the first request.
    steady(&all[0], 20, between).await;
    let calls = all.server.calls();
    steady(&all[0], count, between).await;
    (all.server.calls() - calls) as f64 / f64::from(count)
}

fn slots_held(member: &Member) -> i64 {
    member.limiter.report();
    member.cluster.slots_held().get()
}

#[tokio::test(start_paused = true)]
async fn a_busy_instance_costs_few_operations_and_its_requests_find_slots() {
    let all = Members::start(2, ms(2), of_rate(2_000.0, 100, 1_000)).await;
    let per_request = operations(&all, 1_000, ms(1)).await;
    assert!(per_request <= 0.2, "{per_request}");
    let waits = steady(&all[0], 1_000, ms(1)).await;
    let at_once = waits.iter().filter(|it| it.is_zero()).count();
    assert!(at_once >= 990, "{at_once}");
    // What the last requests have left lapses, and the bucket is full again.
    tokio::time::sleep(ms(30)).await;
    assert_eq!(slots_held(&all[0]), 0);
    let request = all[1].send("123").await.unwrap().0.unwrap();
    assert!(request.permit.remaining >= Some(98), "{request:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_reserved_ahead_at_usual_rates() {
    for (rate, burst, between) in [(20.0, 200, 1), (300.0, 300, 5), (5_000.0, 100, 25)] {
        let all = Members::start(2, ms(2), of_rate(rate, burst, 1_000)).await;
        let per_request = operations(&all, 100, ms(between)).await;
        assert!(per_request > 0.45, "{per_request} at {rate}/s");
        assert_eq!(slots_held(&all[0]), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_reserved_ahead_where_calls_in_flight_or_the_egress_are_bounded() {
    let capped = with_cap(of_rate(2_000.0, 100, 1_000), 50);
    let mut with_egress = of_rate(2_000.0, 100, 1_000);
    with_egress.egress.quota = quota(10_000.0, 1_000);
    for config in [capped, with_egress] {
        let all = Members::start(2, ms(2), config).await;
        for _ in 0..200 {
            drop(all[0].send("123").await.unwrap().0.unwrap());
            tokio::time::sleep(ms(1)).await;
            assert_eq!(slots_held(&all[0]), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn busy_gateways_keep_the_budget_and_the_order_to_within_a_few_milliseconds() {
    for (rate, burst, between) in [(1_000.0, 20, 2), (1_000.0, 200, 4), (600.0, 5, 3)] {
        let all = Members::start(3, ms(1), of_rate(rate, burst, 1_000)).await;
        let mut requests = Vec::new();
        for round in 0..400 {
            for index in 0..3 {
                // Each gateway is busy for a while, and then sends one request now and then.
                if (round / 100 + index) % 3 > 0 || round % 20 == 0 {
                    requests.push((Instant::now(), all[index].send("123")));
                }
            }
            tokio::time::sleep(ms(between)).await;
        }
        let mut sent = Vec::new();
        for (arrived, request) in requests {
            if let (Ok(_), at) = request.await.unwrap() {
                sent.push((at, arrived));
            }
        }
        let times: Vec<_> = sent.iter().map(|it| it.0).collect();
        assert_conform(&times, rate, burst, 0.0);
        for (at, arrived) in &sent {
            let overtaken = sent.iter().filter(|(other, _)| other < at);
            let last = overtaken.map(|it| it.1).max().unwrap_or(*arrived);
            // What a gateway has reserved ahead, and a round trip for each.
            assert!(
                last <= *arrived + ms(25),
                "by {:?} at {rate}/s",
                last - *arrived
            );
        }
    }
}
