//! Streams of bytes to the upstream: TCP, or made by a function in tests.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::error::Unreachable;
use crate::descriptors;

/// The operating system notices by these probes that an upstream has silently
/// gone.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// The shortest time that an address gets before the next one is tried.
const ADDRESS_SHARE: Duration = Duration::from_millis(250);

/// A stream of bytes to the upstream.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + Sync {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Io for T {}

type Dialled = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// How the upstream is reached.
#[derive(Clone)]
pub enum Dial {
    /// Over TCP, by name.
    Tcp,
    /// Over streams made by this function: an upstream in the same process.
    With(Arc<dyn Fn() -> Dialled + Send + Sync>),
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "Tcp",
            Self::With(_) => "With(..)",
        })
    }
}

/// Connects to the first address that accepts, within `timeout`.
pub(super) async fn tcp(
    addresses: &[SocketAddr],
    timeout: Duration,
) -> Result<TcpStream, Unreachable> {
    // An address that swallows packets must leave time for the others.
    let share = timeout / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let mut last = Unreachable::Resolve;
    for (index, address) in addresses.iter().enumerate() {
        let is_last = index + 1 == addresses.len();
        let share = if is_last {
            timeout
        } else {
            share.max(ADDRESS_SHARE)
        };
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(configured(stream)?),
            Ok(Err(error)) => last = error.into(),
            Err(_) => last = Unreachable::Timeout,
        }
    }
    Err(last)
}

fn configured(stream: TcpStream) -> io::Result<TcpStream> {
    descriptors::check_upstream(&stream)?;
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}
