//! Detects the protocol of a client by the first bytes of a request.
//!
//! Invariant: nothing is consumed except empty lines between requests.

use std::io;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncRead;

use crate::conn::rewind::Rewind;

/// The first bytes of an HTTP/2 connection (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The protocol of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// Waits for the first bytes of a request; `None` if the stream ends before them.
/// HTTP/2 can only begin with the first request of a connection.
pub(super) fn poll_protocol<IO>(
    io: &mut Rewind<IO>,
    is_first: bool,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Option<Protocol>>>
where
    IO: AsyncRead + Unpin,
{
    loop {
        if !is_first {
            // Some clients send an empty line after a body (RFC 9112 §2.2). It must
            // neither create HTTP state nor start `server.header_timeout`.
            let length = empty_lines(io.prefix());
            io.skip(length);
        }
        let has_begun = !io.prefix().is_empty();
        if has_begun && let Some(protocol) = detect(io.prefix(), is_first) {
            return Poll::Ready(Ok(Some(protocol)));
        }
        if ready!(io.poll_fill(cx))? == 0 {
            // The stream ended within the preface: hyper sends a 400, as for any
            // other malformed request.
            return Poll::Ready(Ok(has_begun.then_some(Protocol::Http1)));
        }
    }
}

/// The protocol of a request that begins with these bytes; `None` if more bytes
/// are needed.
fn detect(bytes: &[u8], is_first: bool) -> Option<Protocol> {
    if !is_first || !PREFACE.starts_with(&bytes[..bytes.len().min(PREFACE.len())]) {
        return Some(Protocol::Http1);
    }
    // `PRI` is a valid method: only the whole preface decides.
    (bytes.len() >= PREFACE.len()).then_some(Protocol::Http2)
}

/// The length of the complete empty lines at the beginning.
fn empty_lines(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let [b'\r', b'\n', after @ ..] | [b'\n', after @ ..] = rest {
        rest = after;
    }
    bytes.len() - rest.len()
}
