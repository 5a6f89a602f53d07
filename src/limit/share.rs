//! A bucket's place in the sharing of the egress.
//!
//! Invariant: how many calls of a tenant wait is derived from the waiting calls
//! themselves, each of which holds a [`Waiting`].

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;

use super::bucket::Turn;
use super::egress::Egress;
use crate::config::Quota;

/// A tenant's place in the sharing.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) name: Arc<str>,
    pub(super) weight: NonZeroU32,
    pub(super) quota: Option<Quota>,
    /// Calls waiting in all lines of the tenant.
    pub(super) waiting: Arc<AtomicUsize>,
}

impl Membership {
    pub(super) fn new(name: &str, weight: NonZeroU32, quota: Option<Quota>) -> Self {
        Self {
            name: Arc::from(name),
            weight,
            quota,
            waiting: Arc::default(),
        }
    }

    /// The same place under other settings, with those who wait.
    pub(super) fn succeeding(mut self, former: Option<&Self>) -> Self {
        if let Some(former) = former {
            self.waiting = Arc::clone(&former.waiting);
        }
        self
    }

    /// Calls waiting in all lines of the tenant.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Counts a call as waiting for as long as the guard lives.
    pub(super) fn wait(&self) -> Waiting {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(Arc::clone(&self.waiting))
    }
}

/// A bucket's place in the sharing.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) egress: Arc<Egress>,
    pub(super) member: Arc<Membership>,
}

impl Share {
    /// Takes a token for a call that need not wait.
    pub(super) fn pass(&self, now: Instant) -> bool {
        self.egress.pass(&self.member, now)
    }

    /// About when the turn of a call comes that joins `now`, behind so many of its bucket.
    pub(super) fn turn(&self, behind: usize, now: Instant) -> Turn {
        self.egress.turn(&self.member, behind, now)
    }
}

/// A call that waits for its tenant's share.
#[derive(Debug)]
pub(super) struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
