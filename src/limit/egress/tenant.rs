//! A tenant at the egress: its claims, and where it stands.
//!
//! Invariant: its calls and receipts go by turns, as at a bucket, the oldest
//! receipt of all its instances first.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::time::Instant;

use super::Claimant;
use crate::limit::gcra::Gcra;
use crate::limit::line::Turns;
use crate::limit::share::Membership;

/// The virtual length of a call of a tenant of weight 1: weights divide it
/// with little rounding, and u128 outlasts any uptime.
const CALL: u128 = 1 << 40;

/// What is asked of the egress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::limit) enum Claim {
    /// A place for a call.
    Call,
    /// A place for a receipt, which yields to calls until this moment.
    Receipt {
        /// When it no longer yields.
        overdue: Instant,
    },
}

/// A claim in its tenant's line.
pub(super) struct Claimed {
    pub(super) claimant: Arc<dyn Claimant>,
    pub(super) claim: Claim,
    /// Tells it from claims that its claimant has made before or since.
    pub(super) ticket: u64,
}

/// A tenant, while it has claims or there is something to be known of it.
pub(super) struct Tenant {
    pub(super) weight: NonZeroU32,
    pub(super) budget: Gcra,
    /// Calls waiting in all its lines.
    pub(super) waiting: Arc<AtomicUsize>,
    /// The virtual time at which its last call ends.
    pub(super) finish: u128,
    pub(super) calls: VecDeque<Claimed>,
    pub(super) receipts: VecDeque<Claimed>,
    turns: Turns,
    /// The start tag of its first call, while it is in `ready`, in `parked`, or
    /// being served at this moment.
    pub(super) listed: Option<u128>,
}

/// A tenant, under the quota and weight that were in force when it was first
/// heard of or [renewed](super::Egress::renew) since: whoever comes may have begun
/// under older ones.
pub(super) fn tenant<'t>(
    tenants: &'t mut HashMap<Arc<str>, Tenant>,
    member: &Membership,
    now: Instant,
) -> &'t mut Tenant {
    tenants
        .entry(Arc::clone(&member.name))
        .or_insert_with(|| Tenant {
            weight: member.weight,
            budget: Gcra::new(member.quota, now),
            waiting: Arc::clone(&member.waiting),
            finish: 0,
            calls: VecDeque::new(),
            receipts: VecDeque::new(),
            turns: Turns::default(),
            listed: None,
        })
}

impl Tenant {
    pub(super) fn start(&self, virtual_time: u128) -> u128 {
        self.finish.max(virtual_time)
    }

    /// The start tag of its first call, or of one that comes now.
    pub(super) fn tag(&self, virtual_time: u128) -> u128 {
        self.listed.unwrap_or_else(|| self.start(virtual_time))
    }

    pub(super) fn length(&self) -> u128 {
        CALL / u128::from(self.weight.get())
    }

    pub(super) fn has_claims(&self) -> bool {
        !self.calls.is_empty() || !self.receipts.is_empty()
    }

    pub(super) fn push(&mut self, claimed: Claimed) {
        match claimed.claim {
            Claim::Call => self.calls.push_back(claimed),
            Claim::Receipt { overdue } => {
                // Instances' oldest receipts, the oldest of all in front.
                let is_earlier = |other: &Claimed| match other.claim {
                    Claim::Receipt { overdue: other } => other <= overdue,
                    Claim::Call => true,
                };
                let place = self.receipts.partition_point(is_earlier);
                self.receipts.insert(place, claimed);
            }
        }
    }

    /// The next in turn.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Claimed> {
        let is_overdue =
            |first: &Claimed| matches!(first.claim, Claim::Receipt { overdue } if overdue <= now);
        let is_old = self.receipts.front().is_some_and(is_overdue);
        if self.turns.is_receipts(!self.calls.is_empty(), is_old) {
            self.receipts.pop_front()
        } else {
            self.calls.pop_front()
        }
    }
}
