//! Who is let in: networks, tenants' networks, listed instances, and for whom a trusted proxy speaks.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{Message, World, at_rest, get, ids, post, receipt, receipt_of, text};

const CHATS: &str = "/v2/chats?instance_id=123&access_token=token-1";

/// Version 2 of the PROXY protocol for 203.0.113.9, with something more behind the addresses.
const BINARY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x11\
    \xcb\0\x71\x09\x0a\0\0\x01\x12\x34\x01\xbb\x04\0\x02\0\0";
const LINE: &[u8] = b"PROXY TCP4 203.0.113.9 10.0.0.1 4660 443\r\n";

/// Checks the gateway's own 403 in all its parts.
#[track_caller]
fn refused(response: &Message, rule: &str) {
    assert_eq!(
        response.start,
        "HTTP/1.1 403 Forbidden",
        "{}",
        response.text()
    );
    assert_eq!(response.field("content-type"), Some("application/json"));
    assert_eq!(response.field("retry-after"), None);
    let body = response.json();
    assert_eq!(body["status"], 403);
    assert_eq!(body["code"], "refused");
    assert_eq!(body["error"], "Forbidden");
    let message = body["message"].as_str().unwrap();
    assert!(message.contains(rule), "{message}");
    assert_eq!(body.as_object().unwrap().len(), 4);
    assert_eq!(
        response.field("proxy-status").unwrap(),
        format!("wawp-gateway; error=http_request_denied; details=\"{message}\"")
    );
    // The networks of the rule are not disclosed.
    assert!(!message.contains(|c: char| c.is_ascii_digit()), "{message}");
}

/// A request with one more field.
fn with(request: &str, field: &str) -> String {
    request.replacen("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"), 1)
}

#[tokio::test(start_paused = true)]
async fn only_certain_networks_may_connect() {
    let world = World::new("access.networks = [\"10.0.0.0/8\", \"2001:db8::/32\"]");
    for inside in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::7"] {
        for request in [get(CHATS), text("a"), receipt([1])] {
            let response = world.client_from(inside).asks(request).await;
            assert!(response.status() < 300, "{inside}: {}", response.start);
        }
    }
    assert_eq!(world.call(get(CHATS)).await.status(), 200, "in memory");
    let sent = world.sandbox.received();
    for outside in ["11.1.2.3", "::ffff:11.1.2.3", "2001:db9::7"] {
        let mut client = world.client_from(outside);
        for request in [get(CHATS), text("a"), receipt([1]), get("/")] {
            refused(&client.asks(request).await, "access.networks");
        }
    }
    assert_eq!(world.sandbox.received(), sent);
    let code = ["code=\"403\""];
    assert_eq!(world.counted("wawp_gateway_requests_total", &code), 12.0);
    let tenants = world.counted("wawp_gateway_tenant_requests_total", &["other"]);
    assert_eq!(tenants, 10.0, "those who were let in");
}

#[tokio::test(start_paused = true)]
async fn a_stranger_is_refused_before_the_body_is_asked_for() {
    let world = World::new("access.networks = [\"10.0.0.0/8\"]");
    let mut client = world.client_from("11.0.0.1");
    client
        .says("POST /v2/send/text HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
        .await;
    let response = client.response().await;
    refused(&response, "access.networks");
}

/// A gateway behind a proxy at 10.0.0.1, for clients of 203.0.113.0/24.
fn behind_a_proxy() -> World {
    World::new("access.networks = [\"203.0.113.0/24\"]\naccess.trusted_proxies = [\"10.0.0.0/8\"]")
}

#[tokio::test(start_paused = true)]
async fn the_proxy_protocol_says_for_whom_a_trusted_proxy_speaks() {
    let world = behind_a_proxy();
    for header in [LINE, BINARY] {
        let mut client = world.client_from("10.0.0.1");
        client.says([header, get(CHATS).as_bytes()].concat()).await;
        assert_eq!(client.response().await.status(), 200);
        // It goes for the whole connection.
        assert_eq!(client.asks(receipt([1])).await.status(), 201);
    }
    let mut client = world.client_from("10.0.0.1");
    client
        .says("PROXY TCP4 198.51.100.1 10.0.0.1 1 2\r\n")
        .await;
    refused(&client.asks(get(CHATS)).await, "access.networks");
    refused(&client.asks(receipt([1])).await, "access.networks");
}

#[tokio::test(start_paused = true)]
async fn a_header_may_come_in_pieces() {
    let world = behind_a_proxy();
    for header in [LINE, BINARY] {
        let whole = [header, get(CHATS).as_bytes()].concat();
        // Cut once, at every place.
        for cut in 0..whole.len() {
            let mut client = world.client_from("10.0.0.1");
            client.says(&whole[..cut]).await;
            at_rest().await;
            assert_eq!(
                client.asks(&whole[cut..]).await.status(),
                200,
                "cut at {cut}"
            );
        }
        // And at all of them.
        let mut client = world.client_from("10.0.0.1");
        for byte in whole {
            client.says([byte]).await;
            at_rest().await;
        }
        assert_eq!(client.response().await.status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_trusted_proxy_may_speak_for_itself() {
    let world =
        World::new("access.networks = [\"10.0.0.1\"]\naccess.trusted_proxies = [\"10.0.0.1\"]");
    let block = |command: u8, family: u8, rest: &[u8]| {
        let length = u8::try_from(rest.len()).unwrap();
        [
            b"\r\n\r\n\0\r\nQUIT\n",
            &[command, family, 0, length][..],
            rest,
        ]
        .concat()
    };
    for header in [
        Vec::new(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN ::1 ::1 1 2\r\n".to_vec(),
        block(0x20, 0, &[]),
        block(0x20, 0x11, &[203, 0, 113, 9, 10, 0, 0, 1, 0, 1, 0, 2]),
        block(0x21, 0, &[]),
        block(0x21, 0x31, &[0; 216]),
    ] {
        let mut client = world.client_from("10.0.0.1");
        client.says(&header).await;
        let response = client.asks(get(CHATS)).await;
        assert_eq!(response.status(), 200, "{}", header.escape_ascii());
    }
    // HTTP that begins as a header does is none.
    for request in [
        post("/v2/x?instance_id=1", "{}"),
        format!("\r\n{}", get(CHATS)),
    ] {
        let response = world.client_from("10.0.0.1").asks(request).await;
        assert_ne!(response.status(), 400);
    }
    // What ends before it is known ends as it does for anybody.
    for peer in ["10.0.0.1", "10.0.0.2"] {
        for beginning in ["", "PROX"] {
            let mut client = world.client_from(peer);
            client.says(beginning).await;
            client.says_no_more().await;
            client.hears_end().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_malformed_header_closes_the_connection() {
    let world = behind_a_proxy();
    let mut wrong = BINARY.to_vec();
    wrong[12] = 0x31;
    for header in [
        b"PROXY TCP4 203.0.113.9 10.0.0.1 4660\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.9 10.0.0.1 4660 443\n".to_vec(),
        [b"PROXY UNKNOWN", &[b'x'; 200][..]].concat(),
        wrong,
    ] {
        let mut client = world.client_from("10.0.0.1");
        client.tries_to_say(&header).await.ok();
        client.tries_to_say(get(CHATS)).await.ok();
        client.hears_end().await;
    }
    assert_eq!(world.sandbox.received(), 0);
    assert_eq!(world.counted("wawp_gateway_connections", &[]), 0.0);
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_header_is_cut() {
    for beginning in [&b""[..], &LINE[..20], &BINARY[..5], &BINARY[..30]] {
        let world = behind_a_proxy();
        let mut client = world.client_from("10.0.0.1");
        let began = Instant::now();
        client.says(beginning).await;
        client.hears_end().await;
        assert_eq!(began.elapsed().as_secs(), 10, "server.header_timeout");
    }
    // A drain has less patience.
    let world = behind_a_proxy();
    let mut client = world.client_from("10.0.0.1");
    client.says(&LINE[..20]).await;
    at_rest().await;
    let began = Instant::now();
    world.gateway.drain();
    world.gateway.drained().await;
    assert!(began.elapsed() < Duration::from_secs(2));
    client.hears_end().await;
}

#[tokio::test(start_paused = true)]
async fn from_anybody_else_a_header_is_no_http() {
    let trusting = World::new("access.trusted_proxies = [\"10.0.0.0/8\"]");
    for header in [LINE, BINARY] {
        for mut client in [
            trusting.client_from("203.0.113.9"),
            trusting.client(),
            World::new("").client_from("10.0.0.1"),
        ] {
            client.says([header, get(CHATS).as_bytes()].concat()).await;
            assert_eq!(client.response().await.status(), 400);
        }
    }
    assert_eq!(trusting.sandbox.received(), 0);
}

#[tokio::test(start_paused = true)]
async fn x_forwarded_for_counts_from_a_trusted_proxy_only_and_passes_untouched() {
    let world = World::new(
        "access.networks = [\"203.0.113.0/24\", \"198.51.100.7\"]\naccess.trusted_proxies = [\"10.0.0.0/8\"]",
    );
    for (peer, forwarded, let_in) in [
        ("10.0.0.1", "203.0.113.9", true),
        ("10.0.0.1", "192.0.2.1, 203.0.113.9:4711, 10.0.0.2", true),
        ("10.0.0.1", "203.0.113.9, 192.0.2.1", false),
        ("10.0.0.1", "203.0.113.9, unknown", false),
        ("198.51.100.7", "192.0.2.1", true),
        ("198.51.100.8", "203.0.113.9", false),
    ] {
        let field = format!("X-Forwarded-For: {forwarded}");
        for request in [with(&get(CHATS), &field), with(&receipt([1]), &field)] {
            world.sandbox.clear();
            let response = world.client_from(peer).asks(request).await;
            if let_in {
                assert!(response.status() < 300, "{peer}, {forwarded}");
                let calls = world.sandbox.calls();
                assert_eq!(calls[0].headers["x-forwarded-for"], forwarded);
            } else {
                refused(&response, "access.networks");
            }
        }
    }
    // A client cannot have it taken for a field of its hop.
    let hidden = with(
        &get(CHATS),
        "Connection: x-forwarded-for\r\nX-Forwarded-For: 192.0.2.1",
    );
    refused(
        &world.client_from("10.0.0.1").asks(hidden).await,
        "access.networks",
    );
}

#[tokio::test(start_paused = true)]
async fn proxies_may_stand_behind_one_another() {
    let world = behind_a_proxy();
    // One that speaks the PROXY protocol, before it one that writes the field.
    let mut client = world.client_from("10.0.0.1");
    client.says("PROXY TCP4 10.0.0.2 10.0.0.1 1 2\r\n").await;
    for (forwarded, status) in [("203.0.113.9", 200), ("192.0.2.1", 403)] {
        let request = with(&get(CHATS), &format!("X-Forwarded-For: {forwarded}"));
        assert_eq!(client.asks(request).await.status(), status);
    }
    // The one it speaks for is no proxy: what he writes is his own word.
    let mut client = world.client_from("10.0.0.1");
    client.says("PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n").await;
    let request = with(&get(CHATS), "X-Forwarded-For: 203.0.113.9");
    assert_eq!(client.asks(request).await.status(), 403);
}

const ZOO: &str = "[[tenant]]\nname = \"zoo\"\ninstances = [\"123\"]\nnetworks = [\"192.0.2.0/24\"]\n\
                   [[tenant]]\nname = \"acme\"\ninstances = [\"7\", \"8\"]\n";

#[tokio::test(start_paused = true)]
async fn a_tenants_instances_are_used_from_its_networks_only() {
    let world = World::new(&format!("limit.rate = 1\nlimit.burst = 2\n{ZOO}"));
    let mut stranger = world.client_from("198.51.100.1");
    for request in [get(CHATS), text("a"), receipt([1])] {
        let began = Instant::now();
        refused(&stranger.asks(request).await, "tenant.networks");
        assert_eq!(began.elapsed(), Duration::ZERO, "no window, no line");
    }
    assert_eq!(world.sandbox.received(), 0);
    assert_eq!(
        world.counted("wawp_gateway_instance_requests_total", &[]),
        0.0
    );
    let other = receipt_of("7", "token-1", "1@c.us", &ids([1]));
    assert_eq!(stranger.asks(other).await.status(), 201);
    // Nothing was spent of the budget either.
    let mut owner = world.client_from("192.0.2.9");
    for request in [text("a"), text("b")] {
        let began = Instant::now();
        assert_eq!(owner.asks(request).await.status(), 201);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn listed_instances_only() {
    let world = World::new(&format!("access.instances = \"listed\"\n{ZOO}"));
    let mut client = world.client_from("192.0.2.1");
    for request in [get(CHATS), text("a"), receipt([1])] {
        assert!(client.asks(request).await.status() < 300);
    }
    let sent = world.sandbox.received();
    let unlisted = [
        get("/v2/chats?instance_id=124&access_token=t"),
        with(&get("/v2/chats"), "X-Instance-ID: 124"),
        post(
            "/v2/send/text",
            "{\"instance_id\":\"124\",\"access_token\":\"t\"}",
        ),
        receipt_of("124", "t", "1@c.us", &ids([1])),
    ];
    for request in unlisted {
        refused(&client.asks(request).await, "access.instances");
    }
    let none = [
        get("/v2/chats"),
        get("/"),
        with(&get("/v2/chats"), "Authorization: Bearer t"),
        post("/v2/send/seen", "{\"chatId\":\"1@c.us\"}"),
        post("/v2/send/text", "not json"),
    ];
    for request in none {
        let response = client.asks(request).await;
        refused(&response, "names no instance");
        refused(&response, "access.instances");
    }
    assert_eq!(world.sandbox.received(), sent);
}

#[tokio::test(start_paused = true)]
async fn no_instance_hides_behind_another() {
    let both = [
        get("/v2/chats?instance_id=7&instance_id=123&access_token=t"),
        with(
            &get("/v2/chats?instance_id=7&access_token=t"),
            "X-Instance-ID: 123",
        ),
        post(
            "/v2/send/text?instance_id=7&access_token=t",
            "{\"instance_id\":\"123\",\"access_token\":\"t\"}",
        ),
        post(
            "/v2/send/text",
            "{\"instance_id\":\"7\",\"access_token\":\"t\",\"instance_id\":\"123\"}",
        ),
        post(
            "/v2/send/seen?instance_id=7&access_token=t",
            "{\"instance_id\":\"123\",\"chatId\":\"1@c.us\",\"messageIds\":[\"false_1@c.us_1\"]}",
        ),
    ];
    for rules in [
        ZOO.to_owned(),
        format!("access.instances = \"listed\"\n{ZOO}"),
    ] {
        let world = World::new(&rules);
        for request in &both {
            let response = world.client_from("198.51.100.1").asks(request).await;
            refused(&response, "more than one instance");
        }
        assert_eq!(world.sandbox.received(), 0);
        // Twice the same is one.
        let same = with(
            &get("/v2/chats?instance_id=7&access_token=t"),
            "X-Instance-ID: 7",
        );
        assert_eq!(world.call(same).await.status(), 200);
    }
    // Where no rule goes by instance, it is not the gateway's business.
    let world = World::new("");
    for request in &both {
        assert_ne!(world.call(request).await.status(), 403);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_count_for_their_tenant() {
    let world = World::new(ZOO);
    let counted = |tenant: &str, route: &str| {
        let labels = [
            &*format!("tenant=\"{tenant}\""),
            &*format!("route=\"{route}\""),
        ];
        world.counted("wawp_gateway_tenant_requests_total", &labels)
    };
    for tenant in ["zoo", "acme", "other"] {
        let zero =
            format!("wawp_gateway_tenant_requests_total{{route=\"seen\",tenant=\"{tenant}\"}} 0\n");
        assert!(world.gateway.metrics().exposition().contains(&zero));
    }
    world.call(text("a")).await;
    world.together([receipt([1]), receipt([2])]).await;
    world.call(receipt_of("8", "t", "1@c.us", &ids([1]))).await;
    world
        .call(get("/v2/chats?instance_id=9&access_token=t"))
        .await;
    world.call(get("/v2/chats")).await;
    assert_eq!(counted("zoo", "other"), 1.0);
    assert_eq!(counted("zoo", "seen"), 2.0);
    assert_eq!(counted("acme", "seen"), 1.0);
    assert_eq!(counted("acme", "other"), 0.0);
    assert_eq!(counted("other", "other"), 2.0);
    // A name that is gone keeps its count, one that is new begins at zero.
    world.reload("[[tenant]]\nname = \"new\"\ninstances = [\"123\"]\n");
    world.call(text("a")).await;
    assert_eq!(counted("zoo", "other"), 1.0);
    assert_eq!(counted("new", "other"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn rules_change_under_open_connections() {
    let world = World::new("");
    let mut client = world.client_from("198.51.100.1");
    assert_eq!(client.asks(get(CHATS)).await.status(), 200);
    world.reload("access.networks = [\"192.0.2.0/24\"]");
    refused(&client.asks(get(CHATS)).await, "access.networks");
    world.reload(
        "access.networks = [\"192.0.2.0/24\"]\naccess.trusted_proxies = [\"198.51.100.1\"]",
    );
    let request = with(&get(CHATS), "X-Forwarded-For: 192.0.2.1");
    assert_eq!(client.asks(request).await.status(), 200);
    world.reload(ZOO);
    refused(&client.asks(get(CHATS)).await, "tenant.networks");
    world.reload("access.instances = \"listed\"");
    refused(&client.asks(get(CHATS)).await, "access.instances");
    world.reload("");
    assert_eq!(client.asks(get(CHATS)).await.status(), 200);
}
