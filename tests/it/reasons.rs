//! Why a receipt was not merged: the same reason in the access log, in the metric and in
//! `Server-Timing`, for each of them.

use std::collections::BTreeSet;
use std::time::Duration;

use wawp_gateway::sandbox::Fault;

use crate::support::{Logged, Message, get, head_and_body, ids, post, receipt, receipt_of};

const JSON: &str = "[log]\nformat = \"json\"\n";
const TARGET: &str = "/v2/send/seen?instance_id=123&access_token=t";

/// A receipt in a form, with more fields in its head.
fn with(body: &str, fields: &str) -> String {
    format!(
        "POST {TARGET} HTTP/1.1\r\nHost: h\r\n{fields}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn json(fields: &str) -> String {
    let fields = format!("Content-Type: application/json\r\n{fields}");
    with(r#"{"chatId":"1"}"#, fields.trim_end())
}

/// Requests that do not merge by themselves.
fn requests() -> Vec<(&'static str, String)> {
    let form = "Content-Type: application/x-www-form-urlencoded";
    let multipart = "Content-Type: multipart/form-data; boundary=b";
    let file = "--b\r\nContent-Disposition: form-data; name=\"a\"; filename=\"s3cret\"\r\n\r\n1\r\n--b--\r\n";
    let long = format!(r#"{{"chatId":"{}"}}"#, "1".repeat(70_000));
    vec![
        ("method", get(TARGET)),
        (
            "raw_target",
            post(&format!("{TARGET}&x=\"s3cret\""), r#"{"chatId":"1"}"#),
        ),
        ("conditional", json("If-Match: s3cret")),
        ("idempotent", json("Idempotency-Key: s3cret")),
        ("digest", json("Content-MD5: s3cret")),
        ("protocol", json("Trailer: x-sum")),
        ("unknown_encoding", with("chatId=%zz", form)),
        ("too_large", post(TARGET, &long)),
        ("content_type", with(r#"{"chatId":"s3cret"}"#, form)),
        ("malformed", post(TARGET, r#"{"s3cret"#)),
        ("multipart_file", with(file, multipart)),
        (
            "ambiguous_instance",
            post(TARGET, r#"{"chatId":"1","instance_id":"s3cret"}"#),
        ),
        ("ambiguous_key", with("chatId=1&chatId=2", form)),
        ("no_chat", post(TARGET, "{}")),
        (
            "ids_shape",
            post(TARGET, r#"{"chatId":"1","messageIds":["s3cret"]}"#),
        ),
        ("list_form", with("chatId=1&messageIds=false_1_A", form)),
        ("alone", receipt([1])),
    ]
}

/// All three name this reason for the last request, and only this one.
async fn assert_told(logged: &Logged, reason: &str, response: &Message) {
    let timing = response.field("server-timing").unwrap_or_default();
    let expected = format!("desc=\"not merged: {reason}\"");
    assert!(timing.starts_with("batch;"), "{reason}: {timing}");
    assert!(timing.contains(&expected), "{reason}: {timing}");
    let lines = logged.lines().await;
    let line = lines.last().unwrap();
    assert_eq!(line["not_merged"], reason, "{line}");
    assert!(!line.to_string().contains("s3cret"), "{line}");
    let labels = format!("reason=\"{reason}\"");
    let counted = |labels: &[&str]| {
        logged
            .world
            .counted("wawp_gateway_receipts_unmerged_total", labels)
    };
    assert!(counted(&[&labels]) >= 1.0, "{reason}");
    assert!(!logged.world.gateway.exposition().contains("s3cret"));
    // Each response once: merged or not.
    let merged = logged
        .world
        .counted("wawp_gateway_receipts_merged_total", &[]);
    let responses = logged
        .world
        .counted("wawp_gateway_requests_total", &["route=\"seen\""]);
    assert_eq!(counted(&[]) + merged, responses, "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_merge_says_why_in_log_metric_and_response() {
    for (reason, request) in requests() {
        let logged = Logged::new(JSON);
        let response = logged.world.call(request).await;
        assert_told(&logged, reason, &response).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_malformed_escape_in_a_query_is_forwarded_byte_for_byte() {
    for more in [
        "messageIds%5B%5D=false_1@c.us_A_1%",
        "messageIds%5B%5D=false_1@c.us_A_1%4",
        "messageIds%5B%5D=false_1@c.us_A&messageIds%5B%5D=false_1@c.us_%zz",
        "messageIds=%5B%22false_1@c.us_A_1%%22%5D",
        "messageIds%5B%5D=false_1@c.us_A_%FF",
        "note=50%&x=1",
        "note%=50",
    ] {
        let logged = Logged::new(JSON);
        let target = format!("{TARGET}&chatId=1%40c.us&{more}");
        let request = format!("POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
        for response in logged.world.together([request.clone(), request]).await {
            assert_told(&logged, "unknown_encoding", &response).await;
        }
        let calls = logged.world.sandbox.calls();
        let targets: Vec<_> = calls.iter().map(|call| &*call.target).collect();
        assert_eq!(targets, [&*target, &*target]);
    }
}

#[tokio::test(start_paused = true)]
async fn settings_and_moments_that_keep_a_receipt_alone_are_named() {
    for (reason, settings) in [
        ("merging_off", "[batch]\nwindow = \"0ms\"\n"),
        ("too_many_ids", "[batch]\nmax_ids = 1\n"),
        ("refused", "[access]\ninstances = \"listed\"\n"),
    ] {
        let logged = Logged::new(&format!("{settings}{JSON}"));
        let response = logged.world.call(receipt([1, 2])).await;
        assert_told(&logged, reason, &response).await;
    }
    // In quarantine after a failure of its own.
    let logged = Logged::new(JSON);
    let bad = ids([1]).remove(0);
    logged
        .world
        .sandbox
        .script(Fault::status(500).id(bad).times(9));
    let response = logged.world.call(receipt([1])).await;
    assert_told(&logged, "alone", &response).await;
    let response = logged.world.call(receipt([1])).await;
    assert_told(&logged, "quarantined", &response).await;
}

#[tokio::test(start_paused = true)]
async fn a_receipt_that_was_split_off_says_so_and_a_merged_one_nothing() {
    let logged = Logged::new(JSON);
    let bad = ids([1]).remove(0);
    logged
        .world
        .sandbox
        .script(Fault::status(500).id(bad).times(9));
    let good = logged.world.calling(receipt([2]));
    let response = logged.world.call(receipt([1])).await;
    good.await.unwrap();
    assert_told(&logged, "split", &response).await;

    let logged = Logged::new(JSON);
    let responses = logged.world.together([receipt([1]), receipt([2])]).await;
    for line in logged.lines().await {
        assert_eq!(line.get("not_merged"), None, "{line}");
    }
    let timing = responses[0].field("server-timing").unwrap();
    assert!(timing.contains("2 callers, 2 ids"), "{timing}");
    let merged = logged
        .world
        .counted("wawp_gateway_receipts_merged_total", &[]);
    assert_eq!(merged, 2.0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_too_slowly_is_not_waited_for() {
    let logged = Logged::new(JSON);
    let request = receipt_of("1", "t", "2@c.us", &ids([1]));
    let (head, body) = head_and_body(&request);
    let mut client = logged.world.client();
    client.says(head).await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    client.says(body).await;
    let response = client.response().await;
    assert_told(&logged, "incomplete", &response).await;
}

/// No reason is left without a test that produces it.
#[test]
fn every_reason_is_produced_here() {
    let source = include_str!("reasons.rs");
    let exposition = {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { Logged::new("").world.gateway.exposition() })
    };
    let reasons: BTreeSet<_> = exposition
        .lines()
        .filter_map(|line| {
            line.split_once("receipts_unmerged_total{reason=\"")?
                .1
                .split('"')
                .next()
        })
        .collect();
    assert_eq!(reasons.len(), 23, "{reasons:?}");
    for reason in reasons {
        assert!(source.contains(&format!("\"{reason}\"")), "{reason}");
    }
}
