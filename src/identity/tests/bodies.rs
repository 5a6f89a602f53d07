//! The bounded look into a body.

use super::*;

const JSON: Headers<'_> = &[("content-type", "application/json")];
const FORM: Headers<'_> = &[("content-type", "application/x-www-form-urlencoded")];
const MULTIPART: Headers<'_> = &[("content-type", "multipart/form-data; boundary=X")];
const BOTH: &str = r#"{"instance_id":"1","access_token":"t"}"#;

/// Who is found in a body that comes whole, and in one that comes bit by bit.
async fn found(headers: Headers<'_>, body: &[u8]) -> Identity {
    let whole = look("/", headers, &[body]).await;
    let bit_by_bit: Vec<_> = body.chunks(1).collect();
    // More pieces than this are more than is looked at (see `ClientBody`).
    if bit_by_bit.len() <= 1000 {
        assert_eq!(look("/", headers, &bit_by_bit).await, whole, "cut to bits");
    }
    whole
}

fn in_body(instance: &str, token: &str) -> Identity {
    let token = [(Place::Body, token)];
    who(
        (!instance.is_empty()).then_some(instance),
        if token[0].1.is_empty() { &[] } else { &token },
    )
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
async fn places_that_disagree_in_a_body_prove_nothing() {
    let body = br#"{"instance_id":"1","instance_id":"2","access_token":"t"}"#;
    assert_eq!(found(JSON, body).await, in_body("1", ""));
    // The head has the first word, and its word is not doubted for nothing.
    let identity = look("/?instance_id=0", JSON, &[BOTH.as_bytes()]).await;
    assert_eq!(
        (identity.instance.as_deref(), identity.credential),
        (Some("0"), None)
    );
    let identity = look("/?instance_id=1", JSON, &[BOTH.as_bytes()]).await;
    assert_eq!(identity, in_body("1", "t"));
}

#[tokio::test]
async fn content_types_that_are_looked_into() {
    for (content_type, looked) in [
        ("application/json", true),
        ("Application/JSON; charset=utf-8", true),
        ("application/problem+json", true),
        ("text/plain", true),
        ("application/x-www-form-urlencoded", true),
        ("application/octet-stream", false),
        ("image/png", false),
        ("multipart/form-data", false),
    ] {
        let identity = found(&[("content-type", content_type)], BOTH.as_bytes()).await;
        assert_eq!(identity.instance.is_some(), looked, "{content_type}");
    }
    assert_eq!(
        found(&[], BOTH.as_bytes()).await,
        in_body("1", "t"),
        "none said"
    );
}

#[tokio::test]
async fn what_is_coded_is_not_looked_into() {
    let headers = [
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
    ];
    assert_eq!(found(&headers, BOTH.as_bytes()).await, who(None, &[]));
}

#[tokio::test]
async fn a_head_that_says_it_all_spares_the_look() {
    let target = "/?instance_id=7&access_token=q";
    let identity = look(target, JSON, &[BOTH.as_bytes()]).await;
    assert_eq!(identity, who(Some("7"), &[(Place::Query, "q")]));
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
async fn the_look_ends_after_64_kib() {
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
            let identity = look("/", JSON, &pieces).await;
            assert_eq!(identity, in_body(instance, ""), "json, {length} by {size}");
            let pieces: Vec<_> = form.as_bytes().chunks(size).collect();
            let identity = look("/", FORM, &pieces).await;
            assert_eq!(identity, in_body(instance, ""), "form, {length} by {size}");
        }
    }
}

#[tokio::test]
async fn a_form_that_ends_with_the_look_is_not_cut_short() {
    let form = |length: usize| {
        let rest = "a=&instance_id=12".len();
        format!("a={}&instance_id=12", "x".repeat(length - rest))
    };
    let identity = look("/", FORM, &[form(LOOK - 8192).as_bytes()]).await;
    assert_eq!(identity, in_body("12", ""));
    // The last digit would be beyond: half a name is somebody else's.
    assert_eq!(
        look("/", FORM, &[form(LOOK + 1).as_bytes()]).await,
        in_body("", "")
    );
}

#[tokio::test]
async fn a_name_or_token_of_absurd_length_is_not_taken() {
    let long = "x".repeat(200);
    let body = format!(r#"{{"instance_id":"{long}","access_token":"t"}}"#);
    assert_eq!(found(JSON, body.as_bytes()).await, in_body("", "t"));
    let long = "x".repeat(5000);
    let body = format!(r#"{{"access_token":"{long}","instance_id":"1"}}"#);
    assert_eq!(look("/", JSON, &[body.as_bytes()]).await, in_body("1", ""));
    let body = format!("access_token={long}&instance_id=1");
    assert_eq!(look("/", FORM, &[body.as_bytes()]).await, in_body("1", ""));
}

/// Bodies that a parser could trip over: they pass, and it takes no time
/// worth speaking of.
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
            assert_eq!(look("/", &headers, &pieces).await, who(None, &[]));
        }
    }
    for boundary in ["\"\"", "", "\"a", "\"\r\"", "ä", &"x".repeat(5000)] {
        let content_type = format!("multipart/form-data; boundary={boundary}");
        if http::HeaderValue::from_str(&content_type).is_ok() {
            let headers = [("content-type", &*content_type)];
            look("/", &headers, &[b"--\r\n\r\n--"]).await;
        }
    }
}
