//! Requests that are not merged, and why (rules: merge equality, reasons).

use super::NotMerged::*;
use super::*;

const FORM: &str = "application/x-www-form-urlencoded";

#[test]
fn every_carrier_is_understood() {
    for (target, body, ids) in [
        (PATH, r#"{"chatId":"1","messageIds":["false_1@c.us_A"]}"#, 1),
        (PATH, r#"{"chatId":"1","messageIds":[]}"#, 0),
        (PATH, r#"{"chatId":"1"}"#, 0),
        (PATH, "\r\n\t {\"chatId\" : \"\"} \n", 0),
        (PATH, r#"{"chatId":"1","participant":null}"#, 0),
        (PATH, r#"{"chatId":"1","reply_to":null,"":[{}]}"#, 0),
        (
            PATH,
            r#"{"chatId":"1","instance_id":1,"access_token":null}"#,
            0,
        ),
        (PATH, r#"{"ch\u0061tId":"\ud83d\ude00\n"}"#, 0),
        (PATH, r#"{"chatId":"1","messageId":"false_1@c.us_A"}"#, 1),
        (PATH, r#"{"chatId":"1","messageIds":"false_1@c.us_A"}"#, 1),
        (PATH, r#"{"chatId":"1","messageIds[]":["x"]}"#, 0),
        ("/v2/send/seen?", r#"{"chatId":"1"}"#, 0),
        (
            "/v2/send/seen?instance_id=1&access_token=t&_=17",
            r#"{"chatId":"1"}"#,
            0,
        ),
        ("/v2/send/seen?chatId=1", "", 0),
        ("/v2/send/seen?chatId=1", " {} ", 0),
        ("/v2/send/seen?chatId=1&chat=%ff", "", 0),
        ("/v2/send/seen?chatId=1&messageIds=[]", "", 0),
        // A mixture.
        (
            "/v2/send/seen?chatId=1",
            r#"{"messageIds":["false_1@c.us_A"]}"#,
            1,
        ),
        (
            "/v2/send/seen?messageIds=[%22false_1@c.us_A%22]",
            r#"{"chatId":"1"}"#,
            1,
        ),
        (
            "/v2/send/seen?chatId=1&messageIds=[%22false_1@c.us_A%22,+%22true_1_B%22]",
            "",
            2,
        ),
    ] {
        let receipt = read(target, &[], body.as_bytes());
        let receipt = receipt.unwrap_or_else(|| panic!("{target} {body}"));
        assert_eq!(receipt.id_count(), ids, "{target} {body}");
    }
}

#[test]
fn a_json_body_that_is_not_understood_is_not_merged() {
    for (reason, body) in [
        // No chat, or not as a text.
        (NoChat, "{}"),
        (NoChat, r#"{"chatid":"1"}"#),
        (NoChat, r#"{"chatId":1}"#),
        (NoChat, r#"{"chatId":null}"#),
        (NoChat, r#"{"chatId":["1"]}"#),
        // Not JSON, or more than that.
        (Malformed, r#"{"chatId":"1"} x"#),
        (Malformed, r#"{"chatId":"1"}{}"#),
        (Malformed, r#"{"chatId":"1",}"#),
        (Malformed, r#"{"chatId":"1""#),
        (Malformed, "{\"chatId\":\"1\"}\0"),
        (Malformed, "{\"chatId\":\"a\nb\"}"),
        (Malformed, r#"{"\ud800":1,"chatId":"1"}"#),
        (ContentType, "null"),
        (ContentType, r#"[{"chatId":"1"}]"#),
        (ContentType, r#"["1","t","1@c.us",["false_1@c.us_A"],null]"#),
        (ContentType, "chatId=1"),
        (ContentType, "\u{feff}{\"chatId\":\"1\"}"),
        // A key twice, also with its letters escaped.
        (AmbiguousKey, r#"{"chatId":"1","chatId":"1"}"#),
        (AmbiguousKey, r#"{"chatId":"1","ch\u0061tId":"1"}"#),
        (AmbiguousKey, r#"{"chatId":"1","x":1,"x":1}"#),
        (
            AmbiguousKey,
            r#"{"chatId":"1","messageIds":[],"messageIds":[]}"#,
        ),
        (
            AmbiguousKey,
            r#"{"chatId":"1","messageIds":["false_1_A"],"messageIds":["false_1_B"]}"#,
        ),
        (
            AmbiguousKey,
            r#"{"chatId":"1","messageIds":"false_1_A","messageIds":"false_1_B"}"#,
        ),
        (
            AmbiguousKey,
            r#"{"chatId":"1","messageIds":["false_1_A"],"messageId":"false_1_B"}"#,
        ),
        (AmbiguousInstance, r#"{"chatId":"1","instance_id":["1"]}"#),
        (Malformed, r#"{"chatId":"1","access_token":"\ud800"}"#),
        (Malformed, r#"{"chatId":"1","x":[{"y":"\uD800\u0041"}]}"#),
        (
            AmbiguousInstance,
            r#"{"chatId":"1","instance_id":"1","instance_id":"2"}"#,
        ),
        // Ids that are none, or not a list of texts.
        (IdsShape, r#"{"chatId":"1","messageIds":null}"#),
        (IdsShape, r#"{"chatId":"1","messageIds":"A"}"#),
        (
            IdsShape,
            r#"{"chatId":"1","messageIds":"false_1_A,false_1_B"}"#,
        ),
        (IdsShape, r#"{"chatId":"1","messageId":["false_1_A"]}"#),
        (
            IdsShape,
            r#"{"chatId":"1","messageIds":{"0":"false_1@c.us_A"}}"#,
        ),
        (IdsShape, r#"{"chatId":"1","messageIds":[null]}"#),
        (
            IdsShape,
            r#"{"chatId":"1","messageIds":[["false_1@c.us_A"]]}"#,
        ),
        (
            IdsShape,
            r#"{"chatId":"1","messageIds":["false_1@c.us_A",""]}"#,
        ),
        (IdsShape, r#"{"chatId":"1","messageIds":["false_1@c.us"]}"#),
        (IdsShape, r#"{"chatId":"1","messageIds":["false_1_A_2_3"]}"#),
        (
            IdsShape,
            r#"{"chatId":"1","messageIds":["false_1_\u0000"]}"#,
        ),
        (
            Malformed,
            r#"{"chatId":"1","messageIds":["false_1_\ud800"]}"#,
        ),
    ] {
        let read = try_read(PATH, &[], body.as_bytes());
        assert_eq!(read.err(), Some(reason), "{body}");
    }
    let read = try_read(PATH, &[], b"{\"chatId\":\"\xff\"}");
    assert_eq!(read.err(), Some(UnknownEncoding));
    let deep = format!(r#"{{"chatId":"1","messageIds":{}"#, "[".repeat(60_000));
    assert_eq!(try_read(PATH, &[], deep.as_bytes()).err(), Some(Malformed));
    let many: String = (0..1000).map(|n| format!(r#","{n}":1"#)).collect();
    let many = format!(r#"{{"chatId":"1"{many}}}"#);
    assert_eq!(try_read(PATH, &[], many.as_bytes()).err(), Some(TooLarge));
}

/// The same text in the query and in a form.
#[test]
fn pairs_that_are_not_understood_are_not_merged() {
    for (reason, text) in [
        (NoChat, "x=1"),
        (NoChat, "messageIds=[]"),
        (NoChat, "messageIds=[%22false_1@c.us_A%22]"),
        (AmbiguousKey, "chatId=1&chatId=1"),
        (AmbiguousKey, "chatId=1&x=1&x=2"),
        // One variable of PHP.
        (AmbiguousKey, "chatId=1&x_y=1&x.y=2"),
        (AmbiguousKey, "chatId=1&x=1&x[]=2"),
        // An element to Node, another name to PHP; and the other way round.
        (IdsShape, "chatId=1&messageIds[x=false_1_A"),
        (AmbiguousKey, "chatId=1&x[y=1"),
        (AmbiguousKey, "chatId=1&[messageIds][]=false_1_A"),
        (AmbiguousKey, "chatId=1&+messageIds[]=false_1_A"),
        (AmbiguousKey, "chatId=1&messageIds%00=false_1_A"),
        (AmbiguousKey, "chatId=1&messageId[]=false_1_A"),
        (
            AmbiguousKey,
            "chatId=1&messageId=false_1_A&messageId=false_1_B",
        ),
        (
            AmbiguousKey,
            "chatId=1&messageIds[]=false_1_A&messageId=false_1_B",
        ),
        (
            AmbiguousKey,
            "chatId=1&messageIds[]=false_1_A&messageIds[0]=false_1_B",
        ),
        (
            AmbiguousKey,
            "chatId=1&messageIds=false_1_A&messageIds[]=false_1_B",
        ),
        (AmbiguousKey, "chatId=1&messageIds=[]&messageIds=[]"),
        (
            AmbiguousKey,
            "chatId=1&messageIds=false_1_A,false_1_B&messageIds=false_1_C",
        ),
        (AmbiguousInstance, "chatId=1&instance_id=1&instance.id=2"),
        (AmbiguousInstance, "chatId=1&instance_id[]=1"),
        (AmbiguousInstance, "chatId=1&access_token=t&access_token=u"),
        (IdsShape, "chatId=1&messageIds"),
        (IdsShape, "chatId=1&messageIds="),
        (IdsShape, "chatId=1&messageIds=null"),
        (IdsShape, "chatId=1&messageIds=A"),
        (IdsShape, "chatId=1&messageIds[]="),
        (IdsShape, "chatId=1&messageIds[]=A"),
        (IdsShape, "chatId=1&messageIds[x]=false_1_A"),
        (IdsShape, "chatId=1&messageIds[1]=false_1_A"),
        (IdsShape, "chatId=1&messageIds[00]=false_1_A"),
        (IdsShape, "chatId=1&messageIds[0][0]=false_1_A"),
        (IdsShape, "chatId=1&messageIds[]x=false_1_A"),
        (
            IdsShape,
            "chatId=1&messageIds[0]=false_1_A&messageIds[2]=false_1_B",
        ),
        (IdsShape, "chatId=1&messageIds=false_1_A,B"),
        (IdsShape, "chatId=1&messageIds=false_1_A,"),
        (IdsShape, "chatId=1&messageIds=false_1_A,%20false_1_B"),
        (IdsShape, "chatId=1&messageIds=[%22false_1@c.us_A%22]x"),
        (IdsShape, "chatId=1&messageIds=[%22A%22]"),
        (UnknownEncoding, "chatId=1&messageIds=%FF"),
        (
            UnknownEncoding,
            "chatId=1&messageIds=[%22false_1@c.us_1%%22]",
        ),
        (UnknownEncoding, "chatId=1&participant=50%"),
        (UnknownEncoding, "chatId=%4"),
    ] {
        let target = format!("{PATH}?{text}");
        assert_eq!(try_read(&target, &[], b"").err(), Some(reason), "{text}");
        assert_eq!(of_form(text).err(), Some(reason), "{text}");
    }
}

#[test]
fn ids_in_two_places_are_ambiguous() {
    let body = format!(r#"{{"chatId":"1","messageIds":["{ID}"]}}"#);
    for query in [
        "messageIds=[]",
        "messageIds[]=false_1_A",
        "messageId=false_1_A",
    ] {
        let target = format!("{PATH}?{query}");
        let read = try_read(&target, &[], body.as_bytes());
        assert_eq!(read.err(), Some(AmbiguousKey), "{query}");
    }
}

#[test]
fn a_body_that_is_not_what_its_type_says_is_not_merged() {
    let json = r#"{"chatId":"1"}"#;
    let part = "--b\r\nContent-Disposition: form-data; name=\"chatId\"\r\n\r\n1\r\n--b--\r\n";
    let file = part.replace("name=\"chatId\"", "name=\"chatId\"; filename=\"a\"");
    for (reason, content_type, body) in [
        (ContentType, FORM, json),
        (ContentType, FORM, "[1]"),
        (ContentType, FORM, "{}"),
        (ContentType, "application/octet-stream", json),
        (ContentType, "application/xml", "<chatId/>"),
        (Malformed, "application/json", "chatId=1"),
        (Malformed, "application/json", part),
        (Malformed, "multipart/form-data; boundary=b", json),
        (Malformed, "multipart/form-data; boundary=c", part),
        (Malformed, "multipart/form-data", part),
        (MultipartFile, "multipart/form-data; boundary=b", &file),
        (NoChat, FORM, "chat=1"),
        (UnknownEncoding, "application/json; charset=utf-16", json),
        (
            UnknownEncoding,
            "application/x-www-form-urlencoded; charset=latin1",
            "chatId=1",
        ),
    ] {
        let read = try_read(PATH, &[("content-type", content_type)], body.as_bytes());
        assert_eq!(read.err(), Some(reason), "{content_type}: {body}");
    }
    let two = [("content-type", FORM), ("content-type", "application/json")];
    assert_eq!(try_read(PATH, &two, b"chatId=1").err(), Some(ContentType));
}

#[test]
fn the_head_may_rule_it_out() {
    let body = || Bytes::from_static(br#"{"chatId":"1"}"#);
    let reason = |head: Parts| Receipt::by_default(head, body());
    for method in ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "post"] {
        let read = reason(head(method, PATH, &[]));
        assert_eq!(read.err(), Some(Method), "{method}");
    }
    for (expected, name, value) in [
        (UnknownEncoding, "content-encoding", "gzip"),
        (UnknownEncoding, "content-encoding", "identity"),
        (Protocol, "trailer", "x-sum"),
        (Protocol, "upgrade", "websocket"),
        (Protocol, "expect", "200-ok"),
        (Method, "x-http-method-override", "DELETE"),
        (Method, "x-http-method", "DELETE"),
        (Method, "x-method-override", "DELETE"),
        (Idempotent, "idempotency-key", "1"),
        (Digest, "content-digest", "sha-256=:x:"),
        (Digest, "content-md5", "x"),
        (Conditional, "if-none-match", "*"),
        (Conditional, "range", "bytes=0-1"),
    ] {
        let read = reason(head("POST", PATH, &[(name, value)]));
        assert_eq!(read.err(), Some(expected), "{name}");
    }
    // The gateway itself asks for the body.
    let expecting = [("expect", "100-Continue")];
    assert!(reason(head("POST", PATH, &expecting)).is_ok());
    let both = [("expect", "100-continue"), ("trailer", "x")];
    assert_eq!(reason(head("POST", PATH, &both)).err(), Some(Protocol));
}

#[test]
fn a_request_that_is_no_receipt_is_returned_unchanged() {
    let sent = head("POST", "/v2/send/seen?x=1", &[("x-a", "1"), ("x-a", "2")]);
    let mut back = sent.clone().into();
    let read = Receipt::read(&SETTINGS, &mut back, Bytes::from_static(b"x"));
    assert_eq!(read.err(), Some(ContentType));
    assert_eq!((&back.uri, &back.headers), (&sent.uri, &sent.headers));
}

#[test]
fn a_body_of_64_kib_is_the_longest() {
    let body = |length: usize| {
        let rest = r#"{"chatId":""}"#.len();
        format!(r#"{{"chatId":"{}"}}"#, "x".repeat(length - rest))
    };
    assert!(of_body(&body(SCAN_LIMIT)).is_some());
    let long = body(SCAN_LIMIT + 1);
    assert_eq!(try_read(PATH, &[], long.as_bytes()).err(), Some(TooLarge));
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
    let form = [("authorization", "Bearer t"), ("content-type", FORM)];
    let form = identity(PATH, &form, "instance.id=1&access_token=%74&chatId=1");
    assert_eq!(everywhere, form);
    let unnamed = identity(PATH, &[], r#"{"chatId":"1"}"#);
    assert_eq!((unnamed.instance, unnamed.credential), (None, None));
}
