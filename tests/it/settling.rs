//! Verdicts of merged calls that failed: no caller pays for another.

use std::time::Duration;

use http::HeaderValue;
use http::header::RETRY_AFTER;
use tokio::time::Instant;
use wawp_gateway::sandbox::{Fault, FaultKind};

use crate::support::{World, ids, receipt};

const UNLIMITED: &str = "limit.rate = 0\nlimit.burst = 0";

#[tokio::test(start_paused = true)]
async fn one_bad_id_fails_its_own_caller_only() {
    for status in [400, 422, 500, 413, 414] {
        let world = World::new(UNLIMITED);
        let culprit = ids([5]).remove(0);
        let response = Fault::status(status).body("bad id").id(culprit.clone());
        world.sandbox.script(response.times(usize::MAX));
        let responses = world.together((0..8).map(|n| receipt([n]))).await;
        for (n, response) in responses.iter().enumerate() {
            let expected = if n == 5 { status } else { 201 };
            assert_eq!(response.status(), expected, "caller {n} on {status}");
        }
        assert_eq!(responses[5].text(), "bad id");
        // All; the first alone; four parts of the others; both of the part with
        // the culprit.
        let sizes: Vec<_> = world
            .sandbox
            .calls()
            .iter()
            .map(|call| call.ids.len())
            .collect();
        assert_eq!(sizes.iter().filter(|&&size| size == 8).count(), 1);
        assert_eq!(sizes.len(), 8, "{sizes:?}");
        assert_eq!(world.counted("wawp_gateway_batch_splits_total", &[]), 2.0);

        // The culprit stays out for a minute; the others do not.
        world.sandbox.clear();
        let responses = world.together((3..8).map(|n| receipt([n]))).await;
        assert_eq!(responses[2].status(), status);
        let mut sent: Vec<_> = world
            .sandbox
            .calls()
            .into_iter()
            .map(|call| call.ids)
            .collect();
        sent.sort();
        assert_eq!(sent, [ids([3, 4, 6, 7]), ids([5])]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.sandbox.clear();
        world.together((4..6).map(|n| receipt([n]))).await;
        assert_eq!(world.sandbox.calls()[0].ids.len(), 2, "quarantine is over");
    }
}

#[tokio::test(start_paused = true)]
async fn verdicts_that_blame_nobody_are_everybodys() {
    for status in [204, 301, 401, 403, 404, 409, 418, 501] {
        let world = World::new(UNLIMITED);
        world
            .sandbox
            .script(Fault::status(status).times(usize::MAX));
        let responses = world.together((0..4).map(|n| receipt([n]))).await;
        assert!(responses.iter().all(|response| response.status() == status));
        assert_eq!(world.sandbox.calls().len(), 1, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_repeated_but_never_split() {
    let outages = [
        Fault::status(502),
        Fault::status(503),
        Fault::status(504),
        Fault::new(FaultKind::ResetBeforeHead),
        Fault::new(FaultKind::ResetMidHead),
    ];
    for outage in outages {
        let world = World::new(UNLIMITED);
        world.sandbox.script(outage.clone().times(2));
        let responses = world.together((0..4).map(|n| receipt([n]))).await;
        assert!(
            responses.iter().all(|response| response.status() == 201),
            "{outage:?}"
        );
        let calls = world.sandbox.calls();
        assert_eq!(calls.len(), 3);
        assert!(calls.iter().all(|call| call.ids.len() == 4));
        assert_eq!(world.counted("wawp_gateway_batch_retries_total", &[]), 2.0);
        assert_eq!(world.counted("wawp_gateway_batch_splits_total", &[]), 0.0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_lasts_ends_in_the_last_verdict_in_time() {
    let world = World::new(UNLIMITED);
    world
        .sandbox
        .script(Fault::status(503).body("still down").times(usize::MAX));
    let began = Instant::now();
    let responses = world.together((0..4).map(|n| receipt([n]))).await;
    assert!(
        responses
            .iter()
            .all(|response| response.status() == 503 && response.text() == "still down")
    );
    assert!(
        began.elapsed() <= Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    // A floor of ten repeats in ten seconds, and a fifth of one call.
    assert!((2..=12).contains(&world.sandbox.calls().len()));
}

#[tokio::test(start_paused = true)]
async fn a_throttled_batch_waits_and_is_sent_again() {
    let world = World::new("");
    let busy = Fault::status(429).header(RETRY_AFTER, HeaderValue::from_static("2"));
    world.sandbox.script(busy);
    let began = Instant::now();
    let responses = world.together((0..3).map(|n| receipt([n]))).await;
    assert!(responses.iter().all(|response| response.status() == 201));
    assert_eq!(began.elapsed(), Duration::from_millis(2050));
    assert_eq!(world.sandbox.calls().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_pause_nobody_can_wait_for_is_told_as_the_upstream_told_it() {
    let world = World::new("");
    let busy = Fault::status(429)
        .header(RETRY_AFTER, HeaderValue::from_static("30"))
        .body(r#"{"code":"upstreams_own"}"#);
    world.sandbox.script(busy);
    let began = Instant::now();
    let responses = world.together((0..3).map(|n| receipt([n]))).await;
    for response in responses {
        assert_eq!(response.status(), 429);
        assert_eq!(response.json()["code"], "upstreams_own");
        assert_eq!(response.field("retry-after"), Some("30"));
        assert_eq!(response.field("proxy-status"), None);
    }
    assert_eq!(began.elapsed(), Duration::from_millis(50));
}
