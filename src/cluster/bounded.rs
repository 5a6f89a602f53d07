//! Bounds the size of a value that a server sends.
//!
//! The client library holds a value until it is whole, and has no bound of its own. So a broken server,
//! or a client that may publish, could fill the memory of a gateway.
//!
//! Invariant: not more than the bound is read of one value, and the number of values has no bound.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use redis::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that fails when a value of RESP2 takes too much memory.
pub(super) struct Bounded<S> {
    stream: S,
    limit: usize,
    value: Progress,
}

/// How far the current value has arrived. Arrays can hold arrays, but only the end of the outermost one
/// counts, so numbers are enough.
struct Progress {
    /// What the value takes in memory, with what its lengths say of the rest.
    taken: usize,
    /// Elements that have not ended, the value itself included.
    missing: usize,
    part: Part,
}

/// Where the next byte belongs to.
enum Part {
    /// It says what the element is.
    Kind,
    Line(Line),
    /// A text with its line end, which has this many bytes left.
    Text(usize),
    /// Something else than RESP2. The library refuses it; here it has no end.
    Unknown,
}

/// A line that has not ended.
#[derive(Clone, Copy)]
struct Line {
    kind: u8,
    /// Of a text or an array.
    length: usize,
    is_negative: bool,
    /// The last byte was a carriage return.
    ends: bool,
}

impl<S> Bounded<S> {
    /// A stream whose values take at most `limit` bytes in memory.
    pub(super) fn new(stream: S, limit: usize) -> Self {
        let value = Progress {
            taken: 0,
            missing: 1,
            part: Part::Kind,
        };
        Self {
            stream,
            limit,
            value,
        }
    }
}

impl Progress {
    /// Goes on by these bytes. Whether the values stay within the limit.
    fn advance(&mut self, mut bytes: &[u8], limit: usize) -> bool {
        while let [byte, rest @ ..] = bytes {
            // The bytes of a text were counted with its length.
            if let Part::Text(left) = self.part {
                let length = left.min(bytes.len());
                bytes = &bytes[length..];
                match left - length {
                    0 => self.end_element(),
                    left => self.part = Part::Text(left),
                }
                continue;
            }
            self.taken = self.taken.saturating_add(1);
            self.advance_by(*byte);
            if self.taken > limit {
                return false;
            }
            bytes = rest;
        }
        true
    }

    fn advance_by(&mut self, byte: u8) {
        match &mut self.part {
            Part::Kind => {
                self.part = match byte {
                    b'+' | b'-' | b':' | b'$' | b'*' => Part::Line(Line {
                        kind: byte,
                        length: 0,
                        is_negative: false,
                        ends: false,
                    }),
                    _ => Part::Unknown,
                };
            }
            Part::Line(line) => match byte {
                b'\n' if line.ends => {
                    let line = *line;
                    self.end_line(line);
                }
                _ => {
                    line.ends = byte == b'\r';
                    line.is_negative |= byte == b'-';
                    if byte.is_ascii_digit() {
                        let length = line.length.saturating_mul(10);
                        line.length = length.saturating_add(usize::from(byte - b'0'));
                    }
                }
            },
            Part::Text(_) | Part::Unknown => {}
        }
    }

    fn end_line(&mut self, line: Line) {
        match line.kind {
            b'$' if !line.is_negative => {
                self.taken = self.taken.saturating_add(line.length);
                self.part = Part::Text(line.length.saturating_add(b"\r\n".len()));
            }
            b'*' if !line.is_negative => {
                let elements = line.length.saturating_mul(size_of::<Value>());
                self.taken = self.taken.saturating_add(elements);
                self.missing = self.missing.saturating_add(line.length);
                self.end_element();
            }
            _ => self.end_element(),
        }
    }

    fn end_element(&mut self) {
        self.part = Part::Kind;
        self.missing -= 1;
        if self.missing == 0 {
            (self.taken, self.missing) = (0, 1);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        if !this.value.advance(&buf.filled()[before..], this.limit) {
            // The library must not see them.
            buf.set_filled(before);
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1000;

    /// Whether values stay within the limit, however they are cut into pieces.
    fn fits(bytes: &[u8]) -> bool {
        let all = [1, 7, bytes.len().max(1)].map(|size| {
            let mut bounded = Bounded::new((), LIMIT);
            bytes
                .chunks(size)
                .all(|piece| bounded.value.advance(piece, LIMIT))
        });
        assert!(all.iter().all(|fits| *fits == all[0]), "{all:?}");
        all[0]
    }

    fn text(length: usize) -> Vec<u8> {
        let mut text = format!("${length}\r\n").into_bytes();
        // What a text holds has no meaning.
        text.extend(b"*9\r\n$".iter().cycle().take(length));
        text.extend(b"\r\n");
        text
    }

    #[test]
    fn any_number_of_values_fits() {
        let nested = b"*3\r\n:-7\r\n*2\r\n$-1\r\n*-1\r\n*0\r\n".to_vec();
        let values = [
            b"+OK\r\n".to_vec(),
            b"-ERR a\rb\nc\r\n".to_vec(),
            b"$0\r\n\r\n".to_vec(),
            text(900),
            nested,
        ];
        assert!(fits(&values.concat().repeat(1000)));
    }

    #[test]
    fn a_value_that_is_too_large_is_noticed_before_it_has_arrived() {
        for value in [
            &b"$1001\r\n"[..],
            b"$99999999999999999999999\r\n",
            b"*1001\r\n",
            b"*99999999999999999999999\r\n",
            // The sum counts, of texts and of arrays in arrays.
            &[b"*2\r\n".to_vec(), text(600), b"$600\r\n".to_vec()].concat(),
            &b"*1\r\n".repeat(100),
            &[b'+'; LIMIT + 1],
            &[b'x'; LIMIT + 1],
        ] {
            assert!(fits(&[text(900), text(900)].concat()));
            assert!(!fits(value), "{}", String::from_utf8_lossy(value));
            assert!(!fits(&[&text(900), value].concat()));
        }
    }
}
