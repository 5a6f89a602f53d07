//! The instances, as `/instances` shows them.
//!
//! Invariant: only instances with a metrics label are listed, those with a problem
//! first; the others are summed.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio::time::Instant;

use super::history::History;
use super::judge;
use super::problems::{Problem, Severity};
use crate::gateway::Gateway;
use crate::limit::Budget;
use crate::observe::metrics::{InstanceSeries, Metrics, Reason, Route, UpstreamFailure};

/// What settings that only observe would have done.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Would {
    /// Upstream calls saved by merging.
    pub(super) save: u64,
    /// Upstream calls that wait for a bucket token.
    pub(super) delay: u64,
    /// Requests refused.
    pub(super) reject: u64,
}

/// `/instances`.
#[derive(Debug, Serialize)]
pub(super) struct Instances {
    /// Those with a metrics label: by their problem, then by traffic.
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
    /// The most severe first.
    pub(super) problems: Vec<Problem>,
    /// Requests per minute in the last two minutes.
    pub(super) per_minute: f64,
    pub(super) budgets: Vec<Budget>,
    /// Requests waiting for a bucket token.
    pub(super) queued: i64,
    /// Requests with a response.
    pub(super) requests: Requests,
    /// Requests rejected by the gateway's limits.
    pub(super) rejected: Rejected,
    /// Upstream responses with status 429.
    pub(super) throttled: u64,
    /// Requests that the upstream failed in another way, by status code.
    pub(super) errors: BTreeMap<&'static str, u64>,
    /// Upstream calls that merging made unnecessary.
    pub(super) saved: u64,
    pub(super) would: Would,
}

/// Requests by route.
#[derive(Clone, Copy, Debug, Serialize)]
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

impl Instances {
    pub(super) fn of(gateway: &Gateway, history: &History) -> Self {
        let metrics: &Metrics = gateway.metrics();
        let shared = &gateway.server().proxy.shared;
        let reloadable = shared.reloadable.load();
        let tenants = &reloadable.tenants;
        let now = Instant::now();
        let max_queue = metrics.scraped().queue_limit();
        // A snapshot of the list: its lock is not held while the buckets are read.
        let named = metrics.named_instances();
        let named = named.iter().map(|series| {
            let mut instance = Instance::counts(series);
            instance.tenant = tenants.name_of(&series.name).as_deref().map(Box::from);
            instance.budgets = shared.limiter.budgets(&series.name);
            let recent = history.recent(series, now);
            // At least a second: a shorter time would make a huge rate of a few requests.
            instance.per_minute = recent.counts.requests as f64 * 60.0 / recent.seconds.max(1.0);
            let pauses = instance.budgets.iter().map(|of| of.pause);
            let present = judge::Present {
                name: &series.name,
                queued: instance.queued,
                max_queue,
                pause: pauses.fold(0.0, f64::max),
                throttled: instance.throttled,
            };
            instance.problems = judge::instance(present, &recent);
            instance
        });
        let mut instances: Vec<_> = named.collect();
        // Stable, so that instances without a difference stay sorted by name.
        instances.sort_by(|one, other| {
            let severity = other.severity().cmp(&one.severity());
            severity.then(other.per_minute.total_cmp(&one.per_minute))
        });
        Self {
            instances,
            other: Instance::counts(metrics.other_instances()),
            none: Instance::counts(metrics.no_instance()),
        }
    }
}

impl Instance {
    /// The counters of one series, without tenant, budgets and problems.
    fn counts(series: &InstanceSeries) -> Self {
        let rejected = |reason| series.rejected(reason).get();
        let would = Reason::ALL.map(|reason| series.would_reject(reason).get());
        let errors = UpstreamFailure::ALL.map(|of| (of.as_str(), series.errors(of).get()));
        Self {
            instance: series.name.clone(),
            tenant: None,
            problems: Vec::new(),
            per_minute: 0.0,
            budgets: Vec::new(),
            queued: series.queued.get(),
            requests: Requests {
                seen: series.requests(Route::ReceiptPath).get(),
                other: series.requests(Route::Other).get(),
            },
            rejected: Rejected {
                queue_full: rejected(Reason::QueueFull),
                max_wait: rejected(Reason::MaxWait),
                paused: rejected(Reason::Paused),
                tenant_budget: rejected(Reason::TenantBudget),
                egress_budget: rejected(Reason::EgressBudget),
            },
            throttled: series.throttled.get(),
            errors: errors.into(),
            saved: series.savings.get(),
            would: Would {
                save: series.would_save.get(),
                delay: series.would_delay.get(),
                reject: would.iter().sum(),
            },
        }
    }

    /// The severity of its worst problem.
    pub(super) fn severity(&self) -> Option<Severity> {
        self.problems.first().map(|problem| problem.severity)
    }
}
