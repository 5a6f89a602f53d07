//! The letter case of header names.
//!
//! Header names are case-insensitive (RFC 9110 §5.1), but some clients and
//! servers compare them byte by byte. So names are forwarded in the case in which
//! they arrived. Invariant: this is used only for the case of names; the header
//! map decides which headers a message has.

use bytes::Bytes;
use http::{HeaderMap, HeaderName};

/// The header names of one message in their order and case.
#[derive(Clone, Debug)]
pub(crate) struct HeaderCase(
    /// Each name follows its length, which takes one byte.
    Bytes,
);

/// Bytes of a usual header line, to estimate the buffer size.
const USUAL_LINE: usize = 48;

/// The longest name that is kept, as its length must fit one byte. A longer
/// name is written in lower case.
const MAX_NAME: usize = u8::MAX as usize;

impl HeaderCase {
    /// The case in which most servers write `Connection`.
    pub(super) const CONNECTION: Self = Self(Bytes::from_static(b"\x0aConnection"));

    pub(super) fn of<'n>(names: impl Iterator<Item = &'n [u8]> + Clone) -> Self {
        let names = names.filter(|name| name.len() <= MAX_NAME);
        let length = names.clone().map(|name| 1 + name.len()).sum();
        let mut text = Vec::with_capacity(length);
        for name in names {
            text.push(name.len() as u8);
            text.extend_from_slice(name);
        }
        Self(Bytes::from(text))
    }

    pub(super) fn names(&self) -> Names<'_> {
        Names(&self.0)
    }
}

/// The names of a message, or the last of them.
#[derive(Clone, Copy)]
pub(super) struct Names<'c>(&'c [u8]);

impl<'c> Iterator for Names<'c> {
    type Item = &'c [u8];

    fn next(&mut self) -> Option<&'c [u8]> {
        let (&length, rest) = self.0.split_first()?;
        let (name, rest) = rest.split_at_checked(length.into())?;
        self.0 = rest;
        Some(name)
    }
}

/// Finds the case of one header after another.
struct CaseLookup<'c> {
    all: Names<'c>,
    /// The names after the last one found: the next header is usually its first.
    rest: Names<'c>,
}

impl<'c> CaseLookup<'c> {
    /// The case of the `nth` header (from 0) with this name; `None` for a
    /// header that the gateway added.
    fn find(&mut self, name: &str, nth: usize) -> Option<&'c [u8]> {
        let is_it = |given: &&[u8]| is_same_name(given, name.as_bytes());
        // Usually map and message have the same order, so this is one comparison per
        // header instead of a search.
        let mut rest = self.rest;
        if let Some(next) = rest.next().filter(is_it) {
            self.rest = rest;
            return Some(next);
        }
        // The order differs from the original one: headers were removed, or
        // headers of one name did not follow each other.
        self.all.filter(is_it).nth(nth)
    }
}

/// Whether `given` is the name `lower`, which is in lower case. Names are
/// tokens (RFC 9110 §5.6.2) and therefore ASCII. Every header of every message
/// is compared here, so eight bytes are compared at a time.
pub(super) fn is_same_name(given: &[u8], lower: &[u8]) -> bool {
    if given.len() != lower.len() {
        return false;
    }
    let (Some(given_end), Some(lower_end)) = (given.last_chunk(), lower.last_chunk()) else {
        let mut bytes = given.iter().zip(lower);
        return bytes.all(|(given, lower)| given.to_ascii_lowercase() == *lower);
    };
    // The last eight overlap with those before.
    let (given, lower) = (given.as_chunks().0, lower.as_chunks().0);
    let mut eights = given.iter().zip(lower);
    are_same_eight(given_end, lower_end)
        && eights.all(|(given, lower)| are_same_eight(given, lower))
}

/// [`is_same_name`] for eight bytes.
fn are_same_eight(given: &[u8; 8], lower: &[u8; 8]) -> bool {
    let (given, lower) = (u64::from_ne_bytes(*given), u64::from_ne_bytes(*lower));
    // No byte is above 0x7f, so no sum carries into the next byte.
    let from_a = lower + EACH * u64::from(0x80 - b'a');
    let beyond_z = lower + EACH * u64::from(0x7f - b'z');
    // 0x80 in each byte that is a letter; shifted, it is the bit in which
    // upper and lower case differ.
    let is_letter = from_a & !beyond_z & (EACH * 0x80);
    let case = is_letter >> 2;
    (given ^ lower) & !case == 0
}

/// 1 in each of eight bytes; a multiple of it holds one value in each byte.
const EACH: u64 = 0x0101_0101_0101_0101;

/// Bytes that these headers usually take on the wire.
pub(super) fn encoded_length(headers: &HeaderMap) -> usize {
    headers.len() * USUAL_LINE
}

/// Writes header lines with the names in this case.
pub(super) fn write_headers(text: &mut Vec<u8>, headers: &HeaderMap, case: Option<&HeaderCase>) {
    let all = case.map_or(Names(&[]), HeaderCase::names);
    let mut lookup = CaseLookup { all, rest: all };
    let mut last: Option<&HeaderName> = None;
    let mut nth = 0;
    for (name, value) in headers {
        // A map lists headers of one name together, and keeps their name once.
        let is_same = last.is_some_and(|last| std::ptr::eq(last, name));
        nth = if is_same { nth + 1 } else { 0 };
        last = Some(name);
        let name = name.as_str();
        text.extend_from_slice(lookup.find(name, nth).unwrap_or(name.as_bytes()));
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
}
