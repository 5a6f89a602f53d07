//! How fast and in which order requests may leave.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroU32;

use super::limits::{Limits, Part};
use super::{Case, TICK};
use crate::plan::Manner;
use crate::wire::At;

impl Case {
    /// The credentials used for an instance, in any class: what one class has verified
    /// holds in all.
    pub(super) fn credentials(&self, instance: &str) -> HashSet<&str> {
        let all = self.parsed.values();
        let of_instance = all.filter(|parsed| parsed.instance == instance);
        of_instance
            .map(|parsed| parsed.credential.as_str())
            .collect()
    }

    pub(super) fn buckets(&mut self) {
        let mut spent: BTreeMap<_, (Vec<At>, Limits)> = BTreeMap::new();
        for arrival in &self.seen.upstream.arrivals {
            if let Some(parsed) = self.parsed.get(&arrival.tag) {
                let mut spend = |bucket| {
                    let key = (self.account(parsed), bucket);
                    let limits = || (Vec::new(), self.limits(parsed));
                    let (times, _) = spent.entry(key).or_insert_with(limits);
                    times.push(arrival.at);
                };
                // Both buckets together, and each as far as it is known.
                spend(None);
                if let Some(bucket) = self.bucket(arrival.tag, arrival.at) {
                    spend(Some(bucket));
                }
            }
        }
        for (((_, instance), bucket), (times, limits)) in spent {
            let several = bucket.is_none() && self.credentials(&instance).len() > 1;
            let buckets = if several { 2.0 } else { 1.0 };
            if let Some(excess) = self.excess(&times, limits, buckets) {
                let what = format!("{excess} of {instance}, {bucket:?}");
                self.breaks("no bucket gives more than it has", what);
            }
        }
    }

    /// No more calls are in flight at the upstream than the class allows for each
    /// instance, verified and other credentials apart.
    pub(super) fn calls_in_flight(&mut self) {
        let mut calls: BTreeMap<_, (Vec<(At, At)>, Limits)> = BTreeMap::new();
        for arrival in &self.seen.upstream.arrivals {
            let Some(parsed) = self.parsed.get(&arrival.tag) else {
                continue;
            };
            let mut add = |bucket| {
                let key = (self.account(parsed), bucket);
                let limits = || (Vec::new(), self.limits(parsed));
                let (spans, _) = calls.entry(key).or_insert_with(limits);
                spans.push((arrival.at, arrival.ended.unwrap_or(At::MAX)));
            };
            add(None);
            if let Some(bucket) = self.bucket(arrival.tag, arrival.at) {
                add(Some(bucket));
            }
        }
        for (((_, instance), bucket), (spans, limits)) in calls {
            let several = bucket.is_none() && self.credentials(&instance).len() > 1;
            let [before, after] = limits.both().map(|limit| limit.max_in_flight);
            for (at, _) in &spans {
                // The token was taken before the connection stood.
                let (cap, since) = match limits.part(at.saturating_sub(self.dial), *at) {
                    Part::Before => (before, At::ZERO),
                    // Calls that were sent without a bound are not counted later.
                    Part::After if before.is_none() => (after, limits.reloaded() + self.dial),
                    Part::After => (after, At::ZERO),
                    Part::Both => (None, At::ZERO),
                };
                let Some(cap) = cap else { continue };
                // The other bucket may still have as many as its bound was before the reload.
                let of_other = before.max(Some(cap)).filter(|_| several);
                let most = cap.get() + of_other.map_or(0, NonZeroU32::get);
                let counted = spans.iter().filter(|(from, _)| *from >= since);
                let count = counted.filter(|(from, to)| from <= at && at < to).count();
                if count > most as usize {
                    let what = format!("{count} calls of {instance}, {bucket:?} at {at:?}");
                    self.breaks("no more calls are in flight than the class allows", what);
                }
            }
        }
    }

    /// In no interval do more requests leave than the egress limit allows, nor more
    /// of a tenant than its limit allows.
    pub(super) fn shares(&mut self) {
        if let Some(quota) = self.config.egress.quota {
            let times: Vec<_> = self.seen.upstream.arrivals.iter().map(|it| it.at).collect();
            if let Some(excess) = self.excess(&times, Limits::of(quota), 1.0) {
                self.breaks("the egress gives no more than it has", excess);
            }
        }
        for tenant in self.config.tenants.clone() {
            let Some(quota) = tenant.quota else { continue };
            // Requests with unverified credentials have a budget of their own.
            for verified in [true, false] {
                let arrivals = self.seen.upstream.arrivals.iter();
                let times: Vec<_> = arrivals
                    .filter(|arrival| {
                        let parsed = self.parsed.get(&arrival.tag);
                        parsed.is_some_and(|parsed| tenant.instances.contains(&parsed.instance))
                            && self.is_verified(arrival.tag, arrival.at) == Some(verified)
                    })
                    .map(|arrival| arrival.at)
                    .collect();
                if let Some(excess) = self.excess(&times, Limits::of(quota), 1.0) {
                    let what = format!("{excess} of tenant {}, {verified}", tenant.name);
                    self.breaks("no tenant gets more than its budget has", what);
                }
            }
        }
    }

    /// An interval in which more requests left than this many buckets allow.
    fn excess(&self, times: &[At], limits: Limits, buckets: f64) -> Option<String> {
        self.excess_of_slots(times, limits, buckets, At::ZERO)
    }

    /// The same where a token may be used so long after it is due.
    pub(super) fn excess_of_slots(
        &self,
        times: &[At],
        limits: Limits,
        buckets: f64,
        usable: At,
    ) -> Option<String> {
        for (first, from) in times.iter().enumerate() {
            let paid = from.saturating_sub(self.dial + usable);
            for (last, to) in times.iter().enumerate().skip(first) {
                let count = last - first + 1;
                let most = limits.most(paid, *to);
                if most.is_some_and(|most| count as f64 > buckets * most + 1e-6) {
                    return Some(format!("{count} calls from {from:?} to {to:?}, {limits:?}"));
                }
            }
        }
        None
    }

    /// After a 429 with a time no request of the same bucket leaves before it.
    pub(super) fn pauses(&mut self) {
        if !self.dial.is_zero() {
            return;
        }
        for (number, throttled) in self.seen.upstream.arrivals.clone().into_iter().enumerate() {
            let (Some(parsed), Some(response)) = (&throttled.parsed, &throttled.response) else {
                continue;
            };
            let Some(pause) = response.retry_after.filter(|_| response.status == 429) else {
                continue;
            };
            let bucket = self.bucket(throttled.tag, throttled.at);
            if bucket.is_none() || !self.is_heard(&throttled) {
                continue;
            }
            let early = self.seen.upstream.arrivals.iter().find(|arrival| {
                let other = self.parsed.get(&arrival.tag);
                other.is_some_and(|other| self.shares_account(other, parsed))
                    && arrival.at > response.at
                    && arrival.at + TICK < response.at + pause
                    && self.bucket(arrival.tag, arrival.at) == bucket
            });
            if let Some(early) = early {
                let what = format!(
                    "the response to call {number} asked at {:?} to wait {pause:?}; {} left at {:?}",
                    response.at, early.tag, early.at
                );
                self.breaks("a pause is kept", what);
            }
        }
    }

    /// A 429 to a request of the other bucket does not delay a request that nothing
    /// else delays.
    pub(super) fn pauses_hold_one_bucket_only(&mut self) {
        let quotas = self.config.tenants.iter().map(|tenant| tenant.quota);
        let shared = quotas
            .chain([self.config.egress.quota])
            .any(|it| it.is_some());
        if shared
            || !self.dial.is_zero()
            || !self.behaviour.restarts.is_empty()
            || self.config.server.max_in_flight < 100
        {
            return;
        }
        for outcome in self.seen.outcomes.clone() {
            let parsed = &self.parsed[&outcome.step.tag];
            let (tag, sent) = (outcome.step.tag, outcome.sent);
            let plain = outcome.step.manner == Manner::Waits && !parsed.is_receipt();
            let limits = self.limits(parsed).both();
            let is_limited =
                limits.map(|limit| limit.quota.is_some() || limit.max_in_flight.is_some());
            if !plain || is_limited.contains(&true) {
                continue;
            }
            let mut arrivals = self.seen.upstream.arrivals.iter();
            let left = arrivals.find(|arrival| arrival.tag == tag).map(|it| it.at);
            let refused = outcome
                .response()
                .is_some_and(|it| it.own.is_some() && it.status == 429);
            let held = match left {
                Some(left) => left > sent + TICK,
                None => refused,
            };
            let until = left.unwrap_or(outcome.ended);
            let bucket = self.bucket(tag, until);
            if !held || bucket.is_none() {
                continue;
            }
            let paused = self.seen.upstream.arrivals.iter().any(|arrival| {
                let response = arrival.response.as_ref();
                let other = self.parsed.get(&arrival.tag);
                response.is_some_and(|response| response.status == 429 && response.at <= until)
                    && other.is_some_and(|other| self.shares_account(other, parsed))
                    && self
                        .bucket(arrival.tag, arrival.at)
                        .is_none_or(|met| Some(met) == bucket)
            });
            if !paused {
                let what =
                    format!("{tag}, sent at {sent:?}, was held until {until:?} by {bucket:?}");
                self.breaks("a pause is of one bucket", what);
            }
        }
    }

    /// Requests of one credential in one class leave in the order of arrival, also while a
    /// reload moves their instance between classes of the same requests.
    pub(super) fn order(&mut self) {
        if !self.dial.is_zero() {
            return;
        }
        let arrived: HashMap<usize, At> = self
            .seen
            .upstream
            .arrivals
            .iter()
            .map(|arrival| (arrival.tag, arrival.at))
            .collect();
        let mut queues: BTreeMap<_, Vec<(At, At, usize)>> = BTreeMap::new();
        for outcome in &self.seen.outcomes {
            let parsed = &self.parsed[&outcome.step.tag];
            let prompt = matches!(outcome.step.manner, Manner::Waits | Manner::HangsUp(_));
            if let (false, true, Some(at)) =
                (parsed.is_receipt(), prompt, arrived.get(&outcome.step.tag))
            {
                let queue = queues
                    .entry((self.account(parsed), parsed.credential.clone()))
                    .or_default();
                queue.push((outcome.sent, *at, outcome.step.tag));
            }
        }
        for (queue, mut calls) in queues {
            calls.sort_unstable();
            for pair in calls.windows(2) {
                let [(sent, at, tag), (next_sent, next_at, next)] = [pair[0], pair[1]];
                if sent < next_sent && next_at < at {
                    let what = format!(
                        "{queue:?}: {tag} of {sent:?} left at {at:?}, {next} of {next_sent:?} at {next_at:?}"
                    );
                    self.breaks("no request overtakes another", what);
                }
            }
        }
    }
}
