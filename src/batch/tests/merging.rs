//! Which receipts share a call, and when it is sent.

use super::*;

#[tokio::test(start_paused = true)]
async fn callers_within_the_window_share_one_call() {
    let world = World::with(|_| ());
    let first = world.send(&receipt_of(&["a", "b"]));
    tokio::time::sleep(ms(20)).await;
    let second = world.send(&receipt_of(&["b", "c"]));
    tokio::time::sleep(ms(29)).await;
    let third = world.send(&receipt_of(&["d"]));
    let settled = [first.await, second.await, third.await];
    for settled in &settled {
        assert_eq!((settled.status, settled.callers), (Ok(201), 3));
    }
    assert_eq!(world.sent(), [ids(&["a", "b", "c", "d"])]);
    assert_eq!(world.times(), [50], "the window runs from the first caller");
    assert_eq!(world.metrics.saved_by_instances(), 2);
    assert_eq!(world.metrics.batches.open.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_caller_after_the_window_opens_another() {
    let world = World::with(|_| ());
    let first = world.send(&receipt_of(&["a"]));
    tokio::time::sleep(ms(51)).await;
    let second = world.send(&receipt_of(&["b"]));
    first.await;
    second.await;
    assert_eq!(world.sent(), [ids(&["a"]), ids(&["b"])]);
    assert_eq!(world.times(), [50, 101]);
}

#[tokio::test(start_paused = true)]
async fn the_request_of_a_single_caller_is_sent_unchanged() {
    let world = World::with(|_| ());
    let single = receipt_of(&["b", "a", "b"]);
    assert_eq!(world.send(&single).await.callers, 1);
    let call = &world.calls()[0];
    assert_eq!(call.body, single.body());
    assert_eq!(call.target, "/v2/send/seen?instance_id=1&access_token=t");
    let mut names: Vec<_> = call.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "content-type", "host"]);
}

#[tokio::test(start_paused = true)]
async fn what_differs_in_its_key_never_shares_a_call() {
    let other_token = TestReceipt {
        token: "u".to_owned(),
        ..receipt_of(&["a"])
    };
    let other_chat = TestReceipt {
        chat: "2@c.us".to_owned(),
        ..receipt_of(&["a"])
    };
    let from_participant = TestReceipt {
        participant: Some("3@c.us".to_owned()),
        ..receipt_of(&["a"])
    };
    let from_null = TestReceipt {
        participant: Some("null".to_owned()),
        ..receipt_of(&["a"])
    };
    let other_accept = TestReceipt {
        accept: Some("text/html".to_owned()),
        ..receipt_of(&["a"])
    };
    let whole_chat = receipt_of(&[]);
    let all = [
        receipt_of(&["a"]),
        other_token,
        other_chat,
        from_participant,
        from_null,
        other_accept,
        whole_chat,
    ];
    let world = World::with(|_| ());
    for settled in world.send_all(&all).await {
        assert_eq!((settled.status, settled.callers), (Ok(201), 1));
    }
    let mut bodies: Vec<_> = world.calls().iter().map(|call| call.body.clone()).collect();
    let mut own: Vec<_> = all
        .iter()
        .map(|receipt_of| Bytes::from(receipt_of.body()))
        .collect();
    bodies.sort();
    own.sort();
    assert_eq!(bodies, own);
}

#[tokio::test(start_paused = true)]
async fn identical_whole_chat_receipts_share_one_call() {
    let world = World::with(|_| ());
    let settled = world
        .send_all(&[receipt_of(&[]), receipt_of(&[]), receipt_of(&[])])
        .await;
    assert!(settled.iter().all(|settled| settled.callers == 3));
    assert_eq!(world.calls().len(), 1);
    assert_eq!(world.calls()[0].body, receipt_of(&[]).body());
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_is_sent_at_once_and_the_next_caller_opens_another() {
    for (max_ids, max_callers, expected) in [
        (
            3,
            1000,
            vec![(ids(&["a", "b", "c"]), 10), (ids(&["d"]), 70)],
        ),
        (100, 2, vec![(ids(&["a", "b"]), 10), (ids(&["c", "d"]), 20)]),
    ] {
        let world = World::with(|config| {
            config.batch.max_ids = max_ids;
            config.batch.max_callers = max_callers;
        });
        let mut sent = Vec::new();
        let callers: [(u64, &[&str]); 4] = [
            (0, &["a"]),
            (10, if max_ids == 3 { &["b", "c"] } else { &["b"] }),
            (20, if max_ids == 3 { &["d"] } else { &["c"] }),
            (20, &["d"]),
        ];
        for (at, ids) in callers {
            tokio::time::sleep_until(world.start + ms(at)).await;
            sent.push(world.send(&receipt_of(ids)));
        }
        for verdict in sent {
            assert_eq!(verdict.await.status, Ok(201));
        }
        let calls: Vec<_> = world.sent().into_iter().zip(world.times()).collect();
        assert_eq!(calls, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_would_exceed_the_cap_seals_the_batch_and_opens_another() {
    let world = World::with(|config| config.batch.max_ids = 3);
    let settled = world
        .send_all(&[
            receipt_of(&["a", "b"]),
            receipt_of(&["c", "d"]),
            receipt_of(&["d"]),
        ])
        .await;
    assert!(settled.iter().all(|settled| settled.status == Ok(201)));
    assert_eq!(world.sent(), [ids(&["a", "b"]), ids(&["c", "d"])]);
    assert_eq!(world.times(), [0, 50]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_alone_over_the_cap_goes_alone_and_unchanged() {
    let world = World::with(|config| config.batch.max_ids = 3);
    let large = receipt_of(&["a", "b", "c", "d"]);
    let (first, large_verdict) = (world.send(&receipt_of(&["a"])), world.send(&large));
    assert_eq!(large_verdict.await.callers, 1);
    assert_eq!(first.await.callers, 1);
    assert_eq!(world.calls()[0].body, large.body());
    assert_eq!(world.times(), [0, 50]);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_fills_a_batch_is_not_too_long_for_one() {
    let world = World::with(|config| config.batch.max_ids = 2);
    for (ids, reason) in [
        (&["a", "b"][..], NotMerged::Alone),
        (&["a", "b", "c"], NotMerged::TooManyIds),
    ] {
        let verdict = world.join(&receipt_of(ids)).unwrap().await.unwrap();
        assert_eq!(verdict.timing.not_merged, Some(reason));
    }
}

#[tokio::test(start_paused = true)]
async fn window_zero_merges_nothing() {
    let world = World::with(|config| config.batch.window = Duration::ZERO);
    let all = [receipt_of(&["a"]), receipt_of(&["a"]), receipt_of(&["b"])];
    for settled in world.send_all(&all).await {
        assert_eq!((settled.status, settled.callers), (Ok(201), 1));
    }
    assert_eq!(world.calls().len(), 3);
    assert_eq!(world.times(), [0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_the_window_at_once_and_opens_no_other() {
    let world = World::with(|_| ());
    let sent = [receipt_of(&["a"]), receipt_of(&["b"])].map(|receipt_of| world.send(&receipt_of));
    tokio::time::sleep(ms(10)).await;
    world.batcher.flush();
    for verdict in sent {
        let settled = verdict.await;
        assert_eq!(
            (settled.status, settled.callers, settled.at),
            (Ok(201), 2, 10)
        );
    }
    let late = world.send(&receipt_of(&["c"])).await;
    assert_eq!((late.status, late.at), (Ok(201), 10));
    world.tasks.close();
    world.tasks.wait().await;
}

#[tokio::test(start_paused = true)]
async fn receipts_of_callers_that_disconnect_are_sent() {
    let world = World::with(|_| ());
    drop(world.join(&receipt_of(&["a"])).unwrap());
    let stays = world.send(&receipt_of(&["b"]));
    drop(world.join(&receipt_of(&["c"])).unwrap());
    assert_eq!(stays.await.callers, 3);
    // All of them.
    drop(world.join(&receipt_of(&["d"])).unwrap());
    drop(world.join(&receipt_of(&["e"])).unwrap());
    tokio::time::sleep(ms(100)).await;
    assert_eq!(world.sent(), [ids(&["a", "b", "c"]), ids(&["d", "e"])]);
}

#[tokio::test(start_paused = true)]
async fn no_receipt_joins_a_call_in_flight() {
    let world = World::new(
        &{
            let mut config = Config::default();
            config.limit.quota = None;
            config
        },
        sandbox::Settings {
            latency: ms(500),
            ..Default::default()
        },
    );
    let first = world.send(&receipt_of(&["a"]));
    tokio::time::sleep(ms(60)).await;
    let second = world.send(&receipt_of(&["a"]));
    assert_eq!((first.await.callers, second.await.callers), (1, 1));
    assert_eq!(world.times(), [50, 110]);
}

/// A merged query must not outgrow the request lines that servers accept.
#[tokio::test(start_paused = true)]
async fn long_ids_in_a_query_fill_a_batch_early() {
    let receipt = |n: usize| {
        let id = format!("false_1@c.us_{}{n}", "@".repeat(400));
        let list = format!("%5B%22{}%22%5D", id.replace('@', "%40"));
        let target =
            format!("/v2/send/seen?instance_id=1&access_token=t&chatId=1@c.us&messageIds={list}");
        let (head, ()) = Request::post(target).body(()).unwrap().into_parts();
        Receipt::by_default(head, Bytes::new()).expect("a receipt")
    };
    let world = World::with(|_| ());
    let verdict: Vec<_> = (0..90)
        .map(|n| world.join_as(receipt(n)).unwrap())
        .collect();
    for verdict in verdict {
        let verdict = verdict.await.expect("verdict");
        assert_eq!(status(&verdict.response), Ok(201));
    }
    let calls = world.calls();
    assert_eq!(calls.iter().map(|call| call.ids.len()).sum::<usize>(), 90);
    for call in &calls {
        assert!(call.target.len() <= 8000, "{}", call.target.len());
    }
    assert!(calls.len() <= 16, "{}", calls.len());
}
