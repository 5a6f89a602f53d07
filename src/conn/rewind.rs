//! A stream of which more was read than anybody has made use of.
//!
//! Invariant: what was read is read again by whoever comes next, byte for byte
//! and before anything else, unless it was skipped.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::permit::Place;

/// Bytes read at a time: the head of a usual request, whole. They lie on the
/// stack, so that a connection that waits for them holds no room for them.
const PIECE: usize = 2048;

/// A stream whose first bytes were read, and are read again.
pub(crate) struct Rewound<IO> {
    io: IO,
    /// What is to be read again.
    ahead: BytesMut,
    /// Its place among the connections, for as long as there is the stream.
    place: Option<Place>,
}

impl<IO> Rewound<IO> {
    pub(crate) fn new(io: IO) -> Self {
        Self {
            io,
            ahead: BytesMut::new(),
            place: None,
        }
    }

    /// Gives it a place among the connections.
    pub(crate) fn takes(&mut self, place: Place) {
        self.place = Some(place);
    }

    /// What was read and will be read again.
    pub(crate) fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// Takes all that was read.
    pub(crate) fn take_ahead(&mut self) -> Bytes {
        std::mem::take(&mut self.ahead).freeze()
    }

    /// Takes bytes away from the front of what was read.
    pub(crate) fn skip(&mut self, length: usize) {
        self.ahead.advance(length);
        if self.ahead.is_empty() {
            // Their room may be large, and the wait for more long.
            self.ahead = BytesMut::new();
        }
    }

    /// Takes back bytes that somebody read and made no use of.
    pub(crate) fn put_back(&mut self, bytes: Bytes) {
        // An empty buffer may have room that is not to be kept.
        if !bytes.is_empty() {
            let mut ahead = BytesMut::from(bytes);
            ahead.extend_from_slice(&self.ahead);
            self.ahead = ahead;
        }
    }
}

impl<IO: AsyncRead + Unpin> Rewound<IO> {
    /// Reads more, to be read again; how much. None is the stream's end.
    pub(crate) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut piece = [const { MaybeUninit::uninit() }; PIECE];
        let mut piece = ReadBuf::uninit(&mut piece);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut piece))?;
        self.ahead.extend_from_slice(piece.filled());
        Poll::Ready(Ok(piece.filled().len()))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Rewound<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let length = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..length]);
        self.skip(length);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Rewound<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
