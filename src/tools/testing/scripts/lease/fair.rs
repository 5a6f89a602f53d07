//! Tenants that share the slots of the egress, and gateways that share those of a tenant.
//!
//! Invariant: as in `src/cluster/scripts/lease.lua`.

use std::collections::HashMap;

/// The requests of a tenant that wait on a gateway.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waits {
    pub(super) gateway: i64,
    pub(super) waiting: i64,
    pub(super) ready: i64,
    pub(super) since: i64,
}

#[derive(Debug, Default)]
pub(super) struct Tenant {
    pub(super) tag: i64,
    pub(super) weight: i64,
    pub(super) others: Vec<Waits>,
    pub(super) ready: i64,
    pub(super) step: i64,
    pub(super) start: i64,
}

impl Tenant {
    pub(super) fn calls_before(&self, tag: i64) -> i64 {
        let behind = tag - self.start;
        let calls = (behind + self.step - 1).div_euclid(self.step);
        calls.min(self.ready).max(0)
    }
}

pub(super) fn part(count: i64, own: &Waits, others: &[Waits], what: impl Fn(&Waits) -> i64) -> i64 {
    let total = what(own) + others.iter().map(&what).sum::<i64>();
    if count >= total {
        return what(own);
    }
    let share = |of: i64| (count * of + total - 1) / total;
    let mut left = count;
    for other in others {
        if (other.since, other.gateway) < (own.since, own.gateway) {
            left -= what(other).min(share(what(other)));
        }
    }
    left.min(share(what(own))).max(0)
}

pub(super) fn last_tag(tenants: &HashMap<Vec<u8>, Tenant>, left: i64) -> Option<i64> {
    let contending: Vec<_> = tenants.values().filter(|it| it.ready > 0).collect();
    if contending.iter().map(|known| known.ready).sum::<i64>() <= left {
        return None;
    }
    if left == 0 {
        return Some(0);
    }
    let shortest = contending.iter().map(|known| known.step).min()?;
    let mut low = contending.iter().map(|known| known.start).min()?;
    let ends = contending.iter();
    let ends = ends.map(|known| known.start + known.ready.min(left) * known.step);
    let mut last = ends.max()?;
    for _ in 0..64 {
        if last - low <= 1 || 8 * (last - low) <= shortest {
            break;
        }
        let middle = (low + last).div_euclid(2);
        let calls = contending.iter();
        let calls = calls.map(|known| known.calls_before(middle).min(left));
        if calls.sum::<i64>() >= left {
            last = middle;
        } else {
            low = middle;
        }
    }
    Some(last)
}
