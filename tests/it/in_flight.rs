//! Classes for single numbers, and the bound on their calls in flight.

use std::time::Duration;

use tokio::time::Instant;
use wawp_gateway::sandbox::{Call, Settings};

use crate::support::{Stage, World, at_rest, get, ids, post, receipt_of};

const ONE_SEND: &str = r#"
[[limit.class]]
name = "new-sends"
paths = ["/v2/send/*"]
instances = ["new"]
rate = 0
max_in_flight = 1
"#;

const ONE_CHAT: &str = r#"
[[limit.class]]
name = "chats"
paths = ["/v2/chats*"]
rate = 0
max_in_flight = 1
"#;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn slow(settings: &str, latency: u64) -> World {
    let latency = ms(latency);
    let sandbox = Settings {
        latency,
        ..Settings::default()
    };
    World::with_sandbox(settings, sandbox)
}

fn send(instance: &str, text: usize) -> String {
    let body = format!(
        r#"{{"instance_id":"{instance}","access_token":"t","chatId":"1@c.us","message":"{text}"}}"#
    );
    post("/v2/send/text", &body)
}

/// When the calls reached the sandbox, in ms.
fn times(calls: &[Call], began: Instant) -> Vec<u128> {
    calls
        .iter()
        .map(|call| (call.at - began).as_millis())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn calls_of_one_number_wait_for_a_place_and_those_of_others_do_not() {
    let world = slow(ONE_SEND, 200);
    let began = Instant::now();
    let new = (0..4).map(|n| send("new", n));
    let responses = world
        .together(new.chain((0..4).map(|n| send("warm", n))))
        .await;
    assert!(responses.iter().all(|response| response.status() == 201));
    let (new, warm): (Vec<_>, Vec<_>) = world
        .sandbox
        .calls()
        .into_iter()
        .partition(|call| call.body.windows(5).any(|it| it == b"\"new\""));
    assert_eq!(times(&new, began), [0, 200, 400, 600]);
    assert_eq!(times(&warm, began), [0; 4]);
    let waited = responses[3].field("server-timing").unwrap();
    assert!(waited.starts_with("queue;dur=600"), "{waited}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_names_the_bound() {
    let world = slow(&format!("limit.max_wait = \"1s\"\n{ONE_SEND}"), 900);
    world.call(send("new", 0)).await;
    let first = world.calling(send("new", 1));
    at_rest().await;
    let second = world.calling(send("new", 2));
    at_rest().await;
    // The first call took 900 ms: two more of them are too long.
    let refused = world.call(send("new", 3)).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.field("retry-after"), Some("2"));
    let message = refused.json()["message"].to_string();
    assert!(
        message.contains("at most 1 of its calls are in flight at once (max_in_flight)"),
        "{message}"
    );
    assert_eq!(first.await.unwrap().status(), 201);
    assert_eq!(second.await.unwrap().status(), 201);
    assert_eq!(
        world.counted("wawp_gateway_limit_rejected_total", &["max_wait"]),
        1.0
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_is_in_flight_until_its_response_has_ended() {
    for leaves in [false, true] {
        let mut stage = Stage::new(ONE_CHAT);
        let mut first = stage.client();
        first.says(get("/v2/chats?instance_id=1")).await;
        let mut upstream = stage.upstream.accepts().await;
        upstream.request().await;
        let mut second = stage.client();
        second.says(get("/v2/chats/2?instance_id=1")).await;
        upstream
            .says("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            .await;
        tokio::time::sleep(ms(500)).await;
        if leaves {
            drop(first);
            tokio::time::sleep(ms(500)).await;
        }
        // The upstream is still sending: the second call has not left.
        at_rest().await;
        upstream.says("-other").await;
        let began = Instant::now();
        let request = upstream.request().await;
        assert_eq!(request.start, "GET /v2/chats/2?instance_id=1 HTTP/1.1");
        assert!(began.elapsed() < ms(5));
    }
}

#[tokio::test(start_paused = true)]
async fn a_merged_call_counts_as_one_and_a_retry_begins_after_its_end() {
    let class = r#"
[[limit.class]]
name = "seen"
paths = ["/v2/send/seen"]
rate = 0
max_in_flight = 1
"#;
    let world = slow(class, 300);
    let began = Instant::now();
    let fault = wawp_gateway::sandbox::Fault::status(503).path("/v2/send/seen");
    world.sandbox.script(fault);
    let chat = |chat: usize, n: usize| receipt_of("1", "t", &format!("{chat}@c.us"), &ids(n..=n));
    let responses = world
        .together([chat(1, 0), chat(1, 1), chat(2, 2), chat(2, 3)])
        .await;
    assert!(responses.iter().all(|response| response.status() == 201));
    let calls = world.sandbox.calls();
    let times = times(&calls, began);
    // The first call fails at once, so the other chat's follows. The retry, which is
    // due after 100 to 150 ms, waits for its end.
    assert_eq!(times, [50, 50, 350]);
}

#[tokio::test(start_paused = true)]
async fn a_reload_moves_a_number_to_another_class_with_what_waits() {
    let class = |name: &str, instance: &str, rate: u32| {
        format!(
            "[[limit.class]]\nname = \"{name}\"\ninstances = [\"{instance}\"]\nrate = {rate}\nburst = 1\n"
        )
    };
    let classes = |cold: &str| class("cold", cold, 1) + &class("warm", "new", 10);
    let world = World::new(&classes("new"));
    let began = Instant::now();
    let mut waiting: Vec<_> = Vec::new();
    for n in 0..4 {
        waiting.push(world.calling(send("new", n)));
        at_rest().await;
    }
    tokio::time::sleep(ms(1500)).await;
    world.reload(&classes("other"));
    waiting.push(world.calling(send("new", 4)));
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap().status(), 201);
    }
    let calls = world.sandbox.calls();
    let texts = calls
        .iter()
        .map(|call| serde_json::from_slice::<serde_json::Value>(&call.body).unwrap());
    let texts: Vec<_> = texts
        .map(|body| body["message"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(texts, ["0", "1", "2", "3", "4"]);
    // A debt of half a token of the old rate is one whole of the new.
    let times = times(&calls, began);
    assert_eq!(times[..2], [0, 1000]);
    assert!(times[2] >= 1500 && times[4] >= times[2] + 190, "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn in_observe_mode_no_call_waits_for_a_place_and_the_wait_is_counted() {
    let world = slow(&format!("limit.mode = \"observe\"\n{ONE_SEND}"), 200);
    // Before a call has ended, a call is taken to last 250 ms.
    world.call(send("new", 0)).await;
    tokio::time::sleep(ms(2000)).await;
    let began = Instant::now();
    world.together((1..4).map(|n| send("new", n))).await;
    assert_eq!(times(&world.sandbox.calls()[1..], began), [0; 3]);
    tokio::time::sleep(ms(2000)).await;
    // 0, 200 and 400 ms.
    let delayed = world.counted("wawp_gateway_would_delay_seconds_sum", &[]);
    assert!((0.58..0.62).contains(&delayed), "{delayed}");
}
