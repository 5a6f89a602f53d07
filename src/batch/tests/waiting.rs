//! Batches that wait for a token.

use super::*;
use crate::limit::Refusal;

#[tokio::test(start_paused = true)]
async fn a_batch_accepts_callers_until_its_token_is_granted() {
    let world = World::with(|config| config.limit.quota = quota(1.0, 1));
    world.drain_tokens();
    let mut sent = vec![world.send(&receipt_of(&["a"]))];
    for (at, id) in [(300, "b"), (600, "c"), (999, "d")] {
        tokio::time::sleep_until(world.start + ms(at)).await;
        sent.push(world.send(&receipt_of(&[id])));
    }
    tokio::time::sleep_until(world.start + ms(1001)).await;
    sent.push(world.send(&receipt_of(&["e"])));
    let mut settled = Vec::new();
    for verdict in sent {
        settled.push(verdict.await);
    }
    assert!(settled[..4].iter().all(|settled| settled.callers == 4));
    assert_eq!(world.sent(), [ids(&["a", "b", "c", "d"]), ids(&["e"])]);
    assert_eq!(world.times(), [1000, 2000]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_counts_as_one_in_the_queue() {
    let world = World::with(|config| {
        config.limit.quota = quota(1.0, 1);
        config.limit.max_queue = 1;
    });
    world.drain_tokens();
    let first = world.send(&receipt_of(&["a"]));
    tokio::time::sleep(ms(100)).await;
    // The queue is full, but the batch is in it already.
    let second = world.send(&receipt_of(&["b"]));
    let other = world.send(&TestReceipt {
        chat: "2@c.us".to_owned(),
        ..receipt_of(&["a"])
    });
    let other = other.await;
    assert_eq!(other.at, 100, "refused at once");
    let Err(NoResponse::RateLimited(refused)) = other.status else {
        panic!("{other:?}");
    };
    assert_eq!(refused.refusal, Refusal::QueueFull);
    assert_eq!(
        (first.await.status, second.await.status),
        (Ok(201), Ok(201))
    );
}

#[tokio::test(start_paused = true)]
async fn callers_expire_one_by_one_and_the_batch_goes_on() {
    let world = World::with(|config| {
        config.limit.quota = quota(0.2, 1);
        config.limit.max_wait = ms(4000);
    });
    world.drain_tokens();
    tokio::time::sleep(ms(1500)).await;
    // The token is due at 5000; a caller of 1500 can wait until 5500.
    let first = world.send(&receipt_of(&["a"]));
    let lane = world.lane();
    tokio::time::sleep(ms(500)).await;
    // A further call of an older batch takes the token of 5000.
    let far = Instant::now() + ms(60_000);
    let call = world.limiter.admit(
        &lane,
        Kind::FollowUp {
            opened: world.start,
        },
        far,
    );
    let mut sent = Vec::new();
    for (at, id) in [(4000, "b"), (6500, "c")] {
        tokio::time::sleep_until(world.start + ms(at)).await;
        sent.push(world.send(&receipt_of(&[id])));
    }
    let first = first.await;
    assert_eq!(first.at, 5500, "at its own deadline");
    assert!(
        matches!(first.status, Err(NoResponse::RateLimited(_))),
        "{first:?}"
    );
    drop(call);
    let mut settled = Vec::new();
    for verdict in sent {
        settled.push(verdict.await.status.is_ok());
    }
    // `b` (until 8000) is too late for the token at 10,000; `c` (until 10,500) is not.
    assert_eq!(settled, [false, true]);
    assert_eq!(world.sent(), [ids(&["c"])]);
    assert_eq!(world.times(), [10_000]);
}

/// It is itself one of the entries that fill the queue.
#[tokio::test(start_paused = true)]
async fn a_batch_that_waited_in_a_full_queue_waited_too_long() {
    let world = World::with(|config| {
        config.limit.quota = quota(0.2, 1);
        config.limit.max_wait = ms(6000);
        config.limit.max_queue = 2;
        config.batch.max_delay = ms(60_000);
    });
    world.drain_tokens();
    let outrun = world.send(&receipt_of(&["a"]));
    let lane = world.lane();
    let mut calls = Vec::new();
    // Further calls of batches go first: they take the tokens of 5000 and 10000.
    let kind = Kind::FollowUp {
        opened: world.start,
    };
    for at in [1000, 5500] {
        tokio::time::sleep_until(world.start + ms(at)).await;
        let deadline = Instant::now() + ms(6000);
        calls.push(world.limiter.admit(&lane, kind, deadline).unwrap());
    }
    let outrun = outrun.await;
    assert_eq!(outrun.at, 6000);
    let Err(NoResponse::RateLimited(refused)) = outrun.status else {
        panic!("{outrun:?}");
    };
    assert_eq!(refused.refusal, Refusal::WaitTooLong);
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_callers_have_all_expired_is_not_sent() {
    let world = World::with(|config| {
        config.limit.quota = quota(0.2, 1);
        config.limit.max_wait = ms(4000);
    });
    world.drain_tokens();
    tokio::time::sleep(ms(1500)).await;
    let first = world.send(&receipt_of(&["a"]));
    tokio::time::sleep(ms(500)).await;
    let lane = world.lane();
    let far = Instant::now() + ms(60_000);
    let older = Kind::FollowUp {
        opened: world.start,
    };
    let call = world.limiter.admit(&lane, older, far);
    assert_eq!(first.await.at, 5500);
    tokio::time::sleep(ms(20_000)).await;
    assert!(world.calls().is_empty());
    assert_eq!(world.metrics.batches.open.get(), 0);
    drop(call);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_cannot_be_served_in_time_is_refused_at_once() {
    let world = World::with(|config| {
        config.limit.quota = quota(0.1, 1);
        config.limit.max_wait = ms(4000);
    });
    world.drain_tokens();
    let refused = world.send(&receipt_of(&["a"])).await;
    assert!(matches!(
        refused.status,
        Err(NoResponse::RateLimited(refused)) if refused.refusal == Refusal::WaitTooLong
    ));
    assert_eq!(refused.at, 0, "refused at once, not after the window");
}

#[tokio::test(start_paused = true)]
async fn a_pause_refuses_receipts_that_wait_and_those_that_would_join_them() {
    let world = World::with(|config| {
        config.limit.quota = quota(1.0, 1);
        config.limit.max_wait = ms(4000);
    });
    let lane = world.lane();
    let crate::limit::Admission::Now(permit) = world
        .limiter
        .admit(&lane, Kind::Request, Instant::now())
        .unwrap()
    else {
        panic!("a full bucket");
    };
    let waiting = world.send(&receipt_of(&["a"]));
    tokio::time::sleep(ms(500)).await;
    let throttled = http::StatusCode::TOO_MANY_REQUESTS;
    lane.on_response(&permit, throttled, Some(ms(10_000)));
    let joins = world.send(&receipt_of(&["b"]));
    for heard in [waiting.await, joins.await] {
        let Err(NoResponse::RateLimited(refused)) = heard.status else {
            panic!("{heard:?}");
        };
        assert_eq!(refused.refusal, Refusal::Paused);
        assert_eq!(heard.at, 500, "at once");
    }
    assert!(world.calls().is_empty());
}

/// A pause that one caller of a batch cannot outlast, and a later one can.
#[tokio::test(start_paused = true)]
async fn a_pause_refuses_the_callers_of_a_batch_that_have_no_time_for_it_and_no_others() {
    let world = World::with(|config| {
        config.limit.quota = quota(0.5, 1);
        config.limit.max_wait = ms(4000);
    });
    let lane = world.lane();
    let now = Instant::now();
    let admitted = world.limiter.admit(&lane, Kind::Request, now);
    let Ok(crate::limit::Admission::Now(permit)) = admitted else {
        panic!("a full bucket");
    };
    // Due at 2000.
    let early = world.send(&receipt_of(&["a"]));
    tokio::time::sleep(ms(1500)).await;
    let late = world.send(&receipt_of(&["b"]));
    tokio::time::sleep(ms(100)).await;
    // Until 4600: `a` can wait until 4000, `b` until 5500.
    let throttled = http::StatusCode::TOO_MANY_REQUESTS;
    lane.on_response(&permit, throttled, Some(ms(3000)));
    let early = early.await;
    let Err(NoResponse::RateLimited(refused)) = early.status else {
        panic!("{early:?}");
    };
    assert_eq!((refused.refusal, early.at), (Refusal::Paused, 1600));
    assert_eq!(late.await.status, Ok(201));
    assert_eq!(world.sent(), [ids(&["b"])]);
    assert_eq!(world.times(), [4600]);
}
