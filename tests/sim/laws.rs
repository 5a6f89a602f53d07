//! The laws that must hold in every run.

mod buckets;
mod fault_free;
mod limits;
mod merging;
mod pace;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use wawp_gateway::config::Config;

use self::limits::Rules;
use crate::client::{Ending, Outcome, ReceivedResponse};
use crate::plan::{Manner, Plan};
use crate::run::Seen;
use crate::upstream::{Arrival, STORM};
use crate::wire::{self, At, Parsed, SEEN};

/// The timer's grain.
const TICK: Duration = Duration::from_millis(1);

/// A run that is checked.
pub(crate) struct Case {
    config: Config,
    rules: Rules,
    /// The settings after a reload, and when it begins.
    reload: Option<(At, Rules)>,
    fault_free: bool,
    drains: bool,
    /// The upstream is never away.
    stays: bool,
    /// The longest time between a token and the arrival of its request: three
    /// connections may be tried.
    dial: Duration,
    seen: Seen,
    /// The planned requests by their tags.
    parsed: HashMap<usize, Parsed>,
    broken: Vec<String>,
}

/// Returns the laws that a run broke.
pub(crate) fn judge(facts: Facts, seen: Seen) -> Vec<String> {
    let parsed = seen
        .outcomes
        .iter()
        .map(|outcome| (outcome.step.tag, wire::planned(&outcome.step)));
    let mut case = Case {
        parsed: parsed.collect(),
        rules: Rules::new(facts.config.clone()),
        reload: facts.reload.map(|(at, config)| (at, Rules::new(config))),
        config: facts.config,
        fault_free: facts.fault_free,
        drains: facts.drains,
        stays: facts.stays,
        dial: facts.dial,
        seen,
        broken: Vec::new(),
    };
    case.nothing_left_open();
    case.every_caller_gets_one_outcome();
    case.responses_belong_to_their_callers();
    case.nothing_is_sent_twice_or_in_part();
    case.merging();
    case.buckets();
    case.calls_in_flight();
    case.pauses();
    case.pauses_hold_one_bucket_only();
    case.order();
    case.shares();
    if case.fault_free {
        case.fault_free();
    }
    case.broken
}

/// The parts of a plan that the laws need; the run consumes the plan.
pub(crate) struct Facts {
    config: Config,
    reload: Option<(At, Config)>,
    fault_free: bool,
    drains: bool,
    stays: bool,
    dial: Duration,
}

impl Facts {
    pub(crate) fn of(plan: &Plan) -> Self {
        Self {
            config: plan.config.clone(),
            fault_free: plan.fault_free,
            reload: plan.reload.clone(),
            drains: plan.drain.is_some(),
            stays: plan.behaviour.restarts.is_empty(),
            dial: 3 * Duration::from_millis(plan.behaviour.dial as u64),
        }
    }
}

impl Outcome {
    fn response(&self) -> Option<&ReceivedResponse> {
        match &self.ending {
            Ending::Response(response) => Some(response),
            _ => None,
        }
    }

    /// The request was sent as a whole, whether or not its client stayed.
    fn is_fully_sent(&self) -> bool {
        match (&self.ending, self.step.manner) {
            (Ending::Unsent | Ending::Cut, _) | (_, Manner::BreaksOff) => false,
            // The client may have left before its bytes were sent.
            (Ending::Left, Manner::HangsUp(after)) => after >= TICK,
            _ => true,
        }
    }
}

impl Case {
    /// Whether the response to a request certainly reached the gateway.
    fn is_heard(&self, arrival: &Arrival) -> bool {
        arrival.response.as_ref().is_some_and(|response| {
            !self.seen.kills.contains(&response.at)
                && response.at - arrival.at < self.config.upstream.response_timeout
        })
    }

    fn breaks(&mut self, law: &str, what: impl std::fmt::Display) {
        self.broken.push(format!("{law}: {what}"));
    }

    fn nothing_left_open(&mut self) {
        const LAW: &str = "nothing is left open";
        if !self.seen.drained {
            self.breaks(LAW, "the drain does not end".to_owned());
        }
        let gauges = [
            "in_flight_requests",
            "connections",
            "batches_open",
            "limit_queued",
        ];
        let left: Vec<_> = self
            .seen
            .metrics
            .lines()
            .filter(|line| {
                gauges
                    .iter()
                    .any(|gauge| line.starts_with(&format!("wawp_gateway_{gauge}")))
            })
            .filter(|line| !line.ends_with(" 0"))
            .map(str::to_owned)
            .collect();
        for line in left {
            self.breaks(LAW, line);
        }
        for gauge in &gauges[..3] {
            if !self
                .seen
                .metrics
                .contains(&format!("\nwawp_gateway_{gauge} "))
            {
                self.breaks(LAW, format!("no gauge {gauge}"));
            }
        }
        if self.seen.open > 0 {
            self.breaks(LAW, format!("{} upstream connections", self.seen.open));
        }
        if self.seen.arrivals.len() >= STORM {
            let (calls, apps) = (self.seen.arrivals.len(), self.seen.outcomes.len());
            self.breaks(
                "no storm",
                format!("{apps} requests of apps became {calls} calls"),
            );
        }
        for panic in std::mem::take(&mut self.seen.panics) {
            self.breaks("nothing panics", panic);
        }
        for unexpected in std::mem::take(&mut self.seen.unexpected) {
            self.breaks("answered exactly once", unexpected);
        }
    }

    fn every_caller_gets_one_outcome(&mut self) {
        const LAW: &str = "every client gets a response or sees its connection closed";
        for outcome in self.seen.outcomes.clone() {
            let (tag, sent) = (outcome.step.tag, outcome.sent);
            match &outcome.ending {
                Ending::Silence => self.breaks(LAW, format!("{tag} got nothing")),
                Ending::Cut if outcome.step.manner == Manner::BreaksOff => {}
                Ending::Cut if outcome.ended >= self.seen.drain => {}
                // The upstream broke off before the head was passed on.
                Ending::Cut if self.broke_off(&outcome) => {}
                Ending::Cut => self.breaks(
                    LAW,
                    format!(
                        "{tag}, sent at {sent:?}, was cut at {:?} for no reason",
                        outcome.ended
                    ),
                ),
                Ending::Response(response) => self.is_possible(&outcome, response),
                Ending::Left | Ending::Unsent => {}
            }
        }
        let mut tags: Vec<_> = self
            .seen
            .outcomes
            .iter()
            .map(|outcome| outcome.step.tag)
            .collect();
        tags.sort_unstable();
        let count = tags.len();
        tags.dedup();
        assert_eq!(
            count,
            tags.len(),
            "the simulation records one outcome for each request"
        );
    }

    /// Whether the upstream's response to this request broke off.
    fn broke_off(&self, outcome: &Outcome) -> bool {
        let mine = self
            .seen
            .arrivals
            .iter()
            .filter(|arrival| arrival.tag == outcome.step.tag);
        mine.filter_map(|arrival| arrival.response.as_ref())
            .any(|response| {
                let meanwhile = response.at..=outcome.ended;
                response.cut || self.seen.kills.iter().any(|kill| meanwhile.contains(kill))
            })
    }

    /// A response that the gateway made must have a reason.
    fn is_possible(&mut self, outcome: &Outcome, response: &ReceivedResponse) {
        const LAW: &str = "the gateway's own responses have their reasons";
        let Some(own) = &response.own else { return };
        let tag = outcome.step.tag;
        let arrivals = self
            .seen
            .arrivals
            .iter()
            .filter(|arrival| arrival.tag == tag)
            .count();
        let reason = own.split(';').nth(1).unwrap_or_default().trim();
        let waited = outcome.ended - outcome.sent;
        let fits = match (response.status, reason) {
            (429, "error=http_request_denied") => {
                let receipt = self.parsed[&tag].is_receipt();
                // A slow body is part of the wait.
                if !receipt
                    && waited > self.config.limit.max_wait + 5 * TICK + Duration::from_millis(90)
                {
                    self.breaks(LAW, format!("{tag} was refused after {waited:?}"));
                }
                !self.fault_free && (receipt || arrivals == 0)
            }
            (503, "error=connection_limit_reached") => {
                arrivals == 0 && self.config.server.max_in_flight < 100
            }
            (
                502,
                "error=connection_refused"
                | "error=connection_timeout"
                | "error=connection_terminated",
            ) => !self.fault_free,
            (504, "error=http_response_timeout") => {
                waited >= self.config.upstream.response_timeout && !self.fault_free
            }
            (400, "error=http_request_error") => outcome.step.manner == Manner::BreaksOff,
            _ => false,
        };
        if !fits {
            self.breaks(
                LAW,
                format!(
                    "{tag} got {} {own} after {waited:?}, {arrivals} arrivals",
                    response.status
                ),
            );
        }
    }

    fn responses_belong_to_their_callers(&mut self) {
        const LAW: &str = "a response belongs to its caller";
        for outcome in self.seen.outcomes.clone() {
            let (tag, parsed) = (outcome.step.tag, self.parsed[&outcome.step.tag].clone());
            let Some(response) = outcome.response().cloned() else {
                continue;
            };
            let Some(number) = response.call else {
                if response.own.is_none() {
                    self.breaks(
                        LAW,
                        format!("{tag} got {} without a source", response.status),
                    );
                }
                continue;
            };
            let arrival = self.seen.arrivals[number].clone();
            let (Some(called), Some(given)) = (&arrival.parsed, &arrival.response) else {
                self.breaks(
                    LAW,
                    format!("{tag} got a response that call {number} never had"),
                );
                continue;
            };
            let whole = response.whole && given.body == response.body && !given.cut;
            let broken = !response.whole && given.body.starts_with(&response.body);
            let killed = self
                .seen
                .kills
                .iter()
                .any(|kill| given.at <= *kill && *kill <= outcome.ended);
            if given.status != response.status || !(whole || (broken && (given.cut || killed))) {
                self.breaks(
                    LAW,
                    format!("{tag} got {response:?}, call {number} had {given:?}"),
                );
            }
            if arrival.at < outcome.sent {
                self.breaks(
                    LAW,
                    format!(
                        "{tag}, sent at {:?}, joined call {number} of {:?}",
                        outcome.sent, arrival.at
                    ),
                );
            }
            if !parsed.is_receipt() {
                if arrival.tag != tag {
                    self.breaks(LAW, format!("{tag} got the response to {}", arrival.tag));
                }
                continue;
            }
            if !parsed.may_share(called) {
                self.breaks(
                    LAW,
                    format!("{tag} {parsed:?} shared call {number} {called:?}"),
                );
            }
            let is_rejected = [400, 413, 414, 422, 500].contains(&response.status);
            let is_common = is_rejected && self.is_common(&outcome, response.status);
            let lost = parsed.ids.iter().find(|id| !called.ids.contains(id));
            if let Some(lost) = lost.filter(|_| !is_common) {
                self.breaks(
                    "no id is lost",
                    format!("{lost} of {tag} was not in call {number}"),
                );
            }
            // A caller whose ids are all of the call's ids has its own verdict.
            let is_own = called.ids.iter().all(|id| parsed.ids.contains(id));
            if is_rejected && !is_own && !is_common && !self.may_run_out_of_time(&outcome) {
                self.breaks(
                    "no caller fails because of another caller's id",
                    format!("{tag} got the {} of {}", response.status, arrival.tag),
                );
            }
            let late = outcome.sent + self.config.limit.max_wait + self.dial + 2 * TICK;
            if arrival.at > late + slow(&outcome) {
                self.breaks(
                    "a deadline holds",
                    format!(
                        "{tag}, sent at {:?}, went out at {:?}",
                        outcome.sent, arrival.at
                    ),
                );
            }
        }
    }

    /// Whether the rejections that the gateway saw leave no other conclusion than
    /// that a receipt would be rejected too: no single id explains them, or one
    /// that the receipt has.
    fn is_common(&self, outcome: &Outcome, status: u16) -> bool {
        let parsed = &self.parsed[&outcome.step.tag];
        let rejected = self.seen.arrivals.iter().filter_map(|arrival| {
            let called = arrival.parsed.as_ref()?;
            let response = arrival.response.as_ref()?;
            let counts = response.status == status && response.at <= outcome.ended;
            (counts && parsed.may_share(called)).then_some(&called.ids)
        });
        let rejected: Vec<_> = rejected.collect();
        let Some(first) = rejected.first() else {
            return false;
        };
        let is_in_all = |id: &&String| rejected.iter().all(|ids| ids.contains(id));
        let mut suspects = first.iter().filter(is_in_all).peekable();
        let is_independent = suspects.peek().is_none();
        rejected.len() >= if is_independent { 3 } else { 2 }
            && suspects.all(|id| parsed.ids.contains(id))
    }

    /// Whether a caller may get the last verdict of its batch because its part of
    /// a split would come too late.
    fn may_run_out_of_time(&self, outcome: &Outcome) -> bool {
        let config = &self.config;
        let is_limited = config.limit.quota.is_some()
            || !config.limit.classes.is_empty()
            || config.egress.quota.is_some()
            || config.tenants.iter().any(|tenant| tenant.quota.is_some());
        let is_paused = self.seen.arrivals.iter().any(|arrival| {
            let response = arrival.response.as_ref();
            response.is_some_and(|response| response.status == 429)
        });
        is_limited || is_paused || outcome.ended - outcome.sent >= config.limit.max_wait
    }

    fn nothing_is_sent_twice_or_in_part(&mut self) {
        let mut arrivals: BTreeMap<usize, Vec<Arrival>> = BTreeMap::new();
        for arrival in &self.seen.arrivals {
            arrivals
                .entry(arrival.tag)
                .or_default()
                .push(arrival.clone());
        }
        for outcome in self.seen.outcomes.clone() {
            let tag = outcome.step.tag;
            let mine = arrivals.remove(&tag).unwrap_or_default();
            if self.parsed[&tag].path != SEEN && mine.len() > 1 {
                self.breaks(
                    "no send is repeated",
                    format!("{tag} arrived {} times", mine.len()),
                );
            }
            let whole = mine.iter().any(|arrival| arrival.parsed.is_some());
            if outcome.step.manner == Manner::BreaksOff && whole {
                self.breaks("no half request becomes whole", format!("{tag}"));
            }
            let planned = &self.parsed[&tag];
            if let Some(other) = mine
                .iter()
                .filter_map(|arrival| arrival.parsed.as_ref())
                .find(|parsed| {
                    if planned.is_receipt() {
                        !parsed.may_share(planned)
                    } else {
                        *parsed != planned
                    }
                })
            {
                let what = format!("{tag} {planned:?} arrived as {other:?}");
                self.breaks("a request arrives as it was sent", what);
            }
        }
        if let Some(tag) = arrivals.keys().next() {
            self.breaks("nothing comes from nowhere", format!("{tag}"));
        }
    }
}

/// How long the body of a slow client takes.
fn slow(outcome: &Outcome) -> Duration {
    match outcome.step.manner {
        Manner::Slow => Duration::from_millis(200),
        _ => Duration::ZERO,
    }
}
