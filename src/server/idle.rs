//! A connection at rest: nothing of HTTP is kept for it, only its stream.
//!
//! Owns waiting for a client to say something, which is all that most
//! connections do most of the time, and telling what it begins to speak.
//! Invariant: what a client said is in front of its stream when it is woken.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::conn::rewind::Rewound;
use crate::conn::state::{Activity, Overdue};
use crate::conn::timer::{Bell, Ring};
use crate::conn::{FAREWELL, LINGER};

/// How a client begins to speak HTTP/2 (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Why a rest is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    Http1,
    Http2,
    /// The connection is to be closed politely.
    Ended,
    /// The connection is to be cut.
    Cut,
}

/// Rests until the client says something or is to be left. On a connection
/// that `is_fresh` nothing was spoken yet.
pub(super) async fn rest<IO>(
    io: &mut Rewound<IO>,
    is_fresh: bool,
    activity: &Activity,
    bell: &mut Bell<'_>,
) -> Woken
where
    IO: AsyncRead + Unpin,
{
    loop {
        let event = poll_fn(|cx| match poll_said(io, is_fresh, cx) {
            Poll::Ready(woken) => Poll::Ready(Err(woken)),
            Poll::Pending => bell.poll(cx, activity.deadline()).map(Ok),
        });
        match event.await {
            Err(woken) => return woken,
            Ok(Ring::Drain) => bell.set(Instant::now() + LINGER),
            Ok(Ring::Timer) => match activity.overdue(Instant::now()) {
                Some(Overdue::Stuck) => return Woken::Cut,
                Some(Overdue::Idle) => return Woken::Ended,
                None if bell.is_draining() => return Woken::Ended,
                None => {}
            },
        }
    }
}

fn poll_said<IO>(io: &mut Rewound<IO>, is_fresh: bool, cx: &mut Context<'_>) -> Poll<Woken>
where
    IO: AsyncRead + Unpin,
{
    loop {
        if !is_fresh {
            // No request: some clients end a body so (RFC 9112 §2.2).
            let length = empty_lines(io.ahead());
            io.skip(length);
        }
        let has_spoken = !io.ahead().is_empty();
        if has_spoken && let Some(woken) = spoken(io.ahead(), is_fresh) {
            return Poll::Ready(woken);
        }
        match ready!(io.poll_ahead(cx)) {
            Ok(0) if has_spoken => return Poll::Ready(Woken::Http1),
            Ok(0) => return Poll::Ready(Woken::Ended),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(kind = %error.kind(), "connection ended with an error");
                return Poll::Ready(Woken::Ended);
            }
        }
    }
}

/// What a client speaks that said this; `None` if that cannot be told yet.
fn spoken(said: &[u8], is_fresh: bool) -> Option<Woken> {
    if !is_fresh || !PREFACE.starts_with(&said[..said.len().min(PREFACE.len())]) {
        return Some(Woken::Http1);
    }
    (said.len() >= PREFACE.len()).then_some(Woken::Http2)
}

/// The length of the whole empty lines in front.
fn empty_lines(said: &[u8]) -> usize {
    let mut rest = said;
    while let [b'\r', b'\n', after @ ..] | [b'\n', after @ ..] = rest {
        rest = after;
    }
    said.len() - rest.len()
}

/// Closes a stream politely: over TLS that is to say so.
pub(super) async fn close<IO>(io: &mut Rewound<IO>, bell: &mut Bell<'_>)
where
    IO: AsyncWrite + Unpin,
{
    let end = Instant::now() + FAREWELL;
    loop {
        let rang = poll_fn(|cx| match Pin::new(&mut *io).poll_shutdown(cx) {
            // An error is an end, too.
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => bell.poll(cx, Some(end)).map(Some),
        });
        match rang.await {
            Some(Ring::Drain) => {}
            Some(Ring::Timer) if Instant::now() < end => {}
            Some(Ring::Timer) | None => return,
        }
    }
}
