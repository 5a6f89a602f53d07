//! Counters by tenant.
//!
//! Invariant: the settings name the tenants, so they bound the labels; a
//! tenant's children are resolved once, when it is put in force.

use std::sync::Arc;

use prometheus::{IntCounter, IntCounterVec, Registry};

use super::{OTHER, Route, counters};

/// The figures of all tenants.
pub(super) struct Tenants {
    requests: IntCounterVec,
}

/// The figures of one tenant.
#[derive(Debug)]
pub(crate) struct TenantSeries {
    requests: [IntCounter; 2],
}

impl Tenants {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            requests: counters(
                registry,
                "wawp_gateway_tenant_requests_total",
                "Client calls let in, by tenant and route; \"other\" for instances of no tenant.",
                &["tenant", "route"],
            ),
        }
    }

    /// The figures under this name, at zero if it is new.
    pub(super) fn named(&self, name: &str) -> Arc<TenantSeries> {
        Arc::new(TenantSeries {
            requests: Route::ALL
                .map(|route| self.requests.with_label_values(&[name, route.as_str()])),
        })
    }

    /// The figures of calls for an instance of no tenant, or for none.
    pub(super) fn other(&self) -> Arc<TenantSeries> {
        // No tenant may have this name.
        self.named(OTHER)
    }
}

impl TenantSeries {
    /// Client calls let in.
    pub(crate) fn requests(&self, route: Route) -> &IntCounter {
        &self.requests[route as usize]
    }
}
