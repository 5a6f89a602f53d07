//! Which receipts may share a call.

use super::*;

/// A receipt in the body form, with headers.
fn with(headers: &[(&str, &str)]) -> MergeKey {
    read(PATH, headers, br#"{"chatId":"1"}"#).unwrap().key
}

fn body(body: &str) -> MergeKey {
    of_body(body).unwrap_or_else(|| panic!("{body}")).key
}

fn query(query: &str) -> MergeKey {
    of_query(query).unwrap_or_else(|| panic!("{query}")).key
}

/// Asserts that no two of these are equal.
fn all_differ(keys: &[(String, MergeKey)]) {
    for (index, (name, key)) in keys.iter().enumerate() {
        for (other, other_key) in &keys[index + 1..] {
            assert!(key != other_key, "{name} and {other}");
        }
    }
}

#[test]
fn bodies_with_different_keys() {
    let bodies = [
        r#"{"chatId":"1"}"#,
        r#"{"chatId":"2"}"#,
        r#"{"chatId":""}"#,
        // The same text to a JSON reader, but not the same bytes.
        r#"{"chatId":"\u0031"}"#,
        r#"{"chatId":"1","participant":null}"#,
        r#"{"chatId":"1","participant":"null"}"#,
        r#"{"chatId":"1","participant":""}"#,
        r#"{"chatId":"1","participant":"3"}"#,
        r#"{"chatId":"1","instance_id":"1"}"#,
        r#"{"chatId":"1","instance_id":"2"}"#,
        r#"{"chatId":"1","access_token":"1"}"#,
        r#"{"chatId":"1","access_token":""}"#,
        r#"{"chatId":"1","instance_id":"1","access_token":"1"}"#,
        r#"{"chatId":"1","messageIds":["false_1_A"]}"#,
        r#"{"chatId":"2","messageIds":["false_1_A"]}"#,
    ];
    let keys = bodies.map(|text| (text.to_owned(), body(text)));
    all_differ(&keys);
}

#[test]
fn the_source_of_a_credential_is_part_of_the_key() {
    let body = r#"{"chatId":"1"}"#;
    type Source = (
        &'static str,
        &'static [(&'static str, &'static str)],
        &'static str,
    );
    let sources: [Source; 9] = [
        (PATH, &[], body),
        ("/v2/send/seen?access_token=t", &[], body),
        ("/v2/send/seen?instance_id=t", &[], body),
        (PATH, &[("access-token", "t")], body),
        (PATH, &[("authorization", "t")], body),
        (PATH, &[("cookie", "t")], body),
        (PATH, &[("x-instance-id", "t")], body),
        (PATH, &[], r#"{"chatId":"1","access_token":"t"}"#),
        ("/v2/send/seen?access_token=%74", &[], body),
    ];
    let keys = sources.map(|(target, headers, body)| {
        let key = read(target, headers, body.as_bytes()).unwrap().key;
        (format!("{target} {headers:?} {body}"), key)
    });
    all_differ(&keys);
}

#[test]
fn each_field_that_can_change_the_response_is_part_of_the_key() {
    let mut keys = vec![("none".to_owned(), with(&[]))];
    for name in [
        "authorization",
        "access-token",
        "x-instance-id",
        "cookie",
        "accept",
        "accept-language",
        "accept-encoding",
        "content-type",
        "origin",
        "x-wawp-a",
        "x-wawp-",
        "x-wawp-signature",
    ] {
        for value in ["", "a", "A", "b"] {
            keys.push((format!("{name}: {value}"), with(&[(name, value)])));
        }
        keys.push((format!("{name} twice"), with(&[(name, "a"), (name, "b")])));
        keys.push((format!("{name} turned"), with(&[(name, "b"), (name, "a")])));
        // Texts that would pass for two values if they were concatenated.
        keys.push((format!("{name} strung"), with(&[(name, "a+b")])));
        keys.push((format!("{name} joined"), with(&[(name, "a, b")])));
    }
    all_differ(&keys);
}

#[test]
fn queries_with_different_keys() {
    let queries = [
        "chatId=1",
        "chatId=2",
        "chatId=%31",
        "chatId=1&participant=null",
        "chatId=1&participant=",
        "chatId=1&participant=3",
        "chatId=1&instance_id=1",
        "chatId=1&access_token=1",
        "chatId=1&messageIds=[%22false_1_A%22]",
    ];
    let mut keys: Vec<_> = queries
        .iter()
        .map(|text| ((*text).to_owned(), query(text)))
        .collect();
    let braces = read("/v2/send/seen?chatId=1", &[], b"{}").unwrap().key;
    keys.push(("chatId=1 with {}".to_owned(), braces));
    keys.push(("the body form".to_owned(), body(r#"{"chatId":"1"}"#)));
    all_differ(&keys);
}

#[test]
fn the_path_is_part_of_the_key() {
    let one = read("/v2/send/seen", &[], br#"{"chatId":"1"}"#).unwrap();
    let other = read("/v3/send/seen", &[], br#"{"chatId":"1"}"#).unwrap();
    assert!(one.key != other.key);
}

#[test]
fn differences_that_are_no_part_of_the_key() {
    let list = |ids: &str| format!(r#"{{"chatId":"1","messageIds":{ids}}}"#);
    for (one, other) in [
        // Order of keys, white space.
        (
            r#"{"chatId":"1","instance_id":"2"}"#.to_owned(),
            "{ \"instance_id\" :\"2\",\r\n\t\"chatId\":  \"1\" }".to_owned(),
        ),
        (
            r#"{"chatId":"1"}"#.to_owned(),
            r#"{"ch\u0061tId":"1"}"#.to_owned(),
        ),
        // The ids themselves.
        (
            list(r#"["false_1_A"]"#),
            list(r#"[ "true_1_B" , "false_1_C" ]"#),
        ),
        // Absent and empty are one form.
        (list("[]"), r#"{"chatId":"1"}"#.to_owned()),
        (list("[ ]"), r#"{"chatId":"1"}"#.to_owned()),
    ] {
        assert!(body(&one) == body(&other), "{one} {other}");
    }
    for (one, other) in [
        ("chatId=1&instance_id=2", "instance_id=2&chatId=1"),
        ("chatId=1&messageIds=[]", "chatId=1"),
        ("messageIds=[]&chatId=1", "chatId=1"),
        (
            "chatId=1&messageIds=[%22false_1_A%22]",
            "messageIds=%5B%22false_1_B%22%5D&chatId=1",
        ),
    ] {
        assert!(query(one) == query(other), "{one} {other}");
    }
    for headers in [
        [("user-agent", "a"), ("content-length", "14")],
        [("x-request-id", "1"), ("x-forwarded-for", "1.2.3.4")],
        [("referer", "x"), ("sec-fetch-site", "y")],
        [("traceparent", "x"), ("x-wawp", "no prefix")],
    ] {
        assert!(with(&headers) == with(&[]), "{headers:?}");
    }
    let (ab, ba) = (
        [("x-wawp-a", "1"), ("x-wawp-b", "2")],
        [("x-wawp-b", "2"), ("x-wawp-a", "1")],
    );
    assert!(with(&ab) == with(&ba), "the order of different fields");
}

#[test]
fn a_key_shows_nothing() {
    let key = with(&[("authorization", "Bearer s3cret")]);
    assert!(!format!("{key:?}").contains("s3cret"));
    let receipt = read(
        "/v2/send/seen?access_token=s3cret",
        &[],
        br#"{"chatId":"1"}"#,
    );
    assert!(!format!("{receipt:?}").contains("s3cret"));
}

/// Each part in turn is long, and each part in turn differs.
#[test]
fn a_long_key_becomes_a_short_one_that_still_differs() {
    let long = |last: &str| format!("{}{last}", "x".repeat(40_000));
    let mut keys = vec![
        ("short".to_owned(), with(&[])),
        ("cookie a".to_owned(), with(&[("cookie", &long("a"))])),
        ("cookie b".to_owned(), with(&[("cookie", &long("b"))])),
        (
            "cookie and origin".to_owned(),
            with(&[("cookie", &long("a")), ("origin", "o")]),
        ),
    ];
    for (chat, participant) in [("a", "1"), ("b", "1"), ("b", "2")] {
        let chat = long(chat);
        let text = format!(r#"{{"chatId":"{chat}","participant":"{participant}"}}"#);
        keys.push((format!("{} {participant}", &chat[39_999..]), body(&text)));
    }
    all_differ(&keys);
    for (name, key) in &keys {
        assert!(key.size() <= 512, "{name}: {}", key.size());
    }
    assert!(with(&[("cookie", &long("a"))]) == with(&[("cookie", &long("a"))]));
}
