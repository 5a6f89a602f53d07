//! The fields of a multipart form (RFC 7578).
//!
//! Invariants: stricter than any backend: a body that two parsers may read in
//! different ways is not read. A new part is written as its predecessor is.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::NotMerged;
use super::fields::{Field, MAX_FIELDS, Place, Value};

/// The longest boundary (RFC 2046 §5.1.1).
const MAX_BOUNDARY: usize = 70;
/// The longest head of a part. Real ones have about 60 bytes, with a type and a length
/// 130.
const MAX_PART_HEAD: usize = 256;
/// The most bytes of a part in addition to its value.
pub(super) const MAX_OVERHEAD: usize =
    "--".len() + MAX_BOUNDARY + "\r\n".len() + MAX_PART_HEAD + "\r\n\r\n".len() + "\r\n".len();

/// The boundary that the head names.
pub(super) fn boundary(headers: &HeaderMap) -> Option<String> {
    let content_type = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let boundary = multer::parse_boundary(content_type).ok()?;
    (1..=MAX_BOUNDARY)
        .contains(&boundary.len())
        .then_some(boundary)
}

/// Adds the fields of a body, in their order.
///
/// # Errors
/// The body has a file, or is not understood to the last byte.
pub(super) fn scan<'r>(
    boundary: &str,
    body: &'r [u8],
    fields: &mut Vec<Field<'r>>,
) -> Result<(), NotMerged> {
    let delimiter = format!("--{boundary}");
    let delimiter = delimiter.as_bytes();
    // Without a preamble: the body begins with a delimiter.
    let mut rest = body.strip_prefix(delimiter).ok_or(NotMerged::Malformed)?;
    loop {
        // Without an epilogue other than line ends, which some clients write.
        let end = rest.strip_prefix(b"--");
        if end.is_some_and(|end| end.iter().all(|byte| matches!(byte, b'\r' | b'\n'))) {
            return Ok(());
        }
        let part = rest.strip_prefix(b"\r\n").ok_or(NotMerged::Malformed)?;
        // Every occurrence ends the part: where it is not a delimiter to all parsers
        // (PHP needs only LF before it), the next turn refuses it.
        let end = find(part, delimiter).ok_or(NotMerged::Malformed)?;
        rest = &part[end + delimiter.len()..];
        let part = part[..end]
            .strip_suffix(b"\r\n")
            .ok_or(NotMerged::Malformed)?;
        if fields.len() == MAX_FIELDS {
            return Err(NotMerged::TooLarge);
        }
        fields.push(field(body, part, delimiter)?);
    }
}

fn field<'r>(body: &[u8], part: &'r [u8], delimiter: &[u8]) -> Result<Field<'r>, NotMerged> {
    let head = find(part, b"\r\n\r\n").ok_or(NotMerged::Malformed)?;
    if head > MAX_PART_HEAD {
        return Err(NotMerged::Malformed);
    }
    let (mut name, mut others) = (None, Vec::new());
    for line in lines(&part[..head]) {
        match header(line)? {
            (Header::Disposition, value) if name.is_none() => name = Some(name_of(value)?),
            (Header::Disposition, _) => return Err(NotMerged::Malformed),
            (Header::Length, _) => {}
            (Header::Other, _) => others.push(line),
        }
    }
    let name = name.ok_or(NotMerged::Malformed)?;
    // From the delimiter to the line end behind the value.
    let start = part.as_ptr() as usize - body.as_ptr() as usize;
    let at = start - b"\r\n".len() - delimiter.len()..start + part.len() + b"\r\n".len();
    let value_at = start + head + b"\r\n\r\n".len()..start + part.len();
    let content = &part[head + b"\r\n\r\n".len()..];
    let value = Value::Part(content, others);
    Ok(Field::named(
        Place::Body,
        Cow::Borrowed(name),
        value,
        (at, value_at),
    ))
}

/// A header of a part.
enum Header {
    Disposition,
    Length,
    /// It may change how the value is read.
    Other,
}

fn header(line: &[u8]) -> Result<(Header, &[u8]), NotMerged> {
    let colon = line.iter().position(|byte| *byte == b':');
    let (name, value) = line.split_at(colon.ok_or(NotMerged::Malformed)?);
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    // A bare LF, white space before the colon, or a folded line: parsers differ.
    let is_clear = !name.is_empty()
        && name.iter().all(is_token)
        && !value.iter().any(|byte| byte.is_ascii_control());
    let is = |ours: &str| name.eq_ignore_ascii_case(ours.as_bytes());
    match () {
        () if !is_clear => Err(NotMerged::Malformed),
        () if is("content-disposition") => Ok((Header::Disposition, &value[1..])),
        () if is("content-length") => Ok((Header::Length, &value[1..])),
        () if is("content-type") => Ok((Header::Other, &value[1..])),
        () if is("content-transfer-encoding") => match is_verbatim(&value[1..]) {
            true => Ok((Header::Other, &value[1..])),
            false => Err(NotMerged::UnknownEncoding),
        },
        // Nothing is known of any other.
        () => Err(NotMerged::Malformed),
    }
}

/// Whether a `Content-Transfer-Encoding` leaves the value as it is (RFC 2045 §6.1).
fn is_verbatim(encoding: &[u8]) -> bool {
    let encoding = encoding.trim_ascii();
    let verbatim: [&[u8]; 3] = [b"7bit", b"8bit", b"binary"];
    verbatim
        .iter()
        .any(|known| encoding.eq_ignore_ascii_case(known))
}

/// The name in a `Content-Disposition` that has nothing else.
fn name_of(disposition: &[u8]) -> Result<&[u8], NotMerged> {
    let mut parameters = disposition
        .split(|byte| *byte == b';')
        .map(<[u8]>::trim_ascii);
    let is_form = parameters
        .next()
        .is_some_and(|kind| kind.eq_ignore_ascii_case(b"form-data"));
    let name = parameters.next().ok_or(NotMerged::Malformed)?;
    let others: Vec<_> = parameters.collect();
    let is_file = |text: &[u8]| {
        let start = text.get(.."filename".len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(b"filename"))
    };
    if is_file(name) || others.iter().any(|other| is_file(other)) {
        return Err(NotMerged::MultipartFile);
    }
    let value = name.strip_prefix(b"name=").ok_or(NotMerged::Malformed)?;
    let quoted = value.strip_prefix(b"\"");
    let text = match quoted.and_then(|text| text.strip_suffix(b"\"")) {
        Some(text) => text,
        None => value,
    };
    // Parsers differ in quotes, escapes and percent-encoding within a name.
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !br#""'\%,=()<>@:?/"#.contains(byte);
    let is_clear = is_form && others.is_empty() && text.iter().all(is_plain);
    match is_clear && !text.is_empty() {
        true => Ok(text),
        false => Err(NotMerged::Malformed),
    }
}

/// Writes a part with this name and value, in all else like `model`, a part from its
/// delimiter to the line end behind its value.
pub(super) fn write_like(model: &[u8], old: &[u8], name: &[u8], value: &[u8], to: &mut Vec<u8>) {
    let head = find(model, b"\r\n\r\n").unwrap_or(model.len());
    for line in lines(&model[..head]) {
        match header(line) {
            // The length of another value.
            Ok((Header::Length, _)) => continue,
            Ok((Header::Disposition, _)) => {
                // The name comes last, so the last occurrence is the name.
                let at = line.windows(old.len()).rposition(|text| text == old);
                let at = at.unwrap_or(line.len() - old.len());
                to.extend_from_slice(&line[..at]);
                to.extend_from_slice(name);
                to.extend_from_slice(&line[at + old.len()..]);
            }
            _ => to.extend_from_slice(line),
        }
        to.extend_from_slice(b"\r\n");
    }
    to.extend_from_slice(b"\r\n");
    to.extend_from_slice(value);
    to.extend_from_slice(b"\r\n");
}

/// Whether a part states its length.
pub(super) fn has_length(part: &[u8]) -> bool {
    let head = find(part, b"\r\n\r\n").unwrap_or(part.len());
    let is_length = |line| matches!(header(line), Ok((Header::Length, _)));
    lines(&part[..head]).any(is_length)
}

/// The lines of a part's head that are neither its name nor its length.
pub(super) fn other_lines(part: &[u8]) -> impl Iterator<Item = &[u8]> {
    let head = find(part, b"\r\n\r\n").unwrap_or(part.len());
    lines(&part[..head]).filter(|line| matches!(header(line), Ok((Header::Other, _))))
}

/// The lines of a head, without their ends.
fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(head);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = find(text, b"\r\n");
        rest = end.map(|end| &text[end + 2..]);
        Some(&text[..end.unwrap_or(text.len())])
    })
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    memchr::memmem::find(text, wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Vec<(String, String)>, NotMerged> {
        let mut fields = Vec::new();
        scan("x", body.as_bytes(), &mut fields)?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let read = fields.iter();
        Ok(read
            .map(|field| {
                let at = &body[field.at.range()];
                assert!(at.starts_with("--x\r\n") && at.ends_with("\r\n"), "{at}");
                assert_eq!(&body.as_bytes()[field.value_at.range()], field.text());
                (text(&field.name), text(field.text()))
            })
            .collect())
    }

    #[test]
    fn parts_are_read_as_clients_write_them() {
        for (head, name) in [
            ("Content-Disposition: form-data; name=\"a[]\"", "a[]"),
            ("content-disposition: form-data; name=a", "a"),
            (
                "Content-Disposition: form-data; name=\"a\"\r\nContent-Length: 1",
                "a",
            ),
            (
                "Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=\"a\"",
                "a",
            ),
        ] {
            for end in ["", "\r\n", "\r\n\r\n"] {
                let body = format!("--x\r\n{head}\r\n\r\n1\r\n--x--{end}");
                let expected = vec![(name.to_owned(), "1".to_owned())];
                assert_eq!(read(&body), Ok(expected), "{head}");
            }
        }
    }

    #[test]
    fn what_parsers_may_read_differently_is_refused() {
        const NAME: &str = "Content-Disposition: form-data; name=\"a\"";
        for body in [
            "",
            "preamble\r\n--x--",
            "--x",
            "--x--epilogue",
            &*format!("--x\r\n{NAME}\r\n\r\n1"),
            &format!("--x\n{NAME}\n\n1\n--x--"),
            &format!("--x\r\n{NAME}\r\n\r\n1\n--x\n\r\n--x--"),
            &format!("--x\r\n{NAME}\r\n\r\n1--x\r\n--x--"),
            &format!("--x\r\n{NAME}\r\n\r\n1\r\n--xy\r\n\r\n--x--"),
            &format!("--x \r\n{NAME}\r\n\r\n1\r\n--x--"),
            &format!("--x\r\n{NAME}\r\n{NAME}\r\n\r\n1\r\n--x--"),
            &format!("--x\r\n{NAME}\r\nX-Other: 1\r\n\r\n1\r\n--x--"),
            &format!("--x\r\n{NAME} \r\n folded\r\n\r\n1\r\n--x--"),
            "--x\r\nContent-Type: text/plain\r\n\r\n1\r\n--x--",
            "--x\r\nContent-Disposition: form-data; name=\"a\"; name=\"b\"\r\n\r\n1\r\n--x--",
            "--x\r\nContent-Disposition: form-data; name=\"a\\\"\"\r\n\r\n1\r\n--x--",
            "--x\r\nContent-Disposition: form-data; name=\"%61\"\r\n\r\n1\r\n--x--",
            "--x\r\nContent-Disposition: form-data; name*=utf-8''a\r\n\r\n1\r\n--x--",
            "--x\r\nContent-Disposition: attachment; name=a\r\n\r\n1\r\n--x--",
        ] {
            assert_eq!(read(body), Err(NotMerged::Malformed), "{body}");
        }
        let file = format!("--x\r\n{NAME}; filename=\"b\"\r\n\r\n1\r\n--x--");
        assert_eq!(read(&file), Err(NotMerged::MultipartFile));
    }

    #[test]
    fn a_part_is_written_like_another() {
        let model = b"--x\r\nContent-Length: 4\r\nContent-Disposition: form-data; name=\"name[0]\"\r\n\r\nwhat\r\n";
        let mut written = Vec::new();
        write_like(model, b"name[0]", b"name[1]", b"v", &mut written);
        let expected = "--x\r\nContent-Disposition: form-data; name=\"name[1]\"\r\n\r\nv\r\n";
        assert_eq!(String::from_utf8(written).unwrap(), expected);
    }
}
