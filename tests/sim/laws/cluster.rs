//! What several gateways may send together (rule: cluster).

mod order;
mod pauses;
mod tokens;
mod weights;

use std::collections::BTreeMap;
use std::time::Duration;

use super::Case;
use super::limits::Limits;
use crate::plan::Cluster;
use crate::wire::At;

/// How long after it is due a slot of a bucket may be used.
const SLOT: Duration = Duration::from_millis(100);
/// The same for a slot of the egress or of a tenant, which is a slot of both.
const LEASE: Duration = Duration::from_millis(200);

const ORDER: &str = "gateways keep the order";
const PAUSE: &str = "gateways share a pause";
const TOKEN: &str = "gateways give the next token";
const PROBE: &str = "gateways share a probe";
const MERGED: &str = "gateways share a call";
const WEIGHTS: &str = "gateways share by weight";

/// The laws that only few runs could break, so that their cases are counted.
pub(crate) const AMONG_GATEWAYS: [&str; 6] = [ORDER, PAUSE, PROBE, TOKEN, WEIGHTS, MERGED];

impl Case {
    /// What gateways share while nothing disturbs the server and no limit changes.
    pub(super) fn shared(&mut self, cluster: &Cluster) {
        self.count_shared_calls();
        if cluster.faults.is_empty() && self.reload.is_none() {
            self.shared_budgets();
            self.shared_order(cluster);
            self.shared_pauses(cluster);
            self.shared_weights(cluster);
            self.shared_tokens(cluster);
        }
    }

    /// Counts responses to calls of other gateways, which the laws of responses and of merged calls
    /// judge as any others.
    fn count_shared_calls(&mut self) {
        let arrivals = &self.seen.upstream.arrivals;
        let outcomes = self.seen.outcomes.iter();
        let shared = outcomes.filter(|outcome| {
            let call = outcome.response().and_then(|response| response.call);
            call.is_some_and(|call| outcome.gateway != Some(self.gateway_of(&arrivals[call])))
        });
        let count = shared.count();
        self.had_chances(MERGED, count);
    }

    /// All gateways together keep each budget, but for the time in which slots are used.
    fn shared_budgets(&mut self) {
        let mut spent: BTreeMap<_, (Vec<At>, Limits)> = BTreeMap::new();
        for arrival in &self.seen.upstream.arrivals {
            let Some(parsed) = self.parsed.get(&arrival.tag) else {
                continue;
            };
            let limits = || (Vec::new(), self.limits(parsed));
            let (times, _) = spent.entry(self.account(parsed)).or_insert_with(limits);
            times.push(arrival.at);
        }
        for ((_, instance), (times, limits)) in spent {
            // The main bucket, and that of unverified credentials.
            let buckets = if self.credentials(&instance).len() > 1 {
                2.0
            } else {
                1.0
            };
            if let Some(excess) = self.excess_of_slots(&times, limits, buckets, SLOT) {
                let what = format!("{excess} of {instance}");
                self.breaks("gateways share a bucket", what);
            }
        }
        if let Some(quota) = self.config.egress.quota {
            let times: Vec<_> = self.seen.upstream.arrivals.iter().map(|it| it.at).collect();
            if let Some(excess) = self.excess_of_slots(&times, Limits::of(quota), 1.0, LEASE) {
                self.breaks("gateways share the egress", excess);
            }
        }
        for tenant in self.config.tenants.clone() {
            let Some(quota) = tenant.quota else { continue };
            let arrivals = self.seen.upstream.arrivals.iter();
            let times: Vec<_> = arrivals
                .filter(|arrival| {
                    let parsed = self.parsed.get(&arrival.tag);
                    parsed.is_some_and(|parsed| tenant.instances.contains(&parsed.instance))
                })
                .map(|arrival| arrival.at)
                .collect();
            // That of its verified credentials, and that of the others.
            if let Some(excess) = self.excess_of_slots(&times, Limits::of(quota), 2.0, LEASE) {
                let what = format!("{excess} of tenant {}", tenant.name);
                self.breaks("gateways share the rate of a tenant", what);
            }
        }
    }
}
