//! The bounded scan of a body.

use super::*;

const JSON: Headers<'_> = &[("content-type", "application/json")];
const FORM: Headers<'_> = &[("content-type", "application/x-www-form-urlencoded")];
const MULTIPART: Headers<'_> = &[("content-type", "multipart/form-data; boundary=X")];
const BOTH: &str = r#"{"instance_id":"1","access_token":"t"}"#;

/// What a body names, without the certainty.
type Stated = (Option<InstanceId>, Option<Fingerprint>);

fn stated(identity: Identity) -> Stated {
    (identity.instance, identity.credential)
}

/// The identity found in a body, which is the same if it arrives byte by byte.
async fn identity(target: &str, headers: Headers<'_>, body: &[u8]) -> Identity {
    let whole = scan(target, headers, &[body]).await;
    let bytes: Vec<_> = body.chunks(1).collect();
    // More pieces than this are more than is held (see `ClientBody`).
    if bytes.len() <= 1000 {
        assert_eq!(
            scan(target, headers, &bytes).await,
            whole,
            "in single bytes"
        );
    }
    whole
}

async fn found(headers: Headers<'_>, body: &[u8]) -> Stated {
    stated(identity("/", headers, body).await)
}

fn in_body(instance: &str, token: &str) -> Stated {
    stated(identity_of(
        Some(instance),
        &[(CredentialSource::Body, token)],
    ))
}

#[tokio::test]
async fn json_in_any_layout() {
    for (body, instance, token) in [
        (BOTH, "1", "t"),
        (
            " \r\n\t{ \"instance_id\" : \"1\" , \"access_token\" : \"t\" } ",
            "1",
            "t",
        ),
        (r#"{"instance_id":1,"access_token":17.5e3}"#, "1", "17.5e3"),
        (r#"{"instance_id":-7}"#, "-7", ""),
        (
            r#"{"instance\u005fid":"\u0031","access_token":"\"\\\/"}"#,
            "1",
            "\"\\/",
        ),
        (r#"{"a":{"instance_id":"9"},"instance_id":"1"}"#, "1", ""),
        (
            r#"{"a":[{"instance_id":"9"}],"b":"\"instance_id\":\"8\"","instance_id":"1"}"#,
            "1",
            "",
        ),
        (r#"{"a":"instance_id","instance_id":"1"}"#, "1", ""),
        (r#"{"instance_id":null,"access_token":true}"#, "", ""),
        (r#"{"instance_id":["1"],"access_token":{"t":"t"}}"#, "", ""),
        (r#"{"instance_id":"","access_token":""}"#, "", ""),
        (r#"{"instance_id":"1","instance_id":"1"}"#, "1", ""),
        (r#"["instance_id","1"]"#, "", ""),
        (r#"[{"instance_id":"1"}]"#, "", ""),
        (r#""instance_id""#, "", ""),
        ("{}", "", ""),
        // What is broken further on is the upstream's to judge.
        (r#"{"instance_id":"1","access_token":"t",,,"#, "1", "t"),
        (r#"{"instance_id":"1"#, "", ""),
        (r#"{"instance_id":"\ud800"}"#, "", ""),
        // Parsers may skip it (RFC 8259 §8.1), so what follows it may count.
        ("\u{feff}{\"instance_id\":\"1\"}", "1", ""),
        (r#"{"a":1}{"instance_id":"1"}"#, "", ""),
    ] {
        assert_eq!(
            found(JSON, body.as_bytes()).await,
            in_body(instance, token),
            "{body}"
        );
    }
}

#[tokio::test]
async fn a_body_that_contradicts_itself_or_the_head_is_ambiguous() {
    let part = |name: &str, text: &str| {
        format!("--X\r\nContent-Disposition: form-data; {name}\r\n\r\n{text}\r\n")
    };
    let form = |parts: &[(&str, &str)]| {
        let parts = parts.iter().map(|(name, text)| part(name, text));
        parts.collect::<String>() + "--X--\r\n"
    };
    let long = |letter: &str| letter.repeat(5000);
    for (headers, body) in [
        (JSON, r#"{"instance_id":"1","instance_id":"2"}"#.to_owned()),
        (JSON, r#"{"instance_id":"2"}"#.to_owned()),
        (JSON, r#"{"instance_id":["2"]}"#.to_owned()),
        (JSON, format!(r#"{{"instance_id":"{}2"}}"#, long(" "))),
        (FORM, "instance.id=2".to_owned()),
        (FORM, "x=y&instance+id=2".to_owned()),
        (FORM, "x=y&%20instance%5Bid=2".to_owned()),
        (FORM, "instance_id%00=2".to_owned()),
        (FORM, "instance_id[]=1".to_owned()),
        (FORM, "access_token=t&access.token=u".to_owned()),
        (FORM, format!("x=y&{}instance_id=2", long("+"))),
        (FORM, format!("instance_id={}2", long("+"))),
        // A backend that believes the type reads a form here.
        (FORM, r#"{"a":"&instance_id=2&"}"#.to_owned()),
        (MULTIPART, form(&[("name=\"instance.id\"", "2")])),
        (MULTIPART, form(&[("NAME='instance_id'", "2")])),
        (MULTIPART, form(&[("name=a; name=\"instance_id\"", "1")])),
        (MULTIPART, form(&[("name=\"instance_id[0]\"", "1")])),
        (
            &[("content-type", "multipart/form-data; boundary=X,Y")],
            form(&[("name=\"instance_id\"", "2")]),
        ),
        (
            &[
                ("content-type", "image/png"),
                ("content-type", "text/plain"),
            ],
            BOTH.to_owned(),
        ),
        (
            &[
                ("content-type", "text/x-json;a"),
                ("content-encoding", "identity"),
            ],
            r#"{"instance_id":"2"}"#.to_owned(),
        ),
    ] {
        let identity = identity("/?instance_id=1", headers, body.as_bytes()).await;
        assert_eq!(identity.instance.as_deref(), Some("1"), "{body}");
        assert_eq!(identity.credential, None, "{body}");
        assert_eq!(identity.certainty, Certainty::Ambiguous, "{body}");
    }
    for (headers, body) in [
        (
            JSON,
            r#"{"instance_id":"1%20","a":{"instance_id":"2"}}"#.to_owned(),
        ),
        (JSON, r#"{"instance.id":"2","instance_id":null}"#.to_owned()),
        (FORM, "instance_id=+1&instance.id=1%0A".to_owned()),
        (FORM, format!("{}=instance_id=2", long("x"))),
        (FORM, format!("x={}", long("instance_id=2"))),
        (MULTIPART, form(&[("name=\"instance_id\"", "1\n")])),
        (MULTIPART, form(&[("name=\"instance_id_\"", "2")])),
    ] {
        let identity = identity("/?instance_id=1", headers, body.as_bytes()).await;
        assert_eq!(identity, identity_of(Some("1"), &[]), "{body}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_read_to_its_end_leaves_the_identity_uncertain() {
    let target = "/?instance_id=1&access_token=t";
    let gzip = [
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
    ];
    let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(LOOK));
    for (headers, body, certainty) in [
        (JSON, "{}", Certainty::Certain),
        (JSON, "not json", Certainty::Certain),
        (JSON, &long, Certainty::Partial),
        (&gzip, "{}", Certainty::Partial),
        (&[("content-type", "image/png")], "x", Certainty::Partial),
        (
            MULTIPART,
            "--X\r\na: b\r\n\r\nx\r\n--X--\r\n",
            Certainty::Certain,
        ),
        (MULTIPART, "--X\r\n\r\n", Certainty::Partial),
    ] {
        let identity = scan(target, headers, &[body.as_bytes()]).await;
        assert_eq!(identity.certainty, certainty, "{:.20}", body);
        let stated = identity_of(Some("1"), &[(CredentialSource::Query, "t")]).credential;
        assert_eq!(identity.credential, stated, "{:.20}", body);
    }
}

#[tokio::test]
async fn content_types_that_are_scanned() {
    for (content_type, scanned) in [
        ("application/json", true),
        ("Application/JSON; charset=utf-8", true),
        ("application/problem+json", true),
        ("text/json", true),
        ("text/plain", true),
        ("application/x-www-form-urlencoded", true),
        ("application/octet-stream", false),
        ("image/png", false),
        ("multipart/form-data", false),
    ] {
        let (instance, _) = found(&[("content-type", content_type)], BOTH.as_bytes()).await;
        assert_eq!(instance.is_some(), scanned, "{content_type}");
    }
    assert_eq!(
        found(&[], BOTH.as_bytes()).await,
        in_body("1", "t"),
        "none said"
    );
}

#[tokio::test]
async fn an_encoded_body_is_not_scanned() {
    let headers = [
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
    ];
    assert_eq!(found(&headers, BOTH.as_bytes()).await, in_body("", ""));
}

#[tokio::test]
async fn forms() {
    for (body, instance, token) in [
        ("instance_id=1&access_token=t", "1", "t"),
        ("a=b&instance_id=1", "1", ""),
        ("instance%5Fid=a%20b+c&access_token=%3D%26", "a b c", "=&"),
        ("access_token=t=u", "", "t=u"),
        ("instance_id", "", ""),
        ("instance_id=", "", ""),
        ("x=instance_id=1", "", ""),
        ("&&instance_id=1&&", "1", ""),
        ("instance_id=%FF", "\u{fffd}", ""),
    ] {
        assert_eq!(
            found(FORM, body.as_bytes()).await,
            in_body(instance, token),
            "{body}"
        );
    }
}

#[tokio::test]
async fn multipart_forms() {
    let part = |name: &str, text: &str| {
        format!("--X\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n")
    };
    let file = "--X\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\"\r\ncontent-type: image/png\r\n\r\n\0\u{1}--Y\r\n\r\n";
    for (body, instance, token) in [
        (
            part("instance_id", "1") + &part("access_token", "t") + "--X--\r\n",
            "1",
            "t",
        ),
        (
            part("a", "b") + file + &part("instance_id", "1") + "--X--",
            "1",
            "",
        ),
        (part("x", "instance_id") + "--X--", "", ""),
        (part("instance_id", "1") + "--X", "1", ""),
        (part("instance_id", "1").replace("\r\n--X", ""), "", ""),
        ("--Y\r\n\r\n".to_owned(), "", ""),
        ("no form at all".to_owned(), "", ""),
    ] {
        let body = body.as_bytes();
        if instance.is_empty() || token.is_empty() || body.len() < 900 {
            let expected = in_body(instance, token);
            assert_eq!(
                found(MULTIPART, body).await,
                expected,
                "{}",
                body.escape_ascii()
            );
        }
    }
}

/// What begins in the first 64 KiB and ends there is found; nothing beyond.
#[tokio::test]
async fn the_scan_ends_after_64_kib() {
    let json = |before: usize| {
        let rest = r#"{"a":"","instance_id":"1""#.len();
        format!(
            "{{\"a\":\"{}\",\"instance_id\":\"1\"}}",
            "x".repeat(before - rest)
        )
    };
    let form = |before: usize| {
        let rest = "a=&instance_id=1&".len();
        format!("a={}&instance_id=1&b", "x".repeat(before - rest))
    };
    for (length, instance) in [
        (1000, "1"),
        // Short of it by as much as the cost of small pieces may take.
        (LOOK - 8192, "1"),
        (LOOK + 1, ""),
        (LOOK + 100_000, ""),
    ] {
        let (json, form) = (json(length), form(length));
        for size in [100, 1000, 4096, 65_535, 1 << 20] {
            let pieces: Vec<_> = json.as_bytes().chunks(size).collect();
            let identity = stated(scan("/", JSON, &pieces).await);
            assert_eq!(identity, in_body(instance, ""), "json, {length} by {size}");
            let pieces: Vec<_> = form.as_bytes().chunks(size).collect();
            let identity = stated(scan("/", FORM, &pieces).await);
            assert_eq!(identity, in_body(instance, ""), "form, {length} by {size}");
        }
    }
}

#[tokio::test]
async fn a_form_that_ends_with_the_scan_is_not_cut_short() {
    let form = |length: usize| {
        let rest = "a=&instance_id=12".len();
        format!("a={}&instance_id=12", "x".repeat(length - rest))
    };
    let identity = scan("/", FORM, &[form(LOOK - 8192).as_bytes()]).await;
    assert_eq!(stated(identity), in_body("12", ""));
    // The last digit would be beyond: half an id is another instance's.
    let identity = scan("/", FORM, &[form(LOOK + 1).as_bytes()]).await;
    assert_eq!(stated(identity), in_body("", ""));
}

#[tokio::test]
async fn a_name_or_token_of_absurd_length_is_not_taken() {
    let long = "x".repeat(200);
    let body = format!(r#"{{"instance_id":"{long}","access_token":"t"}}"#);
    assert_eq!(found(JSON, body.as_bytes()).await, in_body("", "t"));
    let long = "x".repeat(5000);
    let json = format!(r#"{{"access_token":"{long}","instance_id":"1"}}"#);
    let form = format!("access_token={long}&instance_id=1");
    for (headers, body) in [(JSON, json), (FORM, form)] {
        let identity = scan("/", headers, &[body.as_bytes()]).await;
        assert_eq!(stated(identity), in_body("1", ""));
    }
}

/// Bodies made to slow a parser down: they are forwarded without delay.
#[tokio::test]
async fn hostile_multipart_bodies_pass() {
    let boundary = "-".repeat(70);
    let content_type = format!("multipart/form-data; boundary={boundary}");
    let headers = [("content-type", &*content_type)];
    for unit in [
        "-",
        "\r\n--",
        "\r\n",
        "--",
        "\r\n-----------------------------------",
        "a: b\r\n",
    ] {
        let body = format!("--{boundary}\r\n\r\n{}", unit.repeat(LOOK / unit.len()));
        for size in [1, 61, 8192] {
            let pieces: Vec<_> = body.as_bytes().chunks(size).collect();
            let identity = scan("/", &headers, &pieces).await;
            assert_eq!(stated(identity), in_body("", ""));
        }
    }
    for boundary in ["\"\"", "", "\"a", "\"\r\"", "ä", &"x".repeat(5000)] {
        let content_type = format!("multipart/form-data; boundary={boundary}");
        if http::HeaderValue::from_str(&content_type).is_ok() {
            let headers = [("content-type", &*content_type)];
            scan("/", &headers, &[b"--\r\n\r\n--"]).await;
        }
    }
}
