//! The codec reads what hyper reads.

mod requests;
mod responses;
mod written;

use http::HeaderMap;
use http::header::CONNECTION;
use proptest::prelude::*;
use proptest::sample::Index;

/// Headers as they can be compared: only those of one name have an order, and a
/// `Connection` with only `known` options is left out.
fn fields(headers: &HeaderMap, known: &[&str]) -> Vec<(String, Vec<u8>)> {
    let is_known = |value: &[u8]| {
        value.split(|&byte| byte == b',').all(|option| {
            let option = option.trim_ascii();
            known
                .iter()
                .any(|known| option.eq_ignore_ascii_case(known.as_bytes()))
        })
    };
    let fields = headers.iter();
    let fields = fields.filter(|(name, value)| *name != CONNECTION || !is_known(value.as_bytes()));
    let fields = fields.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
    let mut fields: Vec<_> = fields.collect();
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    fields
}

/// A text of single-byte characters as on the wire.
fn latin(text: &str) -> Vec<u8> {
    text.chars().map(|c| c as u8).collect()
}

/// Such texts, some of them with another byte somewhere.
fn or_broken(texts: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let breaks = proptest::option::weighted(0.2, (any::<Index>(), any::<u8>()));
    (texts, breaks).prop_map(|(text, breaks)| {
        let mut text: Vec<_> = text.chars().collect();
        if let Some((at, byte)) = breaks {
            let at = at.index(text.len());
            text[at] = char::from(byte);
        }
        text.into_iter().collect()
    })
}
