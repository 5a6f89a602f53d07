//! The law of who calls.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_core::Stream;
use http::request::Parts;

use super::{model, wire};
use crate::identity::look::{self, Shape};
use crate::identity::{Findings, INSTANCE_FIELD, Identity, Place, TOKEN_FIELD, query_value};

/// Fields of a body are read up to this length.
const MAX_VALUE: usize = 4096;

/// Who calls is the same however the body is cut, and what `serde_json` and
/// `form_urlencoded` make of the request.
///
/// # Panics
/// When it is not.
pub fn identity(input: &[u8]) {
    let Some((head, body)) = wire::request(input) else {
        return;
    };
    if let Some(query) = head.uri.query() {
        for name in [INSTANCE_FIELD, TOKEN_FIELD] {
            let expected = form_urlencoded::parse(query.as_bytes())
                .find(|(key, _)| key == name)
                .map(|(_, value)| value);
            assert_eq!(query_value(query, name), expected, "{name} in the query");
        }
    }
    let whole = look(&head, &[&body]);
    let bytes: Vec<&[u8]> = body.chunks(1).collect();
    assert_eq!(look(&head, &bytes), whole, "cut into single bytes");
    for at in places(&body) {
        let (one, other) = body.split_at(at);
        assert_eq!(look(&head, &[one, other]), whole, "cut in two at {at}");
    }
    if let Some(expected) = expected(&head, &body) {
        assert_eq!(whole, expected, "against the slow reader");
    }
}

/// Looks into a body that comes in these pieces.
fn look(head: &Parts, pieces: &[&[u8]]) -> Identity {
    let mut findings = Findings::of_head(head);
    if !findings.is_complete() {
        match Shape::of(&head.headers) {
            None => {}
            Some(Shape::Multipart(boundary)) => {
                let pieces = pieces.iter().map(|piece| Bytes::copy_from_slice(piece));
                let pieces = Pieces(pieces.collect::<Vec<_>>().into_iter());
                let parts = pin!(look::parts(&mut findings, boundary, pieces));
                let mut cx = Context::from_waker(Waker::noop());
                assert!(
                    parts.poll(&mut cx).is_ready(),
                    "nothing is left to wait for"
                );
            }
            Some(Shape::Fields(mut reader)) => {
                let to_the_end = pieces.iter().all(|piece| reader.push(piece, &mut findings));
                if to_the_end {
                    reader.end(&mut findings);
                }
            }
        }
    }
    findings.identity()
}

/// What a slow reader of whole bodies finds; `None` where it has no opinion.
fn expected(head: &Parts, body: &[u8]) -> Option<Identity> {
    let mut findings = Findings::of_head(head);
    if findings.is_complete() {
        return Some(findings.identity());
    }
    let Some(Shape::Fields(_)) = Shape::of(&head.headers) else {
        return None;
    };
    let mut found = |name: &str, value: &str| match name {
        // The first that says it all is believed.
        _ if findings.is_complete() => {}
        INSTANCE_FIELD => findings.instance(Some(value)),
        TOKEN_FIELD => findings.credential(Place::Body, value.as_bytes()),
        _ => {}
    };
    if let Some(members) = model::members(body) {
        for (name, raw) in members.0 {
            match serde_json::from_str(raw.get()).ok()? {
                serde_json::Value::String(text) if raw.get().len() <= MAX_VALUE + 2 => {
                    found(&name, &text);
                }
                serde_json::Value::Number(_) if raw.get().len() <= MAX_VALUE => {
                    found(&name, raw.get());
                }
                _ => {}
            }
        }
        return Some(findings.identity());
    }
    let says_json = head.headers.get("content-type").is_some_and(|value| {
        value
            .as_bytes()
            .to_ascii_lowercase()
            .windows(4)
            .any(|word| word == b"json")
    });
    let form = body.trim_ascii_start();
    let short = form
        .split(|byte| *byte == b'&')
        .all(|pair| pair.len() <= MAX_VALUE);
    if says_json || form.starts_with(b"{") || !short || std::str::from_utf8(form).is_err() {
        return None;
    }
    for (name, value) in form_urlencoded::parse(form) {
        found(&name, &value);
    }
    Some(findings.identity())
}

/// A few places to cut at, others for each body.
fn places(body: &[u8]) -> impl Iterator<Item = usize> {
    let mut hash = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let length = body.len() as u64 + 1;
    (0..4).map(move |_| {
        hash = hash.rotate_left(23).wrapping_mul(0x0100_0000_01b3);
        usize::try_from(hash % length).unwrap_or(0)
    })
}

/// Pieces that are all there.
struct Pieces(std::vec::IntoIter<Bytes>);

impl Stream for Pieces {
    type Item = Result<Bytes, multer::Error>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.next().map(Ok))
    }
}
