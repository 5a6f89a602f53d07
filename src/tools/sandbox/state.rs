//! Settings of the sandbox, and what all its connections share.
//!
//! Invariant: the time in responses follows tokio's clock, which a test can pause.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::call_log::CallLog;
use super::faults::{Fault, Faults};
use super::quota::Quotas;

/// How the stand-in behaves.
#[derive(Clone, Default)]
pub struct Settings {
    /// The time from a complete request under `/v2` to its response.
    pub latency: Duration,
    /// Requests per second and burst that every instance may use. `None` and a rate of 0 mean unlimited.
    pub quota: Option<(f64, u32)>,
    /// The only valid token. `None` accepts any text that is not empty and does not begin with `invalid`.
    pub token: Option<String>,
    /// The only instances. `None` accepts 1 to 64 characters of `[A-Za-z0-9_-]` that do not begin with `missing`.
    pub instances: Option<Vec<String>>,
    /// Faults queued from the start, see [`Sandbox::script`](super::Sandbox::script).
    pub faults: Vec<Fault>,
}

/// What all clones and connections of a sandbox share.
pub(super) struct State {
    pub(super) settings: Settings,
    pub(super) log: CallLog,
    pub(super) faults: Faults,
    pub(super) quotas: Option<Quotas>,
    /// Number of messages sent. It becomes part of their ids, so that a duplicate is visible.
    pub(super) messages: AtomicU64,
    /// Number of instances created, used the same way.
    pub(super) created: AtomicU64,
    pub(super) began: Instant,
    /// Wall-clock time at `began`.
    epoch: Duration,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("latency", &self.latency)
            .field("quota", &self.quota)
            // Whether there is a token is useful; its text is a secret.
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("instances", &self.instances)
            .field("faults", &self.faults)
            .finish()
    }
}

impl State {
    pub(super) fn new(settings: Settings) -> Self {
        let began = Instant::now();
        Self {
            log: CallLog::default(),
            faults: Faults::new(settings.faults.clone()),
            quotas: settings
                .quota
                .and_then(|(rate, burst)| Quotas::new(rate, burst, began)),
            messages: AtomicU64::new(0),
            created: AtomicU64::new(0),
            began,
            // Read once: later times are computed from tokio's clock, which a test can pause.
            epoch: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
            settings,
        }
    }

    /// Time since the Unix epoch, by tokio's clock.
    pub(super) fn now(&self) -> Duration {
        self.epoch + self.began.elapsed()
    }
}
