//! The laws of receipts and of what they are merged into.

use std::borrow::Cow;

use bytes::Bytes;
use http::request::Parts;
use indexmap::IndexSet;

use super::{model, wire};
use crate::body::{RequestBody, SCAN_LIMIT, UpstreamRequest};
use crate::http::request_head::RequestHead;
use crate::receipt::Receipt;

/// A request is a receipt exactly where the slow reader says so, with the ids
/// that `serde_json` finds; anything else comes back untouched.
///
/// # Panics
/// When it is not.
pub fn receipt(input: &[u8]) {
    let Some((head, body)) = wire::request(input) else {
        return;
    };
    let expected = model::receipt(&head, &body);
    match Receipt::read(head.clone(), body.clone()) {
        Err(back) => {
            // It is forwarded, so it must be unchanged.
            same_head(&back, &head);
            assert!(expected.is_none(), "not understood: {expected:?}");
        }
        Ok(receipt) => {
            let expected = expected.expect("understood, but the simple reader refuses");
            assert_eq!(texts(&receipt), expected.ids);
            assert_eq!(receipt.id_count(), expected.ids.len());
            let (own_head, own_body) = parts(receipt.own_request());
            same_head(&own_head, &head);
            assert_eq!(own_body, body, "a lone caller's own body");
        }
    }
}

/// Receipts share a call exactly where they differ in nothing but their ids;
/// the merged request is the first caller's with the ids of all.
///
/// # Panics
/// When they do not, or it is not.
pub fn merged(input: &[u8]) {
    let mut receipts = Vec::new();
    for text in wire::parts(input) {
        let Some((head, body)) = wire::request(text) else {
            return;
        };
        let Some(model) = model::receipt(&head, &body) else {
            return;
        };
        let Ok(receipt) = Receipt::read(head, body.clone()) else {
            return;
        };
        receipts.push((receipt, model, body));
    }
    let (first, model, body) = &receipts[0];
    let mut ids: IndexSet<String> = texts(first).into_iter().collect();
    let length = |ids: &IndexSet<String>| ids.iter().map(|id| first.form().cost(id)).sum::<usize>();
    if length(&ids) > first.max_id_bytes() {
        return;
    }
    for (other, other_model, _) in &receipts[1..] {
        let equal = first.key == other.key;
        assert_eq!(
            equal,
            model.same == other_model.same,
            "which receipts may share a call"
        );
        let all: IndexSet<_> = ids.iter().cloned().chain(texts(other)).collect();
        // A receipt that does not fit opens the next batch, which this law does not follow.
        if equal && length(&all) <= first.max_id_bytes() {
            ids = all;
        }
    }
    let (head, sent) = parts(first.merged_request(ids.iter().map(String::as_str)));
    let expected = serde_json::to_string(&ids.iter().collect::<Vec<_>>()).expect("texts are JSON");
    let query = first.head().uri.query();
    match &model.ids_at {
        None => {
            same_head(&head, first.head());
            assert_eq!(&sent, body, "the whole-chat form is sent unchanged");
        }
        Some(model::IdsAt::Body(range)) => {
            // Built independently: everything outside the list of ids must stay byte for byte.
            let whole = [
                &body[..range.start],
                expected.as_bytes(),
                &body[range.end..],
            ]
            .concat();
            assert_eq!(sent, whole, "the merged body");
            assert_eq!(head.uri, first.head().uri);
        }
        Some(model::IdsAt::Query(range)) => {
            let (query, now) = (
                query.unwrap_or_default(),
                head.uri.query().unwrap_or_default(),
            );
            assert!(now.starts_with(&query[..range.start]), "before the ids");
            assert!(now.ends_with(&query[range.end..]), "after the ids");
            assert_eq!(head.uri.path(), first.head().uri.path());
            assert_eq!(&sent, body);
        }
    }
    same_fields(&head, first.head(), sent.len());
    assert!(
        sent.len() <= SCAN_LIMIT,
        "the merged body is too long to be read again"
    );
    // Merging must be stable: another gateway in front of the upstream would read the merged
    // request again.
    let Ok(again) = Receipt::read(head, sent) else {
        panic!("the merged request is no receipt");
    };
    assert!(again.key == first.key, "the merged request has another key");
    let ids = ids.into_iter().filter(|_| model.ids_at.is_some());
    assert_eq!(texts(&again), ids.collect::<Vec<_>>());
}

fn texts(receipt: &Receipt) -> Vec<String> {
    receipt.ids().iter().map(Cow::into_owned).collect()
}

/// Head and body of a request to the upstream.
fn parts(request: UpstreamRequest) -> (RequestHead, Bytes) {
    match request.body {
        RequestBody::Whole(bytes) => (request.head, bytes.unwrap_or_default()),
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
