//! Which budget a request draws on, however it names its instance and its path.

use std::time::Duration;

use wawp_gateway::sandbox::{Fault, Settings};

use crate::support::{World, get, ids, post, receipt};

/// A budget of two at once, then one a second.
const TIGHT: &str =
    "limit.rate = 1\nlimit.burst = 2\nlimit.max_wait = \"100ms\"\nserver.timing_header = false\n";

/// A request with one more field.
fn with(request: &str, field: &str) -> String {
    request.replacen("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"), 1)
}

fn form(target: &str, body: &str) -> String {
    post(target, body).replace("application/json", "application/x-www-form-urlencoded")
}

fn options(target: &str) -> String {
    get(target).replacen("GET", "OPTIONS", 1)
}

async fn statuses(world: &World, requests: &[String]) -> Vec<u16> {
    let mut statuses = Vec::new();
    for request in requests {
        statuses.push(world.call(request).await.status());
    }
    statuses
}

/// How many tokens are left to the owner of an instance whose token is verified.
async fn left(world: &World, instance: &str) -> usize {
    let request = get(&format!(
        "/v2/chats?instance_id={instance}&access_token=token-1"
    ));
    let mut left = 0;
    while world.call(&request).await.status() != 429 {
        left += 1;
    }
    left
}

async fn verify(world: &World, instance: &str) {
    let request = get(&format!(
        "/v2/chats?instance_id={instance}&access_token=token-1"
    ));
    assert_eq!(world.call(request).await.status(), 200);
    tokio::time::sleep(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_has_one_budget_in_every_spelling_of_its_id() {
    for spelling in ["123%20", "%09123", "123%00", "123%0A", "123%2520", "+123"] {
        let world = World::new(TIGHT);
        let plain = get("/v2/x?instance_id=123&access_token=token-1");
        assert_ne!(world.call(&plain).await.status(), 429);
        let target = format!("/v2/x?instance_id={spelling}&access_token=token-1");
        assert_ne!(world.call(get(&target)).await.status(), 429);
        assert_eq!(world.call(get(&target)).await.status(), 429, "{spelling}");
        assert_eq!(world.call(&plain).await.status(), 429, "{spelling}");
        // It is forwarded as it came.
        assert_eq!(world.sandbox.calls()[1].target, target);
    }
    let world = World::new(TIGHT);
    let requests = [
        with(&get("/v2/x?access_token=token-1"), "X-Instance-ID: 123%20"),
        post(
            "/v2/x",
            r#"{"instance_id":"123\n","access_token":"token-1"}"#,
        ),
        form("/v2/x", "instance_id=%00123&access_token=token-1"),
    ];
    let found = statuses(&world, &requests).await;
    assert!(found[1] != 429 && found[2] == 429, "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn a_path_has_one_class_in_every_spelling() {
    let class =
        "[[limit.class]]\nname = \"sends\"\npaths = [\"/v2/send/text\"]\nrate = 1\nburst = 1\n";
    for path in [
        "/v2/%73end/text",
        "/v2/./send/text",
        "/v2/x/../send/text",
        "/v2/x/%2e%2e/send/text",
        "/v2/send/text;a=b",
        "/v2;a=b/send/text",
        "//v2/send/text",
        "/v2/send/text/",
        "/v2/send%2Ftext",
    ] {
        let world = World::new(&format!("limit.max_wait = \"100ms\"\n{class}"));
        let body =
            r#"{"instance_id":"123","access_token":"token-1","chatId":"1@c.us","message":"a"}"#;
        assert_ne!(world.call(post("/v2/send/text", body)).await.status(), 429);
        assert_eq!(world.call(post(path, body)).await.status(), 429, "{path}");
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.call(post(path, body)).await;
        assert_eq!(world.sandbox.calls()[1].target, path);
    }
}

/// A sandbox that takes the owner's token and no other.
fn strict(settings: &str) -> World {
    let sandbox = Settings {
        token: Some("token-1".to_owned()),
        ..Settings::default()
    };
    World::with_sandbox(settings, sandbox)
}

#[tokio::test(start_paused = true)]
async fn what_any_server_answers_verifies_nothing() {
    let junk = "instance_id=123&access_token=junk";
    for request in [
        options(&format!("/v2/chats?{junk}")),
        get(&format!("/v2/chats?{junk}")).replacen("GET", "TRACE", 1),
        get(&format!("/v2/../public?{junk}")),
        get(&format!("/v2/%2e%2e/public?{junk}")),
        get(&format!("/v2/..%2fpublic?{junk}")),
        // Not read to its end.
        post(
            &format!("/v2/chats?{junk}"),
            &format!("{{\"a\":\"{}\"}}", "x".repeat(70_000)),
        ),
        // The body names another instance.
        post(&format!("/v2/chats?{junk}"), r#"{"instance_id":"7"}"#),
        form(&format!("/v2/chats?{junk}"), "instance.id=7"),
    ] {
        let world = strict(TIGHT);
        verify(&world, "123").await;
        world.sandbox.script(Fault::status(200));
        let response = world.call(&request).await;
        assert_eq!(response.status(), 200, "{request:.60}");
        tokio::time::sleep(Duration::from_secs(10)).await;
        // A verified one would draw on the owner's budget.
        for _ in 0..3 {
            world.call(get(&format!("/v2/chats?{junk}"))).await;
        }
        assert_eq!(left(&world, "123").await, 2, "{request:.60}");
    }
    // The same with a plain request: the test can fail.
    let world = strict(TIGHT);
    verify(&world, "123").await;
    world.sandbox.script(Fault::status(200));
    world.call(get(&format!("/v2/chats?{junk}"))).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    for _ in 0..3 {
        world.call(get(&format!("/v2/chats?{junk}"))).await;
    }
    // The first of them was answered 401, which removes the credential again.
    assert_eq!(left(&world, "123").await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_names_two_instances_uses_nobodys_verified_budget() {
    // The attacker's own token and instance are in the body, the victim's in the query.
    let world = World::new(TIGHT);
    verify(&world, "123").await;
    let body = r#"{"instance_id":"666","access_token":"token-666"}"#;
    for _ in 0..5 {
        world.call(post("/v2/chats?instance_id=123", body)).await;
    }
    assert_eq!(left(&world, "123").await, 2);
    // No label of its own for the instance that counts.
    let world = World::new("");
    world.call(post("/v2/chats?instance_id=9", body)).await;
    let labelled = world.counted("wawp_gateway_instance_requests_total", &["instance=\"9\""]);
    assert_eq!(labelled, 0.0);
}

#[tokio::test(start_paused = true)]
async fn receipts_that_name_two_instances_are_not_merged() {
    let world = World::new("");
    let body = |number: usize| {
        let ids = ids([number]);
        serde_json::json!({ "instance_id": "666", "chatId": "1@c.us", "messageIds": ids })
            .to_string()
    };
    let target = "/v2/send/seen?instance_id=123&access_token=token-1";
    let requests = (0..5).map(|number| post(target, &body(number)));
    world.together(requests).await;
    assert_eq!(world.sandbox.received(), 5);
    // JSON that is declared a form, in which PHP would find another instance.
    let world = World::new("");
    let requests = (0..5).map(|number| {
        let body = receipt([number]).replacen("1@c.us", "&instance_id=666&", 1);
        body.replace("application/json", "application/x-www-form-urlencoded")
    });
    let requests = requests.map(|request| {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let head = head.split("Content-Length").next().unwrap();
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
    });
    world.together(requests.collect::<Vec<_>>()).await;
    assert_eq!(world.sandbox.received(), 5);
}

#[tokio::test(start_paused = true)]
async fn no_spelling_of_a_second_instance_passes_a_rule_of_access() {
    let rules = "[[tenant]]\nname = \"acme\"\ninstances = [\"inst-1\"]\nnetworks = [\"10.0.0.0/8\"]\n\
                 [[tenant]]\nname = \"zoo\"\ninstances = [\"inst-2\"]\nnetworks = [\"192.0.2.0/24\"]\n";
    let world = World::new(rules);
    let head = "instance_id=inst-1&access_token=token-1";
    let multipart = |name: &str| {
        let part = |name: &str, text: &str| {
            format!("--X\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n")
        };
        let body = part("instance_id", "inst-1") + &part(name, "inst-2") + "--X--\r\n";
        post("/v2/chats?access_token=token-1", &body)
            .replace("application/json", "multipart/form-data; boundary=X")
    };
    let mut requests = Vec::new();
    for (name, in_multipart) in [
        ("instance.id", "instance.id"),
        ("instance%20id", "instance id"),
        ("instance+id", " instance_id"),
        ("instance[id", "instance[id"),
        ("instance%5Bid", "instance_id"),
        ("+instance_id", "  instance.id"),
        ("%20instance_id", "instance id"),
        ("instance_id%00", "instance_id[]"),
        ("instance_id[]", "instance_id[0]"),
    ] {
        requests.push(get(&format!("/v2/chats?{head}&{name}=inst-2")));
        requests.push(form("/v2/chats", &format!("{head}&{name}=inst-2")));
        requests.push(form(
            &format!("/v2/chats?{head}"),
            &format!("{name}=inst-2"),
        ));
        requests.push(multipart(in_multipart));
    }
    requests.push(get(&format!("/v2/chats?{head}&access.token=token-2")));
    requests.push(with(
        &get(&format!("/v2/chats?{head}")),
        "X_Instance_ID: inst-2",
    ));
    for request in &requests {
        let response = world.client_from("10.0.0.1").asks(request).await;
        assert_eq!(response.status(), 403, "{request}");
        assert!(response.text().contains("more than one instance"));
    }
    assert_eq!(world.sandbox.received(), 0);
    let one = get(&format!("/v2/chats?{head}&instance.id=inst-1"));
    assert_ne!(world.client_from("10.0.0.1").asks(one).await.status(), 403);
}

#[tokio::test(start_paused = true)]
async fn requests_whose_identity_is_out_of_reach_have_a_bucket_of_their_client() {
    let world = World::new(TIGHT);
    let padding = "x".repeat(70_000);
    let upload = post(
        "/v2/send/image",
        &format!(r#"{{"data":"{padding}","instance_id":"123","access_token":"token-1"}}"#),
    );
    let mut uploads = Vec::new();
    for _ in 0..3 {
        uploads.push(world.client_from("192.0.2.1").asks(&upload).await.status());
    }
    assert!(uploads[1] != 429 && uploads[2] == 429, "{uploads:?}");
    // Another client, and requests without an instance, do not pay for it.
    assert_ne!(
        world.client_from("192.0.2.2").asks(&upload).await.status(),
        429
    );
    for _ in 0..2 {
        let page = world.client_from("192.0.2.1").asks(get("/")).await;
        assert_ne!(page.status(), 429);
    }
}

#[tokio::test(start_paused = true)]
async fn receipts_are_known_by_the_segments_of_their_path() {
    for path in ["//v2/send/seen", "/v2/send/seen/", "/v2//send/seen"] {
        let world = World::new("");
        let request = |number| receipt([number]).replacen("/v2/send/seen", path, 1);
        let mut requests: Vec<_> = (0..3).map(request).collect();
        // Another spelling is another request.
        requests.push(receipt([9]));
        world.together(requests).await;
        let mut targets: Vec<_> = world
            .sandbox
            .calls()
            .into_iter()
            .map(|call| call.target)
            .collect();
        targets.sort();
        let mut expected = [path, "/v2/send/seen"];
        expected.sort_unstable();
        assert_eq!(targets, expected);
        assert_eq!(
            world.counted("wawp_gateway_requests_total", &["route=\"seen\""]),
            4.0
        );
    }
}
