//! The ids of a list, one by one.
//!
//! Invariant: they are read from the request each time; only an id with escapes is
//! copied.

use std::borrow::Cow;
use std::slice::{Iter, Split};

use memchr::{Memchr2, memchr2_iter};

use super::fields::Span;
use super::list::List;
use super::list_form::{ListForm, Site};
use crate::sharded::hash_of;

/// Represents an id where only equality matters. A collision of two ids only
/// closes a batch early or sends a receipt alone.
pub(crate) type IdHash = u64;

/// The ids of a list that was understood. They are read from the request each time.
#[derive(Debug)]
pub(crate) enum Ids<'r> {
    /// JSON: a list, a single string, or nothing; and how many ids it has.
    Json(Cow<'r, [u8]>, usize),
    /// Separated by commas.
    Commas(Cow<'r, [u8]>),
    /// Each in a field of its own, in this text.
    Fields(&'r List, &'r [u8]),
}

/// The ids in their order. Only an id with escapes is copied.
enum IdsIter<'i> {
    /// A list, the quotes and backslashes in it, and how many ids follow.
    Json(&'i [u8], Memchr2<'i>, usize),
    Commas(Split<'i, u8, fn(&u8) -> bool>),
    Fields(&'i List, &'i [u8], Iter<'i, Span>),
}

impl<'i> Iterator for IdsIter<'i> {
    type Item = Cow<'i, [u8]>;

    fn next(&mut self) -> Option<Cow<'i, [u8]>> {
        match self {
            Self::Json(list, marks, rest) => {
                // Without a search for the end of the list.
                *rest = rest.checked_sub(1)?;
                let (open, first) = (marks.next()?, marks.next()?);
                if list[first] == b'"' {
                    return Some(Cow::Borrowed(&list[open + 1..first]));
                }
                // An escaped id equals its plain form: `\u0061` is `a`. Without decoding, one
                // id would be sent twice.
                let close = marks.find(|at| list[*at] == b'"')?;
                let id: String = serde_json::from_slice(&list[open..=close]).unwrap_or_default();
                Some(Cow::Owned(id.into_bytes()))
            }
            Self::Commas(ids) => ids.next().map(Cow::Borrowed),
            Self::Fields(list, text, values) => {
                let value = &text[values.next()?.range()];
                // It was decoded when the receipt was read.
                Some(list.decoded(value).unwrap_or_default())
            }
        }
    }
}

impl Default for Ids<'_> {
    fn default() -> Self {
        Self::Json(Cow::Borrowed(b""), 0)
    }
}

impl<'r> Ids<'r> {
    /// The ids of a list; `text` is the query or the body that holds it.
    pub(super) fn of(list: &'r List, text: &'r [u8]) -> Self {
        let value = || {
            let value = list.decoded(&text[list.values[0].range()]);
            value.unwrap_or_default()
        };
        match (list.form, list.site) {
            (ListForm::Json | ListForm::JsonText, _) | (_, Site::JsonBody) => {
                Self::Json(value(), list.count)
            }
            (ListForm::Commas, _) => Self::Commas(value()),
            _ => Self::Fields(list, text),
        }
    }
}

impl Ids<'_> {
    /// The ids in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Cow<'_, [u8]>> {
        match self {
            // No JSON parser: the list was checked when the receipt was read, and it is
            // read several times while a batch is open.
            Self::Json(json, count) => IdsIter::Json(json, memchr2_iter(b'"', b'\\', json), *count),
            Self::Commas(text) => IdsIter::Commas(text.split(|byte| *byte == b',')),
            Self::Fields(list, text) => IdsIter::Fields(list, text, list.values.iter()),
        }
    }

    /// The ids in their order, each with its hash.
    pub(crate) fn hashed(&self) -> impl Iterator<Item = (Cow<'_, [u8]>, IdHash)> {
        self.iter().map(|id| {
            let hash = hash_of(&id);
            (id, hash)
        })
    }

    /// The hash of each id, in their order.
    pub(crate) fn hashes(&self) -> impl Iterator<Item = IdHash> {
        self.hashed().map(|(_, hash)| hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_where_they_stand_and_decoded_where_they_are_escaped() {
        let list = br#"[ "false_1_A" ,"f\u0061lse_1_B","false_1_A"]"#;
        let ids = Ids::Json(Cow::Borrowed(list), 3);
        let read: Vec<_> = ids.iter().collect();
        assert_eq!(read, [&b"false_1_A"[..], b"false_1_B", b"false_1_A"]);
        assert!(matches!(read[0], Cow::Borrowed(_)));
        assert_eq!(ids.hashes().nth(1), Some(hash_of(b"false_1_B")));
        assert_eq!(Ids::default().iter().count(), 0);
    }
}
