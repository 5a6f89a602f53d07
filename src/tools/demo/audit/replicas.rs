//! What several gateways promise: one budget, shared calls, and a crash that costs only responses.
//!
//! Each gateway sends to an address of its own, so the sandbox's record says which one made a call.
//! Invariant: no figure here is one of a gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use http::header::HOST;
use tokio::time::Instant;

use super::{Accounts, Check, Mark, TEXTS, check, field, marks};
use crate::config::Quota;
use crate::tools::demo::apps::{End, Observed};
use crate::tools::demo::plan::{CAMPAIGN, Operation};
use crate::tools::sandbox::Call;

/// How long after it is due a slot may be used (rule: cluster).
const USABLE: Duration = Duration::from_millis(100);
/// For calls that arrive late, because a process had to wait for a processor. Gateways that do not
/// share a budget exceed it by seconds.
const LATE: Duration = Duration::from_millis(500);

/// What is known of several gateways.
#[derive(Clone, Debug)]
pub(in crate::tools::demo) struct Replicas {
    /// Where the sandbox serves each gateway.
    pub(in crate::tools::demo) upstreams: Vec<SocketAddr>,
    /// The limit of each instance.
    pub(in crate::tools::demo) quota: Option<Quota>,
    /// `None` if the demo was stopped before.
    pub(in crate::tools::demo) killed: Option<Killed>,
}

/// The gateway that was killed, and when.
#[derive(Clone, Copy, Debug)]
pub(in crate::tools::demo) struct Killed {
    pub(in crate::tools::demo) gateway: usize,
    pub(in crate::tools::demo) after: Duration,
}

/// The part of one gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::tools::demo) struct Part {
    /// Requests that apps sent to it.
    pub(in crate::tools::demo) requests: u64,
    pub(in crate::tools::demo) calls: u64,
    /// Those of the calls that carried ids which only other gateways had received.
    pub(in crate::tools::demo) shared_calls: u64,
    /// These ids.
    pub(in crate::tools::demo) ids_of_others: u64,
}

impl Replicas {
    /// The gateway that made a call.
    fn caller(&self, call: &Call) -> Option<usize> {
        let host: SocketAddr = call.headers.get(HOST)?.to_str().ok()?.parse().ok()?;
        self.upstreams.iter().position(|upstream| *upstream == host)
    }
}

impl Observed {
    /// All gateways that the request was sent to.
    fn gateways(&self) -> impl Iterator<Item = usize> {
        self.lost_at.iter().copied().chain([self.gateway])
    }
}

impl Accounts<'_> {
    /// The checks that a single gateway does not need.
    pub(super) fn checks_of(&self, replicas: &Replicas) -> Vec<Check> {
        let budget = replicas.quota.map(|quota| self.budget_is_shared(quota));
        let mut checks: Vec<_> = budget.into_iter().collect();
        if let Some(killed) = replicas.killed {
            checks.push(self.calls_are_shared(replicas));
            checks.push(self.crash_costs_responses_only(killed));
        }
        checks
    }

    /// The part of each gateway.
    pub(in crate::tools::demo) fn parts(&self, replicas: &Replicas) -> Vec<Part> {
        let mut parts = vec![Part::default(); replicas.upstreams.len()];
        let mut received: BTreeMap<Mark, BTreeSet<usize>> = BTreeMap::new();
        for observed in self.apps {
            for gateway in observed.gateways() {
                parts[gateway].requests += 1;
            }
            if let Some(mark) = observed.mark() {
                received
                    .entry(mark)
                    .or_default()
                    .extend(observed.gateways());
            }
        }
        for call in self.sandbox {
            let Some(caller) = replicas.caller(call) else {
                continue;
            };
            let is_of_others =
                |mark: &Mark| received.get(mark).is_some_and(|at| !at.contains(&caller));
            let of_others = marks(call).filter(is_of_others).count() as u64;
            let part = &mut parts[caller];
            part.calls += 1;
            part.shared_calls += u64::from(of_others > 0);
            part.ids_of_others += of_others;
        }
        parts
    }

    /// Upstream calls of [`CAMPAIGN`] in each second.
    pub(in crate::tools::demo) fn calls_by_second(&self, began: Instant) -> Vec<usize> {
        let mut seconds = Vec::new();
        for at in self.campaign_calls() {
            let second = at.saturating_duration_since(began).as_secs();
            let second = usize::try_from(second).unwrap_or(0);
            seconds.resize(seconds.len().max(second + 1), 0);
            seconds[second] += 1;
        }
        seconds
    }

    /// All calls for the instance beyond its limit conform to one bucket, whatever gateway made them.
    fn budget_is_shared(&self, quota: Quota) -> Check {
        let calls = self.campaign_calls();
        let busiest = Busiest::of(&calls, quota);
        let delays = (USABLE + LATE).as_secs_f64();
        let burst = f64::from(quota.burst.get());
        let allowed = (burst + quota.rate * (busiest.length.as_secs_f64() + delays)).floor();
        let is_in_second = |from: &Instant, at: &Instant| *at - *from < Duration::from_secs(1);
        let in_second = |(index, from): (usize, &Instant)| {
            let after = calls[index..].iter();
            after.take_while(|at| is_in_second(from, at)).count()
        };
        let peak = calls.iter().enumerate().map(in_second).max();
        check(
            busiest.calls as f64 <= allowed,
            format!(
                "calls of '{CAMPAIGN}' by all gateways: at most {} in a second; {} in the busiest {:.1} s, where {}/s, \
                 a burst of {burst} and {delays} s for delays allow {allowed}",
                peak.unwrap_or(0),
                busiest.calls,
                busiest.length.as_secs_f64(),
                quota.rate,
            ),
        )
    }

    /// Receipts of one chat that reached different gateways left in one call.
    fn calls_are_shared(&self, replicas: &Replicas) -> Check {
        let parts = self.parts(replicas);
        let sum = |of: fn(&Part) -> u64| parts.iter().map(of).sum::<u64>();
        let (calls, ids) = (sum(|it| it.shared_calls), sum(|it| it.ids_of_others));
        check(
            calls > 0,
            format!(
                "receipts that left in calls of other gateways: {ids} message ids in {calls} calls"
            ),
        )
    }

    /// Only the killed gateway lost responses, and the others gave all that could be repeated.
    fn crash_costs_responses_only(&self, killed: Killed) -> Check {
        let is_elsewhere = |observed: &&Observed| {
            let of_lost = (observed.end == End::Lost).then_some(observed.gateway);
            let mut lost_at = observed.lost_at.iter().copied().chain(of_lost);
            lost_at.any(|gateway| gateway != killed.gateway)
        };
        let elsewhere = self.apps.iter().filter(is_elsewhere).count();
        let repeated = self.apps.iter().filter(|it| !it.lost_at.is_empty());
        let (mut again, mut responses, mut abandoned) = (0_usize, 0, 0);
        for observed in repeated {
            again += 1;
            responses += usize::from(matches!(observed.end, End::Response(_)));
            abandoned += usize::from(observed.end == End::HungUp);
        }
        let sends: BTreeSet<_> = self.apps.iter().filter_map(Observed::lost_text).collect();
        let calls = self.sandbox.iter().filter(|call| call.path() == TEXTS);
        let texts: BTreeSet<_> = calls.filter_map(|call| field(call, "message")).collect();
        let arrived = sends.iter().filter(|text| texts.contains(**text)).count();
        let abandoned_text = match abandoned {
            0 => String::new(),
            _ => format!(", abandoned by their app {abandoned}"),
        };
        check(
            elsewhere == 0 && responses + abandoned == again,
            format!(
                "responses lost with gateway {}, killed after {:.1} s: {}; sent again to the others: {again}, \
                 responses {responses}{abandoned_text}; texts not sent again: {}, arrived {arrived}",
                killed.gateway + 1,
                killed.after.as_secs_f64(),
                again + sends.len(),
                sends.len(),
            ),
        )
    }

    /// The observed requests that a gateway which was not killed got.
    pub(super) fn lasting(&self) -> impl Iterator<Item = &Observed> {
        let killed = self.killed();
        let is_lasting =
            move |it: &&Observed| killed.is_none_or(|killed| killed.gateway != it.gateway);
        self.apps.iter().filter(is_lasting)
    }

    /// Whether the app of this request, a text, lost its response with the killed gateway.
    pub(super) fn was_lost(&self, observed: &Observed) -> bool {
        observed.end == End::Lost && self.was_at_killed(observed)
    }

    /// Whether the app of this request left before the response, and the gateway was killed. The
    /// request may not have been sent.
    pub(super) fn was_abandoned(&self, observed: &Observed) -> bool {
        observed.end == End::HungUp && self.was_at_killed(observed)
    }

    /// Upstream calls of the killed gateway.
    pub(super) fn calls_of_killed(&self) -> u64 {
        let (Some(replicas), Some(killed)) = (self.replicas, self.killed()) else {
            return 0;
        };
        let is_of_killed = |call: &&Call| replicas.caller(call) == Some(killed.gateway);
        self.sandbox.iter().filter(is_of_killed).count() as u64
    }

    /// Whose figures are compared: those of which requests, and who counted them.
    pub(super) fn whose(&self) -> (String, &'static str) {
        let without = self
            .killed()
            .map(|killed| format!(" without gateway {}'s", killed.gateway + 1));
        let who = match self.replicas {
            None => "the gateway's",
            Some(_) => "the gateways'",
        };
        (without.unwrap_or_default(), who)
    }

    fn was_at_killed(&self, observed: &Observed) -> bool {
        let killed = self.killed();
        killed.is_some_and(|killed| killed.gateway == observed.gateway)
    }

    fn killed(&self) -> Option<Killed> {
        self.replicas.and_then(|replicas| replicas.killed)
    }

    /// When the calls of [`CAMPAIGN`] arrived.
    fn campaign_calls(&self) -> Vec<Instant> {
        let is_of_campaign = |call: &&Call| call.instance.as_deref() == Some(CAMPAIGN);
        let calls = self.sandbox.iter().filter(is_of_campaign);
        let mut times: Vec<_> = calls.map(|call| call.at).collect();
        times.sort_unstable();
        times
    }
}

impl Observed {
    /// The text of a send whose response was lost.
    fn lost_text(&self) -> Option<&String> {
        match (&self.request.operation, &self.end) {
            (Operation::Text { text, .. }, End::Lost) => Some(text),
            _ => None,
        }
    }
}

/// The interval with the most calls beyond what a bucket permits for its length.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Busiest {
    calls: usize,
    length: Duration,
}

impl Busiest {
    /// `calls`: in the order of their arrival.
    fn of(calls: &[Instant], quota: Quota) -> Self {
        let mut busiest = Self::default();
        let mut highest = f64::NEG_INFINITY;
        // GCRA's theoretical arrival time, and the call since which it was never reached.
        let (mut tat, mut since) = (0.0_f64, 0);
        for (index, call) in calls.iter().enumerate() {
            let at = (*call - calls[0]).as_secs_f64();
            if tat <= at {
                (tat, since) = (at, index);
            }
            tat += 1.0 / quota.rate;
            if tat - at > highest {
                highest = tat - at;
                busiest = Self {
                    calls: index - since + 1,
                    length: *call - calls[since],
                };
            }
        }
        busiest
    }
}

#[cfg(test)]
mod tests;
