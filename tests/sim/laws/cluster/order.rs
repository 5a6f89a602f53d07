//! In which order gateways send (rule: cluster).

use std::collections::{BTreeMap, HashMap};

use super::ORDER;
use crate::client::Outcome;
use crate::laws::{Case, TICK};
use crate::plan::{Cluster, Manner};
use crate::wire::At;

/// A request and when it left.
#[derive(Clone, Copy)]
struct Sent {
    tag: usize,
    gateway: usize,
    sent: At,
    left: At,
}

impl Case {
    /// Requests of one instance leave in the order in which they arrived at any gateway, to within
    /// one round trip: what arrives while a gateway reserves is part of the next reservation.
    ///
    /// While nothing disturbs the server and no limit changes, for instances that share no other
    /// budget and have one credential. A receipt yields, and the slot of a request that leaves
    /// goes to the next of its gateway, so neither is among the requests; after a pause some are too
    /// late, so none of them is. With its first requests of an instance a gateway learns whose
    /// credential is verified, and reserves one slot at a time: others may overtake them.
    pub(super) fn shared_order(&mut self, cluster: &Cluster) {
        if !self.dial.is_zero() || self.config.egress.quota.is_some() {
            return;
        }
        let until = cluster.undisturbed_until();
        let slack = cluster.round_trip + 5 * TICK;
        let (mut wrong, mut chances) = (Vec::new(), 0);
        for (account, mut requests) in self.queues() {
            requests.sort_unstable_by_key(|it| it.sent);
            let mut begun = HashMap::new();
            for request in &requests {
                begun.entry(request.gateway).or_insert(request.sent);
            }
            for (index, first) in requests.iter().enumerate() {
                for later in &requests[index + 1..] {
                    let is_known = first.sent > begun[&first.gateway] + 2 * slack;
                    let is_later = first.sent + slack < later.sent && later.left < until;
                    if !is_known || !is_later || first.left <= later.sent {
                        continue;
                    }
                    chances += usize::from(first.gateway != later.gateway);
                    if later.left + TICK < first.left {
                        let (one, other) = (first.describe(), later.describe());
                        wrong.push(format!("{account:?}: {one}, but {other}"));
                    }
                }
            }
        }
        self.had_chances(ORDER, chances);
        for what in wrong {
            self.breaks(ORDER, what);
        }
    }

    /// The requests of each queue in which nothing but the order decides, before a 429.
    fn queues(&self) -> BTreeMap<(String, String), Vec<Sent>> {
        let arrivals = &self.seen.upstream.arrivals;
        let mut queues: BTreeMap<_, Option<Vec<Sent>>> = BTreeMap::new();
        for outcome in &self.seen.outcomes {
            let queue = queues.entry(self.account(&self.parsed[&outcome.step.tag]));
            let queue = queue.or_insert_with(|| Some(Vec::new()));
            if !self.is_ordered(outcome) {
                *queue = None;
            }
            let arrival = arrivals.iter().find(|it| it.tag == outcome.step.tag);
            if let (Some(queue), Some(arrival)) = (queue, arrival) {
                queue.push(Sent {
                    tag: outcome.step.tag,
                    gateway: self.gateway_of(arrival),
                    sent: outcome.sent,
                    left: arrival.at,
                });
            }
        }
        for arrival in arrivals {
            let throttled = arrival.response.as_ref().filter(|it| it.status == 429);
            let parsed = self.parsed.get(&arrival.tag);
            let queue = parsed.and_then(|parsed| queues.get_mut(&self.account(parsed)));
            if let (Some(Some(queue)), Some(throttled)) = (queue, throttled) {
                queue.retain(|request| request.left < throttled.at);
            }
        }
        let queues = queues.into_iter();
        queues
            .filter_map(|(account, queue)| Some((account, queue?)))
            .collect()
    }

    /// Whether the bucket of a request alone decides when it leaves.
    pub(super) fn is_ordered(&self, outcome: &Outcome) -> bool {
        let parsed = &self.parsed[&outcome.step.tag];
        let tenant = self.tenant_of(parsed);
        outcome.step.manner == Manner::Waits
            && !parsed.is_receipt()
            && self.has_one_credential(parsed)
            && self.limits(parsed).before.max_in_flight.is_none()
            && tenant.is_none_or(|tenant| tenant.quota.is_none())
    }
}

impl Sent {
    fn describe(&self) -> String {
        let Self {
            tag,
            gateway,
            sent,
            left,
        } = self;
        format!("{tag} of {sent:?} left gateway {gateway} at {left:?}")
    }
}
