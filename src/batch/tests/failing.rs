//! Which verdict each caller gets when calls fail (rules: settling, splitting).

use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue};

use super::*;
use crate::tools::sandbox::{Fault, FaultKind};
use crate::upstream::UpstreamError;

const ALWAYS: usize = usize::MAX;

/// 32 callers with an id each.
fn crowd() -> Vec<TestReceipt> {
    (0..32).map(|n| receipt_of(&[&format!("m{n}")])).collect()
}

#[tokio::test(start_paused = true)]
async fn one_bad_id_is_found_and_only_its_caller_gets_the_error() {
    for status in [400, 413, 414, 422, 500] {
        let world = World::with(|_| ());
        world.sandbox.script(
            Fault::status(status)
                .id(id_of("1@c.us", "m13"))
                .times(ALWAYS),
        );
        for (n, settled) in world.send_all(&crowd()).await.iter().enumerate() {
            let expected = if n == 13 { status } else { 201 };
            assert_eq!(settled.status, Ok(expected), "caller {n} of {status}");
        }
        // All; the first alone; four quarters; both halves at each of three levels.
        assert_eq!(world.calls().len(), 12, "{status}");
        assert_eq!(world.metrics.batches.splits.get(), 4);
        assert_eq!(world.metrics.saved_by_instances(), 32 - 12);
        let alone = world
            .calls()
            .into_iter()
            .filter(|call| call.body == crowd()[13].body());
        assert_eq!(alone.count(), 1, "its own request, unchanged");
    }
}

#[tokio::test(start_paused = true)]
async fn two_bad_ids_are_found_too() {
    for (one, two) in [(0, 31), (6, 7), (13, 20)] {
        let world = World::with(|_| ());
        for n in [one, two] {
            let id = id_of("1@c.us", &format!("m{n}"));
            world
                .sandbox
                .script(Fault::status(500).id(id).times(ALWAYS));
        }
        for (n, settled) in world.send_all(&crowd()).await.iter().enumerate() {
            let expected = if n == one || n == two { 500 } else { 201 };
            assert_eq!(settled.status, Ok(expected), "caller {n}");
        }
        let calls = world.calls().len();
        assert!(calls <= 2 * (2 * 5) + 4, "{calls}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_part_of_a_split_takes_a_token() {
    let world = World::with(|config| config.limit.quota = quota(10.0, 1));
    let id = id_of("1@c.us", "m0");
    world
        .sandbox
        .script(Fault::status(500).id(id).times(ALWAYS));
    let crowd = &crowd()[..4];
    world.send_all(crowd).await;
    // All; the guilty caller alone; the last one alone; the other two.
    assert_eq!(world.times(), [50, 150, 250, 350]);
}

#[tokio::test(start_paused = true)]
async fn callers_with_the_same_ids_share_one_request() {
    let world = World::with(|config| config.batch.quarantine = ms(0));
    world.sandbox.script(Fault::status(422).times(ALWAYS));
    let same = [receipt_of(&["a", "b"]), receipt_of(&["b", "a", "b"])];
    let settled = world.send_all(&same).await;
    assert!(settled.iter().all(|settled| settled.status == Ok(422)));
    assert_eq!(world.calls().len(), 1);
    // One of three asked for less: only its request is another.
    let settled = world
        .send_all(&[
            receipt_of(&["a"]),
            receipt_of(&["a", "b"]),
            receipt_of(&["a", "b"]),
        ])
        .await;
    assert!(settled.iter().all(|settled| settled.status == Ok(422)));
    assert_eq!(world.calls().len(), 1 + 2);
}

/// Each gets a separate call, whose response is streamed.
#[tokio::test(start_paused = true)]
async fn a_response_too_long_to_be_shared_is_streamed_to_each() {
    let world = World::with(|_| ());
    let long = Fault::status(200).body("x".repeat(2 << 20));
    world.sandbox.script(long.times(ALWAYS));
    let settled = world
        .send_all(&[receipt_of(&["a"]), receipt_of(&["a"])])
        .await;
    assert!(settled.iter().all(|settled| settled.status == Ok(200)));
    assert_eq!(world.calls().len(), 3);
}

/// What the official SDK sends, each with another trace id.
#[tokio::test(start_paused = true)]
async fn whole_chat_receipts_are_neither_split_nor_kept_out_of_batches() {
    for status in [400, 422, 500] {
        let world = World::with(|config| config.batch.quarantine = ms(60_000));
        world.sandbox.script(Fault::status(status).times(1));
        for (expected, calls) in [(status, 1), (201, 2)] {
            let verdicts = (0..50).map(|trace| {
                let body = r#"{"chatId":"1@c.us"}"#;
                let request = Request::post("/v2/send/seen?instance_id=1&access_token=t")
                    .header("traceparent", trace.to_string())
                    .header("content-length", body.len());
                let (head, ()) = request.body(()).unwrap().into_parts();
                world.join_as(Receipt::by_default(head, Bytes::from(body)).unwrap())
            });
            for verdict in verdicts.collect::<Vec<_>>() {
                let response = verdict.unwrap().await.unwrap().response;
                assert_eq!(super::status(&response), Ok(expected));
            }
            assert_eq!(world.calls().len(), calls);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn callers_that_failed_together_with_the_same_ids_are_quarantined_too() {
    let world = World::with(|config| config.batch.quarantine = ms(60_000));
    let bad = id_of("1@c.us", "bad");
    world
        .sandbox
        .script(Fault::status(500).id(bad).times(ALWAYS));
    let all = [
        receipt_of(&["bad"]),
        receipt_of(&["bad"]),
        receipt_of(&["a"]),
        receipt_of(&["b"]),
    ];
    world.send_all(&all).await;
    // All; the two; `b`; `a`.
    assert_eq!(world.calls().len(), 4);
    world.send_all(&all).await;
    let sent = world.calls().len();
    assert_eq!(sent, 4 + 3, "the two alone, the others merged");
}

#[tokio::test(start_paused = true)]
async fn other_responses_are_shared_as_they_are() {
    for status in [200, 302, 401, 403, 404, 409, 451, 501] {
        let world = World::with(|_| ());
        world.sandbox.script(
            Fault::status(status)
                .header(
                    HeaderName::from_static("x-why"),
                    HeaderValue::from_static("so"),
                )
                .body("the body")
                .times(ALWAYS),
        );
        let verdict: Vec<_> = crowd().iter().map(|it| world.join(it).unwrap()).collect();
        for verdict in verdict {
            let verdict = verdict.await.unwrap();
            let Ok(BatchResponse::Shared(shared)) = verdict.response else {
                panic!("{verdict:?}");
            };
            assert_eq!(shared.head.status().as_u16(), status);
            let why = HeaderName::from_static("x-why");
            assert_eq!(shared.head.get(&why), Some(&b"so"[..]));
            assert_eq!(shared.body, "the body");
        }
        assert_eq!(world.calls().len(), 1, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_receipt_that_failed_alone_stays_out_of_batches_for_a_while() {
    let world = World::with(|config| config.batch.quarantine = ms(60_000));
    let bad = id_of("1@c.us", "bad");
    world
        .sandbox
        .script(Fault::status(500).id(bad).times(ALWAYS));
    world
        .send_all(&[receipt_of(&["a"]), receipt_of(&["bad"])])
        .await;
    assert_eq!(world.calls().len(), 3);
    world.sandbox.clear();
    // Also with other ids beside it, but not under another key.
    let elsewhere = TestReceipt {
        token: "u".to_owned(),
        ..receipt_of(&["c"])
    };
    let all = [
        receipt_of(&["a"]),
        receipt_of(&["bad", "b"]),
        receipt_of(&["b"]),
        elsewhere,
    ];
    let settled = world.send_all(&all).await;
    let verdict: Vec<_> = settled
        .iter()
        .map(|settled| (settled.status, settled.callers))
        .collect();
    assert_eq!(
        verdict,
        [(Ok(201), 2), (Ok(500), 1), (Ok(201), 2), (Ok(201), 1)]
    );
    assert_eq!(world.calls().len(), 3);
    // The second failure has quarantined `b` too: it was in the same receipt.
    tokio::time::sleep(ms(61_000)).await;
    world.sandbox.clear();
    world
        .send_all(&[receipt_of(&["a"]), receipt_of(&["bad"])])
        .await;
    assert_eq!(world.calls().len(), 3, "merged once more, and split");
}

#[tokio::test(start_paused = true)]
async fn a_429_is_waited_out_and_sent_again() {
    let world = World::with(|_| ());
    world
        .sandbox
        .script(Fault::status(429).header(RETRY_AFTER, HeaderValue::from_static("2")));
    for settled in world.send_all(&crowd()).await {
        assert_eq!(
            (settled.status, settled.callers, settled.at),
            (Ok(201), 32, 2050)
        );
    }
    assert_eq!(world.times(), [50, 2050]);
    assert_eq!(world.metrics.batches.retries.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_429_that_outlasts_the_deadline_is_returned_at_once() {
    let world = World::with(|_| ());
    world
        .sandbox
        .script(Fault::status(429).header(RETRY_AFTER, HeaderValue::from_static("30")));
    for settled in world.send_all(&crowd()).await {
        assert_eq!((settled.status, settled.at), (Ok(429), 50));
    }
    assert_eq!(world.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_to_an_overloaded_upstream_is_retried() {
    let world = World::with(|_| ());
    world.sandbox.script(Fault::status(503).times(2));
    for settled in world.send_all(&crowd()).await {
        assert_eq!((settled.status, settled.callers), (Ok(201), 32));
    }
    assert_eq!(world.calls().len(), 3);
    assert_eq!(world.metrics.batches.retries.get(), 2);
    assert_eq!(world.metrics.batches.splits.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_on_a_broken_connection_is_retried_on_another() {
    for kind in [
        FaultKind::ResetBeforeHead,
        FaultKind::ResetMidHead,
        FaultKind::CutBody {
            promised: 100,
            sent: Bytes::from_static(b"half"),
        },
    ] {
        let world = World::with(|_| ());
        world.sandbox.script(Fault::new(kind.clone()));
        for settled in world.send_all(&crowd()).await {
            assert_eq!(settled.status, Ok(201), "{kind:?}");
        }
        assert_eq!(world.calls().len(), 2, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_gives_its_own_verdict_in_time_and_multiplies_nothing() {
    for status in [502, 503, 504] {
        let world = World::with(|_| ());
        world.sandbox.script(Fault::status(status).times(ALWAYS));
        for settled in world.send_all(&crowd()).await {
            assert_eq!(settled.status, Ok(status));
            assert!(settled.at <= 4000, "{}", settled.at);
        }
        let last = world.times().into_iter().max().unwrap();
        assert!(last < 4000, "{last}");
        assert!(world.calls().len() <= 11, "{}", world.calls().len());
        assert_eq!(world.metrics.batches.splits.get(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_retries_are_a_fifth_of_the_calls_at_most() {
    let world = World::with(|_| ());
    world.sandbox.script(Fault::status(503).times(ALWAYS));
    let mut sent = Vec::new();
    // 400 batches of different chats in ten seconds.
    for n in 0..400 {
        let chat = format!("{n}@c.us");
        sent.push(world.send(&TestReceipt {
            ids: vec![id_of(&chat, "a")],
            chat,
            ..receipt_of(&[])
        }));
        tokio::time::sleep(ms(25)).await;
    }
    for verdict in sent {
        assert_eq!(verdict.await.status, Ok(503));
    }
    // A fifth of the first attempts and of the retries, and the floor.
    let retries = world.calls().len() - 400;
    assert!((60..=130).contains(&retries), "{retries}");
}

#[tokio::test(start_paused = true)]
async fn each_caller_gets_its_verdict_by_its_own_deadline() {
    let world = World::with(|config| config.limit.quota = quota(0.5, 1));
    world.drain_tokens();
    world.sandbox.script(Fault::status(503).times(ALWAYS));
    let early = world.send(&receipt_of(&["a"]));
    tokio::time::sleep(ms(1900)).await;
    let late = world.send(&receipt_of(&["b"]));
    let (early, late) = (early.await, late.await);
    // The token is due at 2000, the next ones at 4000 and 6000.
    assert_eq!((early.status, early.callers), (Ok(503), 2));
    assert!(early.at <= 4000, "{}", early.at);
    assert_eq!(late.status, Ok(503));
    assert!(late.at <= 5900, "{}", late.at);
    for (ids, at) in world.sent().iter().zip(world.times()) {
        let expected = if at < 4000 { 2 } else { 1 };
        assert_eq!(ids.len(), expected, "{at}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_upstream_is_not_called_again_after_the_deadline() {
    let world = World::with(|config| config.upstream.response_timeout = ms(10_000));
    world
        .sandbox
        .script(Fault::new(FaultKind::NeverAnswer).times(ALWAYS));
    let settled = world.send(&receipt_of(&["a"])).await;
    assert_eq!(settled.at, 10_050);
    assert!(matches!(
        settled.status,
        Err(NoResponse::Failed(UpstreamError::Timeout))
    ));
    assert_eq!(world.calls().len(), 1);
}
