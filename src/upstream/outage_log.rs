//! What the log says while the upstream cannot be reached.
//!
//! Owns when something is said, of all workers' calls together. Invariants: a
//! cause is told when it first appears and then at most once in [`PAUSE`],
//! however many calls fail; nothing of a request is ever told; a call that
//! succeeds on a pooled connection costs nothing here.

use std::fmt::Display;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::error::Unreachable;

/// Often enough to see in a log that it goes on, too seldom to fill a disk.
const PAUSE: Duration = Duration::from_secs(10);

/// Whether the upstream can be reached, as far as the log was told.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// The last attempt that ended did so without it.
    is_lost: AtomicBool,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    /// Calls that failed and are in no line yet.
    calls: u64,
    /// The log's last word was that it cannot be reached.
    is_announced: bool,
    /// At most one of each kind, and there are few kinds.
    causes: Vec<Cause>,
}

#[derive(Debug)]
struct Cause {
    kind: Unreachable,
    /// What the name look-up or TLS said the last time.
    detail: Option<String>,
    told: Option<Instant>,
}

impl Reach {
    /// Notes what is behind a failure, for the line on it.
    pub(super) fn note(&self, kind: Unreachable, detail: impl Display) {
        self.with(|told| told.cause(kind).detail = Some(detail.to_string()));
    }

    /// A call could not be sent.
    pub(super) fn lost(&self, kind: Unreachable) {
        let line = self.with(|told| told.lost(kind, Instant::now()));
        self.is_lost.store(true, Ordering::Relaxed);
        if let Some((calls, detail)) = line {
            tracing::warn!(calls, reason = %kind, detail, "the upstream cannot be reached");
        }
    }

    /// A new connection took a call.
    pub(super) fn found(&self) {
        // Read first: a write would be shared by all workers.
        if self.is_lost.load(Ordering::Relaxed) && self.is_lost.swap(false, Ordering::Relaxed) {
            let (calls, is_announced) = self.with(|told| {
                let calls = std::mem::take(&mut told.calls);
                (calls, std::mem::take(&mut told.is_announced))
            });
            if is_announced {
                tracing::info!(calls, "the upstream is reached again");
            }
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Told) -> T) -> T {
        let told = self.told.lock();
        change(&mut told.unwrap_or_else(|broken| broken.into_inner()))
    }
}

impl Told {
    /// Says how many calls a line is to speak of, and with which detail; or
    /// that there is to be none.
    fn lost(&mut self, kind: Unreachable, now: Instant) -> Option<(u64, Option<String>)> {
        self.calls += 1;
        let cause = self.cause(kind);
        if cause.told.is_some_and(|told| now - told < PAUSE) {
            return None;
        }
        cause.told = Some(now);
        let detail = cause.detail.clone();
        self.is_announced = true;
        Some((std::mem::take(&mut self.calls), detail))
    }

    fn cause(&mut self, kind: Unreachable) -> &mut Cause {
        let at = self.causes.iter().position(|cause| cause.kind == kind);
        let at = at.unwrap_or_else(|| {
            self.causes.push(Cause {
                kind,
                detail: None,
                told: None,
            });
            self.causes.len() - 1
        });
        &mut self.causes[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of one call that fails each second.
    fn told(kinds: &[Unreachable]) -> Vec<Option<u64>> {
        let (mut told, mut now) = (Told::default(), Instant::now());
        kinds
            .iter()
            .map(|kind| {
                let line = told.lost(*kind, now);
                now += Duration::from_secs(1);
                line.map(|(calls, _)| calls)
            })
            .collect()
    }

    #[test]
    fn the_first_is_told_and_then_a_count_now_and_then() {
        let lines = told(&[Unreachable::Refused; 25]);
        for (second, line) in lines.into_iter().enumerate() {
            let calls = match second {
                0 => Some(1),
                10 | 20 => Some(10),
                _ => None,
            };
            assert_eq!(line, calls, "after {second} s");
        }
    }

    #[test]
    fn another_cause_is_told_at_once_but_not_each_time_it_comes_back() {
        use Unreachable::{Refused, Resolve};
        let lines = told(&[Refused, Refused, Resolve, Refused, Resolve, Refused]);
        assert_eq!(lines, [Some(1), None, Some(2), None, None, None]);
    }

    #[test]
    fn the_detail_is_that_of_its_cause() {
        let mut told = Told::default();
        told.cause(Unreachable::Tls).detail = Some("expired".to_owned());
        let now = Instant::now();
        assert_eq!(told.lost(Unreachable::Refused, now), Some((1, None)));
        assert_eq!(
            told.lost(Unreachable::Tls, now),
            Some((1, Some("expired".to_owned())))
        );
    }
}
