//! Metrics by instance.
//!
//! Invariant: at most `metrics.max_instances` instances get a label, and only if the
//! upstream has accepted them; all others share one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::registrar::Registrar;
use super::savings::Savings;
use super::{NONE, OTHER, Reason, Route};

/// A longer name gets no label; the upstream's names have 12 characters.
const MAX_NAME: usize = 64;

/// The metrics of one instance, or of all without a label.
#[derive(Debug)]
pub(crate) struct InstanceSeries {
    /// The label.
    pub(crate) name: Box<str>,
    /// Requests waiting in the queue.
    pub(crate) queued: IntGauge,
    /// Upstream responses with status 429.
    pub(crate) throttled: IntCounter,
    /// Upstream calls saved by merging.
    pub(crate) savings: Savings,
    /// Upstream calls that merging would have saved.
    pub(crate) would_save: IntCounter,
    /// Upstream calls that would have waited for a bucket token.
    pub(crate) would_delay: IntCounter,
    rejected: [IntCounter; Reason::ALL.len()],
    would_reject: [IntCounter; Reason::ALL.len()],
    requests: [IntCounter; 2],
    errors: [IntCounter; 5],
}

/// How the upstream failed a request, other than by a 429.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpstreamFailure {
    /// 401: the token is wrong, or the phone is not linked.
    Unauthorized,
    /// 404: nothing has this name, or the phone is not linked.
    NotFound,
    /// Another 4xx.
    Client,
    /// A 5xx.
    Server,
    /// No complete response.
    NoResponse,
}

impl UpstreamFailure {
    pub(crate) const ALL: [Self; 5] = [
        Self::Unauthorized,
        Self::NotFound,
        Self::Client,
        Self::Server,
        Self::NoResponse,
    ];

    /// The failure that a response of the upstream is; `None` for a success, and for a
    /// 429, which has a counter of its own.
    pub(crate) fn of(status: StatusCode) -> Option<Self> {
        match status {
            StatusCode::TOO_MANY_REQUESTS => None,
            StatusCode::UNAUTHORIZED => Some(Self::Unauthorized),
            StatusCode::NOT_FOUND => Some(Self::NotFound),
            _ if status.is_client_error() => Some(Self::Client),
            _ if status.is_server_error() => Some(Self::Server),
            _ => None,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unauthorized => "401",
            Self::NotFound => "404",
            Self::Client => "4xx",
            Self::Server => "5xx",
            Self::NoResponse => "error",
        }
    }
}

impl InstanceSeries {
    /// Requests refused for this reason.
    pub(crate) fn rejected(&self, reason: Reason) -> &IntCounter {
        &self.rejected[reason as usize]
    }

    /// Requests that would have been refused for this reason, if limits were enforced.
    pub(crate) fn would_reject(&self, reason: Reason) -> &IntCounter {
        &self.would_reject[reason as usize]
    }

    /// Requests that the upstream failed in this way.
    pub(crate) fn errors(&self, failure: UpstreamFailure) -> &IntCounter {
        &self.errors[failure as usize]
    }

    /// Responses to client requests.
    pub(crate) fn requests(&self, route: Route) -> &IntCounter {
        &self.requests[route as usize]
    }
}

/// The metrics of all instances.
pub(super) struct Instances {
    families: Families,
    max: usize,
    named: Mutex<HashMap<Box<str>, Arc<InstanceSeries>>>,
    /// The metrics of all instances without a label.
    pub(super) other: Arc<InstanceSeries>,
    /// The metrics of requests that name no instance.
    pub(super) none: Arc<InstanceSeries>,
}

/// The metrics, each with a series for every label.
struct Families {
    queued: IntGaugeVec,
    throttled: IntCounterVec,
    rejected: IntCounterVec,
    would_reject: IntCounterVec,
    requests: IntCounterVec,
    errors: IntCounterVec,
    saved: IntCounterVec,
    would_save: IntCounterVec,
    would_delay: IntCounterVec,
}

impl Instances {
    pub(super) fn new(registrar: &Registrar<'_>, max: usize) -> Self {
        let families = Families {
            queued: registrar.gauges(
                "wawp_gateway_limit_queued",
                "Upstream calls waiting for a bucket token, by instance.",
                &["instance"],
            ),
            throttled: registrar.counters(
                "wawp_gateway_upstream_throttled_total",
                "Upstream responses with status 429, by instance.",
                &["instance"],
            ),
            rejected: registrar.counters(
                "wawp_gateway_limit_rejected_total",
                "Requests refused by the gateway's own limits, by reason and instance.",
                &["reason", "instance"],
            ),
            would_reject: registrar.counters(
                "wawp_gateway_would_reject_total",
                "Requests that would have been refused, if limit.mode is \"observe\", by reason and instance.",
                &["reason", "instance"],
            ),
            requests: registrar.counters(
                "wawp_gateway_instance_requests_total",
                "Responses to client requests, by instance and route.",
                &["instance", "route"],
            ),
            errors: registrar.counters(
                "wawp_gateway_instance_upstream_errors_total",
                "Client requests that the upstream failed, by instance and status code; \"4xx\" without 401, 404 and 429.",
                &["instance", "code"],
            ),
            saved: registrar.counters(
                "wawp_gateway_instance_upstream_requests_saved_total",
                "Upstream calls saved by merging, by instance.",
                &["instance"],
            ),
            would_save: registrar.counters(
                "wawp_gateway_would_save_upstream_requests_total",
                "Upstream calls that merging would have saved, if batch.mode is \"observe\", by instance.",
                &["instance"],
            ),
            would_delay: registrar.counters(
                "wawp_gateway_would_delay_total",
                "Upstream calls that would have waited for a bucket token, if limit.mode is \"observe\", by instance.",
                &["instance"],
            ),
        };
        Self {
            other: Arc::new(families.series(OTHER)),
            none: Arc::new(families.series(NONE)),
            named: Mutex::new(HashMap::new()),
            max,
            families,
        }
    }

    /// The instances with a label, sorted by name.
    pub(super) fn all_named(&self) -> Vec<Arc<InstanceSeries>> {
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = named.values().cloned().collect();
        // Before the sort: requests of new instances wait for this lock.
        drop(named);
        all.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// Whether an instance has a label.
    pub(super) fn has_label(&self, name: &str) -> bool {
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        named.contains_key(name)
    }

    /// The metrics of an accepted instance; beyond the maximum those of "other".
    pub(super) fn named(&self, name: &str) -> Arc<InstanceSeries> {
        // An instance that is really called so shares the series; two with equal labels cannot be
        // registered.
        match name {
            OTHER => return Arc::clone(&self.other),
            NONE => return Arc::clone(&self.none),
            _ => {}
        }
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = named.get(name) {
            return Arc::clone(series);
        }
        // First come, first served: replacing an instance would make its counters restart.
        if named.len() >= self.max || name.len() > MAX_NAME {
            return Arc::clone(&self.other);
        }
        let series = Arc::new(self.families.series(name));
        named.insert(Box::from(name), Arc::clone(&series));
        series
    }
}

impl Families {
    /// Looks up the series of one label.
    fn series(&self, name: &str) -> InstanceSeries {
        // Looked up here once, so that a request only increments an atomic.
        let by_reason = |counters: &IntCounterVec| {
            Reason::ALL.map(|reason| counters.with_label_values(&[reason.as_str(), name]))
        };
        InstanceSeries {
            name: Box::from(name),
            queued: self.queued.with_label_values(&[name]),
            throttled: self.throttled.with_label_values(&[name]),
            savings: Savings::new(self.saved.with_label_values(&[name])),
            would_save: self.would_save.with_label_values(&[name]),
            would_delay: self.would_delay.with_label_values(&[name]),
            rejected: by_reason(&self.rejected),
            would_reject: by_reason(&self.would_reject),
            requests: Route::ALL
                .map(|route| self.requests.with_label_values(&[name, route.as_str()])),
            errors: UpstreamFailure::ALL
                .map(|failure| self.errors.with_label_values(&[name, failure.as_str()])),
        }
    }
}
