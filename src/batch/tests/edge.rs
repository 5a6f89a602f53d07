//! `batch.edge = "leading"`: the first receipt of an idle key does not wait.

use std::sync::atomic::Ordering;

use super::*;
use crate::config::BatchEdge;
use crate::tools::sandbox::Fault;

/// A world whose upstream takes so long to respond.
fn world(latency: u64, change: impl FnOnce(&mut Config)) -> World {
    let mut config = Config::default();
    config.limit.quota = None;
    config.batch.edge = BatchEdge::Leading;
    change(&mut config);
    let latency = ms(latency);
    World::new(
        &config,
        sandbox::Settings {
            latency,
            ..Default::default()
        },
    )
}

#[tokio::test(start_paused = true)]
async fn a_loop_of_awaited_receipts_costs_no_more_than_without_a_gateway() {
    let world = world(84, |_| {});
    for id in 0..30 {
        world.send(&receipt_of(&[&id.to_string()])).await;
    }
    assert_eq!(world.start.elapsed(), ms(30 * 84));
    assert_eq!(world.calls().len(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_burst_costs_one_more_call() {
    for latency in [0, 20, 300] {
        let world = world(latency, |_| {});
        let mut sent = Vec::new();
        for id in 0..30 {
            sent.push(world.send(&receipt_of(&[&id.to_string()])));
            tokio::time::sleep(ms(1)).await;
        }
        for settled in sent {
            assert_eq!(settled.await.status, Ok(201));
        }
        // The window of those that follow begins with the second receipt.
        assert_eq!(world.times(), [0, 51], "{latency} ms");
        assert_eq!(world.sent()[0], ids(&["0"]));
        assert_eq!(world.sent()[1].len(), 29);
        assert_eq!(world.metrics.saved_by_instances(), 28);
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_is_busy_while_its_call_is_in_flight_and_for_a_window() {
    // The time of the second receipt, and the time of its call: the response takes
    // 20 ms, and then 120 ms.
    for (latency, at, sent) in [
        (20, 30, 80),
        (20, 49, 99),
        (20, 53, 53),
        (120, 53, 103),
        (120, 119, 169),
        (120, 121, 121),
    ] {
        let world = world(latency, |_| {});
        let first = world.send(&receipt_of(&["a"]));
        tokio::time::sleep_until(world.start + ms(at)).await;
        let second = world.send(&receipt_of(&["b"])).await;
        assert_eq!(world.times(), [0, sent], "{latency} ms, {at}");
        assert_eq!((first.await.callers, second.callers), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn other_keys_are_idle_meanwhile() {
    let world = world(100, |_| {});
    let other = TestReceipt {
        chat: "2@c.us".to_owned(),
        ..receipt_of(&["a"])
    };
    let settled = world.send_all(&[receipt_of(&["a"]), other]).await;
    assert_eq!(world.times(), [0, 0]);
    assert!(settled.iter().all(|settled| settled.at == 100));
}

#[tokio::test(start_paused = true)]
async fn a_leading_receipt_without_a_token_waits_and_others_join_it() {
    let world = world(0, |config| config.limit.quota = quota(1.0, 1));
    world.drain_tokens();
    let first = world.send(&receipt_of(&["a"]));
    tokio::time::sleep(ms(600)).await;
    let second = world.send(&receipt_of(&["b"]));
    assert_eq!((first.await.callers, second.await.callers), (2, 2));
    assert_eq!(world.times(), [1000]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_leading_receipt_leaves_its_key_idle() {
    let world = world(0, |config| {
        config.limit.quota = quota(0.2, 1);
        config.limit.max_wait = ms(1000);
    });
    world.drain_tokens();
    tokio::time::sleep(ms(4500)).await;
    let first = world.send(&receipt_of(&["a"]));
    // It joins the queue before the other call.
    tokio::time::sleep(ms(1)).await;
    let lane = world.lane();
    let older = Kind::FollowUp {
        opened: world.start,
    };
    // Takes the token of 5000, for which the receipt has waited.
    let call = world
        .limiter
        .admit(&lane, older, Instant::now() + ms(60_000));
    assert_eq!(first.await.at, 5500);
    drop(call);
    tokio::time::sleep_until(world.start + ms(11_000)).await;
    let second = world.send(&receipt_of(&["b"])).await;
    assert_eq!((second.at, second.status), (11_000, Ok(201)));
}

#[tokio::test(start_paused = true)]
async fn a_failing_leading_call_concerns_its_own_caller_only() {
    let world = world(20, |_| {});
    let bad = Fault::status(500).id(id_of("1@c.us", "bad"));
    world.sandbox.script(bad.times(usize::MAX));
    let first = world.send(&receipt_of(&["bad"]));
    tokio::time::sleep(ms(1)).await;
    let others = ["a", "b"].map(|id| receipt_of(&[id]));
    let others = world.send_all(&others).await;
    assert_eq!(first.await.status, Ok(500));
    assert!(others.iter().all(|settled| settled.status == Ok(201)));
    assert_eq!(world.sent(), [ids(&["bad"]), ids(&["a", "b"])]);
    // It is in quarantine now: sent alone, and its key stays idle.
    tokio::time::sleep_until(world.start + ms(1000)).await;
    let first = world.send(&receipt_of(&["bad"]));
    tokio::time::sleep(ms(1)).await;
    let second = world.send(&receipt_of(&["c"])).await;
    assert_eq!((first.await.callers, second.callers), (1, 1));
    assert_eq!(world.times()[2..], [1000, 1001]);
}

#[tokio::test(start_paused = true)]
async fn a_retried_leading_call_keeps_its_key_busy() {
    let world = world(0, |_| {});
    world.sandbox.script(Fault::status(503));
    let first = world.send(&receipt_of(&["a"]));
    // The retry is due after 100 to 150 ms.
    tokio::time::sleep(ms(80)).await;
    let second = world.send(&receipt_of(&["b"]));
    assert_eq!((first.await.callers, second.await.callers), (1, 1));
    let times = world.times();
    assert_eq!(times.len(), 3);
    assert!(times.contains(&130), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn no_key_is_kept_once_it_is_idle_and_a_drain_does_not_wait_for_it() {
    let world = world(0, |config| config.batch.window = ms(1000));
    for chat in 0..500 {
        let receipt = TestReceipt {
            chat: format!("{chat}@c.us"),
            ids: Vec::new(),
            ..receipt_of(&[])
        };
        world.send(&receipt).await;
    }
    assert_eq!(world.batcher.open.len(), 500);
    world.batcher.flush();
    world.tasks.close();
    world.tasks.wait().await;
    assert_eq!(world.start.elapsed(), Duration::ZERO);
    tokio::time::sleep(ms(1002)).await;
    assert_eq!(world.batcher.open.len(), 0);
    assert_eq!(world.batcher.kept.load(Ordering::Relaxed), 0);
}
