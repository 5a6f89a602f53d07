//! The service manager: inherited sockets and notifications.
//!
//! systemd keeps the sockets open over a restart (systemd.socket(5)), so that no
//! connection is refused. Notifications (sd_notify(3)) say when requests are served.
//! Invariant: without systemd nothing here has an effect.

use std::io;
use std::net::TcpListener;

use sd_notify::NotifyState;

/// Sockets handed to the process.
#[derive(Debug, Default)]
pub struct Sockets {
    /// The first: for requests, in place of `server.listen`.
    pub(crate) requests: Option<TcpListener>,
    /// The second: for the admin pages, in place of `server.admin`.
    pub(crate) admin: Option<TcpListener>,
}

impl Sockets {
    /// Takes the sockets named by `LISTEN_FDS`, if `LISTEN_PID` is this process.
    ///
    /// # Errors
    /// One of them is not a listening TCP socket.
    pub fn inherited() -> io::Result<Self> {
        let mut sockets = listenfd::ListenFd::from_env();
        let mut take = |index| {
            let socket: Option<TcpListener> = if index < sockets.len() {
                sockets
                    .take_tcp_listener(index)
                    .map_err(|error| not_a_listener(&error))?
            } else {
                None
            };
            if let Some(socket) = &socket {
                // systemd passes blocking sockets, on which tokio would hang.
                socket.set_nonblocking(true)?;
            }
            Ok::<_, io::Error>(socket)
        };
        Ok(Self {
            requests: take(0)?,
            admin: take(1)?,
        })
    }
}

fn not_a_listener(error: &io::Error) -> io::Error {
    let text = format!(
        "LISTEN_FDS: {error}; listening TCP sockets are expected, the first for requests, the second for the admin pages"
    );
    io::Error::new(error.kind(), text)
}

/// Requests are served from now on.
pub(crate) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The settings are being read again until [`ready`].
pub(crate) fn reloading() {
    // The time is required: systemd ignores a notification older than its own SIGHUP.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the service manager was not notified of the reload"),
    }
}

/// A drain has begun.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager was not notified");
    }
}
