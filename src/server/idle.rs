//! A connection between two requests, on which nothing of HTTP is kept.
//!
//! Most connections are in this state most of the time, so their cost is here.
//! Invariant: all bytes of the next request are in front of the stream when the
//! wait ends.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncWrite};

use super::detect::{Protocol, poll_protocol};
use crate::conn::lifecycle::{Action, Lifecycle};
use crate::conn::rewind::Rewind;

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// A request begins.
    Request(Protocol),
    /// The stream must be shut down.
    Close,
    /// The stream must be dropped.
    Cut,
}

/// Waits for the next request, `is_first` for the first on this connection.
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
        lifecycle.poll(cx).map(|action| match action {
            Action::Cut => Wait::Cut,
            // There is nothing to park here.
            Action::Close | Action::Park => Wait::Close,
        })
    })
    .await
}

/// Shuts the stream down: with TLS that includes a message to the client.
pub(super) async fn close<IO>(io: &mut Rewind<IO>, lifecycle: &mut Lifecycle<'_>)
where
    IO: AsyncWrite + Unpin,
{
    lifecycle.on_shutdown();
    // An error ends the shutdown, too; so does its deadline.
    poll_fn(|cx| match Pin::new(&mut *io).poll_shutdown(cx) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => lifecycle.poll(cx).map(drop),
    })
    .await;
}
