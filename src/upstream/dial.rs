//! Byte streams to the upstream: over TCP, or made by a function in tests.
//!
//! Invariant: an address that does not respond delays one connection by
//! [`ATTEMPT_DELAY`] and is then tried last for [`FAILURE_MEMORY`], or until it responds.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::error::Unreachable;
use crate::{descriptors, keepalive};

/// How long the operating system waits for the acknowledgement of data before it
/// ends the connection: a NAT or a dead upstream may drop packets without a reset.
/// Long enough for an upstream that stops reading a long request for a while: a
/// closed receive window counts too.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an address is tried alone before the next one is tried as well: the
/// recommendation of RFC 8305 §5.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// How long an address is tried last after it failed or did not respond.
const FAILURE_MEMORY: Duration = Duration::from_secs(60);

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

/// Chooses between the addresses of the upstream by "happy eyeballs" (RFC 8305).
#[derive(Debug, Default)]
pub(super) struct AddressRace {
    /// The addresses that failed or did not respond, and when. A short list: entries
    /// expire, and a name has few addresses.
    failed: Mutex<Vec<(SocketAddr, Instant)>>,
}

impl AddressRace {
    /// Connects over TCP to one of the addresses.
    pub(super) async fn tcp(&self, addresses: &[SocketAddr]) -> Result<TcpStream, Unreachable> {
        let stream = self.connect(addresses, TcpStream::connect).await?;
        Ok(configured(stream)?)
    }

    /// Connects to the address that responds first. The next address is tried after
    /// [`ATTEMPT_DELAY`], or when an attempt fails.
    pub(super) async fn connect<T, F>(
        &self,
        addresses: &[SocketAddr],
        connect: impl Fn(SocketAddr) -> F,
    ) -> Result<T, Unreachable>
    where
        T: Send + 'static,
        F: Future<Output = io::Result<T>> + Send + 'static,
    {
        let mut waiting = self.ordered(addresses).into_iter();
        // The addresses tried so far, in order, without those that failed.
        let mut tried = Vec::new();
        let mut attempts = JoinSet::new();
        let mut last = Unreachable::Resolve;
        loop {
            if let Some(address) = waiting.next() {
                let attempt = connect(address);
                attempts.spawn(async move { (address, attempt.await) });
                tried.push(address);
            }
            let has_more = waiting.len() > 0;
            let ended = tokio::select! {
                biased;
                ended = attempts.join_next() => ended,
                () = tokio::time::sleep(ATTEMPT_DELAY), if has_more => continue,
            };
            match ended {
                None => return Err(last),
                Some(Ok((address, Ok(stream)))) => {
                    // Addresses that were tried earlier and have not responded yet would
                    // delay the next connection too. Returning cancels their attempts.
                    self.record(tried.into_iter().take_while(|other| *other != address));
                    self.forget(address);
                    return Ok(stream);
                }
                Some(Ok((address, Err(error)))) => {
                    self.record([address]);
                    tried.retain(|other| *other != address);
                    last = error.into();
                }
                // The attempt panicked, or the runtime shuts down.
                Some(Err(_)) => last = Unreachable::Network(io::ErrorKind::Other),
            }
        }
    }

    /// The addresses in the order in which they are tried: IPv6 and IPv4 alternate
    /// (RFC 8305 §4), and addresses that failed recently are last.
    fn ordered(&self, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
        let is_first = |address: &SocketAddr| address.is_ipv6() == addresses[0].is_ipv6();
        let (first, second): (Vec<_>, Vec<_>) = addresses.iter().copied().partition(is_first);
        let mut ordered = Vec::with_capacity(addresses.len());
        for at in 0..addresses.len() {
            ordered.extend([first.get(at), second.get(at)].into_iter().flatten());
        }
        let now = Instant::now();
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.retain(|(_, when)| now - *when < FAILURE_MEMORY);
        // A stable sort: within both groups the order stays.
        ordered.sort_by_key(|address| failed.iter().any(|(other, _)| other == address));
        ordered
    }

    /// The address responds again. After an outage all addresses have failed, and a dead one
    /// would be tried before it.
    fn forget(&self, address: SocketAddr) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.retain(|(other, _)| *other != address);
    }

    fn record(&self, addresses: impl IntoIterator<Item = SocketAddr>) {
        let now = Instant::now();
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        for address in addresses {
            failed.retain(|(other, _)| *other != address);
            failed.push((address, now));
        }
    }
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
