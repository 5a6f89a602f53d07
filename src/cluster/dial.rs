//! Streams of bytes to a server: over TCP, or through a socket of this machine.

use std::io;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, ToSocketAddrs, UnixStream, lookup_host};
use tokio::time::sleep;

use super::failure::Failure;

/// How long the operating system waits for the acknowledgement of data. Longer than operations may
/// take, and than service waits for the server.
const USER_TIMEOUT: Duration = Duration::from_secs(2);
/// Probes on the connection that only listens, so that its loss is noticed.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// After this time without a connection the next address of a name is tried too, beside those before
/// it (RFC 8305, section 5). So an address that drops packets costs this, not the time of the caller.
pub(super) const ATTEMPT_DELAY: Duration = Duration::from_millis(100);

/// A stream of bytes to a server.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Connects to the address of a host that is the first to accept. The caller bounds the time.
pub(super) async fn tcp(host: impl ToSocketAddrs) -> Result<TcpStream, Failure> {
    let addresses = lookup_host(host).await;
    let addresses = addresses.map_err(|_| Failure::Resolve)?;
    let stream = first(addresses.map(TcpStream::connect)).await?;
    configured(stream).map_err(|error| io_failure(&error))
}

/// The first success of attempts. Each begins when the one before it has failed, or has taken
/// [`ATTEMPT_DELAY`].
async fn first<T>(
    mut attempts: impl Iterator<Item = impl Future<Output = io::Result<T>>>,
) -> Result<T, Failure> {
    // Also for a name that has no address.
    let mut last = Failure::Resolve;
    let mut running = FuturesUnordered::new();
    loop {
        let next = attempts.next();
        let is_last = next.is_none();
        running.extend(next);
        tokio::select! {
            attempt = running.next() => match attempt {
                Some(Ok(connected)) => return Ok(connected),
                Some(Err(error)) => last = io_failure(&error),
                None => return Err(last),
            },
            () = sleep(ATTEMPT_DELAY), if !is_last => {}
        }
    }
}

fn configured(stream: TcpStream) -> io::Result<TcpStream> {
    // Operations are small: Nagle's algorithm would hold them back.
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(&stream);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(stream)
}

/// Connects to a socket of this machine.
pub(super) async fn unix(path: &Path) -> Result<Box<dyn Io>, Failure> {
    let stream = UnixStream::connect(path).await;
    Ok(Box::new(stream.map_err(|error| io_failure(&error))?))
}

fn io_failure(error: &io::Error) -> Failure {
    match error.kind() {
        // A socket that does not exist: no server has made it.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Failure::Refused,
        io::ErrorKind::TimedOut => Failure::Timeout,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Failure::Reset,
        _ => Failure::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::{Instant, timeout};

    use super::*;

    /// What becomes of an attempt.
    #[derive(Clone, Copy)]
    enum Address {
        DropsPackets,
        Refuses,
        /// Accepts after this time, in milliseconds.
        Accepts(u64),
    }

    async fn connect(address: Address) -> io::Result<u64> {
        match address {
            Address::DropsPackets => pending().await,
            Address::Refuses => Err(io::ErrorKind::ConnectionRefused.into()),
            Address::Accepts(after) => {
                sleep(Duration::from_millis(after)).await;
                Ok(after)
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_drops_packets_or_refuses_leaves_time_for_the_next_one() {
        use Address::{Accepts, DropsPackets, Refuses};
        for (addresses, expected, millis) in [
            (&[DropsPackets, Accepts(10)][..], Ok(10), 110),
            (&[DropsPackets, DropsPackets, Accepts(10)], Ok(10), 210),
            // The first one that accepts counts, not the one that was tried first.
            (&[Accepts(150), Accepts(10)], Ok(10), 110),
            (&[Accepts(150), Accepts(90)], Ok(150), 150),
            (&[Refuses, Accepts(10)], Ok(10), 10),
            (&[Refuses, Refuses], Err(Failure::Refused), 0),
            (&[], Err(Failure::Resolve), 0),
        ] {
            let begun = Instant::now();
            let attempts = addresses.iter().copied().map(connect);
            let connected = timeout(Duration::from_secs(1), first(attempts)).await;
            assert_eq!(connected, Ok(expected));
            assert_eq!(begun.elapsed(), Duration::from_millis(millis));
        }
    }

    #[tokio::test]
    async fn a_socket_or_port_without_a_server_refuses() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("socket");
        assert_eq!(unix(&missing).await.err(), Some(Failure::Refused));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = tcp(("127.0.0.1", port)).await.unwrap();
        assert!(stream.nodelay().unwrap());
        drop(listener);
        assert_eq!(tcp(("127.0.0.1", port)).await.err(), Some(Failure::Refused));
        // Longer than a label of a name can be, so no server of names is asked.
        assert_eq!(
            tcp((&*"x".repeat(64), 1)).await.err(),
            Some(Failure::Resolve)
        );
    }
}
