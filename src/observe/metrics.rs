//! Every metric of the gateway, its help text and its buckets (design §4.3).
//!
//! Owns the registry and the label sets. Invariant: label sets are bounded by
//! construction (enums, status codes, a capped list of instances), and what a
//! request needs is resolved once, not looked up per request.

mod codes;
mod failures;
mod instances;
mod make;
mod scraped;
mod tenants;

#[cfg(test)]
mod tests;

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder,
};

use codes::Codes;
pub(crate) use failures::{Failure, Failures};
pub(crate) use instances::InstanceSeries;
use instances::Instances;
use make::{VALID, counter, gauge, histogram, register};
pub(crate) use scraped::{Scraped, Standing};
pub(crate) use tenants::TenantSeries;
use tenants::Tenants;

use crate::redact::Secrets;

/// The label of all instances beyond `metrics.max_instances`, and of those
/// the upstream has not accepted yet.
pub(crate) const OTHER: &str = "other";
/// The label of calls that name no instance.
pub(crate) const NONE: &str = "none";

/// Client-facing time: from a merged call on a fast upstream (5 ms) to the
/// slow media uploads some clients allow 300 s for.
const REQUEST_SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
    300.0,
];
/// Time added by the window and the wait for a token: 50 ms is the default
/// window, 2 s `max_delay`, 4 s `max_wait`.
const WAIT_SECONDS: &[f64] = &[
    0.0, 0.001, 0.005, 0.01, 0.025, 0.05, 0.055, 0.075, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0,
];
/// How many share a call: 100 and 1,000 are the default caps.
const SHARERS: &[f64] = &[
    1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 50.0, 100.0, 250.0, 500.0, 1000.0,
];

/// Which way a call takes, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// A path of `batch.paths`, whether or not it could be merged.
    Seen,
    /// Everything else.
    Other,
}

impl Route {
    const ALL: [Self; 2] = [Self::Seen, Self::Other];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Other => "other",
        }
    }
}

/// Why the limiter refused a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// `limit.max_queue` calls waited already.
    QueueFull,
    /// The token would have come too late.
    MaxWait,
    /// The upstream had asked for a longer pause.
    Paused,
}

impl Reason {
    const ALL: [Self; 3] = [Self::QueueFull, Self::MaxWait, Self::Paused];

    fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::MaxWait => "max_wait",
            Self::Paused => "paused",
        }
    }
}

/// All metrics of one gateway, over a registry of its own.
pub struct Metrics {
    registry: Registry,
    /// Client calls by the code they were answered with.
    pub(crate) requests: [Codes; 2],
    /// From the request's head to the end of the answer's body.
    request_seconds: [Histogram; 2],
    /// Client calls not yet answered in full.
    pub(crate) in_flight: IntGauge,
    /// Open client connections.
    pub(crate) connections: IntGauge,
    /// Upstream calls by code; "error" without a response.
    pub(crate) upstream: [Codes; 2],
    /// Responses of the upstream whose body broke off.
    pub(crate) upstream_broken_off: IntCounter,
    upstream_seconds: [Histogram; 2],
    /// Callers per batch sent.
    pub(crate) batch_callers: Histogram,
    /// Distinct ids per batch sent.
    pub(crate) batch_ids: Histogram,
    /// From a batch's first caller to its sealing.
    pub(crate) batch_wait: Histogram,
    /// Batches split in two because the upstream refused them whole.
    pub(crate) splits: IntCounter,
    /// Receipt calls sent again.
    pub(crate) retries: IntCounter,
    /// Upstream calls that merging made unnecessary.
    pub(crate) saved: IntCounter,
    /// Lines of the access log that nobody took in time.
    pub(crate) access_log_dropped: IntCounter,
    /// Batches taking callers at this moment.
    pub(crate) batches_open: IntGauge,
    limit_wait: [Histogram; 2],
    /// The last failures, for the page for people.
    pub(crate) failures: Failures,
    would_delay: [Histogram; 2],
    /// Upstream calls that merging would have made unnecessary.
    pub(crate) would_save: IntCounter,
    instances: Instances,
    /// What no label may show.
    secrets: ArcSwapOption<Secrets>,
    tenants: Tenants,
    scraped: Scraped,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Registers everything; at most `max_instances` instances get a label.
    #[must_use]
    pub fn new(max_instances: usize) -> Self {
        let r = Registry::new();
        let info = Gauge::with_opts(
            Opts::new(
                "wawp_gateway_build_info",
                "Always 1; the version that runs.",
            )
            .const_label("version", env!("CARGO_PKG_VERSION")),
        )
        .expect(VALID);
        info.set(1.0);
        register(&r, &info);
        #[cfg(target_os = "linux")]
        r.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))
        .expect(VALID);
        let by_code = |name, help| {
            let vec = IntCounterVec::new(Opts::new(name, help), &["route", "code"]).expect(VALID);
            register(&r, &vec);
            Route::ALL.map(|route| Codes::new(vec.clone(), route))
        };
        let by_route = |name: &str, help: &str, buckets: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let vec = HistogramVec::new(options, &["route"]).expect(VALID);
            register(&r, &vec);
            Route::ALL.map(|route| vec.with_label_values(&[route.as_str()]))
        };
        Self {
            requests: by_code(
                "wawp_gateway_requests_total",
                "Client calls answered, by route and status code.",
            ),
            request_seconds: by_route(
                "wawp_gateway_request_duration_seconds",
                "Time from a client call's head to the end of its answer.",
                REQUEST_SECONDS,
            ),
            in_flight: gauge(
                &r,
                "wawp_gateway_in_flight_requests",
                "Client calls not yet answered in full.",
            ),
            connections: gauge(&r, "wawp_gateway_connections", "Open client connections."),
            upstream: by_code(
                "wawp_gateway_upstream_requests_total",
                "Upstream calls, by route and status code; \"error\" without a response.",
            ),
            upstream_broken_off: counter(
                &r,
                "wawp_gateway_upstream_broken_off_total",
                "Responses of the upstream whose body broke off.",
            ),
            upstream_seconds: by_route(
                "wawp_gateway_upstream_request_duration_seconds",
                "Time from sending an upstream call to the head of its answer.",
                REQUEST_SECONDS,
            ),
            batch_callers: histogram(
                &r,
                "wawp_gateway_batch_callers",
                "Callers per batch of read receipts.",
                SHARERS,
            ),
            batch_ids: histogram(
                &r,
                "wawp_gateway_batch_message_ids",
                "Distinct message ids per batch (0 = whole chat).",
                SHARERS,
            ),
            batch_wait: histogram(
                &r,
                "wawp_gateway_batch_wait_seconds",
                "Time from a batch's first caller to its sealing.",
                WAIT_SECONDS,
            ),
            splits: counter(
                &r,
                "wawp_gateway_batch_splits_total",
                "Batches split after the upstream refused them whole.",
            ),
            retries: counter(
                &r,
                "wawp_gateway_batch_retries_total",
                "Read receipt calls sent again.",
            ),
            saved: counter(
                &r,
                "wawp_gateway_upstream_requests_saved_total",
                "Upstream calls that merging made unnecessary.",
            ),
            access_log_dropped: counter(
                &r,
                "wawp_gateway_access_log_dropped_total",
                "Lines of the access log that could not be written, or not in time.",
            ),
            batches_open: gauge(
                &r,
                "wawp_gateway_batches_open",
                "Batches taking callers at this moment.",
            ),
            limit_wait: by_route(
                "wawp_gateway_limit_wait_seconds",
                "Time an upstream call waited for its token.",
                WAIT_SECONDS,
            ),
            failures: Failures::default(),
            would_delay: by_route(
                "wawp_gateway_would_delay_seconds",
                "Time an upstream call would have waited for its token, where limit.mode is \"observe\".",
                WAIT_SECONDS,
            ),
            would_save: counter(
                &r,
                "wawp_gateway_would_save_upstream_requests_total",
                "Upstream calls that merging would have made unnecessary, where batch.mode is \"observe\".",
            ),
            instances: Instances::new(&r, max_instances),
            secrets: ArcSwapOption::empty(),
            tenants: Tenants::new(&r),
            scraped: Scraped::new(&r),
            registry: r,
        }
    }

    /// Client calls not yet answered in full.
    pub(crate) fn calls(&self) -> usize {
        usize::try_from(self.in_flight.get()).unwrap_or(0)
    }

    /// Time from the request's head to the end of the answer.
    pub(crate) fn request_seconds(&self, route: Route) -> &Histogram {
        &self.request_seconds[route as usize]
    }

    /// Time from sending an upstream call to the head of its answer.
    pub(crate) fn upstream_seconds(&self, route: Route) -> &Histogram {
        &self.upstream_seconds[route as usize]
    }

    /// Time an upstream call waited for its token.
    pub(crate) fn limit_wait(&self, route: Route) -> &Histogram {
        &self.limit_wait[route as usize]
    }

    /// Time an upstream call would have waited for its token.
    pub(crate) fn would_delay(&self, route: Route) -> &Histogram {
        &self.would_delay[route as usize]
    }

    /// The figures of an accepted instance, under its name while names last.
    pub(crate) fn instance(&self, name: &str) -> Arc<InstanceSeries> {
        let secrets = self.secrets.load();
        if secrets.as_ref().is_some_and(|secrets| secrets.are_in(name)) {
            // An upstream that takes a token for a name must not make it one.
            return Arc::clone(&self.instances.other);
        }
        self.instances.named(name)
    }

    /// Has no instance named from now on in whose name one of these stands.
    pub(crate) fn keep_secret(&self, secrets: Option<Arc<Secrets>>) {
        self.secrets.store(secrets);
    }

    /// The figures of instances without a name of their own.
    pub(crate) fn other_instances(&self) -> &Arc<InstanceSeries> {
        &self.instances.other
    }

    /// The figures of calls that name no instance.
    pub(crate) fn no_instance(&self) -> &Arc<InstanceSeries> {
        &self.instances.none
    }

    /// Puts the tenants of the settings in force, with their weights.
    pub(crate) fn renew_tenants<'t>(&self, tenants: impl Iterator<Item = (&'t str, NonZeroU32)>) {
        self.tenants.renew(tenants);
    }

    /// The instances that are named, by their names.
    pub(crate) fn named_instances(&self) -> Vec<Arc<InstanceSeries>> {
        self.instances.all_named()
    }

    /// The figures of a tenant in force.
    pub(crate) fn tenant(&self, name: &str) -> Arc<TenantSeries> {
        self.tenants.named(name)
    }

    /// The figures of calls for an instance of no tenant, or for none.
    pub(crate) fn other_tenants(&self) -> Arc<TenantSeries> {
        self.tenants.other()
    }

    /// The exposition in Prometheus' text format 0.0.4.
    #[must_use]
    pub fn exposition(&self) -> String {
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be encoded");
        }
        text
    }
}
