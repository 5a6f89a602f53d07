//! Tenant keys, from the client to the upstream: every spelling, every kind of credential, and what is refused.

use std::fmt::Write as _;

use wawp_gateway::sandbox::{Call, Settings};

use crate::support::{Message, Program, RunningSandbox, Scratch, Stage, World, call, ids};

const ACME: &str = "acme-key-0123456789";
const BETA: &str = "beta-key-0123456789";
const WRONG: &str = "acme-key-0123456780";
/// A token with everything that is written differently in different places.
const REAL: &str = r#"r3al/T0ken+"q"\&=%25 x"#;

fn settings(more: &str) -> String {
    format!(
        "{more}\n[[tenant]]\nname = \"acme\"\ninstances = [\"123\", \"124\"]\nkey = \"{ACME}\"\n\
         [tenant.tokens]\n123 = '{REAL}'\n\
         [[tenant]]\nname = \"beta\"\ninstances = [\"200\"]\nkey = \"{BETA}\"\n[tenant.tokens]\n200 = '{REAL}'\n\
         [[tenant]]\nname = \"open\"\ninstances = [\"300\"]\n"
    )
}

fn world() -> World {
    world_with("")
}

fn world_with(more: &str) -> World {
    let sandbox = Settings {
        token: Some(REAL.to_owned()),
        ..Settings::default()
    };
    World::with_sandbox(&settings(more), sandbox)
}

/// Percent-encodes all but letters, digits and what no server needs encoded.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").unwrap();
        }
    }
    encoded
}

fn all_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

fn all_escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("\\u{byte:04X}")).collect()
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn plain(text: &str) -> String {
    text.to_owned()
}

/// A request in which `{}` stands for a credential and `$` for an instance.
#[derive(Clone, Copy, Debug)]
struct Spelling {
    target: &'static str,
    fields: &'static [(&'static str, &'static str)],
    body: &'static str,
    /// How a client writes its credential there.
    written: fn(&str) -> String,
    /// How the gateway does.
    put: fn(&str) -> String,
}

#[derive(Debug)]
struct Written {
    target: String,
    fields: Vec<(&'static str, String)>,
    body: String,
}

impl Spelling {
    fn write(&self, credential: &str, instance: &str) -> Written {
        let fill = |text: &str| text.replace('$', instance).replace("{}", credential);
        Written {
            target: fill(self.target),
            fields: self
                .fields
                .iter()
                .map(|(name, value)| (*name, fill(value)))
                .collect(),
            body: fill(self.body),
        }
    }
}

impl Written {
    fn request(&self) -> String {
        let length = ("Content-Length", self.body.len().to_string());
        self.framed(length.0, &length.1, &self.body)
    }

    /// In chunks of this many bytes.
    fn chunked(&self, size: usize) -> String {
        let mut body = String::new();
        for chunk in self.body.as_bytes().chunks(size) {
            let text = std::str::from_utf8(chunk).unwrap();
            write!(body, "{:x}\r\n{text}\r\n", chunk.len()).unwrap();
        }
        body.push_str("0\r\n\r\n");
        self.framed("Transfer-Encoding", "chunked", &body)
    }

    fn framed(&self, framing: &str, value: &str, body: &str) -> String {
        let mut request = format!("POST {} HTTP/1.1\r\nHost: h\r\n", self.target);
        for (name, value) in &self.fields {
            write!(request, "{name}: {value}\r\n").unwrap();
        }
        write!(request, "{framing}: {value}\r\n\r\n{body}").unwrap();
        request
    }

    /// Finds this very request at the upstream, to the byte.
    #[track_caller]
    fn is(&self, call: &Call, length: Option<usize>) {
        assert_eq!(call.target, self.target);
        assert_eq!(String::from_utf8_lossy(&call.body), self.body);
        for (name, value) in &self.fields {
            let values: Vec<_> = call.headers.get_all(*name).iter().collect();
            assert_eq!(values, [value.as_str()], "{name}");
        }
        let told = call.headers.get("content-length");
        let told = told.map(|length| length.to_str().unwrap().parse().unwrap());
        assert_eq!(told, length);
        let framing =
            usize::from(length.is_some() || call.headers.contains_key("transfer-encoding"));
        assert_eq!(call.headers.len(), self.fields.len() + framing + 1);
    }
}

const JSON: (&str, &str) = ("Content-Type", "application/json");
const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");
const MULTIPART: (&str, &str) = ("Content-Type", "multipart/form-data; boundary=\"b-1\"");
const TEXT: &str = "/v2/send/text";
const SEEN: &str = "/v2/send/seen";
const MESSAGE: &str = r#"{"chatId":"1@c.us","message":"m"}"#;
const RECEIPT: &str = r#"{"chatId":"1@c.us","messageIds":["false_1@c.us_A"]}"#;

/// Every place where a credential may stand, in every way it may be written there.
fn spellings() -> Vec<Spelling> {
    let one = |target, fields, body, written, put| Spelling {
        target,
        fields,
        body,
        written,
        put,
    };
    let mut all = Vec::new();
    for written in [encoded, all_encoded] {
        all.extend([
            one("/v2/send/text?instance_id=$&access_token={}&x=%41", &[JSON], MESSAGE, written, encoded),
            one("/v2/send/text?x=[1]&access%5Ftoken={}&instance_id=$", &[JSON], MESSAGE, written, encoded),
            one("/v2/send/seen?instance_id=$&access_token={}", &[JSON], RECEIPT, written, encoded),
            one(
                "/v2/send/seen?access_token={}&instance_id=$&chatId=1%40c.us&messageIds=%5B%22false_1%40c.us_A%22%5D",
                &[],
                "",
                written,
                encoded,
            ),
            one(TEXT, &[FORM], "instance_id=$&access_token={}&chatId=1%40c.us&message=m+m", written, encoded),
            one(TEXT, &[FORM], "chatId=1@c.us&message=m&instance_id=$&access%5ftoken={}", written, encoded),
        ]);
    }
    let headers: [&'static [(&str, &str)]; 5] = [
        &[JSON, ("Authorization", "Bearer {}"), ("X-Instance-ID", "$")],
        &[
            ("X-Instance-ID", "$"),
            JSON,
            ("authorization", "bEARER   {}"),
        ],
        &[JSON, ("access-token", "{}"), ("X-Instance-ID", "$")],
        &[
            JSON,
            ("Access-Token", "{}"),
            ("X-Instance-ID", "$"),
            ("X-Wawp-Y", "y"),
        ],
        &[
            ("X-Instance-ID", "$"),
            JSON,
            ("access-token", "{}"),
            ("Cookie", "a=b"),
        ],
    ];
    for fields in headers {
        all.push(one(TEXT, fields, MESSAGE, plain, plain));
        all.push(one(SEEN, fields, RECEIPT, plain, plain));
    }
    for written in [quoted as fn(&str) -> String, |text| {
        format!("\"{}\"", all_escaped(text))
    }] {
        for (target, body) in [
            (
                TEXT,
                r#"{"instance_id":"$","access_token":{},"chatId":"1@c.us","message":"m"}"#,
            ),
            (
                TEXT,
                r#" { "message" : "\"access_token\":1", "chatId":"1@c.us","access\u005ftoken" : {} , "instance_id":$}"#,
            ),
            (
                SEEN,
                r#"{"chatId":"1@c.us","messageIds":["false_1@c.us_A"],"instance_id":"$", "access_token": {}}"#,
            ),
            (
                SEEN,
                r#"{"\u0061ccess_token":{},"instance_id":"$","chatId":"1@c.us"}"#,
            ),
        ] {
            all.push(one(target, &[JSON], body, written, quoted));
        }
        all.push(one(
            TEXT,
            &[],
            r#"{"instance_id":"$","access_token":{},"chatId":"1@c.us","message":"m"}"#,
            written,
            quoted,
        ));
        all.push(one(
            TEXT,
            &[JSON, ("X-Instance-ID", "$")],
            r#"{"a":{"access_token":"x"},"access_token":{},"chatId":"1@c.us","message":"m"}"#,
            written,
            quoted,
        ));
    }
    all.push(one(
        TEXT,
        &[MULTIPART],
        "--b-1\r\nContent-Disposition: form-data; name=\"instance_id\"\r\n\r\n$\r\n\
         --b-1\r\nContent-Disposition: form-data; name=\"access_token\"\r\n\r\n{}\r\n\
         --b-1\r\nContent-Disposition: form-data; name=\"chatId\"\r\n\r\n1@c.us\r\n\
         --b-1\r\nContent-Disposition: form-data; name=\"message\"\r\n\r\nm\r\n--b-1--\r\n",
        plain,
        plain,
    ));
    all
}

/// Makes a call in a world of its own; says what the upstream saw.
async fn seen(request: impl AsRef<[u8]>) -> (Message, Vec<Call>) {
    let world = world();
    let answer = world.call(request).await;
    (answer, world.sandbox.calls())
}

#[track_caller]
fn is_refused(answer: &Message, calls: &[Call], why: &str) {
    assert_eq!(answer.status(), 403, "{answer:?}");
    let body = answer.json();
    assert_eq!(body["code"], "refused");
    assert_eq!(body["status"], 403);
    let message = body["message"].as_str().unwrap();
    assert!(message.contains(why), "{message}");
    let proxy_status = answer.field("proxy-status").unwrap();
    assert!(
        proxy_status.starts_with("wawp-gateway; error=http_request_denied; details="),
        "{proxy_status}"
    );
    for secret in [ACME, BETA, REAL, "r3al"] {
        assert!(!format!("{answer:?}{}", answer.text()).contains(secret));
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
            let (answer, calls) = seen(request).await;
            assert!(answer.status() < 300, "{answer:?} to {asked:?}");
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
            let (answer, calls) = seen(asked.request()).await;
            assert_eq!(answer.status() < 300, fine, "{answer:?} to {asked:?}");
            assert!(fine || answer.status() == 401, "{answer:?}");
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
                let (answer, calls) = seen(request).await;
                is_refused(&answer, &calls, why);
            }
        }
    }
}

fn post(target: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {target} HTTP/1.1\r\nHost: h\r\n{fields}Content-Length: {length}\r\n\r\n{body}")
}

#[tokio::test(start_paused = true)]
async fn several_places_are_all_replaced_or_nothing_is_sent() {
    let json = "Content-Type: application/json\r\n";
    let body = |tokens: &[&str]| {
        let tokens: String = tokens
            .iter()
            .map(|token| format!("\"access_token\":{},", quoted(token)))
            .collect();
        format!("{{{tokens}\"chatId\":\"1@c.us\",\"message\":\"m\"}}")
    };
    let request = |query: &str, bearer: &str, header: &str, tokens: &[&str]| {
        post(
            &format!(
                "/v2/send/text?instance_id=123&access_token={}&access_token={}",
                encoded(query),
                encoded(query)
            ),
            &format!(
                "{json}Authorization: Bearer {bearer}\r\naccess-token: {header}\r\naccess-token: {header}\r\n"
            ),
            &body(tokens),
        )
    };
    for [query, bearer, header, first, second] in [
        [ACME, ACME, ACME, ACME, ACME],
        [ACME, "other", ACME, "other", ACME],
        ["other", ACME, "other", ACME, "other"],
        [REAL, "other", "other", "other", ACME],
        [REAL, "other", "other", "other", REAL],
    ] {
        let (_, calls) = seen(request(query, bearer, header, &[first, second])).await;
        let real = |text| if text == ACME { REAL } else { text };
        let expected = Message::request(
            request(
                real(query),
                real(bearer),
                real(header),
                &[real(first), real(second)],
            )
            .as_bytes(),
        );
        assert_eq!(calls.len(), 1);
        assert_eq!(calls[0].target, expected.start.split(' ').nth(1).unwrap());
        assert_eq!(calls[0].body, expected.body);
        assert_eq!(
            calls[0].headers["authorization"],
            format!("Bearer {}", real(bearer))
        );
        for value in calls[0].headers.get_all("access-token") {
            assert_eq!(value, real(header));
        }
        assert_eq!(
            calls[0].headers["content-length"],
            expected.body.len().to_string()
        );
    }
    // One of another tenant's is enough, wherever it stands.
    for place in 0..5 {
        for other in [ACME, REAL, "other"] {
            let mut shown = [other; 5];
            shown[place] = BETA;
            let [query, bearer, header, first, second] = shown;
            let (answer, calls) = seen(request(query, bearer, header, &[first, second])).await;
            is_refused(&answer, &calls, "does not open");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_needs_one_instance() {
    let json = "Content-Type: application/json\r\n";
    let bearer = format!("{json}Authorization: Bearer {ACME}\r\n");
    for (request, why) in [
        (post(TEXT, &bearer, MESSAGE), "is missing"),
        (
            post(&format!("{TEXT}?access_token={ACME}"), "", ""),
            "is missing",
        ),
        (
            format!("GET /v2/chats HTTP/1.1\r\nHost: h\r\n{}\r\n", &bearer),
            "is missing",
        ),
        (
            post(&format!("{TEXT}?instance_id="), &bearer, MESSAGE),
            "is missing",
        ),
        // The upstream may take any of them.
        (
            post(
                &format!("{TEXT}?instance_id=123&instance_id=200"),
                &bearer,
                MESSAGE,
            ),
            "several",
        ),
        (
            post(
                &format!("{TEXT}?instance_id=123"),
                &format!("{bearer}X-Instance-ID: 200\r\n"),
                "",
            ),
            "several",
        ),
        (
            post(
                &format!("{TEXT}?instance_id=123"),
                &bearer,
                r#"{"instance_id":"200","chatId":"1"}"#,
            ),
            "several",
        ),
        (
            post(
                TEXT,
                &bearer,
                r#"{"instance_id":"123","x":{},"instance_id":200}"#,
            ),
            "several",
        ),
        (
            post(
                SEEN,
                &bearer,
                r#"{"instance_id":"123","instance_id":"200","chatId":"1@c.us"}"#,
            ),
            "several",
        ),
    ] {
        let (answer, calls) = seen(&request).await;
        is_refused(&answer, &calls, why);
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_rewritten_is_refused() {
    let part = |name: &str, text: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n")
    };
    let multipart = "Content-Type: multipart/form-data; boundary=b\r\n";
    let target = format!("{TEXT}?instance_id=123");
    // A text that cannot be told from the key's part, and a part in another alphabet.
    let decoy = format!(
        "{}{}--b--\r\n",
        part("message", &format!("x\r\n\r\n{ACME}")),
        part("access_token", ACME)
    );
    let wide: String = ACME.chars().flat_map(|c| ['\0', c]).collect();
    let wide = format!(
        "--b\r\nContent-Disposition: form-data; name=\"access_token\"\r\nContent-Type: text/plain; charset=utf-16be\r\n\r\n{wide}\r\n--b--\r\n"
    );
    for body in [decoy, wide] {
        let (answer, calls) = seen(post(&target, multipart, &body)).await;
        is_refused(&answer, &calls, "this multipart body");
    }
    // A body that its recipient checks, unless the key stands elsewhere.
    let body = format!("{{\"access_token\":\"{ACME}\",\"chatId\":\"1@c.us\",\"message\":\"m\"}}");
    for seal in [
        "Content-Digest: sha-256=:AAAA:",
        "Digest: a=b",
        "Content-MD5: AAAA",
        "Repr-Digest: a=:AA:",
    ] {
        let fields = format!("Content-Type: application/json\r\n{seal}\r\n");
        let (answer, calls) = seen(post(&target, &fields, &body)).await;
        is_refused(&answer, &calls, "digest");
        let (answer, calls) = seen(post(
            &format!("{target}&access_token={ACME}"),
            &fields,
            MESSAGE,
        ))
        .await;
        assert!(
            answer.status() < 300 && calls[0].body == MESSAGE,
            "{answer:?}"
        );
    }
    // More of them than any client has reason to show.
    for (query, fields) in [(17, 0), (0, 17), (9, 8)] {
        let query = format!("&access_token={ACME}").repeat(query);
        let fields = format!("access-token: {ACME}\r\n").repeat(fields);
        let (answer, calls) = seen(post(&format!("{target}{query}"), &fields, "")).await;
        is_refused(&answer, &calls, "too many places");
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_body_is_rewritten_at_its_beginning_and_streamed() {
    let rest = "x".repeat(300_000);
    let body = |token: &str| {
        format!(
            r#"{{"instance_id":"123","access_token":{},"chatId":"1@c.us","message":"{rest}"}}"#,
            quoted(token)
        )
    };
    let request = post(TEXT, "Content-Type: application/json\r\n", &body(ACME));
    let mut stage = Stage::new(&settings(""));
    let mut client = stage.client();
    tokio::spawn(async move {
        client.says(request).await;
        client.hears_rest().await;
    });
    let mut line = stage.upstream.accepts().await;
    let came = line.request().await;
    assert_eq!(
        came.field("content-length").unwrap(),
        body(REAL).len().to_string()
    );
    assert!(came.body == body(REAL).as_bytes());
}

#[tokio::test(start_paused = true)]
async fn what_is_no_credential_is_left_alone() {
    // In a message, deeper in the object, under another name, in the path, beyond the look.
    let far = format!(
        r#"{{"x":"{}","access_token":"{ACME}"}}"#,
        "x".repeat(70_000)
    );
    for body in [
        format!(r#"{{"message":"{ACME}","a":{{"access_token":"{ACME}"}},"token":"{ACME}"}}"#),
        format!(r#"{{"access_token":"{ACME} ","Access_Token":"{ACME}"}}"#),
        far,
    ] {
        let target = format!("/v2/{ACME}?instance_id=123&token={ACME}&access_token=x{ACME}");
        let (_, calls) = seen(post(&target, "Content-Type: application/json\r\n", &body)).await;
        assert_eq!(calls[0].target, target);
        assert_eq!(calls[0].body, body.as_bytes()[..calls[0].body.len()]);
        assert_eq!(calls[0].headers["content-length"], body.len().to_string());
    }
}

fn receipt(token: &str, numbers: impl IntoIterator<Item = usize>) -> String {
    let ids = serde_json::to_string(&ids(numbers)).unwrap();
    let body = format!(
        r#"{{"instance_id":"123","access_token":{},"chatId":"1@c.us","messageIds":{ids}}}"#,
        quoted(token)
    );
    post(SEEN, "Content-Type: application/json\r\n", &body)
}

#[tokio::test(start_paused = true)]
async fn receipts_merge_by_the_token_not_by_the_key() {
    let world = world_with("[batch]\nwindow = \"50ms\"");
    let answers = world
        .together([
            receipt(ACME, [1]),
            receipt(REAL, [2]),
            receipt(BETA, [3]),
            receipt(WRONG, [4]),
            receipt(ACME, [5, 1]),
        ])
        .await;
    let statuses: Vec<_> = answers.iter().map(Message::status).collect();
    let accepted = statuses[0];
    assert!(accepted < 300);
    assert_eq!(statuses, [accepted, accepted, 403, 401, accepted]);
    let mut calls = world.sandbox.calls();
    calls.sort_by_key(|call| call.ids.len());
    // The wrong one went alone; the others shared one call that holds no key.
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].ids, ids([4]));
    assert_eq!(calls[1].ids, ids([1, 2, 5]));
    let body: serde_json::Value = serde_json::from_slice(&calls[1].body).unwrap();
    assert_eq!(body["access_token"], REAL);
    assert!(!format!("{:?}{:?}", calls[1].headers, calls[1].body).contains(ACME));
}

#[tokio::test(start_paused = true)]
async fn a_redirect_gives_no_token_away() {
    let mut stage = Stage::new(&settings(""));
    for (shown, told) in [(ACME, ACME.to_owned()), (REAL, encoded(REAL))] {
        let mut client = stage.client();
        client
            .says(format!(
                "GET /v2/x?instance_id=123&access_token={} HTTP/1.1\r\nHost: h\r\n\r\n",
                encoded(shown)
            ))
            .await;
        let mut line = stage.upstream.accepts().await;
        let target = line
            .request()
            .await
            .start
            .split(' ')
            .nth(1)
            .unwrap()
            .to_owned();
        assert!(target.ends_with(&encoded(REAL)));
        line.says(format!("HTTP/1.1 301 x\r\nConnection: close\r\nLocation: http://u{target}#a\r\nContent-Length: 0\r\n\r\n"))
            .await;
        let answer = client.answer().await;
        let location = format!("http://u/v2/x?instance_id=123&access_token={told}#a");
        assert_eq!(answer.field("location"), Some(&*location));
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_is_found_in_what_has_come_when_a_body_dribbles() {
    let mut stage = Stage::new(&settings(""));
    let mut client = stage.client();
    let part = format!(r#"{{"instance_id":"123","access_token":"{ACME}","message":"#);
    client
        .says(format!(
            "POST {TEXT} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{part}",
            part.len() + 4
        ))
        .await;
    let mut line = stage.upstream.accepts().await;
    let whole = part.replace(&quoted(ACME), &quoted(REAL));
    let head = line.hears_until("\r\n\r\n").await;
    assert!(
        head.contains(&format!("Content-Length: {}\r\n", whole.len() + 4)),
        "{head}"
    );
    line.hears(whole).await;
    client.says("\"m\"}").await;
    line.hears("\"m\"}").await;
}

#[test]
fn no_key_and_no_token_in_log_output_or_pages() {
    let sandbox = RunningSandbox::start(Settings {
        token: Some(REAL.to_owned()),
        ..Settings::default()
    });
    let scratch = Scratch::new();
    let file = scratch.file("gateway.toml", &settings(""));
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
                let answer = call(gateway.address, &request);
                own.push_str(&String::from_utf8_lossy(&answer));
                // And once more by somebody who leaves in the middle.
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
            ("an answer or a page", &own),
        ] {
            for trace in ["key-0123", "r3al", "T0ken"] {
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
