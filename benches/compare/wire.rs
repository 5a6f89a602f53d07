//! As much HTTP/1.1 as the bench speaks: one connection, one call at a time.
//!
//! Written by hand so that it costs less than what it measures. Invariant: an
//! response that is not understood, or not a 2xx, is an error and never counts.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::Result;
use crate::head::Head;

/// Bytes of one read: a small response arrives in one piece, a large one in few.
const BUFFER: usize = 64 * 1024;

/// Bytes of a connection that never sees more than a small response: thousands are open at once.
const SMALL_BUFFER: usize = 2048;

/// The client's end of a keep-alive connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Box<[u8]>,
}

impl Connection {
    /// Connects, for small responses.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        Self::with_buffer(address, SMALL_BUFFER).await
    }

    /// Connects, for bodies of any size.
    pub(crate) async fn open_wide(address: SocketAddr) -> Result<Self> {
        Self::with_buffer(address, BUFFER).await
    }

    async fn with_buffer(address: SocketAddr, bytes: usize) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        // Closed by reset: thousands of ports must not stay in TIME_WAIT.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        Ok(Self {
            stream,
            buffer: vec![0; bytes].into(),
        })
    }

    /// Makes one call; returns the length of the response's body.
    pub(crate) async fn call(&mut self, request: &[u8]) -> Result<usize> {
        self.send(request).await?;
        self.response().await
    }

    /// Writes a request, or a piece of one.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// Reads one response to its end; returns the length of its body.
    pub(crate) async fn response(&mut self) -> Result<usize> {
        let mut read = 0;
        loop {
            if read == self.buffer.len() {
                return Err("a response's head is too long".into());
            }
            match self.stream.read(&mut self.buffer[read..]).await? {
                0 => return Err("the connection was closed".into()),
                more => read += more,
            }
            let Some(head) = Head::of(&self.buffer[..read])? else {
                continue;
            };
            if !head.start.starts_with(b"HTTP/1.1 2") {
                return Err(String::from_utf8_lossy(&self.buffer[..read]).into());
            }
            let mut left = (head.length + head.content_length).saturating_sub(read);
            let length = head.content_length;
            while left > 0 {
                match self.stream.read(&mut self.buffer).await? {
                    0 => return Err("a response broke off".into()),
                    more => left = left.saturating_sub(more),
                }
            }
            return Ok(length);
        }
    }
}
