//! The law of identities.

use bytes::Bytes;
use http::request::Parts;

use super::{model, wire};
use crate::identity::names::{Field, FieldName, Named};
use crate::identity::scan::scan_pieces;
use crate::identity::{Findings, Identity, pairs};

/// Fields of a body are read up to this length.
const MAX_VALUE: usize = 4096;

/// The identity does not depend on how the body is split, and is what `serde_json` and
/// `form_urlencoded` read.
///
/// # Panics
/// If it is not.
pub fn identity(input: &[u8]) {
    let Some((head, body)) = wire::request(input) else {
        return;
    };
    let query = head.uri.query().unwrap_or_default();
    let found = pairs(query).filter_map(|pair| Some((pair.named()?, pair.decoded())));
    let expected = form_urlencoded::parse(query.as_bytes())
        .filter_map(|(key, value)| Some((Named::read(&*key)?, value)));
    assert!(found.eq(expected), "the fields of the query");
    let whole = scan(&head, &[&body]);
    // A scanner that keeps a wrong state between two pieces fails here first.
    let bytes: Vec<&[u8]> = body.chunks(1).collect();
    assert_eq!(scan(&head, &bytes), whole, "cut into single bytes");
    for at in split_positions(&body) {
        let (one, other) = body.split_at(at);
        assert_eq!(scan(&head, &[one, other]), whole, "cut in two at {at}");
    }
    if let Some(expected) = expected_of(&head, &body) {
        assert_eq!(whole, expected, "against the simple reader");
    }
}

/// Scans a body that arrives in these pieces.
fn scan(head: &Parts, pieces: &[&[u8]]) -> Identity {
    let mut findings = Findings::of_head(head);
    let pieces: Vec<_> = pieces
        .iter()
        .map(|piece| Bytes::copy_from_slice(piece))
        .collect();
    scan_pieces(&mut findings, &head.headers, pieces);
    findings.identity()
}

/// What the simple reader of whole bodies finds; `None` if it cannot decide.
fn expected_of(head: &Parts, body: &[u8]) -> Option<Identity> {
    let mut findings = Findings::of_head(head);
    let mut types = head.headers.get_all("content-type").iter();
    let content_type = types.next().map_or(b"" as &[u8], |value| value.as_bytes());
    let content_type = String::from_utf8_lossy(content_type).to_ascii_lowercase();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let is_json = essence.contains("json");
    let is_form = essence == "application/x-www-form-urlencoded";
    let is_read = is_json || is_form || matches!(essence, "" | "text/plain");
    // Multipart and other types have no second reader to compare with. Compressed bodies are not
    // searched.
    if !is_read || types.next().is_some() || head.headers.contains_key("content-encoding") {
        return None;
    }
    if let Some(members) = model::members(body) {
        if is_form {
            return None;
        }
        for (name, raw) in members.0 {
            let Some(name) = FieldName::of_json(&name) else {
                continue;
            };
            let raw = raw.get();
            let field = match serde_json::from_str(raw).ok()? {
                // Two bytes more, for the quotes.
                serde_json::Value::String(text) if raw.len() <= MAX_VALUE + 2 => name.with(text),
                serde_json::Value::Number(_) if raw.len() <= MAX_VALUE => name.with(raw.to_owned()),
                serde_json::Value::Array(_)
                | serde_json::Value::String(_)
                // An array or a value that is too long may name another instance to the upstream.
                | serde_json::Value::Number(_) => Field::Unclear,
                _ => continue,
            };
            findings.body_field(field);
        }
        return Some(findings.identity());
    }
    let form = body.trim_ascii_start();
    let short = form
        .split(|byte| *byte == b'&')
        .all(|pair| pair.len() <= MAX_VALUE);
    if is_json || form.starts_with(b"{") || !short || std::str::from_utf8(form).is_err() {
        return None;
    }
    for (name, value) in form_urlencoded::parse(form) {
        // A key without `=` has no value in a body.
        let Some(named) = Named::read(&*name) else {
            continue;
        };
        if named.is_list {
            findings.body_field(Field::Unclear);
        }
        findings.body_field(named.name.with(value.into_owned()));
    }
    Some(findings.identity())
}

/// A few positions to split at, different for each body.
fn split_positions(body: &[u8]) -> impl Iterator<Item = usize> {
    // FNV-1a of the body: the same input always fails at the same position, so a failure can be
    // repeated.
    let mut hash = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let length = body.len() as u64 + 1;
    (0..4).map(move |_| {
        hash = hash.rotate_left(23).wrapping_mul(0x0100_0000_01b3);
        usize::try_from(hash % length).unwrap_or(0)
    })
}
