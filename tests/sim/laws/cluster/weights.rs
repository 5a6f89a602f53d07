//! How tenants on several gateways share the egress (rules: cluster, egress).

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::WEIGHTS;
use crate::client::Outcome;
use crate::laws::Case;
use crate::plan::{Cluster, Manner};
use crate::wire::At;

/// Over this time shares hold.
const WINDOW: Duration = Duration::from_secs(2);
/// Until the gateways know what waits, and which credentials are verified.
const LEAD: Duration = Duration::from_millis(500);
/// Requests of a tenant that wait are enough if they take this time. Leases are shorter.
const BACKLOG: Duration = Duration::from_millis(300);
const STEP: Duration = Duration::from_millis(50);

/// What a tenant sends.
#[derive(Default)]
struct Flow {
    weight: f64,
    /// From when to when each request waits.
    waits: Vec<(At, At)>,
    /// When each left.
    calls: Vec<At>,
    /// When all its credentials are verified.
    verified: At,
}

impl Case {
    /// Tenants share the egress by weight, to within a tenth and one call, in each two seconds in
    /// which requests of each of them wait all the time.
    ///
    /// While nothing disturbs the server, no limit changes, no other limit holds a request and no 429
    /// comes; not around a crash, as leases that a gateway took with it are lost. Receipts yield, and
    /// a request whose client leaves is no demand.
    pub(super) fn shared_weights(&mut self, cluster: &Cluster) {
        let (Some(quota), true) = (self.config.egress.quota, self.dial.is_zero()) else {
            return;
        };
        let Some(flows) = self.flows() else {
            return;
        };
        let last = flows.values().flat_map(|flow| &flow.calls).max();
        let last = last.map_or(At::ZERO, |last| *last.min(&cluster.undisturbed_until()));
        let (mut chances, mut broken) = (0, None);
        let windows = std::iter::successors(Some(LEAD), |from| Some(*from + STEP));
        for from in windows.take_while(|from| *from + WINDOW <= last) {
            let mut crashes = cluster.crashes.iter();
            if crashes.any(|it| from < it.at + LEAD && it.at <= from + WINDOW) {
                continue;
            }
            if let Some(flows) = contended(&flows, quota.rate, from) {
                chances += 1;
                broken = broken.or_else(|| uneven(&flows, from));
            }
        }
        self.had_chances(WEIGHTS, chances);
        if let Some(what) = broken {
            self.breaks(WEIGHTS, what);
        }
    }

    /// What tenants send, if the egress alone limits it.
    fn flows(&self) -> Option<BTreeMap<String, Flow>> {
        let arrivals = self.seen.upstream.arrivals.iter();
        let calls: HashMap<_, _> = arrivals.map(|it| (it.tag, it)).collect();
        let mut flows: BTreeMap<_, Flow> = BTreeMap::new();
        for outcome in &self.seen.outcomes {
            let parsed = &self.parsed[&outcome.step.tag];
            let tenant = self.tenant_of(parsed);
            if !self.is_limited_by_egress_alone(outcome)
                || tenant.is_some_and(|it| it.quota.is_some())
            {
                return None;
            }
            let name = tenant.map_or(&parsed.instance, |tenant| &tenant.name);
            let flow = flows.entry(name.clone()).or_default();
            flow.weight = tenant.map_or(1.0, |tenant| f64::from(tenant.weight.get()));
            let call = calls.get(&outcome.step.tag);
            let left = call.map(|call| call.at);
            flow.waits
                .push((outcome.sent, left.unwrap_or(outcome.ended)));
            flow.calls.extend(left);
            let response = call.and_then(|call| call.response.as_ref());
            if response.is_some_and(|it| !(200..300).contains(&it.status)) {
                return None;
            }
        }
        for (name, flow) in &mut flows {
            flow.verified = self.verified(name);
        }
        Some(flows)
    }

    fn is_limited_by_egress_alone(&self, outcome: &Outcome) -> bool {
        let parsed = &self.parsed[&outcome.step.tag];
        let limit = self.limits(parsed).before;
        let is_free = limit.quota.is_none() && limit.max_in_flight.is_none();
        is_free
            && outcome.step.manner == Manner::Waits
            && !parsed.is_receipt()
            && self.has_one_credential(parsed)
    }

    /// When the first call of each instance of a flow had its response.
    fn verified(&self, name: &str) -> At {
        let mut tenants = self.config.tenants.iter();
        let tenant = tenants.find(|tenant| tenant.name == name);
        let is_own = |instance: &String| match tenant {
            Some(tenant) => tenant.instances.contains(instance),
            None => instance == name,
        };
        let mut first: HashMap<&str, At> = HashMap::new();
        for arrival in &self.seen.upstream.arrivals {
            let instance = &self.parsed[&arrival.tag].instance;
            if let Some(response) = arrival.response.as_ref().filter(|_| is_own(instance)) {
                let at = first.entry(instance).or_insert(response.at);
                *at = response.at.min(*at);
            }
        }
        first.into_values().max().unwrap_or_default()
    }
}

/// The flows that send or wait in a window, if there are several and requests of each wait all the
/// time.
fn contended(flows: &BTreeMap<String, Flow>, rate: f64, from: At) -> Option<Vec<(&str, &Flow)>> {
    let active = flows.iter().filter(|(_, flow)| flow.is_active(from));
    let active: Vec<_> = active.map(|(name, flow)| (name.as_str(), flow)).collect();
    let weights: f64 = active.iter().map(|(_, flow)| flow.weight).sum();
    let waits = |flow: &Flow| {
        let backlog = rate * flow.weight / weights * BACKLOG.as_secs_f64();
        flow.verified + LEAD <= from && flow.least_waiting(from) as f64 >= backlog + 2.0
    };
    let is_contended = active.len() > 1 && active.iter().all(|(_, flow)| waits(flow));
    is_contended.then_some(active)
}

/// A flow that got another share of a window than its weight says.
fn uneven(flows: &[(&str, &Flow)], from: At) -> Option<String> {
    let weights: f64 = flows.iter().map(|(_, flow)| flow.weight).sum();
    let all: usize = flows.iter().map(|(_, flow)| flow.count(from)).sum();
    flows.iter().find_map(|(name, flow)| {
        let (count, share) = (flow.count(from), flow.weight / weights * all as f64);
        let is_uneven = (count as f64 - share).abs() > share * 0.1 + 1.0 + 1e-6;
        is_uneven.then(|| format!("{count} of {all} calls of {name} from {from:?} on, not {share}"))
    })
}

impl Flow {
    fn is_active(&self, from: At) -> bool {
        let mut waits = self.waits.iter();
        waits.any(|(begin, end)| *begin <= from + WINDOW && *end + LEAD >= from)
    }

    /// The calls in a window.
    fn count(&self, from: At) -> usize {
        let calls = self.calls.iter();
        calls
            .filter(|at| (from..from + WINDOW).contains(*at))
            .count()
    }

    /// The smallest number of requests that wait at a time, in a window and before it.
    fn least_waiting(&self, from: At) -> usize {
        let times = std::iter::successors(Some(from - LEAD), |at| Some(*at + STEP / 5));
        let times = times.take_while(|at| *at <= from + WINDOW);
        let counts = times.map(|at| {
            let waits = self.waits.iter();
            waits
                .filter(|(begin, end)| *begin <= at && at < *end)
                .count()
        });
        counts.min().unwrap_or_default()
    }
}
