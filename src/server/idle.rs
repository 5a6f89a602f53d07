//! A connection between two requests. It holds no HTTP state.
//!
//! Most connections are idle most of the time, so their memory is decided here.
//! Invariant: when the wait ends, every byte read so far is put back in front of
//! the stream.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncWrite};

use super::detect::{Protocol, poll_protocol};
use crate::conn::lifecycle::{Action, Lifecycle};
use crate::conn::rewind::Rewind;

/// What must happen after a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Serve a request: its first bytes are there.
    Request(Protocol),
    /// Shut the stream down.
    Close,
    /// Drop the stream.
    Cut,
}

/// Waits for the next request; `is_first` if it is the first on this connection.
pub(super) async fn wait<IO>(
    io: &mut Rewind<IO>,
    is_first: bool,
    lifecycle: &mut Lifecycle<'_>,
) -> Wait
where
    IO: AsyncRead + Unpin,
{
    poll_fn(|cx| {
        match poll_protocol(io, is_first, cx) {
            Poll::Ready(Ok(Some(protocol))) => return Poll::Ready(Wait::Request(protocol)),
            Poll::Ready(Ok(None)) => return Poll::Ready(Wait::Close),
            Poll::Ready(Err(error)) => {
                tracing::debug!(kind = %error.kind(), "connection ended with an error");
                return Poll::Ready(Wait::Close);
            }
            Poll::Pending => {}
        }
        // Second, so that a request that has arrived is served although the timeout
        // is over: its client could not know.
        lifecycle.poll(cx).map(|action| match action {
            Action::Cut => Wait::Cut,
            // No request is in flight, so there is nothing to deliver first.
            // (`Park` does not occur: there is no HTTP state.)
            Action::Close | Action::Park => Wait::Close,
        })
    })
    .await
}

/// Shuts the stream down, which with TLS sends a `close_notify` (RFC 8446 §6.1).
pub(super) async fn close<IO>(io: &mut Rewind<IO>, lifecycle: &mut Lifecycle<'_>)
where
    IO: AsyncWrite + Unpin,
{
    lifecycle.on_shutdown();
    // An error ends the shutdown as well, and so does its deadline: a client that
    // reads nothing can block `close_notify`.
    poll_fn(|cx| match Pin::new(&mut *io).poll_shutdown(cx) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => lifecycle.poll(cx).map(drop),
    })
    .await;
}
