//! The part of one gateway in budgets that the server of a cluster does not hand out.
//!
//! Invariant: the parts of all gateways together are at most the whole, except that no part is
//! smaller than one call in flight or a burst of one.
//!
//! Buckets of instances are shared exactly ([`tokens`](super::tokens)). The egress, the rates of
//! tenants, calls in flight, and buckets of requests without an instance are divided evenly.

use std::num::NonZeroU32;

use crate::cluster::Cluster;
use crate::config::{Config, Quota};

/// Among how many gateways budgets are divided now.
pub(super) fn parts(cluster: &Cluster) -> NonZeroU32 {
    match cluster.is_shared() {
        true => cluster.known(),
        false => cluster.share(),
    }
}

/// The settings with one of so many parts of each budget that is for all instances, and of the
/// calls in flight.
pub(super) fn divided(config: &Config, parts: NonZeroU32) -> Config {
    let mut config = config.clone();
    config.egress.quota = config.egress.quota.map(|whole| part(whole, parts));
    for tenant in &mut config.tenants {
        tenant.quota = tenant.quota.map(|whole| part(whole, parts));
    }
    for class in &mut config.limit.classes {
        let cap = class
            .max_in_flight
            .map(|cap| cap.get().div_ceil(parts.get()));
        class.max_in_flight = cap.and_then(NonZeroU32::new);
    }
    config
}

/// The same for the buckets of requests that name no instance: their credentials are hashed with
/// another key in each process, so they have no common name.
pub(super) fn of_unnamed(config: &Config, parts: NonZeroU32) -> Config {
    let mut config = divided(config, parts);
    config.limit.quota = config.limit.quota.map(|whole| part(whole, parts));
    for class in &mut config.limit.classes {
        class.quota = class.quota.map(|whole| part(whole, parts));
    }
    config
}

fn part(whole: Quota, parts: NonZeroU32) -> Quota {
    let burst = NonZeroU32::new(whole.burst.get() / parts);
    Quota {
        rate: whole.rate / f64::from(parts.get()),
        burst: burst.unwrap_or(NonZeroU32::MIN),
    }
}
