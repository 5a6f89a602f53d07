//! Browsers on pages of another origin: preflights, and responses that a page may read.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{Message, Stage, World, get, receipt};

const PAGE: &str = "Origin: https://app.test";
const TIGHT: &str = "limit.rate = 1\nlimit.burst = 1\nlimit.max_wait = \"100ms\"\n";

fn with(request: &str, field: &str) -> String {
    request.replacen("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"), 1)
}

fn preflight(target: &str) -> String {
    let request = get(target).replacen("GET", "OPTIONS", 1);
    with(&with(&request, PAGE), "Access-Control-Request-Method: POST")
}

#[tokio::test(start_paused = true)]
async fn preflights_are_neither_charged_nor_delayed() {
    let rules = "access.instances = \"listed\"\n[[tenant]]\nname = \"a\"\ninstances = [\"1\"]\n";
    let world = World::new(&format!(
        "{TIGHT}egress.rate = 1\negress.burst = 1\n{rules}"
    ));
    let began = Instant::now();
    for target in [
        "/v2/chats",
        "/v2/chats?instance_id=1",
        "/v2/send/seen",
        "/v2/x?instance_id=9",
    ] {
        for _ in 0..5 {
            let response = world.call(preflight(target)).await;
            assert_eq!(response.status(), 204, "{response:?}");
            assert_eq!(response.field("access-control-allow-methods"), Some("POST"));
            assert_eq!(
                response.field("access-control-allow-origin"),
                Some("https://app.test")
            );
            assert_eq!(response.field("server-timing"), None);
        }
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(world.sandbox.received(), 20);
    // The budget is untouched.
    let request = get("/v2/chats?instance_id=1&access_token=token-1");
    assert_eq!(world.call(&request).await.status(), 200);
    assert_eq!(world.call(&request).await.status(), 429);
}

#[tokio::test(start_paused = true)]
async fn what_only_looks_like_a_preflight_is_charged() {
    for request in [
        get("/v2/chats?instance_id=1").replacen("GET", "OPTIONS", 1),
        with(
            &get("/v2/chats?instance_id=1"),
            "Access-Control-Request-Method: POST",
        ),
        with(&preflight("/v2/chats?instance_id=1"), "Content-Length: 1") + "x",
        // Some frameworks would take it for a POST.
        with(
            &preflight("/v2/chats?instance_id=1"),
            "X-HTTP-Method-Override: POST",
        ),
        preflight("/v2/chats?instance_id=1&_method=POST"),
        preflight("/v2/chats?instance_id=1&%5fmethod=POST"),
    ] {
        let world = World::new(TIGHT);
        assert_ne!(world.call(&request).await.status(), 429);
        assert_eq!(world.call(&request).await.status(), 429, "{request}");
    }
}

#[tokio::test(start_paused = true)]
async fn preflights_count_as_requests_in_flight() {
    let asked = preflight("/v2/chats");
    for first in [get("/v2/chats"), asked.clone()] {
        let mut stage = Stage::new("server.max_in_flight = 1");
        let mut busy = stage.client();
        busy.says(&first).await;
        let mut upstream = stage.upstream.accepts().await;
        upstream.request().await;
        let began = Instant::now();
        let refused = stage.client().asks(&asked).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!(refused.status(), 503, "after {first}");
        assert_eq!(refused.json()["code"], "overloaded");
        assert_eq!(refused.field("retry-after"), Some("1"));
        upstream.says("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(busy.response().await.status(), 204);
        // The refused one was not sent, and there is room again.
        busy.says(&asked).await;
        let forwarded = upstream.request().await;
        assert!(forwarded.start.starts_with("OPTIONS "), "{forwarded:?}");
        upstream.says("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(busy.response().await.status(), 204);
        stage.upstream.is_left_alone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn network_rules_and_keys_apply_to_preflights() {
    let world = World::new(
        "access.networks = [\"10.0.0.0/8\"]\n[[tenant]]\nname = \"a\"\ninstances = [\"1\"]\nnetworks = [\"10.1.0.0/16\"]\n",
    );
    for (from, target, status) in [
        ("11.0.0.1", "/v2/chats", 403),
        ("10.0.0.1", "/v2/chats", 204),
        ("10.0.0.1", "/v2/chats?instance_id=1", 403),
        ("10.1.0.1", "/v2/chats?instance_id=1", 204),
    ] {
        let response = world.client_from(from).asks(preflight(target)).await;
        assert_eq!(response.status(), status, "{from} {target}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_upstream_learns_no_key_from_a_preflight() {
    let key = "acme-key-0123456789";
    let world = World::new(&format!(
        "[[tenant]]\nname = \"a\"\ninstances = [\"1\", \"2\"]\nkey = \"{key}\"\n[tenant.tokens]\n1 = \"real\"\n"
    ));
    let target = |instance: &str, token: &str| {
        format!("/v2/chats?instance_id={instance}&access_token={token}")
    };
    let asked = preflight(&target("1", key));
    assert_eq!(world.call(asked).await.status(), 204);
    assert_eq!(world.sandbox.calls()[0].target, target("1", "real"));
    // A key that opens nothing is refused with the request, not before.
    let asked = preflight(&target("2", key));
    assert_eq!(world.call(asked).await.status(), 204);
    assert_eq!(world.sandbox.calls()[1].target, target("2", ""));
    // So is one whose instance is in the body of that request.
    for (keys, removed) in [(1, "access_token=&"), (20, "access_token=&")] {
        let query = |text: &str| text.repeat(keys);
        let asked = query(&format!("access_token={key}&"));
        let asked = preflight(&format!("/v2/chats?{asked}x=1"));
        let asked = with(&asked, &format!("Authorization: Bearer {key}"));
        assert_eq!(world.call(asked).await.status(), 204);
        let calls = world.sandbox.calls();
        let forwarded = calls.last().unwrap();
        assert_eq!(forwarded.target, format!("/v2/chats?{}x=1", query(removed)));
        assert!(!format!("{:?}", forwarded.headers).contains(key));
    }
}

/// The headers of a response that let a page read it.
fn cors(response: &Message) -> [Option<&str>; 3] {
    [
        "access-control-allow-origin",
        "access-control-allow-credentials",
        "access-control-expose-headers",
    ]
    .map(|name| response.field(name))
}

#[tokio::test(start_paused = true)]
async fn a_page_can_read_our_own_responses_once_the_upstream_allowed_it() {
    let request = with(&get("/v2/chats?instance_id=1&access_token=token-1"), PAGE);
    for first in [
        request.clone(),
        preflight("/v2/chats"),
        with(&receipt([1]), PAGE),
    ] {
        let world = World::new(TIGHT);
        assert!(world.call(&first).await.status() < 300);
        world.call(&request).await;
        let refused = world.call(&request).await;
        assert_eq!(refused.status(), 429);
        assert_eq!(
            cors(&refused),
            [Some("https://app.test"), Some("true"), Some("Retry-After")]
        );
        assert_eq!(refused.field("vary"), Some("Origin"));
        // Another origin, and a request without one, get nothing.
        let other = request.replace("app.test", "other.test");
        assert_eq!(cors(&world.call(other).await), [None; 3]);
        let plain = get("/v2/chats?instance_id=1&access_token=token-1");
        let refused = world.call(plain).await;
        assert_eq!((refused.status(), cors(&refused)), (429, [None; 3]));
    }
    // Nothing is invented before the upstream has said anything.
    let world = World::new("access.networks = [\"10.0.0.0/8\"]");
    let refused = world.client_from("11.0.0.1").asks(&request).await;
    assert_eq!((refused.status(), cors(&refused)), (403, [None; 3]));
}
