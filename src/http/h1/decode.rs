//! Decodes the body of a response.
//!
//! Owns the framing of HTTP/1.1 (RFC 9112 §6 and §7). Invariant: no byte beyond
//! the end of the body is taken.

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::Malformed;

/// The longest line with the size of a chunk and its extensions, in bytes.
const MAX_SIZE_LINE: usize = 4 * 1024;
/// The longest trailer section, in bytes.
const MAX_TRAILERS: usize = 16 * 1024;
const MAX_TRAILER_FIELDS: usize = 100;

/// The framing of a body, and how much of it is still to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyDecoder {
    /// The bytes that are left; 0 at the end of any body.
    Length(u64),
    Chunked(Chunked),
    /// The body ends with the connection.
    UntilClose,
}

/// The part of a chunked body to which the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chunked {
    Size,
    /// The bytes that are left of a chunk.
    Data(u64),
    /// The CRLF after the data of a chunk.
    DataEnd,
    Trailers,
}

/// A part of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The body has ended.
    End,
    /// Nothing yet: more must be read from the connection.
    NeedMore,
}

impl BodyDecoder {
    /// The end of a body.
    pub(crate) const ENDED: Self = Self::Length(0);

    /// Takes the next part of the body out of `read`.
    ///
    /// # Errors
    /// The chunked coding is malformed.
    pub(crate) fn decode(&mut self, read: &mut Bytes) -> Result<Decoded, Malformed> {
        loop {
            match self {
                // All framings end in this state.
                Self::Length(0) => return Ok(Decoded::End),
                Self::Length(left) | Self::Chunked(Chunked::Data(left @ 1..)) => {
                    return Ok(data(read, left));
                }
                Self::UntilClose => {
                    let mut endless = u64::MAX;
                    return Ok(data(read, &mut endless));
                }
                Self::Chunked(Chunked::Data(0)) => *self = Self::Chunked(Chunked::DataEnd),
                Self::Chunked(Chunked::DataEnd) => match **read {
                    [b'\r', b'\n', ..] => {
                        read.advance(2);
                        *self = Self::Chunked(Chunked::Size);
                    }
                    // The CRLF may be split between two reads.
                    [] | [b'\r'] => return Ok(Decoded::NeedMore),
                    _ => return Err(Malformed),
                },
                Self::Chunked(Chunked::Size) => match size(read)? {
                    None => return Ok(Decoded::NeedMore),
                    Some(0) => *self = Self::Chunked(Chunked::Trailers),
                    Some(size) => *self = Self::Chunked(Chunked::Data(size)),
                },
                Self::Chunked(Chunked::Trailers) => {
                    let Some(trailers) = trailers(read)? else {
                        return Ok(Decoded::NeedMore);
                    };
                    *self = Self::ENDED;
                    // Without trailers the loop goes on and returns the end.
                    if !trailers.is_empty() {
                        return Ok(Decoded::Trailers(trailers));
                    }
                }
            }
        }
    }

    /// Whether the end has been decoded already.
    pub(crate) fn has_ended(&self) -> bool {
        *self == Self::ENDED
    }
}

/// Takes at most `left` bytes, and subtracts them from it.
fn data(read: &mut Bytes, left: &mut u64) -> Decoded {
    if read.is_empty() {
        return Decoded::NeedMore;
    }
    let length = usize::try_from(*left).map_or(read.len(), |left| left.min(read.len()));
    *left -= length as u64;
    Decoded::Data(read.split_to(length))
}

/// The size of the chunk that begins here; `None` while its line is incomplete.
fn size(read: &mut Bytes) -> Result<Option<u64>, Malformed> {
    // httparse reads a line without digits as size 0. That would end the body early,
    // and the rest would be taken for the next response.
    if read.first().is_some_and(|byte| !byte.is_ascii_hexdigit()) {
        return Err(Malformed);
    }
    match httparse::parse_chunk_size(read) {
        Ok(httparse::Status::Complete((length, size))) => {
            read.advance(length);
            Ok(Some(size))
        }
        Ok(httparse::Status::Partial) if read.len() <= MAX_SIZE_LINE => Ok(None),
        Ok(httparse::Status::Partial) | Err(_) => Err(Malformed),
    }
}

/// The trailers that begin here; `None` while they are incomplete.
fn trailers(read: &mut Bytes) -> Result<Option<HeaderMap>, Malformed> {
    // Checked first, because httparse also accepts lines that end with LF alone.
    let Some((length, lines)) = trailers_length(read)? else {
        return match read.len() <= MAX_TRAILERS {
            true => Ok(None),
            false => Err(Malformed),
        };
    };
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(
        &read[..length],
        &mut fields[..lines.min(MAX_TRAILER_FIELDS)],
    ) else {
        return Err(Malformed);
    };
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| Malformed)?;
        trailers.append(name, value);
    }
    read.advance(length);
    Ok(Some(trailers))
}

/// The length of the trailers with the empty line at their end, and the number
/// of lines before it. Each line must end with CRLF: httparse would also accept
/// LF alone, which another recipient might not (RFC 9112 §11.1).
fn trailers_length(read: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let (mut line, mut lines) = (0, 0);
    for (at, _) in read.iter().enumerate().filter(|(_, byte)| **byte == b'\r') {
        match read.get(at + 1) {
            None => return Ok(None),
            Some(b'\n') if at == line => return Ok(Some((at + 2, lines))),
            Some(b'\n') => (line, lines) = (at + 2, lines + 1),
            Some(_) => return Err(Malformed),
        }
    }
    Ok(None)
}
