//! Streams of bytes to a server: over TCP, or through a socket of this machine.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, ToSocketAddrs, UnixStream, lookup_host};

use super::failure::Failure;
use crate::address_race::AddressRace;

/// How long the operating system waits for the acknowledgement of data. Longer than operations may
/// take, and than service waits for the server.
const USER_TIMEOUT: Duration = Duration::from_secs(2);
/// Probes on the connection that only listens, so that its loss is noticed.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// How long an address is tried alone. The time of the caller has to be enough for several.
pub(super) const ATTEMPT_DELAY: Duration = Duration::from_millis(100);

/// A stream of bytes to a server.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Connects to the address of a host that is the first to accept. The caller bounds the time.
pub(super) async fn tcp(host: impl ToSocketAddrs) -> Result<TcpStream, Failure> {
    let addresses = lookup_host(host).await.map_err(|_| Failure::Resolve)?;
    let addresses: Vec<_> = addresses.collect();
    let race = AddressRace::new(ATTEMPT_DELAY);
    let stream = race.connect(&addresses, TcpStream::connect).await;
    // Without an error there was no address.
    let stream = stream.map_err(|error| error.map_or(Failure::Resolve, |it| io_failure(&it)))?;
    configured(stream).map_err(|error| io_failure(&error))
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
    use super::*;

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
