//! A timer of the kernel's (`timerfd`) that a runtime can wait for.
//!
//! Invariant: it fires at the moment it was last set for, never before, and
//! once.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A timer of the kernel's.
#[derive(Debug)]
pub(super) struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    /// Makes one that is not set, for the runtime this is called in.
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        // The clock of `Instant`; it stands still while the machine sleeps.
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // Deprecated for the sake of types that may lie about their descriptor,
        // in favour of an unsafe one; an `OwnedFd` is what that asks for.
        #[expect(deprecated)]
        let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
        Ok(Self(timer))
    }

    /// Sets it to fire after so long; what it was set for before is forgotten.
    pub(super) fn set(&self, after: Duration) -> io::Result<()> {
        // Zero would unset it.
        let after = after.max(Duration::from_nanos(1));
        let it_value = Timespec::try_from(after).map_err(io::Error::other)?;
        let times = Itimerspec {
            it_interval: Timespec::default(),
            it_value,
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &times)?;
        Ok(())
    }

    /// Waits until it has fired.
    pub(super) async fn fired(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            // It can be read once each time it fires, and not when it was set
            // anew meanwhile.
            let mut count = [0; 8];
            match ready.try_io(|timer| Ok(rustix::io::read(timer, &mut count)?)) {
                Ok(read) => {
                    // All that it had was read, and should it fire anew that
                    // is another event: to read again to find that out would
                    // be a system call each time.
                    ready.clear_ready();
                    return read.map(drop);
                }
                Err(_would_block) => {}
            }
        }
    }
}
