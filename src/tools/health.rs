//! Asks a running gateway whether it accepts requests, for health checks of containers and scripts.
//!
//! Invariant: a question ends within three seconds, whatever responds at the address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The admin listener responds at once; this is time for a machine without a free core.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The status line is in the first bytes of a response.
const MAX_RESPONSE: u64 = 1024;

/// Why the gateway is not healthy.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    /// The runtime could not be started.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
    /// Nothing responds.
    #[error("http://{0}/readyz: {1}")]
    Unreachable(SocketAddr, io::Error),
    /// It is draining, or something else listens there.
    #[error("http://{0}/readyz: {1}")]
    NotReady(SocketAddr, String),
}

/// Asks `/readyz` of the gateway whose `server.admin` this is.
///
/// # Errors
/// It does not accept requests, or does not respond in time.
pub async fn check(admin: SocketAddr) -> Result<(), Unhealthy> {
    let address = reachable(admin);
    let response = ask(address, "/readyz", MAX_RESPONSE)
        .await
        .map_err(|error| Unhealthy::Unreachable(address, error))?;
    let status = response.split(|byte| *byte == b'\r').next().unwrap_or(b"");
    if status.starts_with(b"HTTP/1.1 200 ") {
        return Ok(());
    }
    // Whatever listens there chose these bytes.
    let status = status.escape_ascii().to_string();
    Err(Unhealthy::NotReady(address, status))
}

/// Asks an admin listener for a page, and reads at most the first `max` bytes of the response.
pub(crate) async fn ask(address: SocketAddr, path: &str, max: u64) -> io::Result<Vec<u8>> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut response = Vec::new();
        stream.take(max).read_to_end(&mut response).await?;
        Ok(response)
    };
    timeout(TIMEOUT, exchange)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The address to connect to: a listener on all addresses is asked on the loopback.
fn reachable(admin: SocketAddr) -> SocketAddr {
    let ip = match admin.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, admin.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_asked_on_the_loopback() {
        for (admin, asked) in [
            ("0.0.0.0:9464", "127.0.0.1:9464"),
            ("[::]:9464", "[::1]:9464"),
            ("10.0.0.5:1", "10.0.0.5:1"),
        ] {
            assert_eq!(reachable(admin.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
