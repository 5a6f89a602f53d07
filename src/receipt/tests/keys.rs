//! Which receipts may share a call.

use super::*;

/// A receipt in the body form, with headers.
fn with(headers: &[(&str, &str)]) -> MergeKey {
    read(PATH, headers, br#"{"chatId":"1"}"#).unwrap().key
}

#[test]
fn the_default_charset_and_the_boundary_are_no_part_of_a_type() {
    let of = |value: &str| with(&[("content-type", value)]);
    let json = of("application/json");
    for same in [
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        "application/json; charset=\"utf-8\"",
        "application/json;",
    ] {
        assert!(json == of(same), "{same}");
    }
    for other in [
        "application/json; charset=us-ascii",
        "application/json; v=1",
        "application/vnd.api+json",
        "text/plain",
        "text/plain; charset=utf-8; format=flowed",
    ] {
        assert!(json != of(other), "{other}");
    }
    assert!(json != with(&[]), "without a type");
    let part = |boundary: &str| {
        let content_type = format!("multipart/form-data; boundary={boundary}");
        let body = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"chatId\"\r\n\r\n1\r\n--{boundary}--"
        );
        let headers = [("content-type", &*content_type)];
        read(PATH, &headers, body.as_bytes()).unwrap().key
    };
    assert!(part("a") == part("bb"));
}

#[test]
fn the_carrier_is_part_of_the_key() {
    let form = of_form("chatId=1").unwrap().key;
    let keys = [
        ("json".to_owned(), body(r#"{"chatId":"1"}"#)),
        ("query".to_owned(), query("chatId=1")),
        ("form".to_owned(), form),
    ];
    all_differ(&keys);
}

#[test]
fn what_the_settings_ignore_is_no_part_of_the_key() {
    let settings = config::Batch {
        ignore_headers: vec!["accept-language".to_owned()],
        ignore_fields: vec!["_".to_owned(), "session".to_owned()],
        ..SETTINGS.clone()
    };
    let key = |query: &str, language: &str, session: &str| {
        let head = head(
            "POST",
            &format!("{PATH}?{query}"),
            &[("accept-language", language)],
        );
        let body = format!(r#"{{"chatId":"1","session":{session}}}"#);
        Receipt::read(&settings, &mut head.into(), Bytes::from(body))
            .unwrap()
            .key
    };
    let one = key("_=1&a=1", "en", "1");
    assert!(one == key("_=2&a=1", "de", "[2]"));
    assert!(one == key("a=1", "en", "1"));
    assert!(one != key("_=1&a=2", "en", "1"));
    assert!(one != key("_=1&a=1&__=1", "en", "1"));
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
        // Keys that the gateway does not know.
        r#"{"chatId":"1","reply_to":null}"#,
        r#"{"chatId":"1","reply_to":"null"}"#,
        r#"{"chatId":"1","reply_to":1}"#,
        r#"{"chatId":"1","reply_to":{"a":[1,{}]}}"#,
        r#"{"chatId":"1","reply_to":{"a":[1,[]]}}"#,
        r#"{"chatId":"1","Reply_to":null}"#,
        r#"{"chatId":"1","session":"s","reply_to":null}"#,
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
    let sources: [Source; 10] = [
        (PATH, &[], body),
        ("/v2/send/seen?access_token=t", &[], body),
        ("/v2/send/seen?instance_id=t", &[], body),
        (PATH, &[("access-token", "t")], body),
        (PATH, &[("authorization", "t")], body),
        (PATH, &[("cookie", "t")], body),
        (PATH, &[("x-instance-id", "t")], body),
        (PATH, &[], r#"{"chatId":"1","access_token":"t"}"#),
        // A header that CGI reads as the same one.
        (PATH, &[("access_token", "t")], body),
        (PATH, &[("x_instance_id", "t")], body),
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
        "origin",
        "x-wawp-a",
        "x-wawp-",
        "x-wawp-signature",
    ] {
        for value in ["", "a", "A", "b"] {
            keys.push((format!("{name}: {value}"), with(&[(name, value)])));
        }
        for (order, pair) in [("twice", ["a", "b"]), ("turned", ["b", "a"])] {
            let pair = pair.map(|value| (name, value));
            // Two credentials or instances are ambiguous, and do not merge at all.
            if let Some(receipt) = read(PATH, &pair, br#"{"chatId":"1"}"#) {
                keys.push((format!("{name} {order}"), receipt.key));
            }
        }
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
        "chatId=%FF",
        "chatId=%FE",
        "chatId=1&chat%49d2=1",
        "chatId=1&flag",
        "chatId=1&flag=",
        "chatId=1&a[]=1&a[]=2",
        "chatId=1&a[]=2&a[]=1",
        "chatId=1&a[0]=1&a[1]=2",
        "chatId=1&a[]&a[b]=a[c]",
        "chatId=1&a[]=a[b]&a[c]",
        "chatId=1&a.b",
        "chatId=1&a_b=a.b",
        "chatId[0]=1",
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
            r#"{"ch\u0061tId":"\u0031"}"#.to_owned(),
        ),
        (
            r#"{"chatId":"1","x":{"a":[1,2],"b":null}}"#.to_owned(),
            r#"{"x":{"b": null, "a":[ 1, 2 ] },"chatId":"1"}"#.to_owned(),
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
        ("chatId=1", "ch%61tId=%31"),
        ("chatId=a+b%2c", "chatId=a%20b%2C"),
        ("chatId=1", "chatId=1&"),
        ("chatId=1", "&&chatId=1"),
        ("chatId=1&a[]=1", "a%5B%5d=1&chatId=1"),
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
        assert!(key.as_bytes().len() <= 512, "{name}");
    }
    assert!(with(&[("cookie", &long("a"))]) == with(&[("cookie", &long("a"))]));
}
