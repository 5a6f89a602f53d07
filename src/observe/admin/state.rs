//! The state of the gateway, as `/status` shows it.
//!
//! The names of the fields are an interface. Invariant: no field holds a secret or
//! a path.

use std::cmp::Reverse;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::time::Instant;

use super::history::{History, STEP, Totals};
use super::instances::{Instance, Instances, Requests, Would};
use super::judge;
use super::problems::{Kind, Problem};
use crate::cluster::{Cluster, Failure, Seen};
use crate::gateway::Gateway;
use crate::observe::metrics::{Metrics, NotMerged, OTHER, Route, TenantSeries};

/// Everything that the page for people shows.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    pub(super) version: &'static str,
    /// Requests are accepted: no drain has begun.
    pub(super) ready: bool,
    /// Seconds since the start.
    pub(super) uptime: f64,
    /// What is wrong now.
    pub(super) problems: Vec<Problem>,
    pub(super) observing: Observing,
    /// `None` without `[cluster]`.
    pub(super) cluster: Option<ClusterStatus>,
    /// Client requests with a response since the start.
    pub(super) calls: u64,
    /// Upstream calls since then.
    pub(super) upstream: u64,
    /// Those of `calls` and of `upstream` that are read receipts.
    pub(super) receipts: u64,
    pub(super) receipt_calls: u64,
    /// Upstream calls that merging made unnecessary.
    pub(super) saved: u64,
    /// Receipts that shared an upstream call.
    pub(super) merged: u64,
    /// Receipts that did not, by reason, the most frequent first.
    pub(super) unmerged: Vec<Unmerged>,
    pub(super) in_flight: i64,
    pub(super) connections: i64,
    pub(super) history: Rates,
    pub(super) tenants: Vec<Tenant>,
    #[serde(flatten)]
    pub(super) instances: Instances,
    pub(super) failures: Vec<Failed>,
}

/// Which settings only observe, and what they would have done since the start.
#[derive(Debug, Serialize)]
pub(super) struct Observing {
    pub(super) limit: bool,
    pub(super) batch: bool,
    #[serde(flatten)]
    pub(super) would: Would,
}

/// What this gateway knows of its cluster.
#[derive(Debug, Serialize)]
pub(super) struct ClusterStatus {
    /// `shared`, `suspect`, `fallback` or `recovering`.
    pub(super) state: &'static str,
    /// Seconds since service goes on without the server; `None` while it is used.
    pub(super) fallback: Option<f64>,
    /// Why it goes on without the server.
    pub(super) reason: Option<&'static str>,
    /// The divisor of every rate without the server.
    pub(super) share: u32,
    /// Seconds of the last round trip to the server.
    pub(super) round_trip: f64,
    /// This gateway first.
    pub(super) gateways: Vec<Member>,
}

/// A gateway of the cluster.
#[derive(Debug, Serialize)]
pub(super) struct Member {
    pub(super) id: String,
    pub(super) version: String,
    /// It is this gateway.
    pub(super) is_this: bool,
    /// Seconds since it has reported itself.
    pub(super) seen: f64,
    /// Its settings differ from those of this gateway.
    pub(super) differs: bool,
}

/// Requests and upstream calls per second in the last two minutes, oldest first.
#[derive(Debug, Serialize)]
pub(super) struct Rates {
    /// Seconds between two rates.
    pub(super) step: f64,
    pub(super) requests: Vec<f64>,
    pub(super) upstream: Vec<f64>,
    /// Receipts per upstream call of receipts in this time.
    pub(super) factor: Option<f64>,
}

/// The totals of a tenant.
#[derive(Debug, Serialize)]
pub(super) struct Tenant {
    pub(super) tenant: Box<str>,
    /// Its instances with a metrics label, and those of them with a problem.
    pub(super) instances: usize,
    pub(super) problems: usize,
    /// Requests per minute in the last two minutes.
    pub(super) per_minute: f64,
    /// Requests admitted.
    pub(super) requests: Requests,
    pub(super) upstream: u64,
    pub(super) saved: u64,
}

/// Receipts that were not merged for one reason.
#[derive(Debug, Serialize)]
pub(super) struct Unmerged {
    pub(super) reason: &'static str,
    pub(super) receipts: u64,
}

/// Failures of one kind: the last one, and how many there were.
#[derive(Debug, Serialize)]
pub(super) struct Failed {
    pub(super) time: String,
    pub(super) status: u16,
    /// The code of a response that the gateway made; `None` if the upstream made it.
    pub(super) code: Option<&'static str>,
    /// The budget that refused the request: "instance", "tenant" or "egress".
    pub(super) budget: Option<&'static str>,
    pub(super) route: &'static str,
    pub(super) instance: Box<str>,
    /// How often it has occurred since it was first listed.
    pub(super) times: u64,
}

impl Status {
    pub(super) fn of(gateway: &Gateway, history: &History, ready: bool, uptime: Duration) -> Self {
        let metrics = gateway.metrics();
        let now = Instant::now();
        // The counters are read one after another, so under load the figures can differ by a few
        // requests.
        let totals = Totals::read(metrics, now);
        let instances = Instances::of(gateway, history);
        let samples = history.totals();
        let mut problems = judge::gateway(metrics, history, (&samples, &totals), SystemTime::now());
        let listed = instances.instances.iter();
        problems.extend(listed.flat_map(|of| of.problems.iter().cloned()));
        let cluster = gateway.cluster().map(|cluster| ClusterStatus::of(cluster));
        problems.extend(cluster.as_ref().and_then(ClusterStatus::problem));
        Self {
            version: env!("CARGO_PKG_VERSION"),
            ready,
            uptime: uptime.as_secs_f64(),
            problems,
            observing: Observing::of(gateway, &instances),
            cluster,
            calls: totals.requests,
            upstream: totals.upstream,
            receipts: totals.receipts,
            receipt_calls: totals.receipt_calls,
            saved: metrics.saved(),
            merged: metrics.receipts.merged(),
            unmerged: unmerged(metrics),
            in_flight: metrics.in_flight.get(),
            connections: metrics.connections.get(),
            history: Rates::of(&samples),
            tenants: tenants(metrics, &instances),
            instances,
            failures: failures(metrics),
        }
    }
}

impl Observing {
    fn of(gateway: &Gateway, instances: &Instances) -> Self {
        let settings = gateway.server().proxy.shared.reloadable.load();
        let all = instances
            .instances
            .iter()
            .chain([&instances.other, &instances.none]);
        Self {
            limit: settings.limit_observes(),
            batch: settings.batch_observes(),
            would: all.fold(Would::default(), |sum, of| Would {
                save: sum.save + of.would.save,
                delay: sum.delay + of.would.delay,
                reject: sum.reject + of.would.reject,
            }),
        }
    }

    /// Whether anything is only observed.
    pub(super) fn is_on(&self) -> bool {
        self.limit || self.batch
    }
}

impl ClusterStatus {
    fn of(cluster: &Cluster) -> Self {
        let snapshot = cluster.snapshot();
        let gateways = snapshot.gateways;
        let own = gateways.iter().find(|seen| seen.id == snapshot.id);
        let own = own.map(|own| own.settings.clone());
        let member = |seen: Seen| Member {
            differs: own.as_ref().is_some_and(|own| *own != seen.settings),
            is_this: seen.id == snapshot.id,
            seen: seen.ago.as_secs_f64(),
            id: seen.id,
            version: seen.version,
        };
        Self {
            state: snapshot.phase.name(),
            fallback: snapshot.fallback.map(|since| since.as_secs_f64()),
            reason: snapshot
                .last_failure
                .filter(|_| snapshot.fallback.is_some())
                .map(Failure::name),
            share: cluster.share().get(),
            round_trip: snapshot.round_trip.as_secs_f64(),
            gateways: gateways.into_iter().map(member).collect(),
        }
    }

    /// The problem that service goes on without the server, from the threshold of the alert.
    fn problem(&self) -> Option<Problem> {
        let reason = self.reason.filter(|_| self.state == "fallback")?;
        let detail = format!("{reason}; 1/{} of every rate", self.share);
        Some(Problem::new(Kind::ClusterFallback, None, detail))
    }
}

impl Rates {
    fn of(samples: &[Totals]) -> Self {
        let rates = |count: fn(&Totals) -> u64| {
            let pairs = samples.windows(2);
            let rate = pairs.map(|pair| {
                // Not `STEP`: a sample may be late.
                let seconds = (pair[1].at - pair[0].at).as_secs_f64().max(0.001);
                (count(&pair[1]) - count(&pair[0])) as f64 / seconds
            });
            // Three digits: more is noise, and would make the page larger.
            rate.map(|rate| (rate * 1e3).round() / 1e3).collect()
        };
        let factor = samples.first().zip(samples.last()).and_then(|(old, new)| {
            let calls = new.receipt_calls - old.receipt_calls;
            let receipts = new.receipts - old.receipts;
            (calls > 0 && receipts > 0).then(|| receipts as f64 / calls as f64)
        });
        Self {
            step: STEP.as_secs_f64(),
            requests: rates(|totals| totals.requests),
            upstream: rates(|totals| totals.upstream),
            factor,
        }
    }
}

/// The tenants of the settings, the one with most requests first, and the sum of all
/// requests without one; empty without tenants.
fn tenants(metrics: &Metrics, instances: &Instances) -> Vec<Tenant> {
    let total = |name: &str, series: &TenantSeries| {
        let is_of = |instance: &&Instance| instance.tenant.as_deref() == Some(name);
        let of = || instances.instances.iter().filter(is_of);
        Tenant {
            tenant: Box::from(name),
            instances: of().count(),
            problems: of().filter(|of| !of.problems.is_empty()).count(),
            per_minute: of().map(|of| of.per_minute).sum(),
            requests: Requests {
                seen: series.requests(Route::ReceiptPath).get(),
                other: series.requests(Route::Other).get(),
            },
            upstream: series.upstream().get(),
            saved: series.savings.get(),
        }
    };
    let named = metrics.named_tenants();
    if named.is_empty() {
        return Vec::new();
    }
    let mut all: Vec<_> = named
        .iter()
        .map(|(name, series)| total(name, series))
        .collect();
    all.sort_by_key(|of| Reverse(of.requests.seen + of.requests.other));
    let mut rest = total(OTHER, &metrics.other_tenants());
    let without = instances.instances.iter().filter(|of| of.tenant.is_none());
    rest.instances = without.clone().count();
    rest.problems = without.clone().filter(|of| !of.problems.is_empty()).count();
    rest.per_minute = without.map(|of| of.per_minute).sum();
    if rest.requests.seen + rest.requests.other > 0 {
        all.push(rest);
    }
    all
}

fn failures(metrics: &Metrics) -> Vec<Failed> {
    let failures = metrics.failures.newest_first().into_iter();
    let failed = failures.map(|failure| Failed {
        // UTC: the gateway knows no time zone of its operators.
        time: humantime::format_rfc3339_millis(failure.time).to_string(),
        status: failure.status.as_u16(),
        code: failure.code,
        budget: failure.budget,
        route: failure.route.as_str(),
        instance: failure.instance,
        times: failure.times,
    });
    failed.collect()
}

/// The reasons for which any receipt was not merged.
fn unmerged(metrics: &Metrics) -> Vec<Unmerged> {
    let counted = NotMerged::ALL.into_iter().map(|reason| Unmerged {
        reason: reason.as_str(),
        receipts: metrics.receipts.unmerged(reason),
    });
    let mut counted: Vec<_> = counted.filter(|of| of.receipts > 0).collect();
    // Stable: equal counts stay in the order of the reasons.
    counted.sort_by_key(|of| Reverse(of.receipts));
    counted
}
