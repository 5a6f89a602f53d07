//! Failures that all callers of a batch have in common (rule: splitting).

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;
use crate::tools::sandbox::Fault;

const ALWAYS: usize = usize::MAX;

fn fifty(prefix: &str) -> Vec<TestReceipt> {
    (0..50)
        .map(|n| receipt_of(&[&format!("{prefix}{n}")]))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn every_caller_gets_the_common_verdict_after_four_calls_and_later_batches_cost_one() {
    for status in [400, 422, 500] {
        for limit in [None, quota(10.0, 20), quota(2.0, 1)] {
            let world = World::with(|config| config.limit.quota = limit);
            world.sandbox.script(Fault::status(status).times(ALWAYS));
            for (batch, calls) in [("a", 4), ("b", 5), ("c", 6)] {
                for settled in world.send_all(&fifty(batch)).await {
                    assert_eq!(settled.status, Ok(status), "{batch}");
                }
                assert_eq!(world.calls().len(), calls, "{status} {batch}");
            }
            // Also when the receipts that were sent alone are sent again.
            world.send_all(&fifty("a")).await;
            assert_eq!(world.calls().len(), 7);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_callers_that_fail_alike_have_a_common_failure_too() {
    let world = World::with(|_| ());
    world.sandbox.script(Fault::status(500).times(ALWAYS));
    world
        .send_all(&[receipt_of(&["a"]), receipt_of(&["b"])])
        .await;
    assert_eq!(world.calls().len(), 3);
    world
        .send_all(&[receipt_of(&["c"]), receipt_of(&["d"])])
        .await;
    assert_eq!(world.calls().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn receipts_are_merged_again_when_a_common_failure_is_over() {
    let world = World::with(|_| ());
    world.sandbox.script(Fault::status(500).times(4));
    world.send_all(&fifty("a")).await;
    for (batch, calls) in [("b", 4 + 2), ("c", 4 + 2 + 1)] {
        for settled in world.send_all(&fifty(batch)).await {
            assert_eq!(settled.status, Ok(201));
        }
        assert_eq!(world.calls().len(), calls);
    }
}

#[tokio::test(start_paused = true)]
async fn one_bad_id_after_a_common_failure_fails_its_own_caller_only() {
    for bad in [0, 1, 30, 49] {
        let world = World::with(|_| ());
        world.sandbox.script(Fault::status(500).times(4));
        world.send_all(&fifty("a")).await;
        let id = id_of("1@c.us", &format!("b{bad}"));
        world
            .sandbox
            .script(Fault::status(422).id(id).times(ALWAYS));
        for (n, settled) in world.send_all(&fifty("b")).await.iter().enumerate() {
            let expected = if n == bad { 422 } else { 201 };
            assert_eq!(settled.status, Ok(expected), "caller {n}, {bad} is bad");
        }
    }
}

/// A common failure is one of a merge key: others are merged as usual.
#[tokio::test(start_paused = true)]
async fn the_failure_of_one_chat_is_not_that_of_another() {
    let world = World::with(|_| ());
    world.sandbox.script(Fault::status(500).times(4));
    world.send_all(&fifty("a")).await;
    let elsewhere = fifty("a").into_iter().map(|it| TestReceipt {
        token: "u".to_owned(),
        ..it
    });
    world.send_all(&elsewhere.collect::<Vec<_>>()).await;
    assert_eq!(world.calls().len(), 4 + 1);
}

#[tokio::test(start_paused = true)]
async fn two_bad_ids_with_different_errors_each_fail_their_own_caller() {
    for (one, two) in [(0, 49), (0, 1), (20, 21), (10, 40)] {
        let world = World::with(|_| ());
        for (bad, status) in [(one, 400), (two, 422)] {
            let id = id_of("1@c.us", &format!("a{bad}"));
            let fault = Fault::status(status).body(format!("{status}: no such id"));
            world.sandbox.script(fault.id(id).times(ALWAYS));
        }
        for (n, settled) in world.send_all(&fifty("a")).await.iter().enumerate() {
            let expected = match n {
                _ if n == one => 400,
                _ if n == two => 422,
                _ => 201,
            };
            assert_eq!(
                settled.status,
                Ok(expected),
                "caller {n} of {one} and {two}"
            );
        }
        assert!(world.calls().len() <= 53, "{}", world.calls().len());
    }
}

/// A caller whose ids a call has carried never gets a refusal of the gateway.
#[tokio::test(start_paused = true)]
async fn a_deadline_within_a_split_gives_the_last_verdict_of_the_batch() {
    for bad in [0, 5, 9] {
        let world = World::with(|config| config.limit.quota = quota(0.5, 1));
        let id = id_of("1@c.us", &format!("a{bad}"));
        world
            .sandbox
            .script(Fault::status(422).id(id).times(ALWAYS));
        for (n, settled) in world.send_all(&fifty("a")[..10]).await.iter().enumerate() {
            assert!(
                matches!(settled.status, Ok(201 | 422)),
                "caller {n}: {settled:?}"
            );
            assert!(settled.at <= 4050, "{settled:?}");
        }
    }
}

/// The receipts were admitted before: a full queue does not refuse their parts.
#[tokio::test(start_paused = true)]
async fn parts_of_a_batch_are_not_refused_when_the_queue_is_full() {
    let world = World::with(|config| {
        config.limit.quota = quota(10.0, 1);
        config.limit.max_queue = 1;
    });
    let bad = id_of("1@c.us", "a3");
    world
        .sandbox
        .script(Fault::status(422).id(bad).times(ALWAYS));
    for (n, settled) in world.send_all(&fifty("a")[..8]).await.iter().enumerate() {
        let expected = if n == 3 { 422 } else { 201 };
        assert_eq!(settled.status, Ok(expected), "caller {n}");
    }
}

#[tokio::test(start_paused = true)]
async fn times_are_those_of_each_caller() {
    let mut config = Config::default();
    config.limit.quota = quota(1.0, 1);
    let latency = ms(80);
    let world = World::new(
        &config,
        sandbox::Settings {
            latency,
            ..Default::default()
        },
    );
    let bad = id_of("1@c.us", "b");
    world
        .sandbox
        .script(Fault::status(422).id(bad).times(ALWAYS));
    let verdicts: Vec<_> = [receipt_of(&["a"]), receipt_of(&["b"])]
        .iter()
        .map(|it| world.join(it).unwrap())
        .collect();
    // The batch at 50 ms, and each caller alone with the tokens that follow. The
    // sandbox rejects without latency.
    let calls = [(201, 1000, latency), (422, 2000, ms(0))];
    for (verdict, (expected, queue, upstream)) in verdicts.into_iter().zip(calls) {
        let Verdict { response, timing } = verdict.await.unwrap();
        assert_eq!(status(&response), Ok(expected));
        assert_eq!(timing.window, ms(50));
        assert_eq!((timing.queue, timing.upstream), (ms(queue), upstream));
        assert_eq!((timing.callers, timing.ids), (1, 1));
    }
}

/// Responds to each JSON request with 500, 80 ms later.
async fn slow_500s(mut io: DuplexStream) {
    let mut request = Vec::new();
    while let Ok(1..) = io.read_buf(&mut request).await {
        if request.ends_with(b"}") {
            request.clear();
            tokio::time::sleep(ms(80)).await;
            let response = b"HTTP/1.1 500 Broken\r\ncontent-length: 0\r\n\r\n";
            io.write_all(response).await.unwrap();
        }
    }
}

/// The call that shows that a common failure lasts counts as upstream time for all.
#[tokio::test(start_paused = true)]
async fn the_recheck_of_a_common_failure_is_upstream_time_of_every_caller() {
    let mut world = World::with(|_| ());
    let mut settings = Config::default().upstream;
    settings.url = "http://slow".parse().unwrap();
    let dial = Dial::With(Arc::new(|| {
        let (near, far) = tokio::io::duplex(64 << 10);
        tokio::spawn(slow_500s(far));
        Box::pin(async move { Ok(Box::new(near) as Box<dyn Io>) })
    }));
    let upstream = Upstream::new(settings, dial, Arc::clone(&world.metrics));
    world.upstream = Arc::new(upstream.unwrap());
    // The call for both, then each alone.
    for settled in world
        .send_all(&[receipt_of(&["a"]), receipt_of(&["b"])])
        .await
    {
        assert_eq!((settled.status, settled.callers), (Ok(500), 1));
    }
    let verdicts = [receipt_of(&["c"]), receipt_of(&["d"]), receipt_of(&["e"])];
    let verdicts: Vec<_> = verdicts.iter().map(|it| world.join(it).unwrap()).collect();
    let mut callers = Vec::new();
    for verdict in verdicts {
        let Verdict { response, timing } = verdict.await.unwrap();
        assert_eq!(status(&response), Ok(500));
        assert_eq!((timing.window, timing.upstream), (ms(50), ms(80)));
        assert_eq!(timing.queue, Duration::ZERO);
        callers.push(timing.callers);
    }
    // The call was for one; two more got its response.
    assert_eq!(callers, [1, 3, 3]);
}
