//! What the parts of a call cost, one by one.
//!
//! Measures processor time in one thread with everything warm. Cannot tell
//! how the parts behave side by side, nor what sockets cost: that is
//! `compare`.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use http::Request;
use http::request::Parts;
use wawp_gateway::testing::bench::{self, Buckets, Joins, Keyless, Receipts, Scrapes};

const CHAT: &str = "201000000001@c.us";

/// A call as the vendor's samples spell it: credentials in the query.
fn head() -> Parts {
    let request = Request::post("/v2/send/seen?instance_id=123456789012&access_token=0123456789ab")
        .header("host", "127.0.0.1:8080")
        .header("content-type", "application/json")
        .header("accept", "application/json")
        .header("accept-encoding", "gzip, deflate")
        .header("user-agent", "GuzzleHttp/7")
        .header("content-length", "93");
    request.body(()).expect("a valid request").into_parts().0
}

fn receipt(number: usize) -> (Parts, Bytes) {
    let body = format!(
        r#"{{"chatId":"{CHAT}","messageIds":["false_{CHAT}_3EB0{number:016X}"],"participant":null}}"#
    );
    (head(), Bytes::from(body))
}

fn receipts(count: usize) -> Receipts {
    Receipts::read((0..count).map(receipt).collect())
}

fn identity(c: &mut Criterion) {
    let in_query = head();
    c.bench_function("identity of head: query", |b| {
        b.iter(|| bench::identify(black_box(&in_query)));
    });
    let in_headers = Request::post("/v2/send/text")
        .header("authorization", "Bearer 0123456789ab")
        .header("x-instance-id", "123456789012")
        .header("content-type", "application/json")
        .body(())
        .expect("a valid request")
        .into_parts()
        .0;
    c.bench_function("identity of head: headers", |b| {
        b.iter(|| bench::identify(black_box(&in_headers)));
    });
}

fn json(c: &mut Criterion) {
    let credentials = r#""instance_id":"123456789012","access_token":"0123456789ab""#;
    let mut group = c.benchmark_group("json look");
    for (name, body) in [
        (
            "200 B, found at the end",
            format!(
                r#"{{"chatId":"{CHAT}","message":"{}",{credentials}}}"#,
                "x".repeat(80)
            ),
        ),
        (
            "64 KiB of base64 first",
            format!(
                r#"{{"file":{{"data":"{}"}},{credentials}}}"#,
                "QUJD".repeat(16_300)
            ),
        ),
    ] {
        let body = Bytes::from(body);
        // As hyper hands it over: pieces of a read buffer.
        let pieces: Vec<_> = body.chunks(8192).map(Bytes::copy_from_slice).collect();
        assert_eq!(bench::scan_json(&pieces), 2);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |b| b.iter(|| bench::scan_json(black_box(&pieces))));
    }
    group.finish();
}

fn receipt_and_key(c: &mut Criterion) {
    c.bench_function("receipt parse: one id", |b| {
        b.iter_batched(
            || receipt(1),
            |(head, body)| bench::read_receipt(head, body),
            BatchSize::SmallInput,
        );
    });
    let keyless = Keyless::read(head(), receipt(1).1);
    c.bench_function("merge key: make and hash", |b| b.iter(|| keyless.key()));
    let fifty = receipts(50);
    assert_eq!(fifty.merge(), 50);
    c.bench_function("merge of 50", |b| b.iter(|| fifty.merge()));
}

fn bucket(c: &mut Criterion) {
    for keys in [1, 100_000] {
        let mut buckets = Buckets::new(keys);
        assert!(buckets.admit());
        c.bench_function(&format!("bucket admit: {keys} keys"), |b| {
            b.iter(|| buckets.admit());
        });
    }
}

fn batcher(c: &mut Criterion) {
    let mut group = c.benchmark_group("batcher join and settle");
    for callers in [1, 8, 64] {
        let joins = Joins::of(callers);
        assert_eq!(joins.settle(receipts(callers)), callers);
        group.throughput(Throughput::Elements(callers as u64));
        group.bench_function(format!("{callers} callers a batch"), |b| {
            b.iter_batched(
                || receipts(callers),
                |receipts| joins.settle(receipts),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn scrape(c: &mut Criterion) {
    for instances in [0, 100] {
        let scrapes = Scrapes::full(instances);
        assert!(scrapes.scrape() < 1_000_000);
        c.bench_function(&format!("scrape: every code, {instances} instances"), |b| {
            b.iter(|| scrapes.scrape());
        });
    }
}

fn header_filter(c: &mut Criterion) {
    let headers = head().headers;
    c.bench_function("header filter, nothing to take out", |b| {
        b.iter_batched(|| headers.clone(), bench::strip, BatchSize::SmallInput);
    });
    let mut headers = head().headers;
    headers.insert("connection", http::HeaderValue::from_static("keep-alive"));
    c.bench_function("header filter, Connection: keep-alive", |b| {
        b.iter_batched(|| headers.clone(), bench::strip, BatchSize::SmallInput);
    });
}

criterion_group!(
    parts,
    header_filter,
    identity,
    json,
    receipt_and_key,
    bucket,
    batcher,
    scrape
);
criterion_main!(parts);
