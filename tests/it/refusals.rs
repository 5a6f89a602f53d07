//! Refusals: said at once, in the upstream's own shape, with the time to come back.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{Message, World, get, receipt, text};

/// Checks the gateway's own 429 in all its parts, and returns when to come back.
#[track_caller]
fn refused(response: &Message) -> Duration {
    assert_eq!(response.start, "HTTP/1.1 429 Too Many Requests");
    let wait: u64 = response.field("retry-after").unwrap().parse().unwrap();
    assert!(wait >= 1);
    assert_eq!(response.field("content-type"), Some("application/json"));
    assert!(
        response
            .field("date")
            .is_some_and(|date| date.ends_with(" GMT"))
    );
    let body = response.json();
    assert_eq!(body["status"], 429);
    assert_eq!(body["code"], "rate_limited");
    assert_eq!(body["error"], "Too Many Requests");
    let message = body["message"].as_str().unwrap();
    assert!(message.contains(&format!("retry in {wait} s")), "{message}");
    assert!(message.contains("limit.max_"), "{message}");
    assert_eq!(body.as_object().unwrap().len(), 4);
    let status = response.field("proxy-status").unwrap();
    assert_eq!(
        status,
        format!("wawp-gateway; error=http_request_denied; details=\"{message}\"")
    );
    assert_eq!(
        response.field("ratelimit"),
        Some(&*format!("\"instance\";r=0;t={wait}"))
    );
    let policy = response.field("ratelimit-policy").unwrap();
    assert!(policy.starts_with("\"instance\";q=1;w="), "{policy}");
    Duration::from_secs(wait)
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once_and_later_serves() {
    let world = World::new("limit.rate = 1\nlimit.burst = 1\nlimit.max_queue = 2");
    world.call(text("spends the token")).await;
    let waiting = [world.calling(text("1")), world.calling(text("2"))];
    crate::support::at_rest().await;
    for request in [text("3"), receipt([1])] {
        let began = Instant::now();
        let response = world.call(&request).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(
            response.json()["message"]
                .as_str()
                .unwrap()
                .contains("limit.max_queue")
        );
        assert_eq!(refused(&response), Duration::from_secs(3));
    }
    assert_eq!(
        world.counted("wawp_gateway_limit_rejected_total", &["queue_full"]),
        2.0
    );
    assert_eq!(
        world.sandbox.messages(),
        1,
        "nothing of the refused was sent"
    );
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(world.call(text("back")).await.status(), 201);
    for call in waiting {
        assert_eq!(call.await.unwrap().status(), 201);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_beyond_max_wait_refuses_at_once_and_later_serves() {
    for (request, window) in [(text("late"), 0), (receipt([1]), 50)] {
        let world = World::new("limit.rate = 0.2\nlimit.burst = 1");
        world.call(text("spends the token")).await;
        let began = Instant::now();
        let response = world.call(&request).await;
        // What the first of a chat has to wait for is known when its window is over.
        assert!(
            began.elapsed() <= Duration::from_millis(window),
            "{:?}",
            began.elapsed()
        );
        assert!(
            response.json()["message"]
                .as_str()
                .unwrap()
                .contains("limit.max_wait")
        );
        let wait = refused(&response);
        assert_eq!(wait, Duration::from_secs(5));
        tokio::time::sleep(wait).await;
        assert_eq!(world.call(&request).await.status(), 201);
    }
}

/// Neither the instance's limit, which is not in the way, nor a pause that the
/// upstream has not asked for.
#[tokio::test(start_paused = true)]
async fn a_refusal_names_the_budget_that_is_used_up() {
    let egress = "[egress]\nrate = 0.1\nburst = 1";
    let tenant = "[[tenant]]\nname = \"t\"\ninstances = [\"123\"]\nrate = 0.1\nburst = 1";
    for (budget, name, expected) in [
        (egress, "egress", "all instances together (egress.rate)"),
        (tenant, "tenant", "this instance's tenant (tenant.rate)"),
    ] {
        for limit in ["", "[limit]\nrate = 0\nburst = 0\n"] {
            let world = World::new(&format!("{limit}{budget}"));
            // The first call is unverified, and draws on a budget of its own.
            world.call(text("verifies")).await;
            tokio::time::sleep(Duration::from_secs(10)).await;
            world.call(text("spends the token")).await;
            for request in [text("late"), receipt([1])] {
                let began = Instant::now();
                let response = world.call(request).await;
                assert_eq!(began.elapsed(), Duration::ZERO);
                let message = response.json()["message"].clone();
                let message = message.as_str().unwrap();
                assert!(message.contains(expected), "{message}");
                let ends = "the limit is 0.1 requests per second, burst 1; retry in 10 s";
                assert!(message.ends_with(ends), "{message}");
                let state = format!("\"{name}\";r=0;t=10");
                assert_eq!(response.field("ratelimit"), Some(&*state));
                let policy = response.field("ratelimit-policy").unwrap();
                assert!(policy.starts_with(&format!("\"{name}\";q=1;w=10")));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_is_promised_a_turn_gets_it_and_is_told_how_long_it_took() {
    let world = World::new("limit.rate = 1\nlimit.burst = 1\nlimit.max_wait = \"4100ms\"");
    let responses = world.together((0..10).map(|n| text(&n.to_string()))).await;
    let served: Vec<_> = responses
        .iter()
        .filter(|response| response.status() == 201)
        .collect();
    assert_eq!(served.len(), 5, "one at once and four within four seconds");
    assert_eq!(served[0].field("server-timing"), None, "it has not waited");
    let timing = served[4].field("server-timing").unwrap();
    assert!(timing.starts_with("queue;dur=4000"), "{timing}");
    for response in responses.iter().filter(|response| response.status() != 201) {
        refused(response);
    }
    assert_eq!(world.sandbox.messages(), 5);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_refused_after_waiting() {
    // The turn of the fifth falls on the very end of `max_wait`.
    let world = World::new("limit.rate = 1\nlimit.burst = 1\nlimit.max_wait = \"4s\"");
    let began = Instant::now();
    let calls: Vec<_> = (0..10)
        .map(|n| {
            let mut client = world.client();
            tokio::spawn(async move {
                let response = client.asks(text(&n.to_string())).await;
                (response, began.elapsed())
            })
        })
        .collect();
    for call in calls {
        let (response, waited) = call.await.unwrap();
        if response.status() != 201 {
            refused(&response);
            assert_eq!(waited, Duration::ZERO);
        }
    }
    assert!(world.sandbox.messages() >= 4);
}

#[tokio::test(start_paused = true)]
async fn fields_about_the_limit_where_asked_for() {
    let world = World::new("limit.rate = 2\nlimit.burst = 4\nlimit.headers = true");
    let response = world.call(text("a")).await;
    assert_eq!(
        response.field("ratelimit-policy"),
        Some("\"instance\";q=4;w=2;qu=\"requests\"")
    );
    assert!(
        response
            .field("ratelimit")
            .unwrap()
            .starts_with("\"instance\";r=3;t=")
    );
    let quiet = World::new("");
    assert_eq!(quiet.call(text("a")).await.field("ratelimit"), None);
}

#[tokio::test(start_paused = true)]
async fn too_many_calls_in_flight_are_refused() {
    let world = World::new("server.max_in_flight = 3\nlimit.rate = 0\nlimit.burst = 0");
    let delay = wawp_gateway::sandbox::FaultKind::Delay(Duration::from_secs(5));
    let slow = wawp_gateway::sandbox::Fault::new(delay).times(3);
    world.sandbox.script(slow);
    let slow: Vec<_> = (0..3)
        .map(|n| world.calling(text(&n.to_string())))
        .collect();
    crate::support::at_rest().await;
    let began = Instant::now();
    let response = world.call(text("one too many")).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(response.status(), 503);
    assert_eq!(response.field("retry-after"), Some("1"));
    let body = response.json();
    assert_eq!(body["status"], 503);
    assert_eq!(body["code"], "overloaded");
    assert_eq!(body["error"], "Service Unavailable");
    assert!(
        response
            .field("proxy-status")
            .unwrap()
            .starts_with("wawp-gateway; error=")
    );
    for call in slow {
        assert_eq!(call.await.unwrap().status(), 201);
    }
    assert_eq!(world.call(text("now there is room")).await.status(), 201);
    assert_eq!(world.sandbox.messages(), 4);
    assert_eq!(world.counted("wawp_gateway_in_flight_requests", &[]), 0.0);
}

#[tokio::test(start_paused = true)]
async fn calls_without_an_instance_share_a_bucket_per_credential() {
    let world = World::new("limit.rate = 1\nlimit.burst = 1");
    let path = "/sandbox/status/200";
    let began = Instant::now();
    world
        .together([
            get(path),
            get(&format!("{path}?access_token=a")),
            get(&format!("{path}?access_token=b")),
        ])
        .await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    world
        .together([get(path), get(&format!("{path}?access_token=a"))])
        .await;
    assert_eq!(began.elapsed(), Duration::from_secs(1));
}
