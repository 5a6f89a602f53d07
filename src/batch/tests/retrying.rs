//! Which calls are retried, and how often (rule: retries).

use http::HeaderValue;
use http::header::RETRY_AFTER;

use super::*;
use crate::tools::sandbox::Fault;

const ALWAYS: usize = usize::MAX;

fn asking_for(status: u16, wait: &'static str) -> Fault {
    Fault::status(status).header(RETRY_AFTER, HeaderValue::from_static(wait))
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_sent_no_sooner_than_the_upstream_asks() {
    for status in [502, 503, 504] {
        for (wait, next) in [("2", 2050), ("0.5", 550), ("3.9", 3950)] {
            let world = World::with(|_| ());
            world.sandbox.script(asking_for(status, wait));
            let settled = world.send(&receipt_of(&["a"])).await;
            assert_eq!((settled.status, settled.at), (Ok(201), next), "{status}");
            assert_eq!(world.times(), [50, next]);
        }
        // Asked for no pause, it is sent again after the usual one.
        let world = World::with(|_| ());
        world.sandbox.script(asking_for(status, "0"));
        assert_eq!(world.send(&receipt_of(&["a"])).await.status, Ok(201));
        assert!(world.times()[1] >= 50 + 50, "{:?}", world.times());
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_beyond_the_deadline_returns_the_response_at_once() {
    for status in [502, 503, 504] {
        let date = "Fri, 31 Dec 9999 23:59:59 GMT";
        for wait in ["4", "30", "9999999999999999999", date] {
            let world = World::with(|_| ());
            world.sandbox.script(asking_for(status, wait).times(ALWAYS));
            let settled = world.send(&receipt_of(&["a"])).await;
            assert_eq!((settled.status, settled.at), (Ok(status), 50), "{wait}");
            assert_eq!(world.times(), [50]);
        }
    }
}

/// Each caller has a separate deadline. A 429 pauses the bucket: what lies within
/// the pause is late too.
#[tokio::test(start_paused = true)]
async fn only_callers_with_time_left_wait_for_the_retry() {
    for status in [503, 429] {
        let world = World::with(|config| config.limit.quota = quota(0.5, 1));
        world.drain_tokens();
        world.sandbox.script(asking_for(status, "3"));
        let early = world.send(&receipt_of(&["a"]));
        tokio::time::sleep(ms(1500)).await;
        let late = world.send(&receipt_of(&["b"]));
        let (early, late) = (early.await, late.await);
        assert_eq!((early.status, early.at), (Ok(status), 2000));
        assert_eq!((late.status, late.at), (Ok(201), 5000), "{status}");
        assert_eq!(world.sent(), [ids(&["a", "b"]), ids(&["b"])]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_too_long_to_be_held_is_not_retried_but_returned() {
    for status in [429, 502, 503] {
        let world = World::with(|_| ());
        let long = vec![b'x'; 2 * 1024 * 1024];
        world.sandbox.script(Fault::status(status).body(long));
        let settled = world.send(&receipt_of(&["a"])).await;
        assert_eq!((settled.status, settled.at), (Ok(status), 50));
        assert_eq!(world.times(), [50]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_instance_leaves_retries_to_the_others() {
    let world = World::with(|_| ());
    let failing = Fault::status(503).instance("2").times(ALWAYS);
    world.sandbox.script(failing);
    // 200 receipts of one instance, all failing, in two seconds.
    let crowd = (0..200).map(|n| {
        let body = format!(r#"{{"chatId":"{n}@c.us"}}"#);
        let request = Request::post("/v2/send/seen?instance_id=2&access_token=t");
        let (head, ()) = request.body(()).unwrap().into_parts();
        Receipt::by_default(head, Bytes::from(body)).unwrap()
    });
    let mut verdicts = Vec::new();
    for receipt in crowd {
        verdicts.push(world.join_as(receipt).unwrap());
        tokio::time::sleep(ms(10)).await;
    }
    // Twelve of another, each failing once.
    for n in 0..12 {
        world.sandbox.script(Fault::status(503).instance("1"));
        let settled = world.send(&receipt_of(&[&format!("m{n}")])).await;
        assert_eq!(settled.status, Ok(201), "receipt {n}");
    }
    for verdict in verdicts {
        assert_eq!(status(&verdict.await.unwrap().response), Ok(503));
    }
}
