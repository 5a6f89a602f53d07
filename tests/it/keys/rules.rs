//! What a key opens, in how many places, and what it does not.

use super::spelling::{MESSAGE, SEEN, TEXT, encoded, quoted};
use super::{ACME, BETA, REAL, WRONG, is_refused, seen, settings, world};
use crate::support::{Message, Stage, ids};

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
            let (response, calls) = seen(request(query, bearer, header, &[first, second])).await;
            is_refused(&response, &calls, "does not open");
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
        let (response, calls) = seen(&request).await;
        is_refused(&response, &calls, why);
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_needs_one_instance_in_every_spelling_that_php_reads_alike() {
    let key = encoded(ACME);
    for second in [
        "instance.id",
        "instance%20id",
        "instance+id",
        "instance%5Bid",
        "+instance_id",
        "instance_id%00x",
    ] {
        // Another tenant's instance, and another of the same tenant.
        for instance in ["200", "124"] {
            let fields = format!("instance_id=123&access_token={key}&{second}={instance}");
            let form = "Content-Type: application/x-www-form-urlencoded\r\n";
            for request in [
                post(&format!("{TEXT}?{fields}&chatId=1&message=m"), "", ""),
                post(TEXT, form, &format!("{fields}&chatId=1&message=m")),
                post(&format!("{SEEN}?{fields}&chatId=1"), "", ""),
            ] {
                let (response, calls) = seen(&request).await;
                is_refused(&response, &calls, "several");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_rewritten_is_refused() {
    let part = |name: &str, text: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n")
    };
    let multipart = "Content-Type: multipart/form-data; boundary=b\r\n";
    let target = format!("{TEXT}?instance_id=123");
    // A text that cannot be distinguished from the key's part, and a part in another alphabet.
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
        let (response, calls) = seen(post(&target, multipart, &body)).await;
        is_refused(&response, &calls, "this multipart body");
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
        let (response, calls) = seen(post(&target, &fields, &body)).await;
        is_refused(&response, &calls, "digest");
        let (response, calls) = seen(post(
            &format!("{target}&access_token={ACME}"),
            &fields,
            MESSAGE,
        ))
        .await;
        assert!(
            response.status() < 300 && calls[0].body == MESSAGE,
            "{response:?}"
        );
    }
    // More of them than any client has reason to show.
    for (query, fields) in [(17, 0), (0, 17), (9, 8)] {
        let query = format!("&access_token={ACME}").repeat(query);
        let fields = format!("access-token: {ACME}\r\n").repeat(fields);
        let (response, calls) = seen(post(&format!("{target}{query}"), &fields, "")).await;
        is_refused(&response, &calls, "occurs too often");
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
    let mut stage = Stage::new(&settings());
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
        "x".repeat(300_000)
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

#[tokio::test(start_paused = true)]
async fn json_is_found_however_it_is_announced() {
    let written = |token: &str| {
        format!(
            "{{\"instance_id\":\"123\",\"access_token\":{}}}",
            quoted(token)
        )
    };
    for (content_type, before) in [
        ("application/json; charset=utf-8", "\u{feff}"),
        ("application/x-www-form-urlencoded", ""),
        ("text/plain", " \r\n"),
        ("application/vnd.x+JSON", "\t"),
    ] {
        let fields = format!("Content-Type: {content_type}\r\n");
        let (_, calls) = seen(post(TEXT, &fields, &format!("{before}{}", written(ACME)))).await;
        assert_eq!(calls[0].body, format!("{before}{}", written(REAL)));
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
    let world = world();
    let responses = world
        .together([
            receipt(ACME, [1]),
            receipt(REAL, [2]),
            receipt(BETA, [3]),
            receipt(WRONG, [4]),
            receipt(ACME, [5, 1]),
        ])
        .await;
    let statuses: Vec<_> = responses.iter().map(Message::status).collect();
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
    let mut stage = Stage::new(&settings());
    let shown = [(ACME, ACME.to_owned()), (REAL, encoded(REAL))];
    let cases = shown
        .iter()
        .flat_map(|shown| ["301 x", "200 OK"].map(|status| (shown, status)));
    for ((shown, sent), status) in cases {
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
        line.says(format!("HTTP/1.1 {status}\r\nConnection: close\r\nLocation: http://u{target}#a\r\nContent-Length: 0\r\n\r\n"))
            .await;
        let response = client.response().await;
        let location = format!("http://u/v2/x?instance_id=123&access_token={sent}#a");
        assert_eq!(response.field("location"), Some(&*location));
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_is_found_in_what_has_come_when_a_body_dribbles() {
    let mut stage = Stage::new(&settings());
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

#[tokio::test(start_paused = true)]
async fn keys_change_without_a_restart() {
    let world = world();
    let request = || {
        post(
            &format!("{TEXT}?instance_id=123&access_token={ACME}"),
            "Content-Type: application/json\r\n",
            MESSAGE,
        )
    };
    assert!(world.call(request()).await.status() < 300);
    world.reload(&settings().replace(ACME, "acme-key-that-is-new"));
    // The old key is a text like any other now.
    assert_eq!(world.call(request()).await.status(), 401);
    let fresh = request().replace(ACME, "acme-key-that-is-new");
    assert!(world.call(fresh).await.status() < 300);
}
