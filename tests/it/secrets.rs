//! No secret leaves by any door but the upstream's: not in the log at its most talkative, not in an error, a metric or
//! a page.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use wawp_gateway::sandbox::{Fault, FaultKind, Settings};

use crate::support::{HeldUpstream, Program, RunningSandbox, Scratch, call, connect};

/// A token with everything that is encoded differently in different places.
const TOKEN: &str = "s3cr3t/T0ken+with=signs";
const ENCODED: &str = "s3cr3t%2FT0ken%2Bwith%3Dsigns";
/// Marks of the token that survive any encoding.
const TRACES: [&str; 4] = ["s3cr3t", "T0ken", "czNjcjN0", "signs"];

fn requests() -> Vec<String> {
    let lower = ENCODED.to_ascii_lowercase().replace("t0ken", "T0ken");
    let every = ENCODED.replace("s3cr3t", "%73%33%63%72%33%74");
    let mut requests = Vec::new();
    let mut say = |head: &str, fields: &str, body: &str| {
        let length = body.len();
        requests.push(format!(
            "{head} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
        ));
    };
    let body = format!(
        r#"{{"instance_id":"123","access_token":"{TOKEN}","chatId":"1@c.us","messageIds":["false_1@c.us_A"],"message":"m"}}"#
    );
    let json = "Content-Type: application/json\r\n";
    // By path: served, reset, cut in the head, cut in the body, not answered at all, throttled, failed.
    for path in [
        "/v2/send/text",
        "/v2/send/seen",
        "/v2/reset",
        "/v2/midhead",
        "/v2/cut",
        "/v2/never",
        "/v2/busy",
        "/v2/500",
        "/sandbox/echo",
        "/nowhere",
    ] {
        for token in [TOKEN, ENCODED, &lower, &every] {
            say(
                &format!("POST {path}?instance_id=123&access_token={token}"),
                json,
                r#"{"chatId":"1@c.us"}"#,
            );
            say(
                &format!("GET {path}?access_token={token}&instance_id=123"),
                "",
                "",
            );
        }
        say(&format!("POST {path}"), json, &body);
        say(
            &format!("POST {path}"),
            &format!("Authorization: Bearer {TOKEN}\r\nX-Instance-ID: 123\r\n{json}"),
            r#"{"chatId":"1@c.us"}"#,
        );
        say(
            &format!("POST {path}"),
            &format!("access-token: {TOKEN}\r\nCookie: session={TOKEN}\r\n{json}"),
            &body,
        );
        say(
            &format!("POST {path}"),
            "Content-Type: application/x-www-form-urlencoded\r\n",
            &format!("instance_id=123&access_token={ENCODED}&chatId=1%40c.us"),
        );
        say(
            &format!("POST {path}"),
            "Content-Type: multipart/form-data; boundary=b\r\n",
            &format!(
                "--b\r\nContent-Disposition: form-data; name=\"access_token\"\r\n\r\n{TOKEN}\r\n--b--\r\n"
            ),
        );
        say(&format!("POST {path}"), json, &body[..body.len() - 9]);
        say(
            &format!("POST {path}"),
            &format!("{json}Content-Encoding: gzip\r\n"),
            &body,
        );
    }
    // Where no secret belongs.
    say(
        &format!("GET /v2/{TOKEN}/x?instance_id=123&x={ENCODED}"),
        "",
        "",
    );
    say(
        &format!("GET http://{TOKEN}@example.com/?access_token={TOKEN}"),
        "",
        "",
    );
    say(
        &format!("GET http://h.example/?access_token={TOKEN}"),
        "",
        "",
    );
    say(&format!("CONNECT {TOKEN}:443"), "", "");
    say(
        &format!("{} /v2/chats", TOKEN.replace(['/', '='], "-")),
        "",
        "",
    );
    // What is no HTTP at all, or too much of it.
    for bad in [
        format!("GET /v2/chats?access_token={TOKEN} HTTP/9.9\r\n\r\n"),
        format!("GET /v2/chats?access_token={TOKEN} x HTTP/1.1\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nAuthorization : Bearer {TOKEN}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: h\r\nAuthor\u{1}ization: Bearer {TOKEN}\r\n\r\n"),
        format!(
            "GET / HTTP/1.1\r\nHost: h\r\nAuthorization: {}\r\n\r\n",
            TOKEN.repeat(4000)
        ),
        format!(
            "GET /?access_token={} HTTP/1.1\r\nHost: h\r\n\r\n",
            ENCODED.repeat(4000)
        ),
        format!(
            "GET / HTTP/1.1\r\nHost: h\r\n{}\r\n",
            format!("X-Token: {TOKEN}\r\n").repeat(200)
        ),
        format!("POST /v2/send/text HTTP/1.1\r\nHost: h\r\nContent-Length: {TOKEN}\r\n\r\n"),
        format!(
            "POST /v2/send/text HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{TOKEN}\r\n"
        ),
        format!(
            "POST /v2/send/text HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n29\r\n{{\"access_token\":\"{TOKEN}\"}}\r\nzz{TOKEN}\r\n"
        ),
        format!("{TOKEN}\r\n\r\n"),
        format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{TOKEN}{TOKEN}"),
    ] {
        requests.push(bad);
    }
    requests
}

#[test]
fn no_token_in_log_output_or_metrics() {
    let reset = |kind, path: &str| Fault::new(kind).path(path).times(usize::MAX);
    let cut = FaultKind::CutBody {
        promised: 10,
        sent: "half".into(),
    };
    let busy = Fault::status(429).header(
        http::header::RETRY_AFTER,
        http::HeaderValue::from_static("0.05"),
    );
    let sandbox = RunningSandbox::start(Settings {
        token: Some(TOKEN.to_owned()),
        faults: vec![
            reset(FaultKind::ResetBeforeHead, "/v2/reset"),
            reset(FaultKind::ResetMidHead, "/v2/midhead"),
            reset(cut, "/v2/cut"),
            reset(FaultKind::NeverAnswer, "/v2/never"),
            busy.path("/v2/busy").times(usize::MAX),
            Fault::status(500).path("/v2/500").times(usize::MAX),
        ],
        ..Settings::default()
    });
    for format in ["text", "json"] {
        let settings = [
            ("LOG__LEVEL", "trace"),
            ("LOG__FORMAT", format),
            ("LIMIT__RATE", "0"),
            ("LIMIT__BURST", "0"),
            ("UPSTREAM__RESPONSE_TIMEOUT", "500ms"),
            ("SERVER__BODY_TIMEOUT", "500ms"),
            ("SERVER__HEADER_TIMEOUT", "500ms"),
        ];
        let gateway = Program::serve(sandbox.address, &settings);
        let address = gateway.address;
        let requests = requests();
        let callers: Vec<_> = (0..8)
            .map(|part| {
                let share: Vec<_> = requests.iter().skip(part).step_by(8).cloned().collect();
                std::thread::spawn(move || {
                    for request in share {
                        let response = call(address, &request);
                        // The gateway's own responses repeat nothing of what was asked either.
                        let text = String::from_utf8_lossy(&response);
                        let own = text.contains("wawp-gateway; error=");
                        assert!(
                            !own || !TRACES.iter().any(|trace| text.contains(trace)),
                            "{text}"
                        );
                        // And once more by a client that disconnects in the middle.
                        let mut stream = connect(address);
                        let half = &request.as_bytes()[..request.len() / 2];
                        stream.write_all(half).ok();
                        stream
                            .set_read_timeout(Some(Duration::from_millis(1)))
                            .unwrap();
                        drop(stream.read(&mut [0; 16]));
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.join().unwrap();
        }
        // An upstream that cannot be reached, named in no log with a token either.
        let mut pages = String::new();
        for page in [
            "/metrics",
            "/instances",
            "/status",
            "/config",
            "/",
            "/readyz",
            "/nowhere",
        ] {
            pages.push_str(&String::from_utf8_lossy(&gateway.page(page).body));
        }
        gateway.signal("TERM");
        let (_, stdout, stderr) = gateway.ends();
        assert!(stderr.contains("drain"), "the log is there: {stderr}");
        let calls = stdout.lines().count();
        assert!(calls > requests.len(), "so is the access log: {calls}");
        if format == "json" {
            for line in stderr.lines() {
                serde_json::from_str::<serde_json::Value>(line)
                    .unwrap_or_else(|error| panic!("{error}: {line}"));
            }
        }
        for (place, text) in [("stderr", &stderr), ("stdout", &stdout), ("a page", &pages)] {
            for trace in TRACES {
                let found = text.lines().find(|line| line.contains(trace));
                assert_eq!(found, None, "{trace} in {place}");
            }
        }
    }
    let saw = sandbox.sandbox.calls();
    assert!(
        saw.iter()
            .filter(|call| call.target.contains(TOKEN))
            .count()
            > 5,
        "the upstream gets it"
    );
}

#[test]
fn no_token_where_the_upstream_cannot_be_reached() {
    // No test binds this address, so that no other one's port can be met there.
    let unreachable = "127.0.0.9:1".parse().unwrap();
    let gateway = Program::serve(unreachable, &[("LOG__LEVEL", "trace")]);
    for request in requests().iter().take(24) {
        let response = String::from_utf8(call(gateway.address, request)).unwrap();
        assert!(
            response.starts_with("HTTP/1.1 502 ") || response.starts_with("HTTP/1.1 429 "),
            "{response}"
        );
        assert!(
            !TRACES.iter().any(|trace| response.contains(trace)),
            "{response}"
        );
    }
    gateway.signal("TERM");
    let (code, _, stderr) = gateway.ends();
    assert_eq!(code, 0);
    assert!(
        !TRACES.iter().any(|trace| stderr.contains(trace)),
        "{stderr}"
    );
}

#[test]
fn no_key_and_no_token_wherever_a_client_writes_it() {
    // Words, as a path's pieces are: nothing about them looks like a secret.
    const KEY: &str = "correct-horse-battery";
    const ONES: &str = "staple-of-the-first-one";
    let upstream = HeldUpstream::start();
    upstream.responses();
    let scratch = Scratch::new();
    let file = scratch.file(
        "gateway.toml",
        &format!(
            "[[tenant]]\nname = \"acme\"\ninstances = [\"123\"]\nkey = \"{KEY}\"\ntokens = {{ 123 = \"{ONES}\" }}\n"
        ),
    );
    let mut requests = Vec::new();
    for secret in [KEY, ONES, "another-ones-own-token"] {
        let shown = format!("access_token={secret}");
        let lines = [
            format!("GET /v2/{secret}/x?instance_id=123&{shown}"),
            format!("GET /{secret}?{shown}"),
            format!("GET /v2/chats?instance_id={secret}&{shown}"),
            format!("GET /v2/chats?instance_id=x{secret}y&{shown}"),
            format!("{} /v2/chats?{shown}", secret.to_uppercase()),
        ];
        for line in lines {
            requests.push(format!(
                "{line} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
            ));
        }
        for field in [
            format!("Authorization: Bearer {secret}\r\nX-Instance-ID: {secret}"),
            format!("access-token: {secret}\r\nX-Request-Id: {secret}"),
            format!("access-token: {secret}\r\ntraceparent: 00-{secret}-{secret}-01"),
            format!("Authorization: {secret}\r\nX-Request-Id: a {secret} b"),
        ] {
            requests.push(format!(
                "GET /v2/chats HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{field}\r\n\r\n"
            ));
        }
        // Mixed up in a receipt and in another call.
        for (path, more) in [
            ("seen", "\"messageIds\":[\"false_1@c.us_A\"]"),
            ("text", "\"message\":\"m\""),
        ] {
            let body = format!(
                "{{\"instance_id\":\"{secret}\",\"access_token\":\"{secret}\",\"chatId\":\"1@c.us\",{more}}}"
            );
            requests.push(format!(
                "POST /v2/send/{path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            ));
        }
    }
    for format in ["text", "json"] {
        for level in ["info", "trace"] {
            let settings = [("LOG__LEVEL", level), ("LOG__FORMAT", format)];
            let gateway = Program::serve_with(
                upstream.address,
                &settings,
                &["--config", file.to_str().unwrap()],
            );
            for request in &requests {
                call(gateway.address, request);
            }
            let mut pages = String::new();
            for page in ["/metrics", "/status", "/config", "/instances", "/"] {
                pages.push_str(&String::from_utf8_lossy(&gateway.page(page).body));
            }
            gateway.signal("TERM");
            let (_, stdout, stderr) = gateway.ends();
            assert_eq!(stdout.lines().count(), requests.len(), "{stdout}");
            for (place, text) in [("stdout", &stdout), ("stderr", &stderr)] {
                for secret in [KEY, ONES, "another-ones-own-token"] {
                    let text = text.to_lowercase();
                    let found = text.lines().find(|line| line.contains(secret));
                    assert_eq!(found, None, "{secret} in {place}");
                }
            }
            for secret in [KEY, ONES] {
                let found = pages.lines().find(|line| line.contains(secret));
                assert_eq!(found, None, "{secret} on a page");
            }
        }
    }
}
