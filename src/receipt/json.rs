//! The fields of a JSON object, and the canonical text of a JSON value.
//!
//! Invariant: `serde_json` reads the body, so the gateway and a JSON upstream cannot
//! understand it differently. Only the ids, and names and values with escapes, are
//! copied.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use memchr::memchr;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::NotMerged;
use super::fields::{Field, MAX_FIELDS};

/// Deeper values are compared as they are written, without white space.
const MAX_DEPTH: usize = 8;

/// Adds the members of the object that a body is, in their order.
///
/// # Errors
/// The body is no object, or has too many members.
pub(super) fn scan<'r>(body: &'r [u8], fields: &mut Vec<Field<'r>>) -> Result<(), NotMerged> {
    // Checked for UTF-8 once: with bytes, serde would check each field again.
    let text = std::str::from_utf8(body).map_err(|_| NotMerged::UnknownEncoding)?;
    // One more than allowed is enough to know.
    let add = |name: Cow<'r, str>, raw: &'r RawValue| {
        if fields.len() <= MAX_FIELDS {
            fields.push(Field::of_json(name, raw.get(), range_in(body, raw)));
        }
    };
    each_member(text, add).map_err(|_| NotMerged::Malformed)?;
    // serde has checked only the grammar of raw values. Half a surrogate pair
    // (`"\ud800"`) passes the grammar, but backends read it in different ways.
    let has_escapes = memchr(b'\\', body).is_some();
    let has_surrogates = || text.contains("\\ud") || text.contains("\\uD");
    if has_escapes && has_surrogates() && serde_json::from_str::<Value>(text).is_err() {
        return Err(NotMerged::Malformed);
    }
    match fields.len() > MAX_FIELDS {
        true => Err(NotMerged::TooLarge),
        false => Ok(()),
    }
}

/// The position of a value. It borrows from the body, so the distance of the pointers
/// is the position.
fn range_in(body: &[u8], raw: &RawValue) -> Range<usize> {
    let start = raw.get().as_ptr() as usize - body.as_ptr() as usize;
    start..start + raw.get().len()
}

/// The text of a JSON string; `None` for other values.
pub(super) fn text(json: &str) -> Option<Cow<'_, str>> {
    let inside = json.strip_prefix('"')?.strip_suffix('"')?;
    match memchr(b'\\', inside.as_bytes()) {
        None => Some(Cow::Borrowed(inside)),
        Some(_) => serde_json::from_str(json).ok().map(Cow::Owned),
    }
}

/// A text that is equal for values that differ only in white space, the order of
/// keys, and escapes.
pub(super) fn canonical(json: &str) -> Cow<'_, str> {
    match json.as_bytes() {
        [b'{' | b'[', ..] => {
            let mut written = String::with_capacity(json.len());
            write(json, MAX_DEPTH, &mut written);
            Cow::Owned(written)
        }
        [b'"', ..] => canonical_text(json),
        _ => Cow::Borrowed(json),
    }
}

/// A string with only the escapes that it needs.
fn canonical_text(json: &str) -> Cow<'_, str> {
    match text(json) {
        Some(Cow::Owned(text)) => match serde_json::to_string(&text) {
            Ok(written) => Cow::Owned(written),
            Err(_) => Cow::Borrowed(json),
        },
        // Without escapes it is canonical already.
        _ => Cow::Borrowed(json),
    }
}

fn write(json: &str, depth: usize, written: &mut String) {
    let read = |depth: usize| depth.checked_sub(1);
    match (json.as_bytes().first(), read(depth)) {
        (Some(b'{'), Some(depth)) => {
            let mut members = Vec::new();
            if each_member(json, |name, value| members.push((name, value))).is_ok() {
                // Stable: of a repeated key backends read the first or the last value.
                members.sort_by(|(one, _), (other, _)| one.cmp(other));
                written.push('{');
                for (name, value) in members {
                    // Strings cannot fail to be written.
                    written.push_str(&serde_json::to_string(&name).unwrap_or_default());
                    written.push(':');
                    write(value.get(), depth, written);
                    written.push(',');
                }
                return written.push('}');
            }
        }
        (Some(b'['), Some(depth)) => {
            if let Ok(Elements(elements)) = serde_json::from_str(json) {
                written.push('[');
                for element in elements {
                    write(element.get(), depth, written);
                    written.push(',');
                }
                return written.push(']');
            }
        }
        (Some(b'{' | b'['), None) => {}
        _ => return written.push_str(&canonical_text(json)),
    }
    without_white_space(json, written);
}

fn without_white_space(json: &str, written: &mut String) {
    let (mut in_text, mut is_escaped) = (false, false);
    for letter in json.chars() {
        if in_text {
            in_text = is_escaped || letter != '"';
            is_escaped = !is_escaped && letter == '\\';
        } else if letter.is_ascii_whitespace() {
            continue;
        } else {
            in_text = letter == '"';
        }
        written.push(letter);
    }
}

/// Calls `each` with the members of an object in their order, repeated ones included.
///
/// # Errors
/// The text is no object.
fn each_member<'j>(
    json: &'j str,
    each: impl FnMut(Cow<'j, str>, &'j RawValue),
) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    deserializer.deserialize_map(Members(each))?;
    deserializer.end()
}

/// Receives the members of an object.
struct Members<F>(F);

impl<'de, F: FnMut(Cow<'de, str>, &'de RawValue)> Visitor<'de> for Members<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = map.next_key()? {
            (self.0)(name, map.next_value()?);
        }
        Ok(())
    }
}

/// The elements of a list.
struct Elements<'j>(Vec<&'j RawValue>);

impl<'de: 'j, 'j> Deserialize<'de> for Elements<'j> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ElementsVisitor;

        impl<'de> Visitor<'de> for ElementsVisitor {
            type Value = Vec<&'de RawValue>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = list.next_element()? {
                    elements.push(element);
                }
                Ok(elements)
            }
        }

        deserializer.deserialize_seq(ElementsVisitor).map(Self)
    }
}

/// A key, borrowed unless it has escapes. `Cow` itself is always copied by serde.
struct Name<'j>(Cow<'j, str>);

impl<'de: 'j, 'j> Deserialize<'de> for Name<'j> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Cow<'de, str>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }

        deserializer.deserialize_str(NameVisitor).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_compared_by_what_it_means() {
        for (one, other, equal) in [
            (r#""a""#, r#""\u0061""#, true),
            (r#""a/b""#, r#""a\/b""#, true),
            (r#""null""#, "null", false),
            ("1", "1.0", false),
            ("[1, 2]", "[1,2]", true),
            ("[1,2]", "[2,1]", false),
            ("[1,2]", "[12]", false),
            (r#"["a","b"]"#, r#"["a,b"]"#, false),
            (r#"{"a":1,"b":[]}"#, r#"{ "b" : [ ], "\u0061":1}"#, true),
            (r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#, false),
            (r#"{"a":{"b":1}}"#, r#"{"a":{"b":"1"}}"#, false),
            ("{}", "[]", false),
            (r#"" ""#, r#""""#, false),
            (r#""\ud83d\ude00""#, "\"\u{1f600}\"", true),
        ] {
            assert_eq!(canonical(one) == canonical(other), equal, "{one} {other}");
        }
        let deep = |blank| format!("{}{blank}{}", "[".repeat(60_000), "]".repeat(60_000));
        assert_eq!(canonical(&deep("")), canonical(&deep(" ")));
    }
}
