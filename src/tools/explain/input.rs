//! Raw HTTP requests, read from files and the standard input.
//!
//! Owns where one request ends and the next one begins. Invariants: memory is bounded; a
//! message names the file and the line, and quotes nothing of the request, which may hold
//! secrets.

use std::fmt;
use std::path::PathBuf;

use bytes::Bytes;

use super::Error;
use crate::http::h1::{BodyDecoder, Decoded, frame_request};
use crate::tools::input;

/// Bytes of all requests together: no head or body that matters is longer.
const MAX_INPUT: u64 = 16 << 20;
/// More requests could not be compared by people.
const MAX_REQUESTS: usize = 100;
/// Headers of one request: more than any setting allows.
const MAX_FIELDS: usize = 1000;

/// A request as it would arrive on a connection.
#[derive(Debug)]
pub(super) struct RawRequest {
    /// The file, and if it has several requests, which of them this is.
    pub(super) origin: String,
    pub(super) bytes: Bytes,
}

/// Why a text is no sequence of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    Empty,
    RequestLine,
    RequestLineBehindBody,
    Header,
    NoEndOfHead,
    /// The length that was announced, and the bytes that are there.
    ShortBody(u64, usize),
    Chunks,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str(
                "no request: a request line, headers, an empty line and the body are expected",
            ),
            Self::RequestLine => f.write_str(
                "no request line of HTTP/1.1, such as POST /v2/send/seen HTTP/1.1 \
                 (a request of HTTP/2 is written in the same way)",
            ),
            Self::RequestLineBehindBody => f.write_str(
                "a request line is expected behind the body of the request before; \
                 is its Content-Length too small?",
            ),
            Self::Header => f.write_str(
                "no header: a name, a colon and a value are expected, or an empty line \
                 before the body",
            ),
            Self::NoEndOfHead => {
                f.write_str("the head does not end: an empty line must follow the headers")
            }
            Self::ShortBody(announced, there) => write!(
                f,
                "Content-Length is {announced}, but the body has {there} bytes; correct it, or \
                 leave it out if the body ends with the file (an editor may have changed line ends)"
            ),
            Self::Chunks => f.write_str(
                "the chunked body is malformed or incomplete; without Transfer-Encoding and \
                 Content-Length the body ends with the file",
            ),
        }
    }
}

/// Reads the requests of all files; `-` is the standard input, and so is no file at all.
pub(super) fn read(paths: &[PathBuf]) -> Result<Vec<RawRequest>, Error> {
    let stdin = [PathBuf::from("-")];
    let paths = match paths {
        [] => &stdin,
        paths => paths,
    };
    let (mut requests, mut left) = (Vec::new(), MAX_INPUT);
    for path in paths {
        let name = input::name(path);
        let text = input::read(path, left).map_err(|error| Error::Io {
            name: name.clone(),
            error,
        })?;
        left = match left.checked_sub(text.len() as u64) {
            Some(left) if left > 0 => left,
            _ => return Err(Error::TooLong(MAX_INPUT >> 20)),
        };
        let found = split(&Bytes::from(text)).map_err(|(line, problem)| Error::Request {
            name: name.clone(),
            line,
            problem: problem.to_string(),
        })?;
        let is_only = found.len() == 1;
        for (number, bytes) in (1..).zip(found) {
            let origin = match is_only {
                true => name.clone(),
                false => format!("{name}, request {number}"),
            };
            requests.push(RawRequest { origin, bytes });
        }
        if requests.len() > MAX_REQUESTS {
            return Err(Error::TooMany(MAX_REQUESTS));
        }
    }
    Ok(requests)
}

/// The requests of a text, or the line of a problem.
pub(super) fn split(text: &Bytes) -> Result<Vec<Bytes>, (usize, Problem)> {
    let mut requests = Vec::new();
    let mut at = text.strip_prefix("\u{feff}".as_bytes()).map_or(0, |_| 3);
    loop {
        at += text[at..]
            .iter()
            .take_while(|byte| is_line_end(byte))
            .count();
        // One too many is refused by the caller.
        if at == text.len() || requests.len() > MAX_REQUESTS {
            break;
        }
        let line = |within: usize| {
            1 + text[..at + within]
                .iter()
                .filter(|it| **it == b'\n')
                .count()
        };
        if !begins_request(&text[at..]) {
            return Err(match requests.is_empty() {
                true => (line(0), Problem::RequestLine),
                false => (line(0), Problem::RequestLineBehindBody),
            });
        }
        let rest = text.slice(at..);
        let frame = match frame_request(&rest, MAX_FIELDS) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Err((line(rest.len()), Problem::NoEndOfHead)),
            Err(_) => return Err((line(malformed_line(&rest)), Problem::Header)),
        };
        let (head, body) = (&rest[..frame.length], rest.slice(frame.length..));
        let problem = |problem| (line(frame.length), problem);
        let (taken, body, length) = match is_framed(head) {
            true => {
                let length = length_of(frame.body, &body).map_err(problem)?;
                (length, body.slice(..length), None)
            }
            // No body, as HTTP has it, if another request follows.
            false if begins_request(trim_start(&body)) => (0, Bytes::new(), None),
            false => {
                let whole = body.len();
                let bare = body.strip_suffix(b"\n").unwrap_or(&body);
                let bare = bare.strip_suffix(b"\r").unwrap_or(bare).len();
                (whole, body.slice(..bare), Some(bare))
            }
        };
        requests.push(on_the_wire(
            head,
            &body,
            length.filter(|length| *length > 0),
        ));
        at += frame.length + taken;
    }
    match requests.is_empty() {
        true => Err((1, Problem::Empty)),
        false => Ok(requests),
    }
}

/// How many bytes a body takes whose head frames it.
fn length_of(mut decoder: BodyDecoder, body: &Bytes) -> Result<usize, Problem> {
    let announced = match decoder {
        BodyDecoder::Length(length) => Some(length),
        _ => None,
    };
    let mut rest = body.clone();
    loop {
        match decoder.decode(&mut rest) {
            Ok(Decoded::Data(_) | Decoded::Trailers(_)) => {}
            Ok(Decoded::End) => return Ok(body.len() - rest.len()),
            Ok(Decoded::NeedMore) | Err(_) => {
                return Err(match announced {
                    Some(announced) => Problem::ShortBody(announced, body.len()),
                    None => Problem::Chunks,
                });
            }
        }
    }
}

/// The request with the line ends of HTTP, and with the length of its body if the head has
/// none.
fn on_the_wire(head: &[u8], body: &[u8], length: Option<usize>) -> Bytes {
    let mut wire = Vec::with_capacity(head.len() + body.len() + 64);
    for line in head.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        wire.extend_from_slice(line);
        wire.extend_from_slice(b"\r\n");
    }
    if let Some(length) = length {
        wire.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
    }
    wire.extend_from_slice(b"\r\n");
    wire.extend_from_slice(body);
    wire.into()
}

/// Whether a head says where its body ends.
fn is_framed(head: &[u8]) -> bool {
    let framing: [&[u8]; 2] = [b"content-length:", b"transfer-encoding:"];
    head.split(|byte| *byte == b'\n').any(|line| {
        framing.iter().any(|name| {
            let start = line.get(..name.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(name))
        })
    })
}

/// Whether a text begins with a request line of HTTP/1.
fn begins_request(text: &[u8]) -> bool {
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target, version) = (words.next(), words.next(), words.next_back());
    method.is_some_and(|method| !method.is_empty() && method.iter().all(u8::is_ascii_graphic))
        && target.is_some_and(|target| !target.is_empty())
        && matches!(version, Some(b"HTTP/1.1" | b"HTTP/1.0"))
}

/// Where the first line begins that no head may have.
fn malformed_line(text: &[u8]) -> usize {
    let ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    let mut start = 0;
    for (at, _) in ends {
        let head = [&text[..=at], b"\r\n"].concat();
        if frame_request(&head, MAX_FIELDS).is_err() {
            return start;
        }
        start = at + 1;
    }
    start
}

fn trim_start(text: &[u8]) -> &[u8] {
    let blank = text.iter().take_while(|byte| is_line_end(byte)).count();
    &text[blank..]
}

fn is_line_end(byte: &u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}
