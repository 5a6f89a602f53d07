//! The fields of a query, or of any other text with the same syntax.
//!
//! Invariant: each field has the range of its raw value, so that a key can be replaced
//! without changing anything else.

use std::borrow::Cow;
use std::ops::Range;

use memchr::{memchr, memchr2};

use super::names::{FieldName, Named};

/// A field of a query, undecoded.
pub(crate) struct Pair<'q> {
    pub(crate) key: &'q str,
    pub(crate) value: &'q str,
    /// The bytes of the query that hold the value.
    pub(crate) value_at: Range<usize>,
    /// The query contains `%` or `+`.
    pub(crate) is_encoded: bool,
}

impl<'q> Pair<'q> {
    /// Whether the most lenient backend reads this as a field that counts.
    pub(crate) fn named(&self) -> Option<Named> {
        match self.is_encoded {
            true => Named::read(&*decode(self.key)),
            false => Named::read(self.key),
        }
    }

    /// The value, decoded.
    pub(crate) fn decoded(&self) -> Cow<'q, str> {
        match self.is_encoded {
            true => decode(self.value),
            false => Cow::Borrowed(self.value),
        }
    }
}

/// The fields of a query, in order.
pub(crate) fn pairs(query: &str) -> impl Iterator<Item = Pair<'_>> {
    let mut next = Some(0);
    // Once for all fields: most queries have no escape.
    let is_encoded = memchr2(b'%', b'+', query.as_bytes()).is_some();
    std::iter::from_fn(move || {
        let start = next?;
        let rest = &query.as_bytes()[start..];
        let end = memchr(b'&', rest).map_or(query.len(), |at| start + at);
        let pair = &rest[..end - start];
        // Keys are short: for them a search costs more to begin than to do by hand.
        let equals = pair.iter().position(|byte| *byte == b'=');
        let equals = equals.map(|at| start + at);
        next = (end < query.len()).then_some(end + 1);
        let key_end = equals.unwrap_or(end);
        let value_at = equals.map_or(end, |at| at + 1)..end;
        Some(Pair {
            key: &query[start..key_end],
            value: &query[value_at.clone()],
            value_at,
            is_encoded,
        })
    })
}

/// All access tokens in a query, decoded as in a form
/// (`application/x-www-form-urlencoded`, WHATWG URL §5.1), each with the bytes
/// that hold it.
pub(crate) fn tokens(query: &str) -> impl Iterator<Item = (Range<usize>, Cow<'_, str>)> {
    let is_token = |pair: &Pair<'_>| {
        pair.named()
            .is_some_and(|named| named.name == FieldName::Token)
    };
    let tokens = pairs(query).filter(is_token);
    tokens.map(|pair| (pair.value_at.clone(), pair.decoded()))
}

/// Decodes one key or value of a form.
pub(crate) fn decode(text: &str) -> Cow<'_, str> {
    if memchr2(b'%', b'+', text.as_bytes()).is_none() {
        return Cow::Borrowed(text);
    }
    // `parse` splits at `&` and `=`; neither may split this one piece.
    let piece = text.replace('=', "%3D").replace('&', "%26");
    let decoded = form_urlencoded::parse(piece.as_bytes())
        .next()
        .map(|(key, _)| key.into_owned());
    Cow::Owned(decoded.unwrap_or_default())
}
