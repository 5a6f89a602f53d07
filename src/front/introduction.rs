//! Who is on a connection, told before anything else is.
//!
//! Owns reading the PROXY protocol off a connection of a trusted proxy.
//! Invariants: nobody else's first bytes are looked at; what was read and is
//! no header is read again by whoever comes next, byte for byte.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::proxy_protocol::{self, Begin, V2_MAX};
use super::{Front, LINGER};

/// Bytes read at a time: the common headers, whole.
const PIECE: usize = 512;

impl Front {
    /// Finds out who is on a connection; `None` if it ended over that.
    pub(super) async fn introduce<IO>(
        &self,
        io: IO,
        peer: Option<SocketAddr>,
    ) -> Option<(Rewound<IO>, Option<IpAddr>)>
    where
        IO: AsyncRead + Unpin,
    {
        let peer = peer.map(|peer| peer.ip());
        let may_introduce = |peer| self.proxy.shared.tenants.load().trusts(peer);
        let Some(proxy) = peer.filter(|&peer| may_introduce(peer)) else {
            return Some((Rewound::new(io), peer));
        };
        let patience = self.common.settings.header_timeout;
        let over = async {
            // A drain does not wait for who has said nothing yet.
            tokio::select! {
                () = tokio::time::sleep(patience) => {}
                () = async {
                    self.common.drain.begun().await;
                    tokio::time::sleep(LINGER).await;
                } => {}
            }
        };
        let mut rewound = Rewound::new(io);
        let source = tokio::select! {
            biased;
            source = rewound.introduction() => source,
            () = over => {
                tracing::debug!(%proxy, "a trusted proxy did not say for whom it speaks");
                return None;
            }
        };
        match source {
            Ok(source) => Some((rewound, Some(source.unwrap_or(proxy)))),
            Err(error) => {
                tracing::debug!(%proxy, %error, "a trusted proxy's connection was closed");
                None
            }
        }
    }
}

/// A stream whose first bytes were read, and are read again.
pub(super) struct Rewound<IO> {
    io: IO,
    /// What is to be read again.
    first: Vec<u8>,
    at: usize,
}

impl<IO> Rewound<IO> {
    fn new(io: IO) -> Self {
        Self {
            io,
            first: Vec::new(),
            at: 0,
        }
    }
}

impl<IO: AsyncRead + Unpin> Rewound<IO> {
    /// Takes a header of the PROXY protocol off the stream, if there is one:
    /// for whom it speaks.
    async fn introduction(&mut self) -> io::Result<Option<IpAddr>> {
        loop {
            let begin = proxy_protocol::read(&self.first)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            match begin {
                Begin::Header { length, source } => {
                    self.at = length;
                    return Ok(source);
                }
                Begin::Other => return Ok(None),
                Begin::Unfinished => {}
            }
            // What is unfinished is shorter than the longest header.
            let room = (V2_MAX - self.first.len()).min(PIECE);
            self.first.reserve_exact(room);
            let mut piece = (&mut self.io).take(room as u64);
            if piece.read_buf(&mut self.first).await? == 0 {
                // It ended; what there was is told whoever comes next.
                return Ok(None);
            }
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Rewound<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let rest = &self.first[self.at..];
        let length = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..length]);
        self.at += length;
        if self.at == self.first.len() {
            self.first = Vec::new();
            self.at = 0;
        }
        if length == 0 {
            // The header was all there was so far.
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
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
