//! Finds instance and token in a multipart form (RFC 7578).
//!
//! Invariant: a part counts under each name that some parser may read.

use bytes::Bytes;
use futures_core::Stream;
use http::header::CONTENT_DISPOSITION;

use super::names::{Field, Named};

/// Reads a form and reports each field found; false if it ends before its last
/// boundary.
pub(super) async fn scan<'p>(
    boundary: String,
    pieces: impl Stream<Item = Result<Bytes, multer::Error>> + Send + 'p,
    mut found: impl FnMut(Field),
) -> bool {
    let mut form = multer::Multipart::new(pieces, boundary);
    loop {
        let part = match form.next_field().await {
            Ok(Some(part)) => part,
            Ok(None) => return true,
            // Malformed, or the scanned part of the body ends within the form.
            Err(_) => return false,
        };
        // A repeated header: parsers differ in which one they use.
        let dispositions = part.headers().get_all(CONTENT_DISPOSITION);
        let names: Vec<String> = dispositions
            .iter()
            .flat_map(|value| names(value.as_bytes()))
            .collect();
        let mut named = names.iter().filter_map(Named::read);
        let Some(first) = named.next() else { continue };
        let is_clear = names.len() == 1 && !first.is_list;
        let Ok(text) = part.text().await else {
            found(Field::Unclear);
            return false;
        };
        if !is_clear {
            found(Field::Unclear);
        }
        found(first.name.with(text));
    }
}

/// All values of `name` in a `Content-Disposition` field. Parsers differ in
/// which one they use, in the case of `name` and in the quotes.
fn names(disposition: &[u8]) -> Vec<String> {
    const PARAMETER: &[u8] = b"name";
    let mut names = Vec::new();
    // Every position is tried, also inside quotes: a parser that ends a quoted string
    // earlier would find a name there.
    for at in 0..disposition.len() {
        let is_start = at == 0 || matches!(disposition[at - 1], b';' | b' ' | b'\t');
        let rest = &disposition[at..];
        let Some((word, rest)) = rest.split_at_checked(PARAMETER.len()) else {
            break;
        };
        if !is_start || !word.eq_ignore_ascii_case(PARAMETER) {
            continue;
        }
        // `name*` is the extended form (RFC 8187).
        let (is_extended, rest) = match rest.strip_prefix(b"*") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let Some(value) = rest.trim_ascii_start().strip_prefix(b"=") else {
            continue;
        };
        let value = String::from_utf8_lossy(&unquote(value.trim_ascii_start())).into_owned();
        names.push(match is_extended {
            // Charset and language precede the value: `utf-8'en'name`.
            true => super::decode(value.rsplit('\'').next().unwrap_or_default()).into_owned(),
            false => value,
        });
    }
    names
}

/// The text of a parameter's value: to its closing quote, or to its end.
fn unquote(value: &[u8]) -> Vec<u8> {
    let mut bytes = value.iter().copied();
    let quote = match value.first() {
        Some(quote @ (b'"' | b'\'')) => {
            bytes.next();
            Some(*quote)
        }
        _ => None,
    };
    let mut text = Vec::new();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if quote.is_some() => text.extend(bytes.next()),
            byte if Some(byte) == quote => break,
            b';' | b' ' | b'\t' if quote.is_none() => break,
            byte => text.push(byte),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_part_is_found() {
        for (disposition, expected) in [
            (r#"form-data; name="a""#, &["a"][..]),
            (r#"form-data; name=a; filename="b""#, &["a"]),
            (r#"form-data; filename="b"; NAME = "a""#, &["a"]),
            (r#"form-data; name='a'"#, &["a"]),
            (r#"form-data; name="a\"b\\""#, &["a\"b\\"]),
            (r#"form-data;name=a;name=b"#, &["a", "b"]),
            (r#"form-data; name*=utf-8''a%62"#, &["ab"]),
            (r#"form-data; xname=a"#, &[]),
            (r#"form-data; name"#, &[]),
            (r#"form-data; name="a"#, &["a"]),
        ] {
            assert_eq!(names(disposition.as_bytes()), expected, "{disposition}");
        }
    }
}
