//! Figures by instance.
//!
//! Invariant: at most so many instances get a label as the settings allow, and
//! only those that the upstream has accepted; all others share one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::make::{VALID, counters, register};
use super::{NONE, OTHER, Reason, Route};

/// A longer name gets no label of its own; the upstream's have 12 characters.
const MAX_NAME: usize = 64;

/// The figures of one instance (or of all the unnamed together).
#[derive(Debug)]
pub(crate) struct InstanceSeries {
    /// The label.
    pub(crate) name: Box<str>,
    /// Calls waiting in line.
    pub(crate) queued: IntGauge,
    /// Upstream 429s.
    pub(crate) throttled: IntCounter,
    rejected: [IntCounter; 3],
    would_reject: [IntCounter; 3],
    requests: [IntCounter; 2],
}

impl InstanceSeries {
    /// Calls refused for this reason.
    pub(crate) fn rejected(&self, reason: Reason) -> &IntCounter {
        &self.rejected[reason as usize]
    }

    /// Calls that would have been refused for this reason, were budgets enforced.
    pub(crate) fn would_reject(&self, reason: Reason) -> &IntCounter {
        &self.would_reject[reason as usize]
    }

    /// Client calls answered.
    pub(crate) fn requests(&self, route: Route) -> &IntCounter {
        &self.requests[route as usize]
    }
}

/// The figures of all instances.
pub(super) struct Instances {
    families: Families,
    max: usize,
    named: Mutex<HashMap<Box<str>, Arc<InstanceSeries>>>,
    /// Of those without a name of their own.
    pub(super) other: Arc<InstanceSeries>,
    /// Of calls that name none.
    pub(super) none: Arc<InstanceSeries>,
}

/// What is counted of each instance.
struct Families {
    queued: IntGaugeVec,
    throttled: IntCounterVec,
    rejected: IntCounterVec,
    would_reject: IntCounterVec,
    requests: IntCounterVec,
}

impl Instances {
    pub(super) fn new(r: &Registry, max: usize) -> Self {
        let queued = IntGaugeVec::new(
            Opts::new(
                "wawp_gateway_limit_queued",
                "Calls waiting for a token, by instance.",
            ),
            &["instance"],
        )
        .expect(VALID);
        register(r, &queued);
        let throttled = counters(
            r,
            "wawp_gateway_upstream_throttled_total",
            "Upstream answers 429, by instance.",
            &["instance"],
        );
        let rejected = counters(
            r,
            "wawp_gateway_limit_rejected_total",
            "Calls refused by the gateway's own limits, by reason and instance.",
            &["reason", "instance"],
        );
        let would_reject = counters(
            r,
            "wawp_gateway_would_reject_total",
            "Calls that would have been refused, where limit.mode is \"observe\", by reason and instance.",
            &["reason", "instance"],
        );
        let requests = counters(
            r,
            "wawp_gateway_instance_requests_total",
            "Client calls answered, by instance and route.",
            &["instance", "route"],
        );
        let families = Families {
            queued,
            throttled,
            rejected,
            would_reject,
            requests,
        };
        Self {
            other: Arc::new(families.series(OTHER)),
            none: Arc::new(families.series(NONE)),
            named: Mutex::new(HashMap::new()),
            max,
            families,
        }
    }

    /// The instances that are named, by their names.
    pub(super) fn all_named(&self) -> Vec<Arc<InstanceSeries>> {
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = named.values().cloned().collect();
        drop(named);
        all.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// The figures of an accepted instance, under its name while names last.
    pub(super) fn named(&self, name: &str) -> Arc<InstanceSeries> {
        match name {
            OTHER => return Arc::clone(&self.other),
            NONE => return Arc::clone(&self.none),
            _ => {}
        }
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = named.get(name) {
            return Arc::clone(series);
        }
        if named.len() >= self.max || name.len() > MAX_NAME {
            return Arc::clone(&self.other);
        }
        let series = Arc::new(self.families.series(name));
        named.insert(Box::from(name), Arc::clone(&series));
        series
    }
}

impl Families {
    fn series(&self, name: &str) -> InstanceSeries {
        let by_reason = |counters: &IntCounterVec| {
            Reason::ALL.map(|reason| counters.with_label_values(&[reason.as_str(), name]))
        };
        InstanceSeries {
            name: Box::from(name),
            queued: self.queued.with_label_values(&[name]),
            throttled: self.throttled.with_label_values(&[name]),
            rejected: by_reason(&self.rejected),
            would_reject: by_reason(&self.would_reject),
            requests: Route::ALL
                .map(|route| self.requests.with_label_values(&[name, route.as_str()])),
        }
    }
}
