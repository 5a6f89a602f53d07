//! The fields of a receipt, in whatever carrier they arrived.
//!
//! Each carrier has a scanner that yields fields; what is an id and what belongs to the
//! merge key is decided on the fields alone, so one rule holds for all carriers.
//! Invariant: each field has the ranges of its bytes, so that a list can be
//! extended without changing anything else.

use std::borrow::Cow;
use std::ops::Range;

use super::NotMerged;

/// More fields are not read: PHP (`max_input_vars`) and qs (`parameterLimit`) read
/// 1,000 and drop the rest.
pub(super) const MAX_FIELDS: usize = 1000;

/// Where a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Query,
    Body,
}

/// How a body carries its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    /// There is no body.
    None,
    /// A JSON object.
    Json,
    /// An urlencoded form.
    Form,
    /// A multipart form.
    Multipart,
}

/// A range of bytes in a query or a body, both of which are shorter than 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub(super) fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    pub(super) fn len(self) -> usize {
        (self.end - self.start) as usize
    }
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        // Heads and bodies are bounded far below.
        let index = |at| u32::try_from(at).unwrap_or(u32::MAX);
        Self {
            start: index(range.start),
            end: index(range.end),
        }
    }
}

/// The value of a field.
#[derive(Debug)]
pub(super) enum Value<'r> {
    /// A key of a query or form without `=`.
    None,
    /// Decoded text.
    Text(Cow<'r, [u8]>),
    /// The content of a part, and the lines of its head that are neither its name nor
    /// its length.
    Part(&'r [u8], Vec<&'r [u8]>),
    /// The text of a JSON value.
    Json(&'r str),
}

/// A field.
#[derive(Debug)]
pub(super) struct Field<'r> {
    pub(super) place: Place,
    /// Decoded.
    pub(super) name: Cow<'r, [u8]>,
    /// The name of the variable that PHP makes of it, where that is not the name up to
    /// its first bracket.
    folded: Option<Vec<u8>>,
    /// The length of the name up to its first bracket.
    base: usize,
    pub(super) value: Value<'r>,
    /// The bytes of the field, and those of its value.
    pub(super) at: Span,
    pub(super) value_at: Span,
}

impl<'r> Field<'r> {
    /// A member of a JSON object. No backend changes its name.
    pub(super) fn of_json(name: Cow<'r, str>, json: &'r str, at: Range<usize>) -> Self {
        let name = match name {
            Cow::Borrowed(name) => Cow::Borrowed(name.as_bytes()),
            Cow::Owned(name) => Cow::Owned(name.into_bytes()),
        };
        Self::plain(Place::Body, name, Value::Json(json), (at.clone(), at))
    }

    /// A field of a query or a form.
    pub(super) fn named(
        place: Place,
        name: Cow<'r, [u8]>,
        value: Value<'r>,
        spans: (Range<usize>, Range<usize>),
    ) -> Self {
        let (base, folded) = fold(&name);
        Self {
            base,
            folded,
            ..Self::plain(place, name, value, spans)
        }
    }

    /// A field whose name has no [`is_odd`] byte: it is the name of the variable.
    pub(super) fn plain(
        place: Place,
        name: Cow<'r, [u8]>,
        value: Value<'r>,
        (at, value_at): (Range<usize>, Range<usize>),
    ) -> Self {
        Self {
            place,
            base: name.len(),
            name,
            folded: None,
            value,
            at: at.into(),
            value_at: value_at.into(),
        }
    }

    /// The name of the variable that this field sets or is an element of.
    pub(super) fn base(&self) -> &[u8] {
        match &self.folded {
            Some(folded) => folded,
            None => &self.name[..self.base],
        }
    }

    /// Whether the name is spelt as the variable that it sets.
    pub(super) fn is_plainly_named(&self) -> bool {
        self.folded.is_none()
    }

    /// Whether it is an element of a list or an object (`name[…]`).
    pub(super) fn is_element(&self) -> bool {
        self.base < self.name.len()
    }

    /// Whether its brackets are read alike by all backends. A bracket that is never
    /// closed is `_` to PHP and an element to qs; `[a]` is `a` to qs alone.
    fn has_clear_brackets(&self) -> bool {
        let is_json = matches!(self.value, Value::Json(_));
        is_json || !self.is_element() || self.base > 0 && self.name[self.base..].contains(&b']')
    }

    /// The text of the value; empty without one.
    pub(super) fn text(&self) -> &[u8] {
        match &self.value {
            Value::None => b"",
            Value::Text(text) => text,
            Value::Part(text, _) => text,
            Value::Json(json) => json.as_bytes(),
        }
    }
}

/// Whether a name with this byte may be another variable to PHP, or an element of one.
pub(super) fn is_odd(byte: u8) -> bool {
    (byte == b'[') | (byte == b'.') | (byte == b' ') | (byte == 0)
}

/// The length of a name up to its first bracket, and PHP's name of the variable if it
/// is another one: PHP drops leading spaces, ends a name at NUL, and writes `_` for
/// `.` and space.
fn fold(name: &[u8]) -> (usize, Option<Vec<u8>>) {
    let Some(first) = name.iter().position(|byte| is_odd(*byte)) else {
        return (name.len(), None);
    };
    let bracket = name[first..].iter().position(|byte| *byte == b'[');
    let base = bracket.map_or(name.len(), |at| first + at);
    if base == first {
        return (base, None);
    }
    let cut = name[..base].split(|byte| *byte == 0).next();
    let folded = cut.unwrap_or_default().trim_ascii_start().iter();
    let folded = folded.map(|byte| match byte {
        b'.' | b' ' => b'_',
        other => *other,
    });
    (base, Some(folded.collect()))
}

/// The fields without the ids, in the order in which they are compared.
///
/// # Errors
/// Backends differ in what they read.
pub(super) fn sort(fields: &mut [Field<'_>]) -> Result<(), NotMerged> {
    if !fields.iter().all(Field::has_clear_brackets) {
        return Err(NotMerged::AmbiguousKey);
    }
    // Stable: within a variable the order of its elements matters.
    fields.sort_by(|one, other| {
        let places = one.place.cmp(&other.place);
        places.then_with(|| one.base().cmp(other.base()))
    });
    let same =
        |one: &Field<'_>, other: &Field<'_>| one.place == other.place && one.base() == other.base();
    // Of a repeated key PHP reads the last value, Python the first, and Node a list.
    let is_clear = |group: &[Field<'_>]| {
        let is_element = |field: &Field<'_>| field.is_element() && field.is_plainly_named();
        group.len() == 1 || group.iter().all(is_element)
    };
    match fields.chunk_by(same).all(is_clear) {
        true => Ok(()),
        false => Err(NotMerged::AmbiguousKey),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_folded_as_php_does() {
        for (name, base) in [
            ("a", "a"),
            ("a[]", "a"),
            ("a[b][c]", "a"),
            ("a.b", "a_b"),
            ("a b", "a_b"),
            ("  a", "a"),
            ("a.b[c]", "a_b"),
            ("a\0b", "a"),
            ("a]", "a]"),
        ] {
            let field = Field::named(
                Place::Query,
                Cow::Borrowed(name.as_bytes()),
                Value::None,
                (0..0, 0..0),
            );
            assert_eq!(field.base(), base.as_bytes(), "{name}");
        }
    }
}
