//! Encodes the body of a response.
//!
//! Invariant: the client can tell where the body ends and whether it is
//! complete (RFC 9112 §6.3 and §7.1).

use bytes::Bytes;

use super::Malformed;
use super::write_buf::WriteBuf;

/// The framing of a body, and how much of it is still to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyEncoder {
    /// The bytes that are left.
    Length(u64),
    Chunked {
        /// The CRLF after the data of the last chunk is still to be written.
        is_open: bool,
    },
}

impl BodyEncoder {
    /// Writes a piece of the body; only while `out` has room.
    ///
    /// # Errors
    /// The body is longer than announced.
    pub(crate) fn put(&mut self, out: &mut WriteBuf, data: Bytes) -> Result<(), Malformed> {
        match self {
            Self::Length(left) => {
                // More bytes than announced would be read as the next response.
                *left = left.checked_sub(data.len() as u64).ok_or(Malformed)?;
                out.push(data);
            }
            // An empty chunk would be the last one.
            Self::Chunked { .. } if data.is_empty() => {}
            Self::Chunked { is_open } => {
                // A long piece is written after the text. So the CRLF that ends its
                // chunk can only be written with the next text.
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

    /// Ends the current chunk while no further piece is available: some clients
    /// use a chunk only once it is complete. Returns whether it wrote anything.
    pub(crate) fn pause(&mut self, out: &mut WriteBuf) -> bool {
        match self {
            Self::Chunked { is_open } if *is_open => {
                *is_open = false;
                out.text().extend_from_slice(b"\r\n");
                true
            }
            Self::Chunked { .. } | Self::Length(_) => false,
        }
    }

    /// Writes the end of the body.
    ///
    /// # Errors
    /// The body is shorter than announced.
    pub(crate) fn end(self, out: &mut WriteBuf) -> Result<(), Malformed> {
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
