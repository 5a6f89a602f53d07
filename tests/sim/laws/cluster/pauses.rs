//! What gateways send during and after a pause (rules: cluster, pauses).

use std::time::Duration;

use super::{PAUSE, PROBE};
use crate::laws::{Case, TICK};
use crate::plan::Cluster;
use crate::upstream::Arrival;
use crate::wire::{At, Parsed};

/// After this time without a response to a probe another request may probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// After a pause, the time in which the next request is a probe.
const REMEMBERED: Duration = Duration::from_secs(60);

/// A pause with an end that the upstream named.
struct Named<'c> {
    call: usize,
    gateway: usize,
    parsed: &'c Parsed,
    from: At,
    until: At,
    /// The time from one token to the next.
    interval: Duration,
}

impl Case {
    /// After a 429 with a time to one gateway, no gateway sends a request of the bucket before it,
    /// but in the first round trip. Afterwards one request of all gateways is the probe.
    ///
    /// While nothing disturbs the server and no limit changes, where there is a limit to share. Only
    /// for instances with one credential, which have one bucket. What has its token may wait for one
    /// more round trip: a leader closes its batch.
    pub(super) fn shared_pauses(&mut self, cluster: &Cluster) {
        if !self.dial.is_zero() {
            return;
        }
        let slack = 2 * cluster.round_trip + 2 * TICK;
        let end = cluster.undisturbed_until();
        let (mut early, mut second, mut chances) = (None, None, [0, 0]);
        for pause in self.named_pauses() {
            let (from, until) = (pause.from + slack, pause.until.min(end));
            chances[0] += self.requests_elsewhere(&pause, from, until);
            early = early.or_else(|| self.call_during(&pause, from, until));
            let Some((probe, until)) = self.probe_after(&pause, slack) else {
                continue;
            };
            let until = until.min(end);
            // Otherwise the second token is not there before.
            if until > probe.at + pause.interval {
                chances[1] += self.requests_elsewhere(&pause, pause.from, until);
            }
            second = second.or_else(|| self.second_probe(&pause, probe, until));
        }
        self.had_chances(PAUSE, chances[0]);
        self.had_chances(PROBE, chances[1]);
        early.into_iter().for_each(|what| self.breaks(PAUSE, what));
        second.into_iter().for_each(|what| self.breaks(PROBE, what));
    }

    /// A call of the bucket in this time.
    fn call_during(&self, pause: &Named<'_>, from: At, until: At) -> Option<String> {
        let mut calls = self.calls_like(pause.parsed);
        let early = calls.find(|it| it.at > from && it.at + TICK < until)?;
        let (tag, at, gateway) = (early.tag, early.at, self.gateway_of(early));
        Some(format!(
            "the response to call {} at {:?} asked to wait until {:?}; {tag} left gateway {gateway} at {at:?}",
            pause.call, pause.from, pause.until
        ))
    }

    /// Another call of the bucket while the probe has no response.
    fn second_probe(&self, pause: &Named<'_>, probe: &Arrival, until: At) -> Option<String> {
        let mut calls = self.calls_like(pause.parsed);
        let second = calls
            .find(|it| it.at >= probe.at && it.at + TICK < until && !std::ptr::eq(*it, probe))?;
        let (first, at) = (probe.tag, probe.at);
        let (tag, then) = (second.tag, second.at);
        Some(format!(
            "{first} probed at {at:?} until {until:?}, and {tag} left at {then:?}"
        ))
    }

    fn named_pauses(&self) -> Vec<Named<'_>> {
        let arrivals = self.seen.upstream.arrivals.iter().enumerate();
        let pauses = arrivals.filter_map(|(call, arrival)| {
            let parsed = self.parsed.get(&arrival.tag)?;
            let response = arrival.response.as_ref()?;
            let quota = self.limits(parsed).before.quota?;
            let is_pause =
                response.status == 429 && self.has_one_credential(parsed) && self.is_heard(arrival);
            let length = response.retry_after.filter(|_| is_pause)?;
            Some(Named {
                call,
                gateway: self.gateway_of(arrival),
                parsed,
                from: response.at,
                until: response.at + length,
                interval: Duration::from_secs_f64(1.0 / quota.rate),
            })
        });
        pauses.collect()
    }

    /// The calls of a bucket.
    pub(super) fn calls_like(&self, parsed: &Parsed) -> impl Iterator<Item = &Arrival> {
        let arrivals = self.seen.upstream.arrivals.iter();
        arrivals.filter(move |arrival| {
            let other = self.parsed.get(&arrival.tag);
            other.is_some_and(|other| self.shares_account(other, parsed))
        })
    }

    /// The first call after a pause, and until when it is the only one; `None` if another 429 makes
    /// the end of the pause unknown.
    fn probe_after(&self, pause: &Named<'_>, slack: Duration) -> Option<(&Arrival, At)> {
        let mut calls = self.calls_like(pause.parsed);
        let probe = calls.find(|call| call.at + TICK >= pause.until && call.at > pause.from)?;
        let is_throttled = |call: &Arrival| {
            let response = call.response.as_ref();
            let throttled = response.filter(|it| it.status == 429 && it.at > pause.from);
            throttled.is_some_and(|it| it.at <= probe.at)
        };
        if self.calls_like(pause.parsed).any(is_throttled) || probe.at > pause.until + REMEMBERED {
            return None;
        }
        let ended = probe.ended.unwrap_or(At::MAX);
        let over = self.end_by_an_earlier_probe(pause, probe);
        let until = ended.min(over).min(probe.at + PROBE_TIMEOUT - slack);
        (until > probe.at).then_some((probe, until))
    }

    /// A 429 to a request from before another pause moves the end of that pause. A request that had
    /// left by then as its probe ends it, when its response comes after the new end.
    fn end_by_an_earlier_probe(&self, pause: &Named<'_>, probe: &Arrival) -> At {
        let responses = |call: &Arrival| call.response.as_ref().map(|it| (it.status, it.at));
        let all = self.calls_like(pause.parsed).filter_map(responses);
        let first_429 = all.filter(|it| it.0 == 429).map(|it| it.1).min();
        let earlier = self
            .calls_like(pause.parsed)
            .filter(|it| first_429.is_some_and(|at| at <= it.at) && it.at < probe.at);
        let accepted = earlier
            .filter_map(responses)
            .filter(|(status, at)| *status != 429 && *status < 500 && *at + TICK >= pause.until);
        accepted.map(|it| it.1).min().unwrap_or(At::MAX)
    }

    /// Requests of a paused bucket that arrive at other gateways in this time.
    fn requests_elsewhere(&self, pause: &Named<'_>, from: At, to: At) -> usize {
        let requests = self.seen.outcomes.iter();
        let elsewhere = requests.filter(|it| {
            it.gateway.is_some_and(|gateway| gateway != pause.gateway)
                && self.shares_account(&self.parsed[&it.step.tag], pause.parsed)
                && it.sent > from
                && it.sent < to
        });
        elsewhere.count()
    }
}
