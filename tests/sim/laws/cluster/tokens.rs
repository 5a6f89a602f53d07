//! That a token which is there is given (rule: cluster).

use std::time::Duration;

use super::TOKEN;
use crate::client::Outcome;
use crate::laws::{Case, TICK};
use crate::plan::Cluster;
use crate::upstream::Arrival;
use crate::wire::At;

/// Until then gateways find each other and the bucket of a new data set is empty.
const BEGINNING: Duration = Duration::from_secs(2);

impl Case {
    /// A request that waits alone for its bucket leaves with the next token: at most an interval
    /// after the last call, or after the end of a pause.
    ///
    /// While nothing disturbs the server and no limit changes, for requests that nothing but their
    /// bucket holds. What waited and was not sent may have lost a slot, and so may what a pause
    /// refused.
    pub(super) fn shared_tokens(&mut self, cluster: &Cluster) {
        if !self.dial.is_zero() || self.config.egress.quota.is_some() {
            return;
        }
        let slack = 4 * cluster.round_trip + 10 * TICK;
        let end = cluster.undisturbed_until();
        let (mut late, mut chances) = (Vec::new(), 0);
        for outcome in &self.seen.outcomes {
            if !self.is_ordered(outcome) || outcome.gateway.is_none() || outcome.sent < BEGINNING {
                continue;
            }
            let Some(due) = self.next_token(cluster, outcome) else {
                continue;
            };
            let by = due.max(outcome.sent) + slack;
            let is_known = by < end && by < outcome.sent + self.config.limit.max_wait;
            if !is_known || self.is_accompanied(outcome, by) {
                continue;
            }
            let left = match self.arrival_of(outcome) {
                Some(arrival) => arrival.at,
                None if is_refused(outcome) => At::MAX,
                // It has met no upstream.
                None => continue,
            };
            chances += 1;
            if left > by {
                let (tag, sent) = (outcome.step.tag, outcome.sent);
                late.push(format!("{tag} of {sent:?} left at {left:?}, not by {by:?}"));
            }
        }
        self.had_chances(TOKEN, chances);
        late.into_iter().for_each(|what| self.breaks(TOKEN, what));
    }

    /// The latest time of the next token; `None` where the call before may be a probe that is out.
    fn next_token(&self, cluster: &Cluster, outcome: &Outcome) -> Option<At> {
        let parsed = &self.parsed[&outcome.step.tag];
        let quota = self.limits(parsed).before.quota?;
        // While gateways are missing, a slot costs the others more.
        let missing = if cluster.crashes.is_empty() {
            1
        } else {
            cluster.gateways
        };
        let interval = Duration::from_secs_f64(missing as f64 / quota.rate);
        let lost = self.others(outcome).filter(|other| {
            let waited = other.ended > other.sent + 10 * TICK || !is_refused(other);
            waited && other.sent < outcome.sent && self.arrival_of(other).is_none()
        });
        let next = (1 + u32::try_from(lost.count()).unwrap()) * interval;
        let mut due = At::ZERO;
        let mut length = Duration::from_secs(1);
        for call in self.calls_like(parsed) {
            if call.at >= outcome.sent {
                break;
            }
            let response = call.response.as_ref();
            if call.ended.is_none_or(|ended| ended >= outcome.sent) {
                return None;
            }
            due = due.max(call.at + next);
            if let Some(throttled) = response.filter(|it| it.status == 429) {
                let named = throttled.retry_after.unwrap_or_default();
                // What the bucket owed then moves with the pause.
                due = due.max(throttled.at + named.max(length) + next);
                // Without a time, the next pause is twice as long.
                length *= 2;
            }
        }
        Some(due)
    }

    /// Whether another request of the bucket waits before that time.
    fn is_accompanied(&self, outcome: &Outcome, before: At) -> bool {
        self.others(outcome).any(|other| {
            let until = self.arrival_of(other).map_or(other.ended, |it| it.at);
            other.sent <= before && until >= outcome.sent
        })
    }

    /// The other requests of the same bucket.
    fn others<'c>(&'c self, one: &'c Outcome) -> impl Iterator<Item = &'c Outcome> {
        let parsed = &self.parsed[&one.step.tag];
        let all = self.seen.outcomes.iter();
        all.filter(move |it| {
            it.step.tag != one.step.tag && self.shares_account(&self.parsed[&it.step.tag], parsed)
        })
    }

    fn arrival_of(&self, outcome: &Outcome) -> Option<&Arrival> {
        let mut arrivals = self.seen.upstream.arrivals.iter();
        arrivals.find(|it| it.tag == outcome.step.tag)
    }
}

fn is_refused(outcome: &Outcome) -> bool {
    let response = outcome.response();
    response.is_some_and(|response| response.own.is_some() && response.status == 429)
}
