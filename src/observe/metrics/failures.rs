//! The last failures, for the admin page.
//!
//! Invariants: their number is bounded, and they contain no text of a client: an
//! instance has its metrics label. A failure that would have to wait for the lock is
//! dropped.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::SystemTime;

use http::StatusCode;

use super::Route;

/// Enough to find one failing instance among many; the page groups them.
const MAX: usize = 64;

/// A request that failed: with an error of the gateway or a 4xx or 5xx of the upstream.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) time: SystemTime,
    pub(crate) status: StatusCode,
    /// The error code, if the gateway made the response.
    pub(crate) code: Option<&'static str>,
    /// The budget that refused the request, if one did.
    pub(crate) budget: Option<&'static str>,
    pub(crate) route: Route,
    pub(crate) instance: Box<str>,
    /// How often it has occurred since it was first listed.
    pub(crate) times: u64,
}

impl Failure {
    /// Whether two failures are one entry of the list.
    fn is_like(&self, other: &Self) -> bool {
        let kind = |it: &Self| (it.status, it.code, it.budget, it.route);
        kind(self) == kind(other) && self.instance == other.instance
    }
}

/// The last failures.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<VecDeque<Failure>>);

impl Failures {
    /// Adds a failure; a full list loses its oldest entry. Equal failures are one entry, so that a
    /// flood of one kind does not hide the others. `failure` is called only if the lock is free.
    pub(crate) fn push(&self, failure: impl FnOnce() -> Failure) {
        // During a flood of failures one more adds no information.
        let Ok(mut last) = self.0.try_lock() else {
            return;
        };
        let mut failure = failure();
        if let Some(index) = last.iter().position(|known| known.is_like(&failure)) {
            let known = last.remove(index);
            failure.times += known.map_or(0, |known| known.times);
        } else if last.len() == MAX {
            last.pop_front();
        }
        // At the end, also if it was known: the list is ordered by the last occurrence.
        last.push_back(failure);
    }

    /// The last failures, the newest first.
    pub(crate) fn newest_first(&self) -> Vec<Failure> {
        let last = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        last.iter().rev().cloned().collect()
    }
}
