//! Byte streams to the upstream: over TCP, or made by a function in tests.
//!
//! Invariant: a connection whose other end has vanished ends after half a minute.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::error::Unreachable;
use crate::address_race::AddressRace;
use crate::{descriptors, keepalive};

/// How long the operating system waits for the acknowledgement of data before it
/// ends the connection: a NAT or a dead upstream may drop packets without a reset.
/// Long enough for an upstream that stops reading a long request for a while: a
/// closed receive window counts too.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// A stream of bytes to the upstream.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + Sync {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Io for T {}

type Dialled = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;
type Lookup = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// How the upstream is reached.
#[derive(Clone)]
pub enum Dial {
    /// Over TCP, by name.
    Tcp,
    /// Over streams made by this function: an upstream in the same process.
    With(Arc<dyn Fn() -> Dialled + Send + Sync>),
    /// By name, with these functions in place of the resolver and of TCP.
    Named {
        /// The addresses of a host, with this port.
        lookup: Arc<Lookup>,
        /// Connects to one of them.
        connect: Arc<dyn Fn(SocketAddr) -> Dialled + Send + Sync>,
    },
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "Tcp",
            Self::With(_) => "With(..)",
            Self::Named { .. } => "Named { .. }",
        })
    }
}

/// Connects over TCP to one of the addresses.
pub(super) async fn tcp(
    race: &AddressRace,
    addresses: &[SocketAddr],
) -> Result<TcpStream, Unreachable> {
    let stream = race.connect(addresses, TcpStream::connect).await;
    Ok(configured(stream.map_err(unreachable)?)?)
}

/// Why no address could be reached.
pub(super) fn unreachable(error: Option<io::Error>) -> Unreachable {
    error.map_or(Unreachable::Resolve, Unreachable::from)
}

fn configured(stream: TcpStream) -> io::Result<TcpStream> {
    // Before anything is sent: the last descriptors stay free for the admin pages
    // (rule: bounds).
    descriptors::check_upstream(&stream)?;
    stream.set_nodelay(true)?;
    // A request that waits for its response fails if the upstream dies.
    keepalive::enable(&stream)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(stream)
}

#[cfg(test)]
mod tests;
