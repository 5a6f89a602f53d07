//! The state of the gateway, as `/status` and `/instances` show it.
//!
//! The names of the fields are an interface. Invariants: only instances with a
//! metrics label are listed, the others are summed; no field holds a secret or a
//! path.

use std::time::Duration;

use serde::Serialize;

use crate::gateway::Gateway;
use crate::limit::Budget;
use crate::observe::metrics::{InstanceSeries, Metrics, Reason, Route};

/// Everything that the page for people shows.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    pub(super) version: &'static str,
    /// Requests are accepted: no drain has begun.
    pub(super) ready: bool,
    /// Seconds since the start.
    pub(super) uptime: f64,
    /// Client requests with a response since then.
    pub(super) calls: u64,
    /// Upstream calls since then.
    pub(super) upstream: u64,
    /// Those of `calls` and of `upstream` that are read receipts.
    pub(super) receipts: u64,
    pub(super) receipt_calls: u64,
    /// Upstream calls that merging made unnecessary.
    pub(super) saved: u64,
    pub(super) in_flight: i64,
    pub(super) connections: i64,
    #[serde(flatten)]
    pub(super) instances: Instances,
    pub(super) failures: Vec<Failed>,
}

/// `/instances`.
#[derive(Debug, Serialize)]
pub(super) struct Instances {
    /// Those with a metrics label, sorted by name.
    pub(super) instances: Vec<Instance>,
    /// The total of all others.
    pub(super) other: Instance,
    /// Requests that name no instance.
    pub(super) none: Instance,
}

/// One instance, or the total of several: a total has no budgets.
#[derive(Debug, Serialize)]
pub(super) struct Instance {
    pub(super) instance: Box<str>,
    pub(super) tenant: Option<Box<str>>,
    pub(super) budgets: Vec<Budget>,
    /// Requests waiting for a bucket token.
    pub(super) queued: i64,
    /// Requests with a response.
    pub(super) requests: Requests,
    /// Requests rejected by the gateway's limits.
    pub(super) rejected: Rejected,
    /// Upstream responses with status 429.
    pub(super) throttled: u64,
}

/// Requests by route.
#[derive(Debug, Serialize)]
pub(super) struct Requests {
    pub(super) seen: u64,
    pub(super) other: u64,
}

/// Requests by the reason for which they were rejected.
#[derive(Debug, Serialize)]
pub(super) struct Rejected {
    pub(super) queue_full: u64,
    pub(super) max_wait: u64,
    pub(super) paused: u64,
    pub(super) tenant_budget: u64,
    pub(super) egress_budget: u64,
}

/// One of the last failures.
#[derive(Debug, Serialize)]
pub(super) struct Failed {
    /// The last time, in RFC 3339, UTC.
    pub(super) time: String,
    pub(super) status: u16,
    /// The error code of a response that the gateway made; `None` if the upstream made it.
    pub(super) code: Option<&'static str>,
    /// The budget that refused the request: "instance", "tenant" or "egress".
    pub(super) budget: Option<&'static str>,
    pub(super) route: &'static str,
    pub(super) instance: Box<str>,
    /// How often it has occurred since it was first listed.
    pub(super) times: u64,
}

impl Status {
    pub(super) fn of(gateway: &Gateway, ready: bool, uptime: Duration) -> Self {
        let metrics = gateway.metrics();
        let [receipts, others] =
            [Route::Seen, Route::Other].map(|route| metrics.requests[route as usize].total());
        // The counters are read one after another, so under load the figures can differ by a few
        // requests.
        let [receipt_calls, other_calls] =
            [Route::Seen, Route::Other].map(|route| metrics.upstream[route as usize].total());
        let failures = metrics.failures.newest_first();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            ready,
            uptime: uptime.as_secs_f64(),
            calls: receipts + others,
            upstream: receipt_calls + other_calls,
            receipts,
            receipt_calls,
            saved: metrics.saved.get(),
            in_flight: metrics.in_flight.get(),
            connections: metrics.connections.get(),
            instances: Instances::of(gateway),
            failures: failures
                .into_iter()
                .map(|failure| Failed {
                    // UTC: the gateway knows no time zone of its operators.
                    time: humantime::format_rfc3339_millis(failure.time).to_string(),
                    status: failure.status.as_u16(),
                    code: failure.code,
                    budget: failure.budget,
                    route: failure.route.as_str(),
                    instance: failure.instance,
                    times: failure.times,
                })
                .collect(),
        }
    }
}

impl Instances {
    pub(super) fn of(gateway: &Gateway) -> Self {
        let metrics: &Metrics = gateway.metrics();
        let shared = &gateway.server().proxy.shared;
        let reloadable = shared.reloadable.load();
        let tenants = &reloadable.tenants;
        // A snapshot of the list: its lock is not held while the buckets are read.
        let named = metrics.named_instances();
        let named = named.iter().map(|series| {
            let mut instance = Instance::counts(series);
            instance.tenant = tenants.name_of(&series.name).as_deref().map(Box::from);
            instance.budgets = shared.limiter.budgets(&series.name);
            instance
        });
        Self {
            instances: named.collect(),
            other: Instance::counts(metrics.other_instances()),
            none: Instance::counts(metrics.no_instance()),
        }
    }
}

impl Rejected {
    /// In total, and by the shared budgets, if they rejected any.
    pub(super) fn text(&self) -> String {
        let shared = [
            ("tenant", self.tenant_budget),
            ("egress", self.egress_budget),
        ];
        let by: Vec<String> = shared
            .into_iter()
            .filter(|(_, requests)| *requests > 0)
            .map(|(budget, requests)| format!("{budget} {requests}"))
            .collect();
        let own = self.queue_full + self.max_wait + self.paused;
        let total = own + self.tenant_budget + self.egress_budget;
        match by.is_empty() {
            true => total.to_string(),
            false => format!("{total} ({})", by.join(", ")),
        }
    }
}

impl Instance {
    /// The counters of one series, without tenant and budgets.
    fn counts(series: &InstanceSeries) -> Self {
        Self {
            instance: series.name.clone(),
            tenant: None,
            budgets: Vec::new(),
            queued: series.queued.get(),
            requests: Requests {
                seen: series.requests(Route::Seen).get(),
                other: series.requests(Route::Other).get(),
            },
            rejected: Rejected {
                queue_full: series.rejected(Reason::QueueFull).get(),
                max_wait: series.rejected(Reason::MaxWait).get(),
                paused: series.rejected(Reason::Paused).get(),
                tenant_budget: series.rejected(Reason::TenantBudget).get(),
                egress_budget: series.rejected(Reason::EgressBudget).get(),
            },
            throttled: series.throttled.get(),
        }
    }
}
