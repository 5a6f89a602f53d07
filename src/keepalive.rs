//! TCP keep-alive, for connections of clients and to the upstream.
//!
//! Invariant: a connection whose other end has vanished without FIN or reset ends after
//! half a minute, also while both sides are silent.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// While nothing is sent, the operating system tests a connection after this time. Go's servers
/// use the same time.
pub(crate) const TIME: Duration = Duration::from_secs(15);
const INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;

/// Turns keep-alive on. Connections that a listener accepts have the settings of the listener.
///
/// # Errors
/// It is no TCP socket, or the system lacks these options.
pub(crate) fn enable(socket: &impl AsFd) -> io::Result<()> {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(TIME)
        .with_interval(INTERVAL)
        .with_retries(RETRIES);
    socket2::SockRef::from(socket).set_tcp_keepalive(&keepalive)
}
