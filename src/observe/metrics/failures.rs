//! The last calls that failed, for the page for people.
//!
//! Invariants: their number is bounded, and nothing in them is a client's own
//! text: an instance is named as metrics name it. A failure that would have to
//! wait to be remembered is forgotten.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::SystemTime;

use http::StatusCode;

use super::Route;

/// As many as a person reads.
const MAX: usize = 20;

/// A call that failed: by the gateway, or by a 5xx of the upstream's.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) time: SystemTime,
    pub(crate) status: StatusCode,
    /// The word for it where the gateway itself answered.
    pub(crate) code: Option<&'static str>,
    pub(crate) route: Route,
    pub(crate) instance: Box<str>,
    /// How often since it was first remembered.
    pub(crate) times: u64,
}

impl Failure {
    fn is_like(&self, other: &Self) -> bool {
        let kind = |it: &Self| (it.status, it.code, it.route);
        kind(self) == kind(other) && self.instance == other.instance
    }
}

/// The last failures.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<VecDeque<Failure>>);

impl Failures {
    /// Remembers a failure in place of the oldest.
    /// More of the same take one place, so that a flood of one hides no other.
    pub(crate) fn push(&self, failure: impl FnOnce() -> Failure) {
        // Under a flood of them one more says nothing new.
        let Ok(mut last) = self.0.try_lock() else {
            return;
        };
        let mut failure = failure();
        if let Some(place) = last.iter().position(|known| known.is_like(&failure)) {
            let known = last.remove(place);
            failure.times += known.map_or(0, |known| known.times);
        } else if last.len() == MAX {
            last.pop_front();
        }
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
