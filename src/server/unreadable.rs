//! Connections that end before there is a request: their bytes cannot be read.
//!
//! There is no request that the access log could show, so they are counted and
//! logged here. Invariants: a reason is logged at most once in [`PAUSE`], however
//! many clients connect; a message holds nothing that a client sent.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::observe::metrics::{Metrics, Unreadable};

/// As long as for an upstream that cannot be reached.
const PAUSE: Duration = Duration::from_secs(10);

/// The beginning of a TLS record with a handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: &[u8] = &[0x16, 0x03];
/// How PROXY headers begin, of version 1 and 2.
const PROXY_HEADERS: [&[u8]; 2] = [b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"];

/// The messages of all workers.
#[derive(Debug, Default)]
pub(super) struct UnreadableLog {
    /// By reason.
    logged: [Mutex<Logged>; Unreadable::ALL.len()],
}

#[derive(Debug, Default)]
struct Logged {
    last: Option<Instant>,
    /// Since then.
    times: u64,
}

/// What HTTP cannot read although it begins like this.
pub(super) fn opening(prefix: &[u8]) -> Unreadable {
    if prefix.starts_with(TLS_HANDSHAKE) {
        Unreadable::Tls
    } else if PROXY_HEADERS.iter().any(|begin| prefix.starts_with(begin)) {
        Unreadable::ProxyHeader
    } else {
        Unreadable::Http
    }
}

impl UnreadableLog {
    /// Counts a connection of `peer`, and logs it if a message is due.
    pub(super) fn record(&self, reason: Unreadable, peer: Option<IpAddr>, metrics: &Metrics) {
        metrics.unreadable(reason).inc();
        let now = Instant::now();
        let times = {
            let logged = self.logged[reason as usize].lock();
            let mut logged = logged.unwrap_or_else(PoisonError::into_inner);
            logged.times += 1;
            if logged.last.is_some_and(|last| now - last < PAUSE) {
                return;
            }
            logged.last = Some(now);
            std::mem::take(&mut logged.times)
        };
        let peer = peer.map(tracing::field::display);
        let message = "a connection ended because it could not be read";
        match reason {
            // Settings of the gateway, or of what is in front of it, are probably wrong.
            Unreadable::Tls | Unreadable::ProxyHeader => {
                tracing::warn!(peer, times, reason = explain(reason), "{message}");
            }
            // Clients that test what is here do this all the time.
            Unreadable::Http | Unreadable::TooLong | Unreadable::Handshake => {
                tracing::info!(peer, times, reason = explain(reason), "{message}");
            }
        }
    }
}

fn explain(reason: Unreadable) -> &'static str {
    match reason {
        Unreadable::Tls => "TLS, where server.tls is not set",
        Unreadable::ProxyHeader => {
            "a PROXY header that is malformed, or whose sender is not in access.trusted_proxies"
        }
        Unreadable::Http => "malformed HTTP",
        Unreadable::TooLong => "a request head that is too long",
        Unreadable::Handshake => {
            "no TLS handshake: cleartext, a PROXY header whose sender is not in \
             access.trusted_proxies, or a client that does not accept the certificate"
        }
    }
}
