//! How fast and in which order calls may leave.

use std::collections::{BTreeMap, HashMap, HashSet};

use wawp_gateway::config::Quota;

use super::{Case, TICK};
use crate::plan::Manner;
use crate::wire::{At, SEEN, Said};

impl Case {
    /// The class of a call, the instance, and the budget of the two.
    pub(super) fn budget(&self, said: &Said) -> (usize, String, Option<Quota>) {
        let limit = &self.config.limit;
        let class = limit.class_of(&said.method, &said.path, said.path == SEEN);
        let quota = class.map_or(limit.quota, |class| limit.classes[class].quota);
        (
            class.map_or(0, |class| class + 1),
            said.instance.clone(),
            quota,
        )
    }

    /// The credentials that called with an instance in a class.
    fn credentials(&self, class: usize, instance: &str) -> HashSet<&str> {
        self.said
            .values()
            .filter(|said| {
                let budget = self.budget(said);
                budget.0 == class && budget.1 == instance
            })
            .map(|said| said.credential.as_str())
            .collect()
    }

    pub(super) fn buckets(&mut self) {
        let mut spent: BTreeMap<_, (Vec<At>, Quota)> = BTreeMap::new();
        for arrival in &self.seen.arrivals {
            if let Some(said) = self.said.get(&arrival.tag)
                && let (class, instance, Some(quota)) = self.budget(said)
            {
                let mut spend = |bucket| {
                    let key = (class, instance.clone(), bucket);
                    let (times, _) = spent.entry(key).or_insert((Vec::new(), quota));
                    times.push(arrival.at);
                };
                // Both together, and what is known of each.
                spend(None);
                if let Some(bucket) = self.bucket(arrival.tag, arrival.at) {
                    spend(Some(bucket));
                }
            }
        }
        for ((class, instance, bucket), (times, quota)) in spent {
            let several = bucket.is_none() && self.credentials(class, &instance).len() > 1;
            let buckets = if several { 2.0 } else { 1.0 };
            if let Some(excess) = self.excess(&times, quota, buckets) {
                let what = format!("{excess} of {instance}, {bucket:?}");
                self.breaks("no bucket gives more than it has", what);
            }
        }
    }

    /// Over every interval no more calls than the egress has, all together;
    /// nor of a tenant more than its own budget has.
    pub(super) fn shares(&mut self) {
        if let Some(quota) = self.config.egress.quota {
            let times: Vec<_> = self.seen.arrivals.iter().map(|it| it.at).collect();
            if let Some(excess) = self.excess(&times, quota, 1.0) {
                self.breaks("the egress gives no more than it has", excess);
            }
        }
        for tenant in self.config.tenants.clone() {
            let Some(quota) = tenant.quota else { continue };
            // Unverified credentials have a budget of their own.
            for verified in [true, false] {
                let arrivals = self.seen.arrivals.iter();
                let times: Vec<_> = arrivals
                    .filter(|arrival| {
                        let said = self.said.get(&arrival.tag);
                        said.is_some_and(|said| tenant.instances.contains(&said.instance))
                            && self.is_verified(arrival.tag, arrival.at) == Some(verified)
                    })
                    .map(|arrival| arrival.at)
                    .collect();
                if let Some(excess) = self.excess(&times, quota, 1.0) {
                    let what = format!("{excess} of tenant {}, {verified}", tenant.name);
                    self.breaks("no tenant gets more than its budget has", what);
                }
            }
        }
    }

    /// An interval that saw more calls than so many budgets have to give.
    fn excess(&self, times: &[At], quota: Quota, budgets: f64) -> Option<String> {
        for (first, from) in times.iter().enumerate() {
            for (last, to) in times.iter().enumerate().skip(first) {
                let length = (*to - *from + self.dial).as_secs_f64();
                let most = f64::from(quota.burst.get()) + quota.rate * length;
                let count = last - first + 1;
                if count as f64 > budgets * most + 1e-6 {
                    return Some(format!(
                        "{count} calls in {length} s from {from:?}, {quota:?}"
                    ));
                }
            }
        }
        None
    }

    /// After a 429 that names a time nobody calls until then who draws on the
    /// same bucket.
    pub(super) fn pauses(&mut self) {
        if !self.dial.is_zero() {
            return;
        }
        for (number, throttled) in self.seen.arrivals.clone().into_iter().enumerate() {
            let (Some(said), Some(answer)) = (&throttled.said, &throttled.answer) else {
                continue;
            };
            let Some(pause) = answer.retry_after else {
                continue;
            };
            let bucket = self.bucket(throttled.tag, throttled.at);
            if bucket.is_none() || !self.is_heard(&throttled) {
                continue;
            }
            let early = self.seen.arrivals.iter().find(|arrival| {
                let other = self.said.get(&arrival.tag);
                other.is_some_and(|other| self.shares_account(other, said))
                    && arrival.at > answer.at
                    && arrival.at + TICK < answer.at + pause
                    && self.bucket(arrival.tag, arrival.at) == bucket
            });
            if let Some(early) = early {
                let what = format!(
                    "call {number} was told at {:?} to wait {pause:?}; {} went out at {:?}",
                    answer.at, early.tag, early.at
                );
                self.breaks("a pause is kept", what);
            }
        }
    }

    /// Where nothing else holds a call back, a 429 to somebody who draws on the
    /// other bucket does not either.
    pub(super) fn pauses_of_others(&mut self) {
        let quotas = self.config.tenants.iter().map(|tenant| tenant.quota);
        let shared = quotas
            .chain([self.config.egress.quota])
            .any(|it| it.is_some());
        if shared || !self.dial.is_zero() || !self.stays || self.config.server.max_in_flight < 100 {
            return;
        }
        for outcome in self.seen.outcomes.clone() {
            let said = &self.said[&outcome.step.tag];
            let (tag, sent) = (outcome.step.tag, outcome.sent);
            let plain = outcome.step.manner == Manner::Patient && !said.is_receipt();
            if !plain || self.budget(said).2.is_some() {
                continue;
            }
            let mut arrivals = self.seen.arrivals.iter();
            let left = arrivals.find(|arrival| arrival.tag == tag).map(|it| it.at);
            let refused = outcome
                .answer()
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
            let paused = self.seen.arrivals.iter().any(|arrival| {
                let answer = arrival.answer.as_ref();
                let other = self.said.get(&arrival.tag);
                answer.is_some_and(|answer| answer.status == 429 && answer.at <= until)
                    && other.is_some_and(|other| self.shares_account(other, said))
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

    /// Calls of one credential in one class leave in the order they came.
    pub(super) fn order(&mut self) {
        if !self.dial.is_zero() {
            return;
        }
        let arrived: HashMap<usize, At> = self
            .seen
            .arrivals
            .iter()
            .map(|arrival| (arrival.tag, arrival.at))
            .collect();
        let mut lines: BTreeMap<_, Vec<(At, At, usize)>> = BTreeMap::new();
        for outcome in &self.seen.outcomes {
            let said = &self.said[&outcome.step.tag];
            let prompt = matches!(outcome.step.manner, Manner::Patient | Manner::HangsUp(_));
            if let (false, true, Some(at)) =
                (said.is_receipt(), prompt, arrived.get(&outcome.step.tag))
            {
                let (class, instance, _) = self.budget(said);
                let line = lines
                    .entry((class, instance, said.credential.clone()))
                    .or_default();
                line.push((outcome.sent, *at, outcome.step.tag));
            }
        }
        for (line, mut calls) in lines {
            calls.sort_unstable();
            for pair in calls.windows(2) {
                let [(sent, at, tag), (next_sent, next_at, next)] = [pair[0], pair[1]];
                if sent < next_sent && next_at < at {
                    let what = format!(
                        "{line:?}: {tag} of {sent:?} left at {at:?}, {next} of {next_sent:?} at {next_at:?}"
                    );
                    self.breaks("nobody overtakes", what);
                }
            }
        }
    }
}
