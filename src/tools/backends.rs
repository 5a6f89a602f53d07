//! How backends in PHP and in Node read a request.
//!
//! The sandbox shows what both would read of a receipt, and the laws of merging are
//! checked against both. Invariants: they share no code with the gateway; a value that
//! two requests have in common is read alike in both.
//!
//! - `php`: `$_GET`, `$_POST` and `json_decode`;
//! - `qs`: Express with `qs`, its parser of queries and forms.

pub(crate) mod php;
pub(crate) mod qs;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value};

/// What a backend reads of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The fields of the query.
    pub query: Value,
    /// `Null` for a body that it does not read.
    pub body: Value,
}

/// A decoded name and value.
type Pair = (Vec<u8>, Vec<u8>);
/// Splits and decodes a query or a form.
type PairsReader = fn(&[u8]) -> Vec<Pair>;
/// Makes variables of the pairs.
type TreeReader = fn(Vec<Pair>) -> Value;

/// As PHP reads it.
pub fn as_php(query: &str, headers: &HeaderMap, body: &[u8]) -> Reading {
    read(query, headers, body, (php::pairs, php::read))
}

/// As Express reads it.
pub fn as_node(query: &str, headers: &HeaderMap, body: &[u8]) -> Reading {
    read(query, headers, body, (qs::pairs, qs::read))
}

fn read(
    query: &str,
    headers: &HeaderMap,
    body: &[u8],
    (pairs, tree): (PairsReader, TreeReader),
) -> Reading {
    let body = match essence(headers).as_str() {
        "application/x-www-form-urlencoded" => tree(pairs(body)),
        "multipart/form-data" => match parts(headers, body) {
            Some(parts) => tree(parts),
            None => Value::Null,
        },
        // Both keep the last of two equal keys.
        _ => serde_json::from_slice(body).unwrap_or_default(),
    };
    Reading {
        query: tree(pairs(query.as_bytes())),
        body,
    }
}

fn essence(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE);
    let value = value.and_then(|value| value.to_str().ok());
    let essence = value.unwrap_or_default().split(';').next();
    essence.unwrap_or_default().trim().to_ascii_lowercase()
}

/// The text parts of a multipart form.
fn parts(headers: &HeaderMap, body: &[u8]) -> Option<Vec<Pair>> {
    let content_type = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let boundary = multer::parse_boundary(content_type).ok()?;
    let body = bytes::Bytes::copy_from_slice(body);
    let stream = futures_util::stream::once(async { Ok::<_, std::io::Error>(body) });
    let mut form = multer::Multipart::new(stream, boundary);
    let reading = async {
        let mut pairs = Vec::new();
        while let Some(part) = form.next_field().await.ok()? {
            let name = part.name()?.as_bytes().to_vec();
            pairs.push((name, part.bytes().await.ok()?.to_vec()));
        }
        Some(pairs)
    };
    // The stream is always ready, so one poll reads it to its end.
    futures_util::FutureExt::now_or_never(reading)?
}

impl Reading {
    /// What it says about a receipt, without credentials: the body's fields count
    /// before those of the query.
    pub(crate) fn of_receipt(self) -> Value {
        const FIELDS: [&str; 4] = ["chatId", "participant", "messageIds", "messageId"];
        let fields = FIELDS.into_iter().filter_map(|name| {
            let value = self.body.get(name).or_else(|| self.query.get(name))?;
            Some((name.to_owned(), value.clone()))
        });
        object(fields)
    }
}

/// The value without the message ids, and the ids in their order.
pub fn without_ids(mut value: Value) -> (Value, Vec<String>) {
    let mut ids = Vec::new();
    if let Value::Object(fields) = &mut value {
        for name in ["messageIds", "messageId"] {
            match fields.remove(name) {
                // Lists that the backend itself takes apart.
                Some(Value::String(text)) => match serde_json::from_str::<Vec<String>>(&text) {
                    Ok(list) => ids.extend(list),
                    Err(_) => ids.extend(text.split(',').map(str::to_owned)),
                },
                Some(list) => collect(list, &mut ids),
                None => {}
            }
        }
    }
    (value, ids)
}

/// The texts of a list, however it is nested.
fn collect(value: Value, ids: &mut Vec<String>) {
    match value {
        Value::String(text) => ids.push(text),
        Value::Array(list) => list.into_iter().for_each(|value| collect(value, ids)),
        // An array of PHP or qs that is no list.
        Value::Object(list) => {
            // `Map` sorts its keys, an array has them in the order of their numbers.
            let mut list: Vec<_> = list.into_iter().collect();
            list.sort_by_key(|(key, _)| key.parse::<usize>().unwrap_or(usize::MAX));
            list.into_iter().for_each(|(_, value)| collect(value, ids));
        }
        _ => {}
    }
}

/// Bytes as text; those that are no UTF-8 stay different.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("bytes {bytes:?}"),
    }
}

/// An object with these members.
fn object(members: impl IntoIterator<Item = (String, Value)>) -> Value {
    Value::Object(Map::from_iter(members))
}
