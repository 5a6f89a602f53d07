//! Pace: no instance is driven faster than its budget, and no request overtakes one that must go first.

use std::time::Duration;

use http::HeaderValue;
use http::header::RETRY_AFTER;
use tokio::time::Instant;
use wawp_gateway::sandbox::{Call, Fault, Settings};

use crate::support::{World, ids, post, receipt, receipt_in_query, receipt_of, text};

/// GCRA's law: within any stretch of time there are at most `burst` calls, and `rate` more for each second of it.
#[track_caller]
fn obey(calls: &[Call], rate: f64, burst: f64) {
    for (first, from) in calls.iter().enumerate() {
        for (last, to) in calls.iter().enumerate().skip(first) {
            let allowed = burst + rate * (to.at - from.at).as_secs_f64();
            let sent = (last - first + 1) as f64;
            // Tokio's timers count whole milliseconds.
            assert!(
                sent <= allowed + rate * 0.001,
                "{sent} calls where {allowed} are allowed, from {first} to {last}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_hundred_receipts_at_twenty_a_second_through_two_calls_a_second() {
    let world = World::new("limit.rate = 2\nlimit.burst = 1");
    let began = Instant::now();
    let mut callers = Vec::new();
    for n in 0..200 {
        callers.push(world.calling(receipt([n])));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for caller in callers {
        assert_eq!(caller.await.unwrap().status(), 201);
    }
    let calls = world.sandbox.calls();
    obey(&calls, 2.0, 1.0);
    let mut sent: Vec<_> = calls.iter().flat_map(|call| call.ids.clone()).collect();
    assert_eq!(sent.len(), 200, "each id once");
    sent.sort();
    assert_eq!(sent, ids(0..200));
    assert!(
        began.elapsed() < Duration::from_secs(11),
        "{:?}",
        began.elapsed()
    );
    // Ten seconds at two a second, and no token wasted.
    assert!((19..=22).contains(&calls.len()), "{}", calls.len());
}

#[tokio::test(start_paused = true)]
async fn a_burst_and_then_the_rate() {
    let world = World::new("limit.rate = 4\nlimit.burst = 3\nlimit.max_wait = \"20s\"");
    let began = Instant::now();
    let responses = world.together((0..23).map(|n| text(&n.to_string()))).await;
    assert!(responses.iter().all(|response| response.status() == 201));
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    obey(&world.sandbox.calls(), 4.0, 3.0);
}

#[tokio::test(start_paused = true)]
async fn a_rate_below_one_a_second() {
    let world = World::new("limit.rate = 0.05\nlimit.burst = 1\nlimit.max_wait = \"100s\"");
    let began = Instant::now();
    world.together((0..4).map(|n| text(&n.to_string()))).await;
    assert_eq!(began.elapsed(), Duration::from_secs(60));
    obey(&world.sandbox.calls(), 0.05, 1.0);
}

fn words(call: &Call) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(&call.body).ok()?;
    Some(body["message"].as_str()?.to_owned())
}

#[tokio::test(start_paused = true)]
async fn sends_leave_in_order_and_before_waiting_receipts() {
    let world = World::new(
        "limit.rate = 1\nlimit.burst = 1\nlimit.max_wait = \"60s\"\nbatch.max_delay = \"50s\"",
    );
    world.call(text("0")).await;
    let mut callers = Vec::new();
    for n in 1..=5 {
        callers.push(world.calling(receipt([n])));
        callers.push(world.calling(text(&n.to_string())));
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    for caller in callers {
        assert_eq!(caller.await.unwrap().status(), 201);
    }
    let calls = world.sandbox.calls();
    obey(&calls, 1.0, 1.0);
    let order: Vec<_> = calls.iter().map(words).collect();
    let sends = (0..=5).map(|n| Some(n.to_string()));
    assert_eq!(order, sends.chain([None]).collect::<Vec<_>>());
    assert_eq!(calls[6].ids, ids(1..=5));
}

#[tokio::test(start_paused = true)]
async fn a_receipt_that_has_waited_long_enough_goes_first() {
    let world = World::new(
        "limit.rate = 1\nlimit.burst = 1\nlimit.max_wait = \"30s\"\nbatch.max_delay = \"2s\"",
    );
    world.call(text("0")).await;
    let mut callers = vec![world.calling(receipt([1]))];
    callers.extend((1..=5).map(|n| world.calling(text(&n.to_string()))));
    for caller in callers {
        assert_eq!(caller.await.unwrap().status(), 201);
    }
    let order: Vec<_> = world.sandbox.calls().iter().map(words).collect();
    let at = order.iter().position(Option::is_none).unwrap();
    assert!((2..=3).contains(&at), "{order:?}");
    assert!(order.iter().flatten().is_sorted(), "{order:?}");
}

#[tokio::test(start_paused = true)]
async fn instances_do_not_wait_for_each_other() {
    let world = World::new("limit.rate = 1\nlimit.burst = 1");
    let began = Instant::now();
    let one = ids([1]);
    let responses = world
        .together((0..20).map(|n| receipt_of(&format!("inst{n}"), "t", "1@c.us", &one)))
        .await;
    assert!(responses.iter().all(|response| response.status() == 201));
    assert_eq!(began.elapsed(), Duration::from_millis(50));
}

#[tokio::test(start_paused = true)]
async fn a_class_has_a_bucket_of_its_own_per_instance() {
    let world = World::new(
        "limit.rate = 1\nlimit.burst = 1\n[[limit.class]]\nname = \"sends\"\npaths = [\"/v2/send/*\"]\nrate = 2\nburst = 1\n",
    );
    let began = Instant::now();
    let me = "/v2/session/me?instance_id=123&access_token=token-1";
    let responses = world
        .together([
            text("a"),
            crate::support::get(me),
            text("b"),
            receipt_in_query([1]),
        ])
        .await;
    assert!(
        responses.iter().all(|response| response.status() < 300),
        "{responses:?}"
    );
    let calls = world.sandbox.calls();
    let at = |what: &str, nth: usize| {
        let found = calls.iter().filter(|call| call.path() == what).nth(nth);
        (found.unwrap().at - began).as_millis()
    };
    assert_eq!(at("/v2/send/text", 0), 0);
    assert_eq!(at("/v2/send/text", 1), 500);
    assert_eq!(at("/v2/session/me", 0), 0);
    assert_eq!(
        at("/v2/send/seen", 0),
        1000,
        "no wildcard takes the receipts"
    );
}

#[tokio::test(start_paused = true)]
async fn who_floods_an_instance_with_a_wrong_token_does_not_drain_it() {
    let world = World::new("limit.rate = 2\nlimit.burst = 2\nlimit.max_queue = 3");
    assert_eq!(world.call(text("proven")).await.status(), 201);
    let attack = |n: usize| {
        let body = format!(
            r#"{{"instance_id":"123","access_token":"invalid-{n}","chatId":"1@c.us","message":"m"}}"#
        );
        post("/v2/send/text", &body)
    };
    let attackers: Vec<_> = (0..50).map(|n| world.calling(attack(n))).collect();
    let began = Instant::now();
    assert_eq!(world.call(text("still served")).await.status(), 201);
    assert_eq!(began.elapsed(), Duration::ZERO);
    for attacker in attackers {
        assert!(matches!(attacker.await.unwrap().status(), 401 | 429));
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_429_pauses_its_instance_and_goes_to_its_caller() {
    let world = World::new("");
    let busy = Fault::status(429)
        .header(RETRY_AFTER, HeaderValue::from_static("2"))
        .body("upstream's own");
    world.sandbox.script(busy);
    let response = world.call(text("a")).await;
    assert_eq!(response.status(), 429);
    assert_eq!(response.text(), "upstream's own");
    assert_eq!(response.field("proxy-status"), None);
    let began = Instant::now();
    let other = receipt_of("999", "t", "1@c.us", &ids([1]));
    assert_eq!(world.call(other).await.status(), 201);
    assert_eq!(
        began.elapsed(),
        Duration::from_millis(50),
        "another instance"
    );
    assert_eq!(world.call(text("b")).await.status(), 201);
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    assert_eq!(
        world.counted("wawp_gateway_upstream_throttled_total", &[]),
        1.0
    );
}

#[tokio::test(start_paused = true)]
async fn before_an_upstream_with_a_quota_nothing_fails() {
    let settings = Settings {
        quota: Some((2.0, 2)),
        latency: Duration::from_millis(20),
        ..Settings::default()
    };
    let world = World::with_sandbox(
        "limit.rate = 2\nlimit.burst = 2\nlimit.max_wait = \"30s\"",
        settings,
    );
    let responses = world.together((0..30).map(|n| text(&n.to_string()))).await;
    assert!(responses.iter().all(|response| response.status() == 201));
    assert_eq!(world.sandbox.messages(), 30);
    assert_eq!(world.sandbox.received(), 30);
}
