//! Bytes that wait to be written to a stream.
//!
//! Invariant: each byte is written once, in the order in which it was added; a
//! long piece of a body is not copied.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::AsyncWrite;
use tokio_util::io::poll_write_buf;

/// A piece of at most this many bytes is copied after the text: one buffer is
/// cheaper to write than two.
pub(super) const COPIED: usize = 4 * 1024;

/// A buffer of this many bytes is written before more is added.
const FULL: usize = 4 * COPIED;

/// Bytes that wait to be written: text, then a piece of a body.
#[derive(Default)]
pub(crate) struct WriteBuf {
    text: Vec<u8>,
    /// Bytes of the text that have been written.
    written: usize,
    piece: Bytes,
}

impl WriteBuf {
    pub(crate) fn is_empty(&self) -> bool {
        self.written == self.text.len() && self.piece.is_empty()
    }

    /// The text, to be extended; only while there is no piece.
    pub(crate) fn text(&mut self) -> &mut Vec<u8> {
        debug_assert!(!self.has_piece(), "text would go out before the piece");
        &mut self.text
    }

    /// Whether a piece must be written before anything can be added.
    pub(crate) fn has_piece(&self) -> bool {
        !self.piece.is_empty()
    }

    /// Whether more should be added before this is written.
    pub(crate) fn has_room(&self) -> bool {
        !self.has_piece() && self.text.len() < FULL
    }

    /// Adds a piece of a body; only while there is none.
    pub(crate) fn push(&mut self, piece: Bytes) {
        if piece.len() <= COPIED {
            self.text().extend_from_slice(&piece);
        } else {
            debug_assert!(!self.has_piece(), "the piece would be lost");
            self.piece = piece;
        }
    }

    /// Writes once.
    ///
    /// # Errors
    /// Those of the stream. A stream that accepts no byte counts as closed.
    pub(crate) fn poll_write<IO>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>>
    where
        IO: AsyncWrite + Unpin + ?Sized,
    {
        let mut io = Pin::new(io);
        let text = &self.text[self.written..];
        let text_length = text.len();
        // Text and piece go out in one system call where the stream supports it.
        let length = if self.piece.is_empty() {
            ready!(io.poll_write(cx, text))?
        } else {
            let mut both = text.chain(&*self.piece);
            ready!(poll_write_buf(io.as_mut(), cx, &mut both))?
        };
        if length == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        // A short write may end within the text or within the piece.
        let of_text = length.min(text_length);
        self.written += of_text;
        self.piece.advance(length - of_text);
        if self.written == self.text.len() {
            // The allocation is kept for the next text.
            self.text.clear();
            self.written = 0;
        }
        Poll::Ready(Ok(()))
    }
}

/// Without the bytes: they hold credentials.
impl fmt::Debug for WriteBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.text.len() - self.written + self.piece.len();
        f.debug_struct("WriteBuf").field("length", &length).finish()
    }
}
