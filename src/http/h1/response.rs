//! The head of an answer: read, and written.
//!
//! Invariant: whoever reads on knows where the body ends (RFC 9112 §6.3).

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, response};
use hyper::ext::ReasonPhrase;

use super::LAST_LINES;
use super::decode::{Chunked, Framing};
use super::encode::Written;
use super::header_case::{self, Spelling, is_same};
use super::raw_head::{Verbatim, Wording};
use super::write_buf::COPIED;
use crate::http::hop_by_hop;

/// Fields of an answer's head, read by us or by hyper: as in a request by
/// default, and what hyper parses without an allocation.
pub(crate) const MAX_ANSWER_FIELDS: usize = 100;
/// Bytes of it.
pub(crate) const MAX_ANSWER_HEAD: usize = 64 * 1024;

/// An answer that is none: not to be understood, or to be understood in two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The head of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: response::Parts,
    /// `None` where all fields are in the map and came in lower case.
    pub(crate) wording: Option<Wording>,
    pub(crate) framing: Framing,
    /// Another call may follow on the connection.
    pub(crate) keeps_alive: bool,
}

/// What the head of an answer says.
#[derive(Debug)]
pub(crate) enum Reply {
    /// More is to come (RFC 9110 §15.2).
    Informational,
    Answer(Answer),
}

/// Takes the head of an answer out of what was read; `None` if it is not all
/// there.
///
/// # Errors
/// It is none.
pub(crate) fn read_reply(read: &mut Bytes) -> Result<Option<Reply>, Malformed> {
    if read.is_empty() {
        return Ok(None);
    }
    let mut fields = [const { MaybeUninit::uninit() }; MAX_ANSWER_FIELDS];
    let mut answer = httparse::Response::new(&mut []);
    let mut parser = httparse::ParserConfig::default();
    // A proxy replaces line folding in answers with spaces (RFC 9112 §5.2).
    parser.allow_obsolete_multiline_headers_in_responses(true);
    let length = match parser.parse_response_with_uninit_headers(&mut answer, read, &mut fields) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if read.len() <= MAX_ANSWER_HEAD => return Ok(None),
        Ok(httparse::Status::Partial) | Err(_) => return Err(Malformed),
    };
    let reply = understand(read, &answer)?;
    read.advance(length);
    Ok(Some(reply))
}

fn understand(said: &Bytes, answer: &httparse::Response<'_, '_>) -> Result<Reply, Malformed> {
    let status = StatusCode::from_u16(answer.code.unwrap_or(0)).map_err(|_| Malformed)?;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        // Nobody has asked for that.
        return Err(Malformed);
    }
    if status.is_informational() {
        return Ok(Reply::Informational);
    }
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = status;
    let framed = Framed {
        is_http11: answer.version == Some(1),
        ..Framed::default()
    };
    let (framed, wording) = read_fields(said, answer.headers, framed, &mut head)?;
    let framing = framed.framing(status)?;
    let keeps_alive = framing != Framing::Close && framed.keeps_alive();
    let reason = answer.reason.unwrap_or_default();
    if status.canonical_reason() != Some(reason) {
        let reason = ReasonPhrase::try_from(reason.as_bytes()).map_err(|_| Malformed)?;
        head.extensions.insert(reason);
    }
    Ok(Reply::Answer(Answer {
        head,
        wording,
        framing,
        keeps_alive,
    }))
}

/// Reads the fields of an answer of this status: what they tell of its body,
/// and how they were worded.
fn read_fields(
    said: &Bytes,
    fields: &[httparse::Header<'_>],
    framed: Framed,
    head: &mut response::Parts,
) -> Result<(Framed, Option<Wording>), Malformed> {
    // Of others more is asked.
    if head.status.is_success() && !has_no_body(head.status) {
        let (mut framed, mut map) = (framed.clone(), HeaderMap::new());
        if let Some(verbatim) = Verbatim::of(fields, &mut framed, &mut map) {
            head.headers = map;
            return Ok((framed, Some(Wording::Verbatim(verbatim))));
        }
    }
    let mut framed = framed;
    let mut headers = HeaderMap::with_capacity(fields.len() + 2);
    let mut is_lower_case = true;
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed)?;
        is_lower_case &= name.as_str() == field.name;
        let value = value(said, field.value)?;
        if framed.by(field.name.as_bytes(), value.as_bytes()) != Told::Connection {
            headers.append(name, value);
        }
    }
    head.headers = headers;
    let spelling = || Spelling::of(fields.iter().map(|field| field.name));
    Ok((framed, (!is_lower_case).then(|| Wording::Spelt(spelling()))))
}

fn value(said: &Bytes, value: &[u8]) -> Result<HeaderValue, Malformed> {
    HeaderValue::from_maybe_shared(said.slice_ref(value)).or_else(|_| {
        let lines: Vec<_> = value
            .split(|&byte| byte == b'\n')
            .map(<[u8]>::trim_ascii)
            .collect();
        HeaderValue::from_bytes(&lines.join(&b' ')).map_err(|_| Malformed)
    })
}

/// What the fields of a head tell of its body and its connection.
#[derive(Clone, Default)]
pub(super) struct Framed {
    is_http11: bool,
    /// Whether the last of the transfer codings is `chunked`, if there are any.
    is_chunked: Option<bool>,
    length: Option<u64>,
    /// What is told of a length is none, or several.
    is_length_wrong: bool,
    says_close: bool,
    says_keep_alive: bool,
}

/// What a field told of the body and the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// `Content-Length`.
    Length,
    /// `Transfer-Encoding`.
    Coding,
    /// `Connection`, which says nothing more than is known now.
    Connection,
    /// `Connection`, with options that are not understood here.
    Options,
    Nothing,
}

impl Framed {
    /// A field among others.
    pub(super) fn by(&mut self, name: &[u8], value: &[u8]) -> Told {
        let is = |known| is_same(name, known);
        let listed = || value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        if is(b"content-length") {
            for told in listed().map(digits) {
                self.is_length_wrong |=
                    told.is_none() || self.length.is_some_and(|it| Some(it) != told);
                self.length = told;
            }
            Told::Length
        } else if is(b"transfer-encoding") {
            let last = listed().next_back().unwrap_or_default();
            // What is not even text names no coding that is known.
            let is_chunked = value.is_ascii() && last.eq_ignore_ascii_case(b"chunked");
            self.is_chunked = Some(is_chunked);
            Told::Coding
        } else if is(b"connection") {
            let mut says_more = false;
            for option in listed() {
                let says_close = option.eq_ignore_ascii_case(b"close");
                let says_keep_alive = option.eq_ignore_ascii_case(b"keep-alive");
                self.says_close |= says_close;
                self.says_keep_alive |= says_keep_alive;
                says_more |= !says_close && !says_keep_alive;
            }
            match says_more {
                true => Told::Options,
                false => Told::Connection,
            }
        } else {
            Told::Nothing
        }
    }

    fn framing(&self, status: StatusCode) -> Result<Framing, Malformed> {
        if has_no_body(status) {
            return Ok(Framing::ENDED);
        }
        match self.is_chunked {
            Some(_) if !self.is_http11 => Err(Malformed),
            Some(true) => Ok(Framing::Chunked(Chunked::Size)),
            Some(false) => Ok(Framing::Close),
            None if self.is_length_wrong => Err(Malformed),
            None => Ok(self.length.map_or(Framing::Close, Framing::Length)),
        }
    }

    /// Whether the connection outlives this answer (RFC 9112 §9.3).
    fn keeps_alive(&self) -> bool {
        !self.says_close && (self.is_http11 || self.says_keep_alive)
    }
}

/// A number as RFC 9110 §8.6 writes a length: digits alone.
pub(super) fn digits(text: &[u8]) -> Option<u64> {
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    let more = |number: u64, byte| number.checked_mul(10)?.checked_add(digit(byte)?);
    let number = text.iter().try_fold(0, more);
    number.filter(|_| !text.is_empty())
}

/// Whether an answer of this status ends with its head (RFC 9110 §6.4.1).
pub(crate) fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Writes the head of an answer whose body has this length, if that is known:
/// how the body is to be written.
pub(crate) fn write_answer<B>(
    text: &mut Vec<u8>,
    answer: &mut Response<B>,
    wording: Option<&Wording>,
    length: Option<u64>,
) -> Written {
    let (lines, spelling, told) = match wording {
        Some(Wording::Verbatim(it)) => (it.lines(), it.spelling(), it.length()),
        Some(Wording::Spelt(spelling)) => (&[][..], Some(spelling), told_length(answer)),
        None => (&[][..], None, told_length(answer)),
    };
    let (status, headers) = (answer.status(), answer.headers());
    let reason = answer.extensions().get::<ReasonPhrase>();
    let canonical = || status.canonical_reason().unwrap_or_default().as_bytes();
    let reason = reason.map_or_else(canonical, ReasonPhrase::as_bytes);
    let first = "HTTP/1.1 200 \r\n".len() + reason.len();
    let body = length.map_or(0, |length| usize::try_from(length).unwrap_or(COPIED));
    let fields = lines.len() + header_case::room(headers);
    text.reserve(first + fields + LAST_LINES + body.min(COPIED));
    text.extend_from_slice(b"HTTP/1.1 ");
    text.extend_from_slice(status.as_str().as_bytes());
    text.push(b' ');
    text.extend_from_slice(reason);
    text.extend_from_slice(b"\r\n");
    text.extend_from_slice(lines);
    header_case::write(text, headers, spelling);
    let written = match (has_no_body(status), told, length) {
        (true, ..) => Written::Length(0),
        (false, Some(length), _) => Written::Length(length),
        (false, None, Some(length)) => {
            text.extend_from_slice(format!("content-length: {length}\r\n").as_bytes());
            Written::Length(length)
        }
        (false, None, None) => {
            text.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Written::Chunked { is_open: false }
        }
    };
    text.extend_from_slice(b"\r\n");
    written
}

/// The length that an answer tells of its body, made one that can be read in
/// one way (RFC 9112 §6.3); one without a body must not tell any (RFC 9110
/// §8.6), but that of what was not modified.
fn told_length<B>(answer: &mut Response<B>) -> Option<u64> {
    let status = answer.status();
    let headers = answer.headers_mut();
    if !hop_by_hop::has(headers, "content-length") {
        return None;
    }
    let mut told = headers.get_all(CONTENT_LENGTH).iter();
    let (first, others) = (told.next()?.as_bytes(), told.next().is_some());
    // Several are all the same, or whoever has read them would have said so.
    let is_repeated = others || first.contains(&b',');
    let length = digits(first.split(|&byte| byte == b',').next()?.trim_ascii());
    match length {
        Some(length) if status != StatusCode::NO_CONTENT => {
            if is_repeated {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
        }
        _ => drop(headers.remove(CONTENT_LENGTH)),
    }
    length
}
