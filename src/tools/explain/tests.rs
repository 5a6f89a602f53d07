//! What is said about requests, and that no secret is said.

use std::path::Path;

use bytes::Bytes;

use super::input::{Problem, split};
use super::*;
use crate::config::{Class, PathPattern, Quota, Secret, Tenant};
use crate::receipt::parse::HEADERS;

/// Each header and field of a key, in one receipt. No other key is in it.
const RECEIPT: &str = "POST /v2/send/seen?q=1&access_token=T1 HTTP/1.1\n\
    Host: gateway.test\n\
    Authorization: Bearer T2\n\
    Cookie: c=T3\n\
    Accept: a/b\n\
    Accept-Language: de\n\
    Accept-Encoding: gzip\n\
    Content-Type: application/json\n\
    Origin: https://app.test\n\
    Access-Token: T4\n\
    X-Instance-ID: 123\n\
    X-Wawp-Region: eu\n\
    User-Agent: app/1\n\
    \n\
    {\"chatId\":\"1@c.us\",\"messageIds\":[\"false_1_A\"],\"session\":\"s\",\"deep\":{\"a\":[1,2]}}";

/// A receipt in the query, without a body.
const QUERY: &str = "POST /v2/send/seen?instance_id=123&access_token=T1&chatId=1&x[a]=1&IDS HTTP/1.1\n\
    Host: gateway.test\n\
    Content-Type: application/json\n\n";

/// A receipt in a multipart form.
const PARTS: &str = "POST /v2/send/seen?instance_id=123 HTTP/1.1\r\n\
    Host: gateway.test\r\n\
    Content-Type: multipart/form-data; boundary=b\r\n\r\n\
    --b\r\nContent-Disposition: form-data; name=\"chatId\"\r\n\r\n1\r\n\
    --b\r\nContent-Disposition: form-data; name=\"messageIds[]\"\r\n\r\nfalse_1_A\r\n\
    --b\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nhello\r\n--b--\r\n";

/// A receipt in an urlencoded form.
const FORM: &str = "POST /v2/send/seen?instance_id=123 HTTP/1.1\n\
    Host: gateway.test\n\
    Content-Type: application/x-www-form-urlencoded\n\n\
    chatId=1&messageIds[]=false_1_A&note=hello&flag";

async fn report_of(config: &Config, requests: &[&str]) -> String {
    let requests = requests.iter().map(|text| {
        let [bytes] = &split(&Bytes::from(text.as_bytes().to_vec())).unwrap()[..] else {
            panic!("one request: {text}")
        };
        RawRequest {
            origin: "a.http".to_owned(),
            bytes: bytes.clone(),
        }
    });
    let report = explain(config, requests.collect()).await.unwrap();
    let text = report.to_string();
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    text
}

async fn report(requests: &[&str]) -> String {
    report_of(&Config::default(), requests).await
}

/// The labels of the differences between two requests.
fn differences_in(report: &str) -> Vec<&str> {
    let (_, list) = report
        .split_once("do not merge. They differ in:\n")
        .unwrap_or_default();
    let lines = list.lines().filter(|line| {
        // Further lines of a text are indented more.
        line.starts_with("  ") && !line.starts_with("   ")
    });
    lines
        .map(|line| {
            let line = &line[2..];
            line.split("  ").next().unwrap_or(line)
        })
        .collect()
}

fn changed(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from} in {text}");
    text.replace(from, to)
}

#[tokio::test]
async fn each_header_and_field_that_can_differ_is_named_alone() {
    let query = |ids: &str| QUERY.replace("IDS", ids);
    let (list, single) = (
        query("messageIds[]=false_1_A"),
        query("messageIds=false_1_A"),
    );
    let table = [
        (RECEIPT, "/v2/send/seen?", "/v2/send//seen?", "path"),
        (RECEIPT, "q=1&", "q=2&", "query key q"),
        (RECEIPT, "q=1&", "", "query key q"),
        (RECEIPT, "q=1&", "q&", "query key q"),
        (RECEIPT, "q=1&", "q=1&z=1&", "query key z"),
        (RECEIPT, "T1", "T9", "query key access_token"),
        (RECEIPT, "T2", "T9", "header authorization"),
        (RECEIPT, "T3", "T9", "header cookie"),
        (RECEIPT, "a/b", "a/c", "header accept"),
        (RECEIPT, "Accept: a/b\n", "", "header accept"),
        (RECEIPT, "de\n", "en\n", "header accept-language"),
        (RECEIPT, "gzip", "br", "header accept-encoding"),
        (
            RECEIPT,
            "/json\n",
            "/json; charset=us-ascii\n",
            "header content-type",
        ),
        (RECEIPT, "app.test", "web.test", "header origin"),
        (RECEIPT, "T4", "T9", "header access-token"),
        (RECEIPT, "ID: 123", "ID: 124", "header x-instance-id"),
        (RECEIPT, "eu\n", "us\n", "header x-wawp-region"),
        (RECEIPT, "1@c.us", "2@c.us", "body key chatId"),
        (RECEIPT, "\"s\"", "\"t\"", "body key session"),
        (RECEIPT, "\"s\"", "null", "body key session"),
        (RECEIPT, ",\"session\":\"s\"", "", "body key session"),
        (RECEIPT, "[1,2]", "[2,1]", "body key deep"),
        (RECEIPT, ",\"deep\"", ",\"new\":0,\"deep\"", "body key new"),
        (
            &list,
            "instance_id=123",
            "instance_id=124",
            "query key instance_id",
        ),
        (&list, "chatId=1&", "chatId=2&", "query key chatId"),
        (&list, "x[a]=1", "x[a]=2", "query key x"),
        (&list, "x[a]=1", "x[b]=1", "query key x"),
        (&list, "\n\n", "\n\n{}", "body type"),
        (&list, "messageIds[]=", "messageIds[0]=", "form of the ids"),
        (&list, "messageIds[]=", "messageIds=", "form of the ids"),
        (&single, "1_A", "1_B", "ids"),
        (PARTS, "hello", "bye", "body key note"),
        (
            PARTS,
            "\"note\"\r\n",
            "\"note\"\r\nContent-Type: text/plain\r\n",
            "body key note",
        ),
        (FORM, "hello", "bye", "body key note"),
        (FORM, "&flag", "&flag=", "body key flag"),
    ];
    for (one, from, to, expected) in &table {
        let other = changed(one, from, to);
        // Other ids alone are no difference.
        let other = match *expected {
            "ids" | "form of the ids" => other,
            _ => other.replace("false_1_A", "false_1_B"),
        };
        let report = report(&[one, &other]).await;
        assert_eq!(
            differences_in(&report),
            [*expected],
            "{from} {to}: {report}"
        );
    }
    // Every header of the key has a line.
    for header in &HEADERS {
        let expected = format!("header {header}");
        assert!(table.iter().any(|row| row.3 == expected), "{header}");
    }
    // An escape never reaches a terminal.
    let report = report(&[FORM, &changed(FORM, "&flag", "&fl\u{1b}ag")]).await;
    assert!(!report.contains('\u{1b}'), "{report}");
    let expected = ["body key flag", "body key fl\\u{1b}ag"];
    assert_eq!(differences_in(&report), expected, "{report}");
}

#[tokio::test]
async fn what_does_not_matter_is_no_difference() {
    for (one, from, to) in [
        (RECEIPT, "app/1", "app/2"),
        (RECEIPT, "gateway.test", "other.test"),
        (RECEIPT, "q=1&access_token=T1", "access_token=%541&q=1"),
        (RECEIPT, "/json\n", "/json; charset=utf-8\n"),
        (RECEIPT, "{\"a\":[1,2]}", "{ \"\\u0061\": [1, 2] }"),
        (RECEIPT, "false_1_A", "false_1_B"),
        (PARTS, "boundary=b\r\n", "boundary=\"b\"\r\n"),
        (FORM, "note=hello&flag", "flag&note=h%65llo"),
    ] {
        let report = report(&[one, &changed(one, from, to)]).await;
        let merged = "Requests 1 and 2 merge into one call";
        assert!(report.contains(merged), "{from} {to}: {report}");
    }
    let mut config = Config::default();
    config.batch.ignore_headers = vec!["accept-language".to_owned()];
    config.batch.ignore_fields = vec!["session".to_owned()];
    let other = changed(RECEIPT, "de\n", "en\n").replace("\"s\"", "\"t\"");
    let report = report_of(&config, &[RECEIPT, &other]).await;
    assert!(report.contains("Requests 1 and 2 merge"), "{report}");
}

#[tokio::test]
async fn the_merged_request_has_the_ids_of_all_in_the_form_of_the_first() {
    let other = RECEIPT.replace("false_1_A", "false_1_B");
    let third = RECEIPT.replace("de\n", "en\n");
    let report = report(&[RECEIPT, &other, &third, RECEIPT]).await;
    let merged = "Requests 1, 2 and 4 merge into one call with 2 ids";
    assert!(report.contains(merged), "{report}");
    assert!(report.contains("[\"false_1_A\",\"false_1_B\"]"), "{report}");
    let apart =
        "Requests 1 and 3 do not merge. They differ in:\n  header accept-language        de | en";
    assert!(report.contains(apart), "{report}");
}

#[tokio::test]
async fn a_batch_that_is_full_is_reported() {
    let mut config = Config::default();
    config.batch.max_ids = 1;
    let other = RECEIPT.replace("false_1_A", "false_1_B");
    let full = report_of(&config, &[RECEIPT, &other]).await;
    assert!(full.contains("do not fit into one call"), "{full}");
    config.batch.max_ids = 100;
    config.batch.window = std::time::Duration::ZERO;
    let off = report_of(&config, &[RECEIPT, &other]).await;
    assert!(off.contains("Request 1: not merged: merging_off"), "{off}");
}

#[tokio::test]
async fn a_request_that_does_not_merge_has_its_reason() {
    let file = PARTS.replace("name=\"note\"", "name=\"note\"; filename=\"a\"");
    for (request, result) in [
        (RECEIPT.replace("POST", "PUT"), "not merged: method"),
        (RECEIPT.replace("1@c.us", ""), "it may merge"),
        (RECEIPT.replace("chatId", "chat"), "not merged: no_chat"),
        (RECEIPT.replace("false_1_A", "1"), "not merged: ids_shape"),
        (RECEIPT.replace("}}", "}"), "not merged: malformed"),
        (file, "not merged: multipart_file"),
        (
            FORM.replace("note=", "chatId="),
            "not merged: ambiguous_key",
        ),
        (QUERY.replace("IDS", "messageIds=false_1_A"), "list_form"),
        (
            RECEIPT.replace("/v2/send/seen", "/v2/send/text"),
            "not a path of",
        ),
        (
            RECEIPT.replace("Host: gateway.test\n", ""),
            "with 400: the request is malformed",
        ),
        (RECEIPT.replace("POST", "CONNECT"), "refused"),
        (RECEIPT.replace("a/b", &"a".repeat(70_000)), "431"),
    ] {
        let report = report(&[&request]).await;
        let flat = report.split_whitespace().collect::<Vec<_>>().join(" ");
        let flat = flat.replace("it is not a path", "not a path");
        assert!(flat.contains(result), "{result}: {report}");
    }
}

#[tokio::test]
async fn every_place_of_an_instance_is_named() {
    let body = ("\"session\"", "\"instance_id\":\"123\",\"session\"");
    for (request, expected) in [
        (RECEIPT.to_owned(), "123, in the header X-Instance-ID"),
        (
            RECEIPT.replace(body.0, body.1),
            "123, named twice: in the header X-Instance-ID and in the body",
        ),
        (
            RECEIPT.replace("q=1", "instance_id=456"),
            "456 in the query, but 123 in the header X-Instance-ID",
        ),
        (RECEIPT.replace("X-Instance-ID: 123\n", ""), "none found"),
    ] {
        let report = report(&[&request]).await;
        let line = format!("\n  instance      {expected}\n");
        assert!(report.contains(&line), "{expected}: {report}");
    }
}

fn tenant() -> Tenant {
    Tenant {
        name: "acme".to_owned(),
        instances: vec!["123".to_owned()],
        weight: 2.try_into().unwrap(),
        quota: quota(5.0, 6),
        networks: Vec::new(),
        key: Some(Secret::new("key-of-acme-0123456789")),
        keys: Vec::new(),
        tokens: [("123".to_owned(), Secret::new("real/token+of acme"))].into(),
    }
}

fn quota(rate: f64, burst: u32) -> Option<Quota> {
    Some(Quota::new(rate, burst.try_into().unwrap()).unwrap())
}

#[tokio::test]
async fn class_and_budgets_are_those_of_the_settings() {
    let mut config = Config::default();
    config.tenants.push(tenant());
    config.egress.quota = quota(50.0, 60);
    config.limit.classes.push(Class {
        name: "reads".to_owned(),
        paths: vec![PathPattern::parse("/v2/send/seen").unwrap()],
        methods: Vec::new(),
        instances: Vec::new(),
        tenants: Vec::new(),
        quota: quota(3.0, 4),
        max_in_flight: 7.try_into().ok(),
    });
    let report = report_of(&config, &[RECEIPT]).await;
    let flat = report.split_whitespace().collect::<Vec<_>>().join(" ");
    for text in [
        "tenant acme class reads ([[limit.class]])",
        "bucket of the instance: 3 per second, 4 at once, 7 in flight",
        "verified the main bucket; budget of the tenant: 5 per second, 6 at once; egress of \
         all: 50 per second, 60 at once, with weight 2",
        "a second budget of the tenant: 5 per second, 6 at once",
        "a 2xx to this request verifies its credential",
    ] {
        assert!(flat.contains(text), "{text}: {report}");
    }
}

#[tokio::test]
async fn a_tenant_key_is_replaced_and_neither_key_nor_token_is_shown() {
    let mut config = Config::default();
    config.tenants.push(tenant());
    for place in [
        RECEIPT.replace("Bearer T2", "Bearer key-of-acme-0123456789"),
        RECEIPT.replace("T1", "key-of-acme-0123456789"),
        RECEIPT.replace("\"s\"", "\"s\",\"access_token\":\"key-of-acme-0123456789\""),
    ] {
        let report = report_of(&config, &[&place]).await;
        let flat = report.split_whitespace().collect::<Vec<_>>().join(" ");
        let replaced = "a tenant key, replaced by the access token";
        assert!(flat.contains(replaced), "{report}");
        assert!(
            !report.contains("real") && !report.contains("key-of"),
            "{report}"
        );
    }
    let wrong = RECEIPT
        .replace("ID: 123", "ID: 999")
        .replace("T4", "key-of-acme-0123456789");
    let report = report_of(&config, &[&wrong]).await;
    assert!(
        report.contains("refused by the gateway with 403"),
        "{report}"
    );
}

#[tokio::test]
async fn no_secret_is_shown_wherever_it_is() {
    const TOKEN: &str = "s3cr3t-t0ken-0f-a-client";
    let named = |name: &str| format!("\"s\",\"{name}\":\"{TOKEN}\"");
    let requests = [
        RECEIPT.replace("T1", TOKEN),
        RECEIPT.replace("T2", TOKEN),
        RECEIPT.replace("T3", TOKEN),
        RECEIPT.replace("T4", TOKEN),
        RECEIPT.replace("app/1", &format!("app/1\nX-Api-Key: {TOKEN}")),
        RECEIPT.replace("q=1", &format!("api_key={TOKEN}")),
        RECEIPT.replace("\"s\"", &named("access_token")),
        RECEIPT.replace("\"s\"", &named("password")),
        // Where other values are shown.
        RECEIPT.replace("T1", TOKEN).replace("1@c.us", TOKEN),
        RECEIPT.replace("T2", TOKEN).replace("app/1", TOKEN),
        RECEIPT
            .replace("T4", TOKEN)
            .replace("ID: 123", &format!("ID: {TOKEN}")),
        RECEIPT
            .replace("T3", TOKEN)
            .replace("/b", &format!("/{TOKEN}")),
        // Bodies and paths that are not understood.
        RECEIPT
            .replace("\"s\"", &named("access_token"))
            .replace("}}", "}"),
        RECEIPT
            .replace("false_1_A", "1")
            .replace("\"s\"", &named("other")),
        RECEIPT.replace("/v2/send/seen", &format!("/v2/{TOKEN}")),
        FORM.replace("hello", TOKEN),
        FORM.replace("hello", TOKEN).replace("chatId=1", "chatId=%"),
        PARTS.replace("hello", TOKEN),
        QUERY.replace("T1", TOKEN).replace("IDS", "messageIds[]=%"),
    ];
    for request in &requests {
        let report = report(&[request, RECEIPT]).await;
        assert!(!report.contains(TOKEN), "{request}: {report}");
    }
}

#[tokio::test]
async fn each_real_client_is_explained() {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients");
    for client in std::fs::read_dir(clients).unwrap() {
        let path = client.unwrap().path();
        let requests = input::read(&[path.clone(), path.clone()]).unwrap();
        assert_eq!(requests.len(), 2, "{path:?}");
        let report = explain(&Config::default(), requests).await.unwrap();
        let report = report.to_string();
        let merges = !path.ends_with("curl-json-as-form.http");
        assert_eq!(report.contains("merge into one call"), merges, "{report}");
        assert!(!report.contains("token-1"), "{report}");
    }
}

#[test]
fn requests_are_separated_as_on_a_connection() {
    let post = |framing: &str, body: &str| format!("POST /a HTTP/1.1\nHost: h\n{framing}\n{body}");
    let get = "GET /b HTTP/1.1\r\nHost: h\r\n\r\n";
    for (text, bodies) in [
        (post("", "{}\n"), &["{}"][..]),
        (post("", "{}\r\n"), &["{}"]),
        (post("", "a\n\nb"), &["a\n\nb"]),
        (post("Content-Length: 2\n", "{}\n\n"), &["{}"]),
        (post("content-length: 0\n", ""), &[""]),
        (format!("\u{feff}\n{}", post("", "")), &[""]),
        (
            post("Content-Length: 2\n", &format!("{{}}{get}")),
            &["{}", ""],
        ),
        (format!("{get}\n{}", post("", "x=1")), &["", "x=1"]),
        (
            post(
                "Transfer-Encoding: chunked\n",
                &format!("2\r\n{{}}\r\n0\r\n\r\n{get}"),
            ),
            &["2\r\n{}\r\n0\r\n\r\n", ""],
        ),
    ] {
        let requests = split(&Bytes::from(text.as_bytes().to_vec())).unwrap();
        let found: Vec<_> = requests
            .iter()
            .map(|request| {
                let text = std::str::from_utf8(request).unwrap();
                let (head, body) = text.split_once("\r\n\r\n").unwrap();
                assert!(!head.replace("\r\n", "").contains('\n'), "{head}");
                body
            })
            .collect();
        assert_eq!(found, bodies, "{text}");
    }
}

#[test]
fn bad_input_is_reported_with_its_line() {
    for (text, line, problem) in [
        ("", 1, Problem::Empty),
        ("\n\r\n", 1, Problem::Empty),
        ("{\"chatId\":1}", 1, Problem::RequestLine),
        ("\nPOST /a\nHost: h\n\n", 2, Problem::RequestLine),
        ("POST /a HTTP/2\nHost: h\n\n", 1, Problem::RequestLine),
        ("POST /a HTTP/1.1\nHost: h\n{}\n\n", 3, Problem::Header),
        ("POST /a HTTP/1.1\nHost: h", 2, Problem::NoEndOfHead),
        (
            "POST /a HTTP/1.1\nContent-Length: 9\n\nabc",
            4,
            Problem::ShortBody(9, 3),
        ),
        (
            "POST /a HTTP/1.1\nContent-Length: 1\n\nabc",
            4,
            Problem::RequestLineBehindBody,
        ),
        (
            "POST /a HTTP/1.1\nTransfer-Encoding: chunked\n\nabc",
            4,
            Problem::Chunks,
        ),
    ] {
        assert_eq!(
            split(&Bytes::from(text.as_bytes().to_vec())),
            Err((line, problem)),
            "{text:?}"
        );
    }
}
