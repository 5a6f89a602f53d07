//! How the names of a message's fields were spelt.
//!
//! Names are the same in any case (RFC 9110 §5.1), yet they travel as they
//! came: there are clients that forget it. Invariant: only the case of a name
//! is taken from here, never which fields there are.

use bytes::Bytes;
use http::{HeaderMap, HeaderName};

/// The names of a message's fields as they came, in their order, each behind
/// its length in one byte.
#[derive(Clone, Debug)]
pub(crate) struct Spelling(Bytes);

/// `Connection`, as most spell it, behind its length.
pub(super) static CONNECTION: Spelling = Spelling(Bytes::from_static(b"\x0aConnection"));

/// Bytes of most fields with their names.
const USUAL_LINE: usize = 48;

/// The longest name that is kept. A longer one leaves in lower case.
const MAX_NAME: usize = u8::MAX as usize;

impl Spelling {
    pub(super) fn of<'n>(names: impl Iterator<Item = &'n str> + Clone) -> Self {
        let names = names.filter(|name| name.len() <= MAX_NAME);
        let length = names.clone().map(|name| 1 + name.len()).sum();
        let mut text = Vec::with_capacity(length);
        for name in names {
            text.push(name.len() as u8);
            text.extend_from_slice(name.as_bytes());
        }
        Self(Bytes::from(text))
    }
}

/// The names of a message, from some of them on.
#[derive(Clone, Copy)]
struct Names<'s>(&'s [u8]);

impl<'s> Iterator for Names<'s> {
    type Item = &'s [u8];

    fn next(&mut self) -> Option<&'s [u8]> {
        let (&length, rest) = self.0.split_first()?;
        let (name, rest) = rest.split_at_checked(length.into())?;
        self.0 = rest;
        Some(name)
    }
}

/// Gives back the names of one message, one after another.
struct Speller<'s> {
    all: Names<'s>,
    /// From the one that is most likely next.
    rest: Names<'s>,
}

impl<'s> Speller<'s> {
    /// How this name was spelt the time after so many others of it; `None`
    /// where it did not come, but was added.
    fn spelt(&mut self, name: &str, nth: usize) -> Option<&'s [u8]> {
        let is_it = |spelt: &&[u8]| is_same(spelt, name.as_bytes());
        let mut rest = self.rest;
        if let Some(next) = rest.next().filter(is_it) {
            self.rest = rest;
            return Some(next);
        }
        // Fields were taken out, or stand apart from others of their name.
        self.all.filter(is_it).nth(nth)
    }
}

/// Whether a name is this one in lower case: both are tokens (RFC 9110 §5.6.2),
/// so ASCII. Eight bytes at a time, as every field of every call comes here.
pub(super) fn is_same(spelt: &[u8], lower: &[u8]) -> bool {
    if spelt.len() != lower.len() {
        return false;
    }
    let (spelt, spelt_rest) = spelt.as_chunks();
    let (lower, lower_rest) = lower.as_chunks();
    let mut eights = spelt.iter().zip(lower);
    let mut rest = spelt_rest.iter().zip(lower_rest);
    eights.all(|(spelt, lower)| {
        let (spelt, lower) = (u64::from_ne_bytes(*spelt), u64::from_ne_bytes(*lower));
        // No byte's sum carries over into the next: none is above 0x7f.
        let from_a = lower + EACH * u64::from(0x80 - b'a');
        let beyond_z = lower + EACH * u64::from(0x7f - b'z');
        let is_letter = from_a & !beyond_z & (EACH * 0x80);
        let case = is_letter >> 2;
        (spelt ^ lower) & !case == 0
    }) && rest.all(|(spelt, lower)| spelt.to_ascii_lowercase() == *lower)
}

/// The same in each byte, times what it is multiplied by.
const EACH: u64 = 0x0101_0101_0101_0101;

/// Bytes that so many fields take, as fields mostly are.
pub(super) fn room(fields: &HeaderMap) -> usize {
    fields.len() * USUAL_LINE
}

/// Writes fields, their names as they were spelt.
pub(super) fn write(text: &mut Vec<u8>, fields: &HeaderMap, spelling: Option<&Spelling>) {
    let all = Names(spelling.map_or(&[][..], |spelling| &spelling.0));
    let mut speller = Speller { all, rest: all };
    let mut last: Option<&HeaderName> = None;
    let mut nth = 0;
    for (name, value) in fields {
        // Fields of one name follow each other here.
        nth = if last == Some(name) { nth + 1 } else { 0 };
        last = Some(name);
        let name = name.as_str();
        text.extend_from_slice(speller.spelt(name, nth).unwrap_or(name.as_bytes()));
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
}
