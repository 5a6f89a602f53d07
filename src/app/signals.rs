//! The signals that steer a gateway.
//!
//! Invariant: the first SIGTERM or SIGINT starts a drain, the second ends it.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for signals from the moment it is made.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM or SIGINT: stop.
    Stop,
    /// SIGHUP: re-read the settings.
    Reload,
}

impl Signals {
    /// Starts to listen; from now on the signals no longer end the process.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal.
    pub async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.terminate.recv() => Request::Stop,
            _ = self.interrupt.recv() => Request::Stop,
            _ = self.hangup.recv() => Request::Reload,
        }
    }

    /// The next request to stop.
    pub async fn stop(&mut self) {
        while self.next().await != Request::Stop {}
    }
}
