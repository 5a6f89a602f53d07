//! When a call would have its share, and whose budget is in the way.
//!
//! Invariant: foretells and takes nothing. It goes by who waits now: whoever
//! comes later with a smaller tag makes the turn come later.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::tenant::{Tenant, tenant};
use super::{Egress, Membership, State};
use crate::limit::Scope;
use crate::limit::bucket::Turn;

impl Egress {
    /// About when a call that joins `now` has its share, if nobody else came,
    /// behind so many of its own bucket, or more of its tenant's.
    pub(in crate::limit) fn turn(&self, member: &Membership, behind: usize, now: Instant) -> Turn {
        let mut state = self.lock();
        let place = member.waiting().max(behind);
        let tenant = tenant(&mut state.tenants, member, now);
        let own = Turn {
            at: tenant
                .budget
                .due(now, u32::try_from(place).unwrap_or(u32::MAX)),
            scope: Scope::Tenant,
            quota: member.quota,
        };
        let Some(quota) = state.budget.quota() else {
            return own;
        };
        let before = u32::try_from(state.before(&member.name, place, now)).unwrap_or(u32::MAX);
        let all = Turn {
            at: state.budget.due(now, before),
            scope: Scope::Egress,
            quota: Some(quota),
        };
        if own.at > all.at { own } else { all }
    }
}

impl State {
    /// How many calls go before the one of this tenant that would have this
    /// place among its own.
    fn before(&self, name: &Arc<str>, place: usize, now: Instant) -> u128 {
        let tenant = &self.tenants[name];
        let tag = tenant.tag(self.virtual_time) + place as u128 * tenant.length();
        let others = self.tenants.iter().filter(|(other, _)| *other != name);
        let others = others.filter_map(|(_, other)| {
            // Some have just come, and claim nothing yet; others wait for their
            // own buckets, all but the first.
            let claims = other.calls.len() + other.receipts.len();
            let waiting = other.waiting.load(Ordering::Relaxed).max(claims) as u128;
            let first = other.tag(self.virtual_time);
            if waiting == 0 || first > tag || other.budget.due(now, 0) > now {
                return None;
            }
            Some((other, waiting.min(1 + (tag - first) / other.length())))
        });
        let others: Vec<_> = others.collect();
        let place = place as u128;
        let most = place + others.iter().map(|(_, calls)| calls).sum::<u128>();
        let horizon = self
            .budget
            .due(now, u32::try_from(most).unwrap_or(u32::MAX));
        let within = |(other, calls): (&Tenant, u128)| calls.min(other.budget.within(now, horizon));
        place + others.into_iter().map(within).sum::<u128>()
    }
}
