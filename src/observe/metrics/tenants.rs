//! Metrics by tenant.
//!
//! Invariant: labels are the tenants of the settings; the series of a tenant are
//! looked up once, when the settings are applied.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec};

use super::registrar::Registrar;
use super::savings::Savings;
use super::{OTHER, Route};

/// The metrics of all tenants.
pub(super) struct Tenants {
    requests: IntCounterVec,
    upstream: IntCounterVec,
    saved: IntCounterVec,
    weight: IntGaugeVec,
    current: Mutex<HashMap<Box<str>, Arc<TenantSeries>>>,
    other: Arc<TenantSeries>,
}

/// The metrics of one tenant.
#[derive(Debug)]
pub(crate) struct TenantSeries {
    requests: [IntCounter; 2],
    upstream: IntCounter,
    /// Upstream calls saved by merging.
    pub(crate) savings: Savings,
}

impl Tenants {
    pub(super) fn new(registrar: &Registrar<'_>) -> Self {
        let requests = registrar.counters(
            "wawp_gateway_tenant_requests_total",
            "Client requests admitted, by tenant and route; \"other\" for instances of no tenant.",
            &["tenant", "route"],
        );
        let upstream = registrar.counters(
            "wawp_gateway_tenant_upstream_requests_total",
            "Upstream calls, by tenant; \"other\" for instances of no tenant.",
            &["tenant"],
        );
        let saved = registrar.counters(
            "wawp_gateway_upstream_requests_saved_total",
            "Upstream calls saved by merging, by tenant; \"other\" for instances of no tenant.",
            &["tenant"],
        );
        let weight = registrar.gauges(
            "wawp_gateway_tenant_weight",
            "A tenant's weight in sharing the egress limit.",
            &["tenant"],
        );
        Self {
            // The settings refuse a tenant with this name.
            other: Arc::new(TenantSeries::new(&requests, &upstream, &saved, OTHER)),
            requests,
            upstream,
            saved,
            weight,
            current: Mutex::default(),
        }
    }

    /// Applies the tenants of the settings. A tenant that was removed loses its
    /// weight but keeps its counts: it may return, and a counter must not fall.
    pub(super) fn reconfigure<'t>(&self, tenants: impl Iterator<Item = (&'t str, NonZeroU32)>) {
        let mut current = self.lock();
        // What is left in `gone` at the end has been removed from the settings.
        let mut gone = std::mem::take(&mut *current);
        for (name, weight) in tenants {
            // Also for a known tenant: its weight may have changed.
            let gauge = self.weight.with_label_values(&[name]);
            gauge.set(i64::from(weight.get()));
            let series = gone.remove(name).unwrap_or_else(|| {
                Arc::new(TenantSeries::new(
                    &self.requests,
                    &self.upstream,
                    &self.saved,
                    name,
                ))
            });
            current.insert(Box::from(name), series);
        }
        for name in gone.keys() {
            // An error means that there is no such series, which is what is wanted.
            drop(self.weight.remove_label_values(&[name]));
        }
    }

    /// The metrics of a tenant of the settings.
    pub(super) fn named(&self, name: &str) -> Arc<TenantSeries> {
        Arc::clone(self.lock().get(name).unwrap_or(&self.other))
    }

    /// The tenants of the settings with their metrics, sorted by name.
    pub(super) fn all_named(&self) -> Vec<(Box<str>, Arc<TenantSeries>)> {
        let current = self.lock();
        let named = current.iter();
        let mut all: Vec<_> = named
            .map(|(name, series)| (name.clone(), Arc::clone(series)))
            .collect();
        drop(current);
        all.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        all
    }

    /// Upstream calls saved by merging, also for tenants that were removed.
    pub(super) fn saved(&self) -> u64 {
        let families = self.saved.collect();
        let samples = families.iter().flat_map(|family| family.get_metric());
        // Counters are whole numbers far below 2^53, so the conversion is exact.
        samples
            .map(|sample| sample.get_counter().get_value())
            .sum::<f64>() as u64
    }

    /// The metrics of requests without a tenant.
    pub(super) fn other(&self) -> Arc<TenantSeries> {
        Arc::clone(&self.other)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Box<str>, Arc<TenantSeries>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TenantSeries {
    fn new(
        requests: &IntCounterVec,
        upstream: &IntCounterVec,
        saved: &IntCounterVec,
        name: &str,
    ) -> Self {
        Self {
            requests: Route::ALL.map(|route| requests.with_label_values(&[name, route.as_str()])),
            upstream: upstream.with_label_values(&[name]),
            savings: Savings::new(saved.with_label_values(&[name])),
        }
    }

    /// Client requests admitted.
    pub(crate) fn requests(&self, route: Route) -> &IntCounter {
        &self.requests[route as usize]
    }

    /// Upstream calls.
    pub(crate) fn upstream(&self) -> &IntCounter {
        &self.upstream
    }
}
