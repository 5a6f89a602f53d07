//! How the names of a message's fields were spelt.
//!
//! Names are the same in any case (RFC 9110 §5.1), yet they travel as they
//! came: there are clients that forget it. Invariant: only the case of a name
//! is taken from here, never which fields there are.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The names of a message's fields as they came, in their order, each behind
/// its length in one byte.
///
/// Among a request's extensions it says, too, that the request came whole,
/// with a length, and may leave so.
#[derive(Clone, Debug)]
pub(crate) struct Spelling(Bytes);

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

/// Whether a name is this one in lower case: both are tokens (RFC 9110 §5.6.2).
/// A quarter of what the standard library takes for any two texts.
fn is_same(spelt: &[u8], lower: &[u8]) -> bool {
    const CASE: u8 = b'a' ^ b'A';
    let differ = |differ, (spelt, lower): (&u8, &u8)| {
        // Of what comes after the letters, `^` and `~` are as far apart as `a` and `A`.
        let has_case = lower & 0x1f <= b'z' & 0x1f;
        let same = if has_case { !CASE } else { !0 };
        differ | ((spelt ^ lower) & same)
    };
    spelt.len() == lower.len() && spelt.iter().zip(lower).fold(0, differ) == 0
}

/// Writes fields, their names as they were spelt; there will be `more` text.
pub(super) fn write(
    text: &mut Vec<u8>,
    fields: &HeaderMap,
    spelling: Option<&Spelling>,
    more: usize,
) {
    let line = |(name, value): (&HeaderName, &HeaderValue)| {
        name.as_str().len() + ": ".len() + value.len() + "\r\n".len()
    };
    text.reserve(fields.iter().map(line).sum::<usize>() + more);
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
