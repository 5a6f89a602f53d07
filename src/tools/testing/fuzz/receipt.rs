//! The laws of receipts and of what they are merged into.

use std::borrow::Cow;
use std::sync::LazyLock;

use bytes::Bytes;
use http::request::Parts;
use indexmap::IndexSet;

use super::{model, wire};
use crate::body::{RequestBody, SCAN_LIMIT, UpstreamRequest};
use crate::config::{self, Config};
use crate::http::request_head::RequestHead;
use crate::receipt::{NotMerged, Receipt, parse};

static SETTINGS: LazyLock<config::Batch> = LazyLock::new(|| Config::default().batch);

/// A JSON request is a receipt exactly where the slow reader says so; a receipt in any
/// carrier has the ids that backends read in it. Anything else comes back untouched.
///
/// # Panics
/// When it is not.
pub fn receipt(input: &[u8]) {
    let Some((head, body)) = wire::request(input) else {
        return;
    };
    let expected = model::receipt(&head, &body);
    let mut taken = head.clone().into();
    match read(&mut taken, body.clone()) {
        Err(reason) => {
            // It is forwarded, so it must be unchanged.
            same_head(&taken, &head);
            assert!(
                !matches!(expected, model::Expected::Receipt(_)),
                "not understood ({reason}): {expected:?}"
            );
        }
        Ok(receipt) => {
            match expected {
                model::Expected::Receipt(ids) => assert_eq!(texts(&receipt), ids),
                model::Expected::None => panic!("understood, but the simple reader refuses"),
                model::Expected::Unknown => {}
            }
            assert_eq!(receipt.id_count(), texts(&receipt).len());
            model::same_ids(&head, &body, &texts(&receipt));
            let (own_head, own_body) = parts(receipt.own_request());
            same_head(&own_head, &head);
            assert_eq!(own_body, body, "a lone caller's own body");
        }
    }
}

/// Receipts that share a call differ in nothing that a backend reads but their ids; the
/// merged request is the first caller's with the ids of all.
///
/// # Panics
/// When they do, or it is not.
pub fn merged(input: &[u8]) {
    let mut receipts = Vec::new();
    for text in wire::parts(input) {
        let Some((head, body)) = wire::request(text) else {
            return;
        };
        // A server reads as many bytes as the head says.
        let length = head.headers.get("content-length");
        if length.is_some_and(|length| *length != body.len().to_string()) {
            return;
        }
        let Ok(receipt) = read(&mut head.clone().into(), body.clone()) else {
            return;
        };
        receipts.push((receipt, head, body));
    }
    let (first, first_head, first_body) = &receipts[0];
    let mut ids: IndexSet<String> = texts(first).into_iter().collect();
    let length = |ids: &IndexSet<String>| ids.iter().map(|id| first.id_cost(id)).sum::<usize>();
    if length(&ids) > first.max_id_bytes() {
        return;
    }
    let reading = model::Reading::of(first_head, first_body);
    for (other, head, body) in &receipts[1..] {
        let other_reading = model::Reading::of(head, body);
        let equal = first.key == other.key;
        assert!(
            !equal || reading.rest == other_reading.rest,
            "receipts that merge differ: {:?} {:?}",
            reading.rest,
            other_reading.rest
        );
        let all: IndexSet<_> = ids.iter().cloned().chain(texts(other)).collect();
        // A receipt that does not fit opens the next batch, which this law does not follow.
        if equal && length(&all) <= first.max_id_bytes() {
            ids = all;
        }
    }
    let (mut head, sent) = parts(first.merged_request(ids.iter().map(String::as_bytes)));
    same_fields(&head, first.head(), sent.len());
    assert_eq!(head.uri.path(), first.head().uri.path());
    assert!(
        sent.len() <= SCAN_LIMIT,
        "the merged body is too long to be read again"
    );
    // A backend reads all of the first caller's request, and the ids of all.
    let merged = model::Reading::of(&head, &sent);
    assert_eq!(merged.rest, reading.rest);
    model::same_ids(&head, &sent, &ids.iter().cloned().collect::<Vec<_>>());
    // Merging must be stable: another gateway in front of the upstream would read the merged
    // request again.
    let Ok(again) = read(&mut head, sent) else {
        panic!("the merged request is no receipt");
    };
    assert!(again.key == first.key, "the merged request has another key");
    let again: IndexSet<_> = texts(&again).into_iter().collect();
    assert!(again.iter().eq(&ids), "{again:?} {ids:?}");
}

/// Reads a request as the gateway does.
fn read(head: &mut RequestHead, body: Bytes) -> Result<Box<Receipt>, NotMerged> {
    match parse::excluded_by_head(head) {
        Some(reason) => Err(reason),
        None => Receipt::read(&SETTINGS, head, body),
    }
}

fn texts(receipt: &Receipt) -> Vec<String> {
    let text = |id: Cow<'_, [u8]>| String::from_utf8(id.into_owned()).expect("ids are ASCII");
    receipt.ids().iter().map(text).collect()
}

/// Head and body of a request to the upstream.
fn parts(request: UpstreamRequest) -> (RequestHead, Bytes) {
    match request.body {
        RequestBody::Whole(bytes) => (*request.head, bytes.unwrap_or_default()),
        RequestBody::Streamed(_) => panic!("a receipt's body is held in full"),
    }
}

fn same_head(a: &Parts, b: &Parts) {
    assert_eq!(a.method, b.method);
    assert_eq!(a.uri, b.uri);
    assert_eq!(a.version, b.version);
    assert_eq!(a.headers, b.headers);
}

/// All fields are equal except `Content-Length`, which is correct if it is present.
fn same_fields(now: &Parts, was: &Parts, length: usize) {
    assert_eq!(now.method, was.method);
    assert_eq!(now.version, was.version);
    let (mut now, mut was) = (now.headers.clone(), was.headers.clone());
    if let (Some(now), Some(_)) = (now.remove("content-length"), was.remove("content-length")) {
        assert_eq!(now, length.to_string(), "the content length");
    }
    assert_eq!(now, was);
}
