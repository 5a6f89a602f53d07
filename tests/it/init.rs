//! The settings that `init` prints, in force.

use std::time::Duration;

use wawp_gateway::init;
use wawp_gateway::sandbox::Settings;

use crate::support::{
    Message, Program, RunningSandbox, Scratch, World, call, get, post, run, run_with_input,
};

/// Runs `init --from-policy -` with this standard input: exit code, stdout and stderr.
fn init_from(policy: &[u8]) -> (i32, String, String) {
    run_with_input(&["init", "--from-policy", "-"], policy)
}

#[test]
fn what_init_prints_is_accepted_by_check() {
    let (code, stdout, stderr) = run(&["init"]);
    assert_eq!((code, &*stderr), (0, ""));
    let scratch = Scratch::new();
    let file = scratch.file("gateway.toml", &stdout);
    let (code, effective, stderr) = run(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!((code, &*stderr), (0, ""));
    for class in ["typing", "messages", "groups", "checks"] {
        assert!(
            effective.contains(&format!("name = \"{class}\"  # ")),
            "{effective}"
        );
    }
}

#[test]
fn a_gateway_runs_with_the_policy_that_it_was_asked_for() {
    let sandbox = RunningSandbox::start(Settings::default());
    let ask = |gateway: &Program, request: String| {
        let request = request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        Message::response(&call(gateway.address, request), "GET")
    };
    let gateway = Program::serve(sandbox.address, &[]);
    let target = "/v2/session/rate-limit?instance_id=SANDBOX1&access_token=t&policy_slug=strict";
    let policy = ask(&gateway, get(target));
    assert_eq!(policy.status(), 200);
    let (code, settings, stderr) = init_from(policy.text().as_bytes());
    assert_eq!((code, &*stderr), (0, ""), "{settings}");

    let scratch = Scratch::new();
    let file = scratch.file("gateway.toml", &settings);
    let file = file.to_str().unwrap();
    let limited = Program::serve_with(
        sandbox.address,
        &[("LIMIT__HEADERS", "true")],
        &["--config", file],
    );
    let policy_of = |target: &str| {
        let response = ask(&limited, get(target));
        response.field("ratelimit-policy").unwrap().to_owned()
    };
    // The policy of the sandbox: 10 messages a minute, 5 s apart.
    let send = "/v2/send/text?access_token=t&chatId=1@c.us&message=a&instance_id=";
    let own = policy_of(&format!("{send}SANDBOX1"));
    assert!(own.contains("q=1;w=7"), "{own}");
    let other = policy_of(&format!("{send}SANDBOX2"));
    assert!(other.contains("q=20"), "{other}");
    let check = policy_of("/v2/contacts/check-exists?instance_id=SANDBOX1&access_token=t&phone=1");
    assert!(check.contains("q=1;w=7"), "{check}");
}

#[test]
fn what_is_no_policy_exits_2_and_prints_nothing() {
    let unknown =
        br#"{"policy":{"slug":"s","limits":{"send_message_per_minute":6,"send_per_hour":9}}}"#;
    let (code, stdout, stderr) = init_from(unknown);
    assert_eq!(code, 0);
    let note = "policy.limits.\"send_per_hour\": unknown field";
    assert!(
        stderr.contains(&format!("warning: standard input: {note}")),
        "{stderr}"
    );
    assert!(stdout.contains(&format!("# - {note}")), "{stdout}");
    let long = vec![b' '; 1 << 20];
    for (input, message) in [
        (
            &b"{\"status\":401,\"code\":\"invalid_access_token\"}"[..],
            "policy: missing",
        ),
        (b"\xff", "not JSON"),
        (&long, "too long"),
        (
            br#"{"policy":{"limits":{"concurrent_limit":-1}}}"#,
            "policy.limits.concurrent_limit: -1: a whole number from 0 to 100000 is expected",
        ),
    ] {
        let (code, stdout, stderr) = init_from(input);
        assert_eq!((code, &*stdout), (2, ""), "{stderr}");
        assert!(stderr.contains(message), "{message}: {stderr}");
    }
    let (code, stdout, stderr) = run(&["init", "--from-policy", "/nonexistent/policy.json"]);
    assert_eq!((code, &*stdout), (2, ""));
    assert!(stderr.contains("/nonexistent/policy.json: "), "{stderr}");
}

/// Sends one request a second for ten minutes; returns how many reached the upstream in each
/// window of a minute at most, and in all.
async fn sent(settings: &str, request: &str) -> (usize, usize) {
    let world = World::new(settings);
    // The API accepts the credential, so what follows draws on the main bucket, which refills.
    world.call(request).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.sandbox.clear();
    let mut waiting = Vec::new();
    for _ in 0..600 {
        waiting.push(world.calling(request.to_owned()));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for response in waiting {
        let status = response.await.unwrap().status();
        assert!([200, 201, 429].contains(&status), "{status}");
    }
    let times: Vec<_> = world.sandbox.calls().iter().map(|call| call.at).collect();
    let within = |from: &tokio::time::Instant| {
        let minute = Duration::from_secs(60) - Duration::from_millis(5);
        times
            .iter()
            .filter(|at| *at >= from && **at < *from + minute)
            .count()
    };
    (times.iter().map(within).max().unwrap(), times.len())
}

#[tokio::test(start_paused = true)]
async fn the_classes_let_through_what_their_comments_say() {
    let settings = init::recommended().to_string();
    let message = r#"{"instance_id":"1","access_token":"t","chatId":"1@c.us","message":"a"}"#;
    for (request, most, in_ten_minutes) in [
        (post("/v2/send/text", message), 17, 152..=154),
        (
            get("/v2/groups?instance_id=1&access_token=t"),
            19,
            154..=156,
        ),
        (
            get("/v2/contacts/check-exists?instance_id=1&access_token=t&phone=1"),
            30,
            300..=302,
        ),
        // Without a class: 10 a second.
        (
            get("/v2/session/info?instance_id=1&access_token=t"),
            60,
            600..=600,
        ),
    ] {
        let (found, all) = sent(&settings, &request).await;
        assert_eq!(found, most, "{request}");
        assert!(in_ten_minutes.contains(&all), "{request}: {all}");
    }
}
