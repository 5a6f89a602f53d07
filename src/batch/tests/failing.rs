//! Who gets which verdict when calls fail (design §3.4).

use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue};

use super::*;
use crate::tools::sandbox::{Fault, FaultKind};

const ALWAYS: usize = usize::MAX;

/// 32 callers with an id each.
fn crowd() -> Vec<Asks> {
    (0..32).map(|n| asks(&[&format!("m{n}")])).collect()
}

#[tokio::test(start_paused = true)]
async fn one_poisoned_id_is_found_and_nobody_else_pays_for_it() {
    for status in [400, 413, 414, 422, 500] {
        let world = World::with(|_| ());
        world.sandbox.script(
            Fault::status(status)
                .id(id_of("1@c.us", "m13"))
                .times(ALWAYS),
        );
        for (n, heard) in world.send_all(&crowd()).await.iter().enumerate() {
            let expected = if n == 13 { status } else { 201 };
            assert_eq!(heard.status, Ok(expected), "caller {n} of {status}");
        }
        // 1 + 2 × log2(32): both halves at each level.
        assert_eq!(world.calls().len(), 11, "{status}");
        assert_eq!(world.metrics.splits.get(), 5);
        assert_eq!(world.metrics.saved.get(), 32 - 11);
        let alone = world
            .calls()
            .into_iter()
            .filter(|call| call.body == crowd()[13].body());
        assert_eq!(alone.count(), 1, "its own request, unchanged");
    }
}

#[tokio::test(start_paused = true)]
async fn two_poisoned_ids_are_found_too() {
    for (one, two) in [(0, 31), (6, 7), (13, 20)] {
        let world = World::with(|_| ());
        for n in [one, two] {
            let id = id_of("1@c.us", &format!("m{n}"));
            world
                .sandbox
                .script(Fault::status(500).id(id).times(ALWAYS));
        }
        for (n, heard) in world.send_all(&crowd()).await.iter().enumerate() {
            let expected = if n == one || n == two { 500 } else { 201 };
            assert_eq!(heard.status, Ok(expected), "caller {n}");
        }
        assert!(
            world.calls().len() <= 2 * (2 * 5) + 1,
            "{}",
            world.calls().len()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn each_part_of_a_split_pays_for_itself() {
    let world = World::with(|config| config.limit.quota = quota(10.0, 1));
    let id = id_of("1@c.us", "m0");
    world
        .sandbox
        .script(Fault::status(500).id(id).times(ALWAYS));
    let crowd = &crowd()[..4];
    world.send_all(crowd).await;
    assert_eq!(world.times(), [50, 150, 250, 350, 450]);
}

#[tokio::test(start_paused = true)]
async fn who_asked_for_the_same_is_not_asked_for_again() {
    let world = World::with(|config| config.batch.quarantine = ms(0));
    world.sandbox.script(Fault::status(422).times(ALWAYS));
    let same = [asks(&["a", "b"]), asks(&["b", "a", "b"])];
    let heard = world.send_all(&same).await;
    assert!(heard.iter().all(|heard| heard.status == Ok(422)));
    assert_eq!(world.calls().len(), 1);
    // One of three asks for less: it alone, and the others together, are told.
    let heard = world
        .send_all(&[asks(&["a"]), asks(&["a", "b"]), asks(&["a", "b"])])
        .await;
    assert!(heard.iter().all(|heard| heard.status == Ok(422)));
    assert_eq!(world.calls().len(), 1 + 3);
}

/// Each has a call of its own, whose answer goes to it as it comes.
#[tokio::test(start_paused = true)]
async fn an_answer_too_long_to_be_shared_is_given_to_each() {
    let world = World::with(|_| ());
    let long = Fault::status(200).body("x".repeat(2 << 20));
    world.sandbox.script(long.times(ALWAYS));
    let heard = world.send_all(&[asks(&["a"]), asks(&["a"])]).await;
    assert!(heard.iter().all(|heard| heard.status == Ok(200)));
    assert_eq!(world.calls().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_field_that_is_not_in_the_key_makes_a_request_another() {
    for (agents, statuses, calls) in [(["a", "b"], [201, 201], 3), (["a", "a"], [400, 400], 1)] {
        let world = World::with(|_| ());
        world.sandbox.script(Fault::status(400).times(1));
        let told = agents.map(|agent| {
            let body = r#"{"chatId":"1@c.us"}"#;
            let request = Request::post("/v2/send/seen?instance_id=1&access_token=t")
                .header("user-agent", agent)
                .header("content-length", body.len());
            let (head, ()) = request.body(()).unwrap().into_parts();
            world.join_as(Receipt::read(head, Bytes::from(body)).unwrap())
        });
        for (told, expected) in told.into_iter().zip(statuses) {
            let verdict = told.unwrap().await.unwrap().verdict;
            assert_eq!(status(&verdict), Ok(expected));
        }
        assert_eq!(world.calls().len(), calls);
    }
}

#[tokio::test(start_paused = true)]
async fn who_failed_together_for_the_same_stays_out_of_batches_too() {
    let world = World::with(|config| config.batch.quarantine = ms(60_000));
    let bad = id_of("1@c.us", "bad");
    world
        .sandbox
        .script(Fault::status(500).id(bad).times(ALWAYS));
    let all = [asks(&["bad"]), asks(&["bad"]), asks(&["a"]), asks(&["b"])];
    world.send_all(&all).await;
    assert_eq!(world.calls().len(), 3);
    world.send_all(&all).await;
    assert_eq!(
        world.calls().len(),
        3 + 3,
        "the two alone, the others merged"
    );
}

#[tokio::test(start_paused = true)]
async fn verdicts_on_the_call_itself_are_shared_as_they_are() {
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
        let told: Vec<_> = crowd()
            .iter()
            .map(|asks| world.join(asks).unwrap())
            .collect();
        for told in told {
            let told = told.await.unwrap();
            let Ok(Given::Shared(shared)) = told.verdict else {
                panic!("{told:?}");
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
    world.send_all(&[asks(&["a"]), asks(&["bad"])]).await;
    assert_eq!(world.calls().len(), 3);
    world.sandbox.clear();
    // Also with other ids beside it, but not under another key.
    let elsewhere = Asks {
        token: "u".to_owned(),
        ..asks(&["c"])
    };
    let all = [asks(&["a"]), asks(&["bad", "b"]), asks(&["b"]), elsewhere];
    let heard = world.send_all(&all).await;
    let told: Vec<_> = heard
        .iter()
        .map(|heard| (heard.status, heard.callers))
        .collect();
    assert_eq!(
        told,
        [(Ok(201), 2), (Ok(500), 1), (Ok(201), 2), (Ok(201), 1)]
    );
    assert_eq!(world.calls().len(), 3);
    // The second failure began it anew, for `b` too: it was asked for there.
    tokio::time::sleep(ms(61_000)).await;
    world.sandbox.clear();
    world.send_all(&[asks(&["a"]), asks(&["bad"])]).await;
    assert_eq!(world.calls().len(), 3, "merged once more, and split");
}

#[tokio::test(start_paused = true)]
async fn a_429_is_waited_out_and_sent_again() {
    let world = World::with(|_| ());
    world
        .sandbox
        .script(Fault::status(429).header(RETRY_AFTER, HeaderValue::from_static("2")));
    for heard in world.send_all(&crowd()).await {
        assert_eq!((heard.status, heard.callers, heard.at), (Ok(201), 32, 2050));
    }
    assert_eq!(world.times(), [50, 2050]);
    assert_eq!(world.metrics.retries.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_429_that_outlasts_the_deadline_is_handed_on_at_once() {
    let world = World::with(|_| ());
    world
        .sandbox
        .script(Fault::status(429).header(RETRY_AFTER, HeaderValue::from_static("30")));
    for heard in world.send_all(&crowd()).await {
        assert_eq!((heard.status, heard.at), (Ok(429), 50));
    }
    assert_eq!(world.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_busy_upstream_is_asked_again() {
    let world = World::with(|_| ());
    world.sandbox.script(Fault::status(503).times(2));
    for heard in world.send_all(&crowd()).await {
        assert_eq!((heard.status, heard.callers), (Ok(201), 32));
    }
    assert_eq!(world.calls().len(), 3);
    assert_eq!(world.metrics.retries.get(), 2);
    assert_eq!(world.metrics.splits.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_is_replaced_and_the_call_repeated() {
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
        for heard in world.send_all(&crowd()).await {
            assert_eq!(heard.status, Ok(201), "{kind:?}");
        }
        assert_eq!(world.calls().len(), 2, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_ends_in_its_own_verdict_in_time_and_multiplies_nothing() {
    for status in [502, 503, 504] {
        let world = World::with(|_| ());
        world.sandbox.script(Fault::status(status).times(ALWAYS));
        for heard in world.send_all(&crowd()).await {
            assert_eq!(heard.status, Ok(status));
            assert!(heard.at <= 4000, "{}", heard.at);
        }
        let last = world.times().into_iter().max().unwrap();
        assert!(last < 4000, "{last}");
        assert!(world.calls().len() <= 11, "{}", world.calls().len());
        assert_eq!(world.metrics.splits.get(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_repeats_are_a_fifth_of_the_calls_at_most() {
    let world = World::with(|_| ());
    world.sandbox.script(Fault::status(503).times(ALWAYS));
    let mut sent = Vec::new();
    // 400 batches of different chats in ten seconds.
    for n in 0..400 {
        let chat = format!("{n}@c.us");
        sent.push(world.send(&Asks {
            ids: vec![id_of(&chat, "a")],
            chat,
            ..asks(&[])
        }));
        tokio::time::sleep(ms(25)).await;
    }
    for told in sent {
        assert_eq!(told.await.status, Ok(503));
    }
    // A fifth of the first attempts, of the repeats themselves, and the floor.
    let repeats = world.calls().len() - 400;
    assert!((60..=130).contains(&repeats), "{repeats}");
}

#[tokio::test(start_paused = true)]
async fn each_caller_is_told_by_its_own_deadline_in_an_outage() {
    let world = World::with(|config| config.limit.quota = quota(0.5, 1));
    world.drain_tokens();
    world.sandbox.script(Fault::status(503).times(ALWAYS));
    let early = world.send(&asks(&["a"]));
    tokio::time::sleep(ms(1900)).await;
    let late = world.send(&asks(&["b"]));
    let (early, late) = (early.await, late.await);
    // The token comes at 2000, the next ones at 4000 and 6000.
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
async fn a_silent_upstream_is_not_asked_twice_by_those_who_have_no_time_left() {
    let world = World::with(|config| config.upstream.response_timeout = ms(10_000));
    world
        .sandbox
        .script(Fault::new(FaultKind::NeverAnswer).times(ALWAYS));
    let heard = world.send(&asks(&["a"])).await;
    assert_eq!(heard.at, 10_050);
    assert!(matches!(
        heard.status,
        Err(Untold::Failed(UpstreamError::Timeout))
    ));
    assert_eq!(world.calls().len(), 1);
}
