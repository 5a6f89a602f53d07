//! What changes at an account when a credential is verified or refused (rule:
//! verification).
//!
//! Invariant: waiting requests move to the bucket that is now theirs and keep the
//! order in which they joined.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Account, State, serve};
use crate::identity::{Fingerprint, Verified};
use crate::limit::credentials::Change;
use crate::limit::policy::{BucketHandle, BucketLocation, Policy};
use crate::queue::bucket::Bucket;
use crate::queue::egress::Sender;
use crate::queue::request::BucketRole;
use crate::queue::wait_queue::{Side, Waiter};

impl Account {
    /// Records whether the upstream accepts a credential for the instance; true if
    /// that was not known.
    pub(in crate::limit) fn verify(
        self: &Arc<Self>,
        change: Change,
        policy: impl FnOnce() -> Arc<Policy>,
    ) -> bool {
        let Change {
            credential,
            is_accepted,
        } = change;
        let mut state = self.lock();
        // Nearly every credential is known already, and needs no clock.
        let has_changed = match is_accepted {
            true if state.verified.contains(Some(credential)) => false,
            true => state.verified.add(credential, Instant::now()),
            false => state.verified.remove(credential),
        };
        if has_changed {
            self.reroute(&mut state, &policy());
        }
        has_changed
    }

    /// The verified credentials.
    pub(in crate::limit) fn verified(&self) -> Verified {
        self.lock().verified.clone()
    }

    /// Adds credentials that were verified for the instance in another class, or on another
    /// gateway.
    pub(in crate::limit) fn adopt(
        self: &Arc<Self>,
        known: impl IntoIterator<Item = Fingerprint>,
        policy: impl FnOnce() -> Arc<Policy>,
    ) {
        let now = Instant::now();
        let mut state = self.lock();
        let known = known.into_iter();
        // `count` adds all of them before waiters move.
        let added = known.filter(|it| state.verified.add(*it, now)).count();
        if added > 0 {
            self.reroute(&mut state, &policy());
        }
    }

    /// Moves shares and waiters to the buckets that are theirs now.
    fn reroute(self: &Arc<Self>, state: &mut State, policy: &Policy) {
        let max_delay = policy.max_delay;
        // Before waiters move: the bucket that gets them registers under its new share.
        self.reshare(state, policy);
        let State {
            verified,
            main,
            unverified,
        } = state;
        if verified.is_empty() {
            if let Some(mut other) = unverified.take() {
                let waiters = other.with(|bucket| bucket.take_of(|_| true));
                self.insert(main, BucketRole::Main, waiters, max_delay);
                other.unregister();
                // Kept while it counts calls in flight, whose places are there.
                let has_calls = |bucket: &Bucket<_>| bucket.calls_in_flight() > Some(0);
                *unverified = Some(other).filter(|it| it.inspect(has_calls) == Some(true));
            }
            return;
        }
        let rest = main.with(|bucket| bucket.take_of(|it| !verified.contains(it)));
        if !rest.is_empty() {
            let other = unverified.get_or_insert_with(|| Box::new(self.open_unverified(policy)));
            self.insert(other, BucketRole::Unverified, rest, max_delay);
        }
        if let Some(other) = unverified {
            let accepted = other.with(|bucket| bucket.take_of(|it| verified.contains(it)));
            self.insert(main, BucketRole::Main, accepted, max_delay);
        }
    }

    /// Adds waiters that come from another bucket.
    fn insert(
        self: &Arc<Self>,
        handle: &mut BucketHandle,
        role: BucketRole,
        waiters: Vec<(Side, Waiter<Sender>)>,
        max_delay: Duration,
    ) {
        if waiters.is_empty() {
            return;
        }
        let first = handle.with(|bucket| bucket.insert(waiters, max_delay, Instant::now()));
        self.register_if_shared(handle, role);
        // The egress has a task for all its buckets.
        if first && matches!(handle.location, BucketLocation::InAccount(_)) {
            tokio::spawn(serve(Arc::clone(self), role));
        }
    }
}
