//! Which of the addresses of a name is connected to.
//!
//! Invariant: an address that does not respond delays one connection by the delay of the race and is
//! then tried last for [`FAILURE_MEMORY`], or until it responds.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

/// The recommendation of RFC 8305 §5.
pub(crate) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// How long an address is tried last after it failed or did not respond.
const FAILURE_MEMORY: Duration = Duration::from_secs(60);

/// Chooses between the addresses of a name by "happy eyeballs" (RFC 8305).
#[derive(Debug)]
pub(crate) struct AddressRace {
    delay: Duration,
    /// The addresses that failed or did not respond, and when. A short list: entries
    /// expire, and a name has few addresses.
    failed: Mutex<Vec<(SocketAddr, Instant)>>,
}

impl AddressRace {
    /// `delay`: how long an address is tried alone before the next one is tried as well.
    pub(crate) fn new(delay: Duration) -> Self {
        Self {
            delay,
            failed: Mutex::default(),
        }
    }

    /// Connects to the address that responds first. The next address is tried after the delay, or
    /// when an attempt fails.
    ///
    /// # Errors
    /// That of the attempt that failed last; `None` where there is no address.
    pub(crate) async fn connect<T, F>(
        &self,
        addresses: &[SocketAddr],
        connect: impl Fn(SocketAddr) -> F,
    ) -> Result<T, Option<io::Error>>
    where
        T: Send + 'static,
        F: Future<Output = io::Result<T>> + Send + 'static,
    {
        let mut waiting = self.ordered(addresses).into_iter();
        // The addresses tried so far, in order, without those that failed.
        let mut tried = Vec::new();
        let mut attempts = JoinSet::new();
        let mut last = None;
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
                () = tokio::time::sleep(self.delay), if has_more => continue,
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
                    last = Some(error);
                }
                // The attempt panicked, or the runtime shuts down.
                Some(Err(error)) => last = Some(error.into()),
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

#[cfg(test)]
mod tests;
