//! How many upstream calls may be retries.
//!
//! Invariants: above a small floor, retries are at most a fifth of all calls and
//! at most a fifth of the calls of each instance. So retries do not multiply the
//! load in an outage, and one failing instance leaves retries to the others
//! (rule: retries). The table of instances is bounded.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indexmap::IndexMap;
use tower::retry::budget::{Budget as _, TpsBudget};

use crate::identity::Identity;

/// Calls are counted over this time.
const SPAN: Duration = Duration::from_secs(10);

/// The share of calls that may be retries.
const SHARE: f32 = 0.2;

/// Retries per second that an instance may make besides its share: ten in ten
/// seconds, so that an instance with few calls may retry too.
const INSTANCE_FLOOR: u32 = 1;

/// The same for all instances together. It exceeds the floor of one instance,
/// which could otherwise use all of it.
const TOTAL_FLOOR: u32 = 5;

/// Instances with a separate budget. Each takes about 200 bytes.
const CAPACITY: usize = 1000;

#[derive(Debug)]
pub(super) struct RetryBudget {
    total: TpsBudget,
    /// The instances that retried, by their hash, in the order of their first
    /// retry. Two that coincide share a budget.
    instances: Mutex<IndexMap<u64, TpsBudget>>,
    hasher: RandomState,
    /// Set until the first retry: until then no call takes the lock.
    is_unused: AtomicBool,
}

impl RetryBudget {
    pub(super) fn new() -> Self {
        Self {
            total: TpsBudget::new(SPAN, TOTAL_FLOOR, SHARE),
            instances: Mutex::default(),
            hasher: RandomState::new(),
            is_unused: AtomicBool::new(true),
        }
    }

    /// Counts an upstream call.
    pub(super) fn deposit(&self, identity: &Identity) {
        self.total.deposit();
        if !self.is_unused.load(Ordering::Relaxed)
            && let Some(budget) = self.lock().get(&self.owner(identity))
        {
            budget.deposit();
        }
    }

    /// Whether a retry is allowed; if so, it is counted.
    pub(super) fn withdraw(&self, identity: &Identity) -> bool {
        self.is_unused.store(false, Ordering::Relaxed);
        let mut instances = self.lock();
        let owner = self.owner(identity);
        if !instances.contains_key(&owner) && instances.len() >= CAPACITY {
            // Linear, but only in an outage of more instances than the table holds.
            // The oldest entry goes; the total budget still bounds its retries.
            instances.shift_remove_index(0);
        }
        let budget = instances.entry(owner).or_insert_with(|| {
            let budget = TpsBudget::new(SPAN, INSTANCE_FLOOR, SHARE);
            // The failed call itself was not counted: there was no entry for it.
            budget.deposit();
            budget
        });
        // The instance first: what one instance may not spend must not be taken
        // from the total. If the total refuses, the instance has still paid:
        // a withdrawal cannot be undone, but it expires with its span.
        budget.withdraw() && self.total.withdraw()
    }

    /// The hash of the instance; where a request names none, of its credential.
    fn owner(&self, identity: &Identity) -> u64 {
        let instance = identity.instance.as_deref();
        let credential = identity.credential.filter(|_| instance.is_none());
        self.hasher.hash_one((instance, credential))
    }

    fn lock(&self) -> MutexGuard<'_, IndexMap<u64, TpsBudget>> {
        // No change under this lock panics halfway.
        self.instances
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::identity::Findings;

    fn instance(name: usize) -> Identity {
        let request = Request::get(format!("/?instance_id=i{name}"));
        let (head, ()) = request.body(()).unwrap().into_parts();
        Findings::of_head(&head).identity()
    }

    /// Counts the retries that are allowed of `tries` calls.
    fn retries(budget: &RetryBudget, identity: &Identity, tries: usize) -> usize {
        let try_one = |_: &usize| {
            budget.deposit(identity);
            budget.withdraw(identity)
        };
        (0..tries).filter(try_one).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_instance_leaves_retries_to_the_others() {
        let budget = RetryBudget::new();
        let most = retries(&budget, &instance(0), 500);
        assert!((100..=130).contains(&most), "{most}");
        assert_eq!(retries(&budget, &instance(1), 12), 12);
    }

    #[tokio::test(start_paused = true)]
    async fn many_failing_instances_share_a_fifth_of_all_calls() {
        let budget = RetryBudget::new();
        let all: usize = (0..3000).map(|it| retries(&budget, &instance(it), 1)).sum();
        assert!((600..=700).contains(&all), "{all}");
        assert_eq!(budget.lock().len(), CAPACITY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_instance_may_retry_ten_times_in_ten_seconds() {
        let budget = RetryBudget::new();
        let allowed = (0..100).filter(|_| budget.withdraw(&instance(0))).count();
        assert!((10..=11).contains(&allowed), "{allowed}");
        tokio::time::advance(SPAN * 2).await;
        assert!(budget.withdraw(&instance(0)));
    }
}
