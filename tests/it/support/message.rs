//! A message of HTTP/1.1 as it stands on the wire.

use std::fmt;

use serde_json::Value;

/// How the end of a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    None,
    Length,
    Chunked,
    UntilClose,
}

/// A request or a response, read to its end. Bytes of fields that are no ASCII stand as Latin-1.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// The request line or the status line.
    pub(crate) start: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) framing: Framing,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
}

/// Whose message is read: a response's end depends on what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Response,
    AnswerToHead,
}

impl Message {
    /// Takes one message from the front of `bytes`; `None` if it is not complete yet. Returns the bytes it took.
    pub(super) fn parse(bytes: &[u8], kind: Kind, ended: bool) -> Option<(Self, usize)> {
        let head_end = find(bytes, b"\r\n\r\n")? + 4;
        let mut lines = bytes[..head_end - 4].split(|&byte| byte == b'\n');
        let start = latin(trim(lines.next()?));
        let fields: Vec<_> = lines.map(field).collect();
        let mut message = Self {
            start,
            fields,
            framing: Framing::None,
            body: Vec::new(),
            trailers: Vec::new(),
        };
        let rest = &bytes[head_end..];
        let bodyless = kind == Kind::AnswerToHead
            || kind == Kind::Response
                && (message.status() < 200 || matches!(message.status(), 204 | 304));
        if bodyless {
            return Some((message, head_end));
        }
        let chunked = message
            .field("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        if chunked {
            message.framing = Framing::Chunked;
            let taken = message.unchunk(rest)?;
            return Some((message, head_end + taken));
        }
        if let Some(length) = message.field("content-length") {
            let length: usize = length.parse().unwrap();
            message.framing = Framing::Length;
            message.body = rest.get(..length)?.to_vec();
            return Some((message, head_end + length));
        }
        if kind == Kind::Request {
            return Some((message, head_end));
        }
        message.framing = Framing::UntilClose;
        message.body = rest.to_vec();
        ended.then_some((message, bytes.len()))
    }

    fn unchunk(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        loop {
            let end = at + find(&bytes[at..], b"\r\n")?;
            let size = latin(&bytes[at..end]);
            let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).unwrap();
            at = end + 2;
            if size == 0 {
                break;
            }
            self.body.extend_from_slice(bytes.get(at..at + size)?);
            assert_eq!(bytes.get(at + size..at + size + 2)?, b"\r\n");
            at += size + 2;
        }
        loop {
            let end = at + find(&bytes[at..], b"\r\n")?;
            let line = &bytes[at..end];
            at = end + 2;
            if line.is_empty() {
                return Some(at);
            }
            self.trailers.push(field(line));
        }
    }

    /// Reads a complete request.
    pub(crate) fn request(bytes: &[u8]) -> Self {
        Self::parse(bytes, Kind::Request, true)
            .expect("a complete request")
            .0
    }

    /// Reads a complete response to a request with this method.
    pub(crate) fn response(bytes: &[u8], method: &str) -> Self {
        let kind = match method {
            "HEAD" => Kind::AnswerToHead,
            _ => Kind::Response,
        };
        let whole = Self::parse(bytes, kind, true);
        whole
            .unwrap_or_else(|| panic!("no complete response: {:?}", latin(bytes)))
            .0
    }

    /// The status of a response.
    pub(crate) fn status(&self) -> u16 {
        self.start.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// The value of a field, by its name in any case; the first, if there are several.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {self:?} {:?}", latin(&self.body)))
    }

    /// What is left for the far end when `Host` and the fields of the hop are taken out. The order of fields of
    /// different names means nothing (RFC 9110 §5.3), so they are sorted; those of one name keep theirs.
    pub(crate) fn end_to_end(mut self) -> Self {
        const HOP: [&str; 6] = [
            "host",
            "connection",
            "keep-alive",
            "proxy-connection",
            "te",
            "transfer-encoding",
        ];
        self.fields
            .retain(|(name, _)| !HOP.contains(&&*name.to_ascii_lowercase()));
        self.fields
            .sort_by_key(|(name, _)| name.to_ascii_lowercase());
        self
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.body[..self.body.len().min(300)];
        f.debug_struct("Message")
            .field("start", &self.start)
            .field("fields", &self.fields)
            .field("framing", &self.framing)
            .field("body_bytes", &self.body.len())
            .field("body", &latin(shown))
            .field("trailers", &self.trailers)
            .finish()
    }
}

pub(super) fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

/// Every byte as the character of its number: nothing is lost, and ASCII reads as itself.
pub(super) fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

fn trim(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn field(line: &[u8]) -> (String, String) {
    let line = latin(trim(line));
    let (name, value) = line
        .split_once(':')
        .unwrap_or_else(|| panic!("no field: {line:?}"));
    (name.to_owned(), value.trim().to_owned())
}
