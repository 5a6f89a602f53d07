//! Where the body of an answer ends.
//!
//! Owns taking a body's bytes out of what was read (RFC 9112 §6 and §7).
//! Invariant: no byte beyond the body's end is taken.

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::Malformed;

/// Bytes of a chunk's size with its extensions, and of all trailers.
const MAX_SIZE_LINE: usize = 4 * 1024;
const MAX_TRAILERS: usize = 16 * 1024;
const MAX_TRAILER_FIELDS: usize = 100;

/// How a body is framed, and what is still to come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes; none once it has ended.
    Length(u64),
    Chunked(Chunked),
    /// All until the connection's end.
    Close,
}

/// Where in a chunked body the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chunked {
    Size,
    /// Within a chunk of which so many bytes are to come.
    Data(u64),
    /// Behind a chunk's data.
    DataEnd,
    Trailers,
}

/// What there was to be taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The body has ended.
    End,
    /// Nothing: more must be read.
    Nothing,
}

impl Framing {
    /// Nothing is to come.
    pub(crate) const ENDED: Self = Self::Length(0);

    /// Takes what is at hand of the body out of what was read.
    ///
    /// # Errors
    /// Its chunks are none.
    pub(crate) fn take(&mut self, read: &mut Bytes) -> Result<Taken, Malformed> {
        loop {
            match self {
                Self::Length(0) => return Ok(Taken::End),
                Self::Length(left) | Self::Chunked(Chunked::Data(left @ 1..)) => {
                    return Ok(data(read, left));
                }
                Self::Close => {
                    let mut endless = u64::MAX;
                    return Ok(data(read, &mut endless));
                }
                Self::Chunked(Chunked::Data(0)) => *self = Self::Chunked(Chunked::DataEnd),
                Self::Chunked(Chunked::DataEnd) => match **read {
                    [b'\r', b'\n', ..] => {
                        read.advance(2);
                        *self = Self::Chunked(Chunked::Size);
                    }
                    [] | [b'\r'] => return Ok(Taken::Nothing),
                    _ => return Err(Malformed),
                },
                Self::Chunked(Chunked::Size) => match size(read)? {
                    None => return Ok(Taken::Nothing),
                    Some(0) => *self = Self::Chunked(Chunked::Trailers),
                    Some(size) => *self = Self::Chunked(Chunked::Data(size)),
                },
                Self::Chunked(Chunked::Trailers) => {
                    let Some(trailers) = trailers(read)? else {
                        return Ok(Taken::Nothing);
                    };
                    *self = Self::ENDED;
                    if !trailers.is_empty() {
                        return Ok(Taken::Trailers(trailers));
                    }
                }
            }
        }
    }

    /// Whether the body ends here, as far as can be told without reading on.
    pub(crate) fn has_ended(&self) -> bool {
        *self == Self::ENDED
    }
}

/// Up to so many bytes, which are counted off.
fn data(read: &mut Bytes, left: &mut u64) -> Taken {
    if read.is_empty() {
        return Taken::Nothing;
    }
    let length = usize::try_from(*left).map_or(read.len(), |left| left.min(read.len()));
    *left -= length as u64;
    Taken::Data(read.split_to(length))
}

/// The size of the chunk that begins here; `None` if its line is unfinished.
fn size(read: &mut Bytes) -> Result<Option<u64>, Malformed> {
    // The parser takes no digits at all for zero.
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

/// The trailers that begin here; `None` if they are unfinished.
fn trailers(read: &mut Bytes) -> Result<Option<HeaderMap>, Malformed> {
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

/// Where the trailers end, with an empty line, and how many lines there are
/// before it. They end as they should: the parser would take a line feed alone.
fn trailers_length(read: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let (mut line, mut lines) = (0, 0);
    for (place, _) in read.iter().enumerate().filter(|(_, byte)| **byte == b'\r') {
        match read.get(place + 1) {
            None => return Ok(None),
            Some(b'\n') if place == line => return Ok(Some((place + 2, lines))),
            Some(b'\n') => (line, lines) = (place + 2, lines + 1),
            Some(_) => return Err(Malformed),
        }
    }
    Ok(None)
}
