//! How fast and in which order calls may leave.

use std::collections::{BTreeMap, HashMap, HashSet};

use wawp_gateway::config::Quota;

use super::{Case, TICK};
use crate::plan::Manner;
use crate::wire::{At, SEEN, Said};

impl Case {
    /// The class of a call, the instance, and the budget of the two.
    fn budget(&self, said: &Said) -> (usize, String, Option<Quota>) {
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
        let mut spent: BTreeMap<(usize, String), (Vec<At>, Quota)> = BTreeMap::new();
        for arrival in &self.seen.arrivals {
            if let Some(said) = self.said.get(&arrival.tag)
                && let (class, instance, Some(quota)) = self.budget(said)
            {
                let times = &mut spent
                    .entry((class, instance))
                    .or_insert((Vec::new(), quota))
                    .0;
                times.push(arrival.at);
            }
        }
        for ((class, instance), (times, quota)) in spent {
            // With several credentials there is a second bucket for strangers.
            let buckets = if self.credentials(class, &instance).len() > 1 {
                2.0
            } else {
                1.0
            };
            'times: for (first, from) in times.iter().enumerate() {
                for (last, to) in times.iter().enumerate().skip(first) {
                    let length = (*to - *from + self.dial).as_secs_f64();
                    let most = f64::from(quota.burst.get()) + quota.rate * length;
                    let count = last - first + 1;
                    if count as f64 > buckets * most + 1e-6 {
                        let what = format!(
                            "{count} calls of {instance} in {length} s from {from:?}, {quota:?}"
                        );
                        self.breaks("no bucket gives more than it has", what);
                        break 'times;
                    }
                }
            }
        }
    }

    /// After a 429 that names a time nobody calls until then.
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
            let (class, instance, _) = self.budget(said);
            let unheard = self.seen.kills.contains(&answer.at)
                || answer.at - throttled.at >= self.config.upstream.response_timeout;
            if unheard || self.credentials(class, &instance).len() > 1 {
                continue;
            }
            let early = self.seen.arrivals.iter().find(|arrival| {
                let budget = self.said.get(&arrival.tag).map(|said| self.budget(said));
                budget.is_some_and(|budget| budget.0 == class && budget.1 == instance)
                    && arrival.at > answer.at
                    && arrival.at + TICK < answer.at + pause
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

    /// Calls of one credential in one class leave in the order they came.
    ///
    /// Not judged where an instance has several credentials: the first to be
    /// accepted sends the others to the strangers' bucket, and one accepted
    /// later leaves it, while earlier calls may still wait in the old line.
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
                if self.credentials(class, &instance).len() > 1 {
                    continue;
                }
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
