//! How the body of an answer is written.
//!
//! Invariant: a client can tell where it ends, and whether it is whole (RFC
//! 9112 §6.3 and §7.1).

use bytes::Bytes;

use super::Malformed;
use super::write_buf::Outbox;

/// How an answer's body is written, and what is to come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// So many bytes are still to come.
    Length(u64),
    Chunked {
        /// A chunk's data is to be ended.
        is_open: bool,
    },
}

impl Written {
    /// Puts a piece of the body in, where there is room.
    ///
    /// # Errors
    /// It is more than was told.
    pub(crate) fn put(&mut self, out: &mut Outbox, data: Bytes) -> Result<(), Malformed> {
        match self {
            Self::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Malformed)?;
                out.push(data);
            }
            // It would be the last chunk.
            Self::Chunked { .. } if data.is_empty() => {}
            Self::Chunked { is_open } => {
                let end = if *is_open { "\r\n" } else { "" };
                let size = format!("{end}{:x}\r\n", data.len());
                out.text().extend_from_slice(size.as_bytes());
                out.push(data);
                *is_open = out.has_piece();
                if !*is_open {
                    out.text().extend_from_slice(b"\r\n");
                }
            }
        }
        Ok(())
    }

    /// Nothing more is there for now: what was put in is made complete, as some
    /// clients hand on whole chunks. Whether that took anything.
    pub(crate) fn pause(&mut self, out: &mut Outbox) -> bool {
        match self {
            Self::Chunked { is_open } if *is_open => {
                *is_open = false;
                out.text().extend_from_slice(b"\r\n");
                true
            }
            Self::Chunked { .. } | Self::Length(_) => false,
        }
    }

    /// The body has ended.
    ///
    /// # Errors
    /// It is less than was told.
    pub(crate) fn end(self, out: &mut Outbox) -> Result<(), Malformed> {
        let last: &[u8] = match self {
            Self::Length(0) => return Ok(()),
            Self::Length(_) => return Err(Malformed),
            Self::Chunked { is_open: true } => b"\r\n0\r\n\r\n",
            Self::Chunked { is_open: false } => b"0\r\n\r\n",
        };
        out.text().extend_from_slice(last);
        Ok(())
    }
}
