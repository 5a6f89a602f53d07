//! Every metric of the gateway, its help text and its buckets.
//!
//! Owns the registry and the labels. Invariants: the number of series is bounded
//! (enums, status codes, a limited list of instances), and counters are looked up
//! once, not for each request.
//!
//! To add a metric: a field of [`Metrics`] or of one of its parts, the line that
//! registers it, and a panel or a rule in `grafana/` (see `src/README.md`).

mod batches;
mod cluster;
mod codes;
mod failures;
mod instances;
mod not_merged;
mod receipts;
mod registrar;
mod savings;
mod scraped;
mod tenants;
mod unreadable;

#[cfg(test)]
mod tests;

use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use prometheus::{Histogram, IntCounter, IntGauge, Registry, TextEncoder};

use batches::Batches;
pub(crate) use cluster::ClusterSeries;
pub(crate) use codes::Codes;
pub(crate) use failures::{Failure, Failures};
use instances::Instances;
pub(crate) use instances::{InstanceSeries, UpstreamFailure};
pub(crate) use not_merged::NotMerged;
use receipts::Receipts;
use registrar::Registrar;
pub(crate) use scraped::{BucketStatus, Scraped};
pub(crate) use tenants::TenantSeries;
use tenants::Tenants;
pub(crate) use unreadable::Unreadable;

use crate::redact::Secrets;

/// The label of all instances beyond `metrics.max_instances`, and of those that
/// the upstream has not accepted yet.
pub(crate) const OTHER: &str = "other";
/// The label of requests that name no instance.
pub(crate) const NONE: &str = "none";

/// Time seen by clients: from a fast upstream (5 ms) to uploads of media, for which
/// some clients allow 300 s.
const REQUEST_SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
    300.0,
];
/// Time added by the window and by the wait for a bucket token. The defaults: 50 ms
/// for `window`, 2 s for `max_delay`, 4 s for `max_wait`.
const WAIT_SECONDS: &[f64] = &[
    0.0, 0.001, 0.005, 0.01, 0.025, 0.05, 0.055, 0.075, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0,
];

/// The route of a request, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// A path of `batch.paths`, whether or not the request could be merged.
    ReceiptPath,
    /// Everything else.
    Other,
}

impl Route {
    const ALL: [Self; 2] = [Self::ReceiptPath, Self::Other];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ReceiptPath => "seen",
            Self::Other => "other",
        }
    }
}

/// Why the limiter refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// `limit.max_queue` requests were already waiting.
    QueueFull,
    /// No bucket token would have been available before the deadline.
    MaxWait,
    /// The upstream had asked for a pause that is longer than the wait.
    Paused,
    /// As `MaxWait`, because of the budget of the tenant.
    TenantBudget,
    /// As `MaxWait`, because of the budget of all upstream calls.
    EgressBudget,
}

impl Reason {
    pub(crate) const ALL: [Self; 5] = [
        Self::QueueFull,
        Self::MaxWait,
        Self::Paused,
        Self::TenantBudget,
        Self::EgressBudget,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::MaxWait => "max_wait",
            Self::Paused => "paused",
            Self::TenantBudget => "tenant_budget",
            Self::EgressBudget => "egress_budget",
        }
    }
}

/// All metrics of one gateway, over a registry of its own.
pub struct Metrics {
    registry: Registry,
    /// Responses to client requests, by route and status code.
    pub(crate) requests: [Codes; 2],
    request_seconds: [Histogram; 2],
    unreadable: [IntCounter; Unreadable::ALL.len()],
    /// Client requests without a complete response.
    pub(crate) in_flight: IntGauge,
    /// Open client connections.
    pub(crate) connections: IntGauge,
    /// Upstream calls by code; "error" without a response.
    pub(crate) upstream: [Codes; 2],
    /// Responses of the upstream whose body broke off.
    pub(crate) upstream_broken_off: IntCounter,
    upstream_seconds: [Histogram; 2],
    pub(crate) batches: Batches,
    pub(crate) receipts: Receipts,
    /// Reloads that changed nothing, because the settings could not be used.
    pub(crate) reload_failures: IntCounter,
    /// Lines of the access log that could not be written, or not in time.
    pub(crate) access_log_dropped: IntCounter,
    limit_wait: [Histogram; 2],
    /// The last failures, for the admin page.
    pub(crate) failures: Failures,
    would_delay: [Histogram; 2],
    instances: Instances,
    /// Secrets of the settings, which no label may contain.
    secrets: ArcSwapOption<Secrets>,
    tenants: Tenants,
    cluster: OnceLock<Arc<ClusterSeries>>,
    scraped: Scraped,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Registers all metrics; at most `max_instances` instances get a label.
    #[must_use]
    pub fn new(max_instances: usize) -> Self {
        // Not the global registry: tests run many gateways in one process.
        let registry = Registry::new();
        let registrar = Registrar(&registry);
        registrar.process();
        Self {
            requests: registrar.by_code(
                "wawp_gateway_requests_total",
                "Responses to client requests, by route and status code.",
            ),
            request_seconds: registrar.by_route(
                "wawp_gateway_request_duration_seconds",
                "Time from the head of a client request to the end of its response.",
                REQUEST_SECONDS,
            ),
            unreadable: unreadable::counters(&registrar),
            in_flight: registrar.gauge(
                "wawp_gateway_in_flight_requests",
                "Client requests without a complete response.",
            ),
            connections: registrar.gauge("wawp_gateway_connections", "Open client connections."),
            upstream: registrar.by_code(
                "wawp_gateway_upstream_requests_total",
                "Upstream calls, by route and status code; \"error\" without a response.",
            ),
            upstream_broken_off: registrar.counter(
                "wawp_gateway_upstream_broken_off_total",
                "Responses of the upstream whose body broke off.",
            ),
            upstream_seconds: registrar.by_route(
                "wawp_gateway_upstream_request_duration_seconds",
                "Time from sending an upstream call to the head of its response.",
                REQUEST_SECONDS,
            ),
            batches: Batches::new(&registrar),
            receipts: Receipts::new(&registrar),
            reload_failures: registrar.counter(
                "wawp_gateway_reload_failures_total",
                "Reloads that changed nothing, because the settings could not be used.",
            ),
            access_log_dropped: registrar.counter(
                "wawp_gateway_access_log_dropped_total",
                "Lines of the access log that could not be written, or not in time.",
            ),
            limit_wait: registrar.by_route(
                "wawp_gateway_limit_wait_seconds",
                "Time an upstream call waited for its bucket token.",
                WAIT_SECONDS,
            ),
            failures: Failures::default(),
            would_delay: registrar.by_route(
                "wawp_gateway_would_delay_seconds",
                "Time an upstream call would have waited for its bucket token, if limit.mode is \"observe\".",
                WAIT_SECONDS,
            ),
            instances: Instances::new(&registrar, max_instances),
            secrets: ArcSwapOption::empty(),
            tenants: Tenants::new(&registrar),
            cluster: OnceLock::new(),
            scraped: Scraped::new(&registrar),
            registry,
        }
    }

    /// Client requests without a complete response.
    pub(crate) fn requests_in_flight(&self) -> usize {
        usize::try_from(self.in_flight.get()).unwrap_or(0)
    }

    /// Client connections that ended because they could not be read.
    pub(crate) fn unreadable(&self, reason: Unreadable) -> &IntCounter {
        &self.unreadable[reason as usize]
    }

    /// Time from the request head to the end of the response.
    pub(crate) fn request_seconds(&self, route: Route) -> &Histogram {
        &self.request_seconds[route as usize]
    }

    /// Time from sending an upstream call to the head of its response.
    pub(crate) fn upstream_seconds(&self, route: Route) -> &Histogram {
        &self.upstream_seconds[route as usize]
    }

    /// Time an upstream call waited for its bucket token.
    pub(crate) fn limit_wait(&self, route: Route) -> &Histogram {
        &self.limit_wait[route as usize]
    }

    /// Time an upstream call would have waited for its bucket token.
    pub(crate) fn would_delay(&self, route: Route) -> &Histogram {
        &self.would_delay[route as usize]
    }

    /// The metrics of an accepted instance; beyond `max_instances` those of "other".
    pub(crate) fn instance(&self, name: &str) -> Arc<InstanceSeries> {
        let secrets = self.secrets.load();
        if secrets.as_ref().is_some_and(|secrets| secrets.are_in(name)) {
            // A client may send a token as the instance, and an upstream may accept that.
            return Arc::clone(&self.instances.other);
        }
        self.instances.named(name)
    }

    /// The label of an instance that may never have been accepted: its name only if it
    /// has a label already.
    pub(crate) fn label_of<'n>(&self, name: &'n str) -> &'n str {
        match self.instances.has_label(name) {
            true => name,
            false => OTHER,
        }
    }

    /// Replaces the secrets. From now on, an instance gets no label if its name contains one of them.
    pub(crate) fn set_secrets(&self, secrets: Option<Arc<Secrets>>) {
        // Labels that exist stay: a counter that disappears looks like a restart to Prometheus.
        self.secrets.store(secrets);
    }

    /// The metrics of all instances without a label of their own.
    pub(crate) fn other_instances(&self) -> &Arc<InstanceSeries> {
        &self.instances.other
    }

    /// The metrics of requests that name no instance.
    pub(crate) fn no_instance(&self) -> &Arc<InstanceSeries> {
        &self.instances.none
    }

    /// Applies the tenants of the settings with their weights.
    pub(crate) fn renew_tenants<'t>(&self, tenants: impl Iterator<Item = (&'t str, NonZeroU32)>) {
        self.tenants.reconfigure(tenants);
    }

    /// The instances with a label, sorted by name.
    pub(crate) fn named_instances(&self) -> Vec<Arc<InstanceSeries>> {
        self.instances.all_named()
    }

    /// The tenants of the settings with their metrics, sorted by name.
    pub(crate) fn named_tenants(&self) -> Vec<(Box<str>, Arc<TenantSeries>)> {
        self.tenants.all_named()
    }

    /// Upstream calls saved by merging, for all instances together.
    #[cfg(test)]
    pub(crate) fn saved_by_instances(&self) -> u64 {
        let named = self.instances.all_named();
        let rest = [&self.instances.other, &self.instances.none];
        let all = named.iter().chain(rest);
        all.map(|series| series.savings.get()).sum()
    }

    /// Upstream calls saved by merging, for all tenants together.
    pub(crate) fn saved(&self) -> u64 {
        self.tenants.saved()
    }

    /// The metrics of a tenant of the settings.
    pub(crate) fn tenant(&self, name: &str) -> Arc<TenantSeries> {
        self.tenants.named(name)
    }

    /// The metrics of requests without a tenant.
    pub(crate) fn other_tenants(&self) -> Arc<TenantSeries> {
        self.tenants.other()
    }

    /// The metrics of the cluster. They are registered when they are first asked for, so that a gateway
    /// without a cluster does not expose them.
    pub(crate) fn cluster(&self) -> &Arc<ClusterSeries> {
        let register = || Arc::new(ClusterSeries::new(&Registrar(&self.registry)));
        self.cluster.get_or_init(register)
    }

    /// The exposition in Prometheus' text format 0.0.4.
    #[must_use]
    pub fn exposition(&self) -> String {
        let mut text = String::new();
        // What was encoded before the error is still returned: some metrics are better than none.
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be encoded");
        }
        text
    }
}
