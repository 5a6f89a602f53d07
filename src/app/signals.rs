//! The signals that stop or reload a gateway.
//!
//! Invariant: the first SIGTERM or SIGINT starts a drain, the second ends it.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Receives signals from its creation on.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// SIGTERM or SIGINT: stop.
    Stop,
    /// SIGHUP: read the settings again.
    Reload,
}

impl Signals {
    /// Handles the signals from now on; they no longer end the process by themselves.
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

    /// Waits for the next signal. Cancel safe.
    pub async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.terminate.recv() => Event::Stop,
            _ = self.interrupt.recv() => Event::Stop,
            _ = self.hangup.recv() => Event::Reload,
        }
    }

    /// Waits for the next signal to stop.
    pub async fn stop(&mut self) {
        // A reload during a drain would change nothing: its SIGHUP is ignored.
        while self.next().await != Event::Stop {}
    }
}
