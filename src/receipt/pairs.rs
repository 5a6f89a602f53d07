//! The fields of a query or an urlencoded form.
//!
//! Invariant: names and values are decoded to bytes, not to text: two values that
//! are no UTF-8 stay different.

use std::borrow::Cow;

use memchr::{memchr, memchr_iter, memchr2};

use super::NotMerged;
use super::fields::{Field, MAX_FIELDS, Place, Value, is_odd};
use crate::http::has_byte;

/// Adds the fields of a text, in their order. Empty pairs (`a=1&&b=2`) are no fields.
///
/// # Errors
/// An escape is malformed, backends end a name at different places, or there are too many fields.
pub(super) fn scan<'r>(
    place: Place,
    text: &'r [u8],
    fields: &mut Vec<Field<'r>>,
) -> Result<(), NotMerged> {
    // Once for all fields: many queries have no escape and only plain names.
    let is_encoded = memchr2(b'%', b'+', text).is_some();
    let is_plain = !is_encoded && !has_byte(text, is_odd);
    let may_have_bracket = is_encoded || memchr(b']', text).is_some();
    let mut start = 0;
    while start < text.len() {
        let end = memchr(b'&', &text[start..]).map_or(text.len(), |at| start + at);
        if start < end {
            let pair = &text[start..end];
            // Names are short: for them a search costs more to begin than to do by hand.
            let equals = pair.iter().position(|byte| *byte == b'=');
            let equals = equals.map(|at| start + at);
            if fields.len() == MAX_FIELDS {
                return Err(NotMerged::TooLarge);
            }
            let decoded = |range: std::ops::Range<usize>| match is_encoded {
                true => decode(&text[range]),
                false => Ok(Cow::Borrowed(&text[range])),
            };
            let name = decoded(start..equals.unwrap_or(end))?;
            let value_at = equals.map_or(end, |at| at + 1)..end;
            let later = |at| ends_later(&text[start..at], &text[value_at.clone()]);
            if may_have_bracket && equals.is_some_and(later) {
                return Err(NotMerged::UnknownEncoding);
            }
            let value = match equals {
                Some(_) => Value::Text(decoded(value_at.clone())?),
                None => Value::None,
            };
            let spans = (start..end, value_at);
            fields.push(match is_plain {
                true => Field::plain(place, name, value, spans),
                false => Field::named(place, name, value, spans),
            });
        }
        start = end + 1;
    }
    Ok(())
}

/// Whether some backends end the name of a pair within what others read as its value: qs ends it at
/// the first `]=`, and only without one at the first `=`.
fn ends_later(name: &[u8], value: &[u8]) -> bool {
    let has_bracket = |text: &[u8]| matches!(text, [.., b']'] | [.., b'%', b'5', b'd' | b'D']);
    !has_bracket(name) && memchr_iter(b'=', value).any(|at| has_bracket(&value[..at]))
}

/// Decodes a name or a value (`application/x-www-form-urlencoded`, WHATWG URL §5.1).
///
/// # Errors
/// An escape is malformed: backends read it in different ways, so a merged request
/// could name another message.
pub(super) fn decode(text: &[u8]) -> Result<Cow<'_, [u8]>, NotMerged> {
    let Some(first) = memchr2(b'%', b'+', text) else {
        return Ok(Cow::Borrowed(text));
    };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut decoded = Vec::with_capacity(text.len());
    let (mut rest, mut next) = (text, Some(first));
    while let Some(at) = next {
        decoded.extend_from_slice(&rest[..at]);
        rest = match &rest[at..] {
            [b'%', high, low, rest @ ..] => {
                let digits = digit(*high).zip(digit(*low));
                let (high, low) = digits.ok_or(NotMerged::UnknownEncoding)?;
                decoded.push((high * 16 + low) as u8);
                rest
            }
            [b'+', rest @ ..] => {
                decoded.push(b' ');
                rest
            }
            _ => return Err(NotMerged::UnknownEncoding),
        };
        next = memchr2(b'%', b'+', rest);
    }
    decoded.extend_from_slice(rest);
    Ok(Cow::Owned(decoded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_as_forms_are() {
        let text = b"a=1&&b%5B%5D=x+y%2B&c&=d&e==&%ff=%FE&";
        let mut fields = Vec::new();
        scan(Place::Query, text, &mut fields).unwrap();
        let read: Vec<_> = fields
            .iter()
            .map(|field| (&*field.name, field.text(), &text[field.at.range()]))
            .collect();
        let expected: [(&[u8], &[u8], &[u8]); 6] = [
            (b"a", b"1", b"a=1"),
            (b"b[]", b"x y+", b"b%5B%5D=x+y%2B"),
            (b"c", b"", b"c"),
            (b"", b"d", b"=d"),
            (b"e", b"=", b"e=="),
            (b"\xff", b"\xfe", b"%ff=%FE"),
        ];
        assert_eq!(read, expected);
        assert_eq!(&text[fields[1].value_at.range()], b"x+y%2B");
        assert!(matches!(fields[2].value, Value::None));
    }

    #[test]
    fn a_pair_whose_name_backends_end_at_different_places_is_refused() {
        for (text, is_read) in [
            ("a=b]=c", false),
            ("a=b%5d=c", false),
            ("a=%5B%5D=", false),
            ("a=1&b=]=", false),
            ("a[]=b]=c", true),
            ("a%5B%5D=b]=c", true),
            ("a=b]", true),
            ("a=b]c=d", true),
            ("a==b", true),
        ] {
            let read = scan(Place::Query, text.as_bytes(), &mut Vec::new());
            let expected = is_read.then_some(()).ok_or(NotMerged::UnknownEncoding);
            assert_eq!(read, expected, "{text}");
        }
    }

    #[test]
    fn malformed_escapes_and_floods_are_refused() {
        for text in ["a=%", "a=%4", "a=%zz", "%=1", "a=%+1", "a=%1+"] {
            let read = scan(Place::Query, text.as_bytes(), &mut Vec::new());
            assert_eq!(read, Err(NotMerged::UnknownEncoding), "{text}");
        }
        let flood = "a&".repeat(MAX_FIELDS + 1);
        let read = scan(Place::Query, flood.as_bytes(), &mut Vec::new());
        assert_eq!(read, Err(NotMerged::TooLarge));
    }
}
