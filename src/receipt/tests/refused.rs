//! Requests that are no receipts and are forwarded unchanged (rule: merge equality).

use super::*;

#[test]
fn both_forms_are_understood() {
    for (target, body, ids) in [
        (PATH, r#"{"chatId":"1","messageIds":["false_1@c.us_A"]}"#, 1),
        (PATH, r#"{"chatId":"1","messageIds":[]}"#, 0),
        (PATH, r#"{"chatId":"1"}"#, 0),
        (PATH, "\r\n\t {\"chatId\" : \"\"} \n", 0),
        (PATH, r#"{"chatId":"1","participant":null}"#, 0),
        (PATH, r#"{"chatId":"1","participant":"null"}"#, 0),
        (
            PATH,
            r#"{"chatId":"1","instance_id":"1","access_token":"t"}"#,
            0,
        ),
        (PATH, r#"{"ch\u0061tId":"\ud83d\ude00\n"}"#, 0),
        ("/v2/send/seen?", r#"{"chatId":"1"}"#, 0),
        (
            "/v2/send/seen?instance_id=1&access_token=t",
            r#"{"chatId":"1"}"#,
            0,
        ),
        ("/v2/send/seen?chatId=1", "", 0),
        ("/v2/send/seen?chatId=1", " {} ", 0),
        ("/v2/send/seen?chatId=1&messageIds=[]", "", 0),
        (
            "/v2/send/seen?chatId=1&messageIds=%5B%22false_1%40c.us_A%22%5D",
            "{}",
            1,
        ),
        (
            "/v2/send/seen?chatId=1&messageIds=[%22false_1@c.us_A%22,+%22true_1_B%22]",
            "",
            2,
        ),
        (
            "/v2/send/seen?participant=null&chatId=1&instance_id=1&access_token=t",
            "",
            0,
        ),
    ] {
        let receipt = read(target, &[], body.as_bytes());
        let receipt = receipt.unwrap_or_else(|| panic!("{target} {body}"));
        assert_eq!(receipt.id_count(), ids, "{target} {body}");
    }
}

#[test]
fn a_body_that_is_not_understood_to_the_last_byte_is_no_receipt() {
    for body in [
        // Not an object, or not JSON, or more than that.
        "",
        "null",
        "[]",
        r#""chatId""#,
        r#"[{"chatId":"1"}]"#,
        r#"["1","t","1@c.us",["false_1@c.us_A"],null]"#,
        r#" ["1","t","1@c.us",["false_1@c.us_A"]]"#,
        r#"{"chatId":"1"} x"#,
        r#"{"chatId":"1"}{}"#,
        r#"{"chatId":"1",}"#,
        r#"{"chatId":"1""#,
        r#"{'chatId':'1'}"#,
        "{\"chatId\":\"1\"}\0",
        "\u{feff}{\"chatId\":\"1\"}",
        "{\"chatId\":\"a\nb\"}",
        "chatId=1",
        // The chat is missing, or of another type.
        "{}",
        r#"{"chatid":"1"}"#,
        r#"{"chatId":1}"#,
        r#"{"chatId":null}"#,
        r#"{"chatId":["1"]}"#,
        r#"{"chatId":{"a":"1"}}"#,
        r#"{"chatId":true}"#,
        r#"{"chatId":"\ud800"}"#,
        r#"{"chatId":"\ud800\u0041"}"#,
        // Other keys.
        r#"{"chatId":"1","messageId":"false_1@c.us_A"}"#,
        r#"{"chatId":"1","session":"x"}"#,
        r#"{"chatId":"1","":""}"#,
        r#"{"chatId":"1","ChatId":"1"}"#,
        // A key twice, also with its letters escaped.
        r#"{"chatId":"1","chatId":"1"}"#,
        r#"{"chatId":"1","ch\u0061tId":"1"}"#,
        r#"{"chatId":"1","messageIds":[],"messageIds":[]}"#,
        r#"{"chatId":"1","participant":null,"participant":null}"#,
        r#"{"chatId":"1","access_token":"t","access_token":"t"}"#,
        // Ids that are none, or not a list of texts.
        r#"{"chatId":"1","messageIds":null}"#,
        r#"{"chatId":"1","messageIds":"false_1@c.us_A"}"#,
        r#"{"chatId":"1","messageIds":{"0":"false_1@c.us_A"}}"#,
        r#"{"chatId":"1","messageIds":[null]}"#,
        r#"{"chatId":"1","messageIds":[1]}"#,
        r#"{"chatId":"1","messageIds":[["false_1@c.us_A"]]}"#,
        r#"{"chatId":"1","messageIds":["false_1@c.us_A",""]}"#,
        r#"{"chatId":"1","messageIds":["A"]}"#,
        r#"{"chatId":"1","messageIds":["null"]}"#,
        r#"{"chatId":"1","messageIds":["false_1@c.us"]}"#,
        r#"{"chatId":"1","messageIds":["false_1_A_2_3"]}"#,
        r#"{"chatId":"1","messageIds":["falsch_1_A"]}"#,
        r#"{"chatId":"1","messageIds":["false_1_\u0000"]}"#,
        r#"{"chatId":"1","messageIds":["false_1_\ud800"]}"#,
        r#"{"chatId":"1","messageIds":["false_1_A",]}"#,
        // Other types.
        r#"{"chatId":"1","participant":1}"#,
        r#"{"chatId":"1","participant":["x"]}"#,
        r#"{"chatId":"1","participant":true}"#,
        r#"{"chatId":"1","instance_id":1}"#,
        r#"{"chatId":"1","instance_id":null}"#,
        r#"{"chatId":"1","access_token":null}"#,
        r#"{"chatId":"1","access_token":["t"]}"#,
    ] {
        assert!(of_body(body).is_none(), "{body}");
    }
    assert!(read(PATH, &[], b"{\"chatId\":\"\xff\"}").is_none());
    assert!(read(PATH, &[], b"{\"chatId\":\"1\",\"\xff\":1}").is_none());
    let deep = format!(r#"{{"chatId":"1","messageIds":{}"#, "[".repeat(60_000));
    assert!(of_body(&deep).is_none());
}

#[test]
fn a_query_that_is_not_understood_completely_is_no_receipt() {
    for query in [
        "chatId",
        "chatId=1&",
        "&chatId=1",
        "chatId=1&&instance_id=1",
        "chatId=1&x=1",
        "chatId=1&_=170000",
        "chatId[]=1",
        "ch%61tId=1",
        "chatId=1&chatId=1",
        "chatId=1&instance_id=1&instance_id=2",
        "chatId=1&access_token=t&access_token=t",
        "chatId=1&messageIds=[]&messageIds=[]",
        "chatId=1&messageIds=",
        "chatId=1&messageIds=null",
        "chatId=1&messageIds=false_1@c.us_A",
        "chatId=1&messageIds=false_1@c.us_A,false_1@c.us_B",
        "chatId=1&messageIds[]=false_1@c.us_A",
        "chatId=1&messageIds=[%22false_1@c.us_A%22]x",
        "chatId=1&messageIds=[%22false_1@c.us_A%22",
        "chatId=1&messageIds=[%22A%22]",
        "chatId=1&messageIds=[%22false_1_%FF%22]",
        "chatId=1&messageIds=%255B%255D",
        // An escape that is none: backends differ in what they read.
        "chatId=1&messageIds=[%22false_1@c.us_1%%22]",
        "chatId=1&messageIds=[%22false_1@c.us_1%2x%22]",
        "chatId=1&messageIds=[%22false_1@c.us_A%22]&participant=50%",
        "chatId=%4",
        "chatId=1&access_token=%zz",
        // The ids without their chat.
        "messageIds=[%22false_1@c.us_A%22]",
        "messageIds=[]",
        "participant=x",
        "instance_id=1&access_token=t",
    ] {
        assert!(of_query(query).is_none(), "{query}");
    }
}

#[test]
fn the_two_forms_do_not_mix() {
    let body = format!(r#"{{"chatId":"1","messageIds":["{ID}"]}}"#);
    for (query, body) in [
        ("chatId=1", &*body),
        ("chatId=1", r#"{"messageIds":[]}"#),
        ("chatId=1", "null"),
        ("chatId=1", "[]"),
        ("chatId=1", "{ }"),
        ("chatId=1", "x"),
        ("messageIds=[]", &*body),
        ("messageIds=[]", r#"{"chatId":"1"}"#),
        ("messageIds=[%22false_1@c.us_A%22]", r#"{"chatId":"1"}"#),
        ("participant=x", &*body),
        ("debug=1", &*body),
    ] {
        let target = format!("{PATH}?{query}");
        assert!(
            read(&target, &[], body.as_bytes()).is_none(),
            "{query} {body}"
        );
    }
}

#[test]
fn the_head_may_rule_it_out() {
    let body = || Bytes::from_static(br#"{"chatId":"1"}"#);
    for method in ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "post"] {
        assert!(
            Receipt::read(head(method, PATH, &[]), body()).is_err(),
            "{method}"
        );
    }
    for (name, value) in [
        ("content-encoding", "gzip"),
        ("content-encoding", "identity"),
        ("trailer", "x-sum"),
        ("upgrade", "websocket"),
        ("expect", "100-continue"),
        ("idempotency-key", "1"),
        ("content-digest", "sha-256=:x:"),
        ("content-md5", "x"),
        ("if-none-match", "*"),
        ("range", "bytes=0-1"),
    ] {
        let head = head("POST", PATH, &[(name, value)]);
        assert!(Receipt::read(head, body()).is_err(), "{name}");
    }
}

#[test]
fn a_request_that_is_no_receipt_is_returned_unchanged() {
    let sent = head("POST", "/v2/send/seen?x=1", &[("x-a", "1"), ("x-a", "2")]);
    let back = Receipt::read(sent.clone(), Bytes::from_static(b"x")).unwrap_err();
    assert_eq!((&back.uri, &back.headers), (&sent.uri, &sent.headers));
}

#[test]
fn a_body_of_64_kib_is_the_longest() {
    let body = |length: usize| {
        let rest = r#"{"chatId":""}"#.len();
        format!(r#"{{"chatId":"{}"}}"#, "x".repeat(length - rest))
    };
    assert!(of_body(&body(SCAN_LIMIT)).is_some());
    assert!(of_body(&body(SCAN_LIMIT + 1)).is_none());
}

#[test]
fn instance_and_credential_are_read_from_every_source() {
    let identity = |target: &str, headers: &[(&str, &str)], body: &str| {
        read(target, headers, body.as_bytes()).unwrap().identity
    };
    let everywhere = identity(
        "/v2/send/seen?instance_id=1",
        &[("authorization", "Bearer t")],
        r#"{"chatId":"1","instance_id":"1","access_token":"\u0074"}"#,
    );
    assert_eq!(everywhere.instance.as_deref(), Some("1"));
    let plain = identity(
        "/v2/send/seen?instance_id=1",
        &[("authorization", "Bearer t")],
        r#"{"chatId":"1","access_token":"t"}"#,
    );
    assert_eq!(everywhere, plain);
    let unnamed = identity(PATH, &[], r#"{"chatId":"1"}"#);
    assert_eq!((unnamed.instance, unnamed.credential), (None, None));
}
