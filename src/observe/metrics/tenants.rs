//! Figures by tenant.
//!
//! Invariant: the settings name the tenants, so they bound the labels; a
//! tenant's children are resolved once, when it is put in force.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::make::{VALID, counters, register};
use super::{OTHER, Route};

/// The figures of all tenants.
pub(super) struct Tenants {
    requests: IntCounterVec,
    upstream: IntCounterVec,
    weight: IntGaugeVec,
    in_force: Mutex<HashMap<Box<str>, Arc<TenantSeries>>>,
    other: Arc<TenantSeries>,
}

/// The figures of one tenant.
#[derive(Debug)]
pub(crate) struct TenantSeries {
    requests: [IntCounter; 2],
    upstream: IntCounter,
}

impl Tenants {
    pub(super) fn new(registry: &Registry) -> Self {
        let requests = counters(
            registry,
            "wawp_gateway_tenant_requests_total",
            "Client calls let in, by tenant and route; \"other\" for instances of no tenant.",
            &["tenant", "route"],
        );
        let upstream = counters(
            registry,
            "wawp_gateway_tenant_upstream_requests_total",
            "Upstream calls, by tenant; \"other\" for instances of no tenant.",
            &["tenant"],
        );
        let weight = IntGaugeVec::new(
            Opts::new(
                "wawp_gateway_tenant_weight",
                "A tenant's weight in sharing the way out.",
            ),
            &["tenant"],
        )
        .expect(VALID);
        register(registry, &weight);
        Self {
            // No tenant may have this name.
            other: Arc::new(TenantSeries::new(&requests, &upstream, OTHER)),
            requests,
            upstream,
            weight,
            in_force: Mutex::default(),
        }
    }

    /// Puts these tenants' weights in force; their counts begin at zero where
    /// they are new. A tenant that is gone has no weight, but keeps its counts:
    /// it may come back, and a counter must not fall.
    pub(super) fn renew<'t>(&self, tenants: impl Iterator<Item = (&'t str, NonZeroU32)>) {
        let mut in_force = self.lock();
        let mut gone = std::mem::take(&mut *in_force);
        for (name, weight) in tenants {
            let gauge = self.weight.with_label_values(&[name]);
            gauge.set(i64::from(weight.get()));
            let series = gone.remove(name).unwrap_or_else(|| {
                Arc::new(TenantSeries::new(&self.requests, &self.upstream, name))
            });
            in_force.insert(Box::from(name), series);
        }
        for name in gone.keys() {
            drop(self.weight.remove_label_values(&[name]));
        }
    }

    /// The figures of a tenant in force.
    pub(super) fn named(&self, name: &str) -> Arc<TenantSeries> {
        Arc::clone(self.lock().get(name).unwrap_or(&self.other))
    }

    /// The figures of calls for an instance of no tenant, or for none.
    pub(super) fn other(&self) -> Arc<TenantSeries> {
        Arc::clone(&self.other)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Box<str>, Arc<TenantSeries>>> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TenantSeries {
    fn new(requests: &IntCounterVec, upstream: &IntCounterVec, name: &str) -> Self {
        Self {
            requests: Route::ALL.map(|route| requests.with_label_values(&[name, route.as_str()])),
            upstream: upstream.with_label_values(&[name]),
        }
    }

    /// Client calls let in.
    pub(crate) fn requests(&self, route: Route) -> &IntCounter {
        &self.requests[route as usize]
    }

    /// Calls that left.
    pub(crate) fn upstream(&self) -> &IntCounter {
        &self.upstream
    }
}
