//! Tenant keys, from the client to the upstream: every spelling, every kind of credential, and what is refused.

mod networks;
mod rules;
mod spelling;

use wawp_gateway::sandbox::{Call, Settings};

use crate::support::{Message, Program, RunningSandbox, Scratch, World, call};
use spelling::{FORM, JSON, MULTIPART, Written, encoded, quoted, spellings};

/// As `openssl rand -base64` prints one.
const ACME: &str = "acme+key/0123456789+A==";
const BETA: &str = "beta-key-0123456789";
const WRONG: &str = "acme+key/0123456780+A==";
/// A token with everything that is written differently in different places.
const REAL: &str = r#"r3al/T0ken+"q"\&=%25 x"#;

fn settings() -> String {
    format!(
        "[[tenant]]\nname = \"acme\"\ninstances = [\"123\", \"124\"]\nkey = \"{ACME}\"\n\
         [tenant.tokens]\n123 = '{REAL}'\n\
         [[tenant]]\nname = \"beta\"\ninstances = [\"200\"]\nkey = \"{BETA}\"\n[tenant.tokens]\n200 = '{REAL}'\n\
         [[tenant]]\nname = \"open\"\ninstances = [\"300\"]\n"
    )
}

fn world() -> World {
    let sandbox = Settings {
        token: Some(REAL.to_owned()),
        ..Settings::default()
    };
    World::with_sandbox(&settings(), sandbox)
}

/// Makes a call in a world of its own; says what the upstream saw.
async fn seen(request: impl AsRef<[u8]>) -> (Message, Vec<Call>) {
    let world = world();
    let response = world.call(request).await;
    (response, world.sandbox.calls())
}

#[track_caller]
fn is_refused(response: &Message, calls: &[Call], why: &str) {
    assert_eq!(response.status(), 403, "{response:?}");
    let body = response.json();
    assert_eq!(body["code"], "refused");
    assert_eq!(body["status"], 403);
    let message = body["message"].as_str().unwrap();
    assert!(message.contains(why), "{message}");
    let proxy_status = response.field("proxy-status").unwrap();
    assert!(
        proxy_status.starts_with("wawp-gateway; error=http_request_denied; details="),
        "{proxy_status}"
    );
    for secret in [ACME, BETA, REAL, "r3al"] {
        assert!(!format!("{response:?}{}", response.text()).contains(secret));
    }
    assert!(calls.is_empty(), "nothing goes upstream");
}

#[tokio::test(start_paused = true)]
async fn every_spelling_and_every_kind_of_credential() {
    for spelling in spellings() {
        let written = |credential: &str| spelling.write(&(spelling.written)(credential), "123");
        let lengths = |written: &Written| [Some(written.body.len()), None, None];
        // The right key: the real token, and not another byte.
        let asked = written(ACME);
        let expected = spelling.write(&(spelling.put)(REAL), "123");
        let framed = [asked.request(), asked.chunked(7), asked.chunked(1)];
        for (request, length) in framed.iter().zip(lengths(&expected)) {
            let (response, calls) = seen(request).await;
            assert!(response.status() < 300, "{response:?} to {asked:?}");
            assert_eq!(calls.len(), 1);
            // A whole receipt has a length, however it came.
            let as_whole = calls[0].headers.get("content-length").is_some();
            let length = length.or_else(|| as_whole.then_some(expected.body.len()));
            expected.is(&calls[0], length);
            if expected.body.len() > 4096 {
                assert!(!as_whole);
            }
        }
        // A text that is no key, and the real token: as they came.
        for (credential, fine) in [(WRONG, false), (REAL, true)] {
            let asked = written(credential);
            let (response, calls) = seen(asked.request()).await;
            assert_eq!(response.status() < 300, fine, "{response:?} to {asked:?}");
            assert!(fine || response.status() == 401, "{response:?}");
            assert_eq!(calls.len(), 1);
            asked.is(&calls[0], Some(asked.body.len()));
        }
        // Another tenant's key; and the key where it opens nothing.
        for (key, instance, why) in [
            (BETA, "123", "does not open"),
            (ACME, "200", "does not open"),
            (ACME, "300", "does not open"),
            (ACME, "777", "does not open"),
            (ACME, "124", "no access token"),
        ] {
            let asked = spelling.write(&(spelling.written)(key), instance);
            for request in [asked.request(), asked.chunked(7)] {
                let (response, calls) = seen(request).await;
                is_refused(&response, &calls, why);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_base64_key_is_known_in_encodings_that_do_not_fit_its_place() {
    let escaped = ACME.replace('/', "\\/");
    let percent = encoded(ACME);
    let message = "\"chatId\":\"1@c.us\",\"message\":\"m\"";
    let form = "chatId=1%40c.us&message=m";
    let part = |name: &str, text: &str| {
        format!("--b-1\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n")
    };
    let multipart = |key: &str| {
        let parts = [
            ("instance_id", "123"),
            ("access_token", key),
            ("chatId", "1@c.us"),
            ("message", "m"),
        ];
        let parts = parts.map(|(name, text)| part(name, text));
        parts.concat() + "--b-1--\r\n"
    };
    let text = "/v2/send/text";
    let in_query = |key: &str| format!("{text}?instance_id=123&access_token={key}");
    let real = encoded(REAL);
    for (target, field, body, expected) in [
        // A `+` that was not encoded, and a key that was encoded once too often.
        (
            in_query(ACME),
            JSON,
            format!("{{{message}}}"),
            (in_query(&real), None),
        ),
        (
            in_query(&encoded(&percent)),
            JSON,
            format!("{{{message}}}"),
            (in_query(&real), None),
        ),
        (
            text.to_owned(),
            FORM,
            format!("instance_id=123&access_token={ACME}&{form}"),
            (
                text.to_owned(),
                Some(format!("instance_id=123&access_token={real}&{form}")),
            ),
        ),
        (
            text.to_owned(),
            JSON,
            format!("{{\"instance_id\":\"123\",\"access_token\":\"{escaped}\",{message}}}"),
            (
                text.to_owned(),
                Some(format!(
                    "{{\"instance_id\":\"123\",\"access_token\":{},{message}}}",
                    quoted(REAL)
                )),
            ),
        ),
        (
            text.to_owned(),
            JSON,
            format!("{{\"instance_id\":\"123\",\"access_token\":\"{percent}\",{message}}}"),
            (
                text.to_owned(),
                Some(format!(
                    "{{\"instance_id\":\"123\",\"access_token\":{},{message}}}",
                    quoted(REAL)
                )),
            ),
        ),
        (
            text.to_owned(),
            MULTIPART,
            multipart(ACME),
            (text.to_owned(), Some(multipart(REAL))),
        ),
        (
            text.to_owned(),
            MULTIPART,
            multipart(&percent),
            (text.to_owned(), Some(multipart(REAL))),
        ),
    ] {
        let (name, value) = field;
        let length = body.len();
        let request = format!(
            "POST {target} HTTP/1.1\r\nHost: h\r\n{name}: {value}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let (response, calls) = seen(&request).await;
        assert!(response.status() < 300, "{response:?} to {request}");
        let (target, expected) = expected;
        assert_eq!(calls[0].target, target);
        assert_eq!(calls[0].body, expected.unwrap_or(body), "{request}");
    }
    for value in [percent.clone(), format!("Bearer {percent}")] {
        let name = if value.starts_with('B') {
            "Authorization"
        } else {
            "Access_Token"
        };
        let request = format!(
            "POST {text} HTTP/1.1\r\nHost: h\r\nX-Instance-ID: 123\r\n{name}: {value}\r\nContent-Length: 0\r\n\r\n"
        );
        let (_, calls) = seen(&request).await;
        let found = calls[0].headers.get(name).unwrap().to_str().unwrap();
        assert_eq!(found, value.replace(&percent, REAL));
    }
}

#[test]
fn no_key_and_no_token_in_log_output_or_pages() {
    let sandbox = RunningSandbox::start(Settings {
        token: Some(REAL.to_owned()),
        ..Settings::default()
    });
    let scratch = Scratch::new();
    let file = scratch.file("gateway.toml", &settings());
    for format in ["text", "json"] {
        let gateway = Program::serve_with(
            sandbox.address,
            &[("LOG__LEVEL", "trace"), ("LOG__FORMAT", format)],
            &["--config", file.to_str().unwrap()],
        );
        let mut own = String::new();
        for spelling in spellings() {
            for (key, instance) in [(ACME, "123"), (BETA, "123"), (ACME, "777"), (ACME, "124")] {
                let asked = spelling.write(&(spelling.written)(key), instance);
                let request =
                    asked
                        .request()
                        .replacen("Host: h\r\n", "Host: h\r\nConnection: close\r\n", 1);
                let response = call(gateway.address, &request);
                own.push_str(&String::from_utf8_lossy(&response));
                // And once more by a client that disconnects in the middle.
                let mut stream = crate::support::connect(gateway.address);
                std::io::Write::write_all(&mut stream, &request.as_bytes()[..request.len() / 2])
                    .ok();
            }
        }
        assert!(
            own.contains("403 Forbidden") && own.contains("\r\nproxy-status: "),
            "{own}"
        );
        for page in [
            "/metrics",
            "/instances",
            "/config",
            "/",
            "/readyz",
            "/nowhere",
        ] {
            own.push_str(&String::from_utf8_lossy(&gateway.page(page).body));
        }
        gateway.signal("TERM");
        let (_, stdout, stderr) = gateway.ends();
        assert!(stderr.contains("drain"), "the log is there: {stderr}");
        for (place, text) in [
            ("stderr", &stderr),
            ("stdout", &stdout),
            ("a response or a page", &own),
        ] {
            for trace in [
                "key-0123",
                "key/0123",
                "key%2F0123",
                "key%2f0123",
                "r3al",
                "T0ken",
            ] {
                let found = text.lines().find(|line| line.contains(trace));
                assert_eq!(found, None, "{trace} in {place}");
            }
        }
    }
    assert!(
        sandbox
            .sandbox
            .calls()
            .iter()
            .any(|call| call.target.contains(&encoded(REAL)))
    );
}
