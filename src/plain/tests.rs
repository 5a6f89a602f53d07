//! What is read here is what hyper reads.

mod answers;
mod requests;
mod written;

use http::HeaderMap;
use proptest::sample::Index;

/// Fields as they can be compared: only those of one name have an order.
fn fields(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let fields = headers.iter();
    let fields = fields.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
    let mut fields: Vec<_> = fields.collect();
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    fields
}

/// A text of single-byte characters as it stands on the wire.
fn latin(text: &str) -> Vec<u8> {
    text.chars().map(|c| c as u8).collect()
}

/// The text with another byte somewhere.
fn with(text: &str, place: Index, byte: u8) -> String {
    let mut text: Vec<_> = text.chars().collect();
    let place = place.index(text.len());
    text[place] = char::from(byte);
    text.into_iter().collect()
}
