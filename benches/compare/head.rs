//! What has to be known of a message's head, read by hand.
//!
//! Shared with `instructions`. Invariant: a length that is not understood is an
//! error.

use crate::Result;

/// What has to be known of a message's head.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    /// The first line.
    pub(crate) start: &'a [u8],
    /// Bytes up to the body.
    pub(crate) length: usize,
    pub(crate) content_length: usize,
}

impl<'a> Head<'a> {
    /// Reads the head at the begin of `bytes`; none if it is not complete.
    pub(crate) fn of(bytes: &'a [u8]) -> Result<Option<Self>> {
        const LENGTH: &[u8] = b"content-length:";
        let mut at = 0;
        let mut start: &[u8] = b"";
        let mut content_length = 0;
        while let Some(end) = bytes[at..].iter().position(|&byte| byte == b'\n') {
            let line = bytes[at..at + end].trim_ascii_end();
            at += end + 1;
            if line.is_empty() {
                return Ok(Some(Self {
                    start,
                    length: at,
                    content_length,
                }));
            }
            if start.is_empty() {
                start = line;
                continue;
            }
            match line.first() {
                Some(b'c' | b'C')
                    if line.len() > LENGTH.len()
                        && line[..LENGTH.len()].eq_ignore_ascii_case(LENGTH) =>
                {
                    let text = std::str::from_utf8(&line[LENGTH.len()..])?;
                    content_length = text.trim().parse()?;
                }
                Some(b't' | b'T') if line.to_ascii_lowercase().starts_with(b"transfer-enc") => {
                    return Err("a chunked body: the bench wants Content-Length kept".into());
                }
                _ => {}
            }
        }
        Ok(None)
    }
}
