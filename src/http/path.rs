//! Request paths as the most lenient backend would read them.
//!
//! For rules, buckets and classes only (rule: identity). Invariant: nothing
//! here changes what is forwarded.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::has_byte;

/// The segments of a path. Base URLs with a trailing slash make clients send
/// doubled slashes, so empty segments do not count.
pub(crate) fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// Whether two paths have the same segments.
pub(crate) fn same_segments(one: &str, other: &str) -> bool {
    // The last bytes decide most comparisons. Without empty segments, different bytes
    // mean different segments.
    one == other
        || last_byte(one) == last_byte(other)
            && (has_empty_segment(one) || has_empty_segment(other))
            && segments(one).eq(segments(other))
}

/// The last byte of the last segment.
fn last_byte(path: &str) -> Option<u8> {
    path.bytes().rfind(|byte| *byte != b'/')
}

/// Whether a path has an empty segment after its leading slash.
fn has_empty_segment(path: &str) -> bool {
    path.ends_with('/') || has_pair(path, |next| next == b'/')
}

/// Whether a slash is followed by such a byte. By hand: to set up a search of `str`
/// costs more than to compare the few bytes of a path.
fn has_pair(path: &str, is_next: impl Fn(u8) -> bool) -> bool {
    let mut pairs = path.as_bytes().windows(2);
    pairs.any(|pair| pair[0] == b'/' && is_next(pair[1]))
}

/// The path that a lenient backend would route by: visible ASCII characters are
/// percent-decoded, `;parameters` are dropped, `.` and `..` are resolved, and
/// slashes are single (RFC 3986 §6.2.2). A trailing slash stays.
pub(crate) fn normalize(path: &str) -> Cow<'_, str> {
    let is_special = |byte| matches!(byte, b'%' | b';' | b'\\');
    // Nearly every path is normal already and is returned without a copy.
    let is_plain = !has_byte(path.as_bytes(), is_special)
        && !has_pair(path, |next| matches!(next, b'/' | b'.'));
    if is_plain {
        return Cow::Borrowed(path);
    }
    // Decoded before it is split: an encoded `/`, `.` or `;` must count as well.
    let decoded = decode_visible(path);
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_with_slash = false;
    for segment in decoded.split(['/', '\\']) {
        let segment = segment.split(';').next().unwrap_or_default();
        ends_with_slash = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            // `..` at the root stays at the root (RFC 3986 §5.2.4).
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let mut normal = String::with_capacity(decoded.len());
    for segment in &kept {
        normal.push('/');
        normal.push_str(segment);
    }
    if ends_with_slash || kept.is_empty() {
        normal.push('/');
    }
    Cow::Owned(normal)
}

/// Whether every backend reads the same resource from a path: it has no dot
/// segments, plain or encoded.
pub(crate) fn has_one_reading(path: &str) -> bool {
    if !has_byte(path.as_bytes(), |byte| matches!(byte, b'.' | b'%')) {
        return true;
    }
    // `%25` is an encoded percent sign: a backend that decodes twice could turn
    // what follows into a dot segment.
    if path.contains("%25") {
        return false;
    }
    let decoded: Cow<'_, [u8]> = percent_decode_str(path).into();
    // These bytes are never valid UTF-8. A lenient decoder could read an overlong
    // `.` or `/` from them (RFC 3629 §10).
    let is_overlong = decoded.iter().any(|byte| matches!(byte, 0xc0 | 0xc1));
    let mut segments = decoded.split(|byte| matches!(byte, b'/' | b'\\'));
    !is_overlong && !segments.any(is_dot_segment)
}

/// Whether a backend may read a decoded segment as `.` or `..`: some first drop
/// parameters, blanks or all bytes from a NUL on.
fn is_dot_segment(segment: &[u8]) -> bool {
    let mut pieces = segment.split(|byte| matches!(byte, b';' | 0));
    let name = pieces.next().unwrap_or_default();
    matches!(name.trim_ascii(), b"." | b"..")
}

/// Decodes visible ASCII characters once. A percent sign stays encoded: otherwise
/// the text after it could become an escape that was not sent.
fn decode_visible(path: &str) -> String {
    let is_visible = |byte: u8| byte.is_ascii_graphic() && byte != b'%';
    let hex = |digit: &u8| char::from(*digit).to_digit(16);
    let mut pieces = path.split('%');
    let mut decoded = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let byte = match piece.as_bytes() {
            [high, low, ..] => hex(high).zip(hex(low)),
            _ => None,
        };
        let byte = byte.and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        match byte.filter(|byte| is_visible(*byte)) {
            Some(byte) => {
                decoded.push(char::from(byte));
                decoded.push_str(&piece[2..]);
            }
            None => {
                decoded.push('%');
                decoded.push_str(piece);
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_spelling_of_a_path_is_normalized_to_one() {
        for path in [
            "/v2/send/text",
            "//v2/send/text",
            "/v2//send///text",
            "/v2/%73end/text",
            "/v2/./send/text",
            "/v2/x/../send/text",
            "/v2/x/%2e%2E/send/text",
            "/v2/send;a=b/text;c",
            "/v2/send%3Ba=b/text",
            "/v2/send%2ftext",
            "/v2\\send%5ctext",
            "/../v2/send/text",
            "/%2e./v2/.;x/send/text",
        ] {
            assert_eq!(normalize(path), "/v2/send/text", "{path}");
        }
        for (path, normal) in [
            ("/v2/send/text/", "/v2/send/text/"),
            ("/v2/send/text//", "/v2/send/text/"),
            ("/v2/send/text/.", "/v2/send/text/"),
            ("/v2/send/text/x/..", "/v2/send/text/"),
            ("/", "/"),
            ("", ""),
            ("*", "*"),
            ("//", "/"),
            ("/..", "/"),
            ("/v2/groups/1%40g.us/x", "/v2/groups/1@g.us/x"),
            ("/a%20b%", "/a%20b%"),
            ("/a%é", "/a%é"),
            ("/%2573end", "/%2573end"),
        ] {
            assert_eq!(normalize(path), normal, "{path}");
        }
    }

    #[test]
    fn only_a_path_without_dot_segments_has_one_reading() {
        for path in [
            "/v2/x",
            "/v2/a.b/...",
            "/v2/1%40g.us/é",
            "//v2/x/",
            "/v2/.x/..y",
        ] {
            assert!(has_one_reading(path), "{path}");
        }
        for path in [
            "/v2/../public",
            "/v2/./x",
            "/v2/x/..",
            "/v2/%2e%2e/public",
            "/v2/.%2E/public",
            "/v2/..%2fpublic",
            "/v2/..%5Cpublic",
            "/v2\\..\\public",
            "/v2/..;a=b/public",
            "/v2/..%3b/public",
            "/v2/..%00/public",
            "/v2/..%20/public",
            "/v2/%252e%252e/public",
            "/v2/%c0%ae%c0%ae/public",
        ] {
            assert!(!has_one_reading(path), "{path}");
        }
    }

    #[test]
    fn paths_are_compared_by_segments() {
        for path in [
            "/v2/send/seen",
            "//v2/send/seen",
            "/v2/send/seen/",
            "/v2//send/seen//",
        ] {
            assert!(same_segments(path, "/v2/send/seen"), "{path}");
        }
        for path in [
            "/v2/send",
            "/v2/send/seen/x",
            "/v2/%73end/seen",
            "/V2/send/seen",
            "/",
        ] {
            assert!(!same_segments(path, "/v2/send/seen"), "{path}");
        }
    }

    proptest! {
        /// A normal path is its own normal form, has one reading, and only single slashes.
        #[test]
        fn normalizing_twice_changes_nothing(path in "(/|[a-z.;%\\\\]|%2e|%2F|%5c|%3b|é){0,20}") {
            let path = format!("/{path}");
            let normal = normalize(&path).into_owned();
            prop_assert!(normal.starts_with('/') && !normal.contains("//"), "{}", normal);
            let dots = normal.split('/').any(|segment| matches!(segment, "." | ".."));
            prop_assert!(!dots, "{}", normal);
            if !path.contains('%') {
                prop_assert_eq!(normalize(&normal), &*normal);
            }
        }
    }
}
