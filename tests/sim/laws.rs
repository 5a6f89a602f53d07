//! What must hold of every run, whatever happened in it.

mod calm;
mod pace;
mod standing;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use wawp_gateway::config::Config;

use crate::client::{Answer, Ending, Outcome};
use crate::plan::{Manner, Plan};
use crate::run::Seen;
use crate::upstream::{Arrival, STORM};
use crate::wire::{self, SEEN, Said};

/// The timer's grain.
const TICK: Duration = Duration::from_millis(1);

/// What a judge knows of a run.
pub(crate) struct Case {
    config: Config,
    calm: bool,
    reloads: bool,
    drains: bool,
    /// The upstream is never away.
    stays: bool,
    /// The longest time between a token and the arrival it was spent on:
    /// three connections may be tried.
    dial: Duration,
    seen: Seen,
    /// What each call said, by its tag.
    said: HashMap<usize, Said>,
    broken: Vec<String>,
}

/// Says which laws a run broke.
pub(crate) fn judge(facts: Facts, seen: Seen) -> Vec<String> {
    let said = seen
        .outcomes
        .iter()
        .map(|outcome| (outcome.step.tag, wire::planned(&outcome.step)));
    let mut case = Case {
        said: said.collect(),
        config: facts.config,
        calm: facts.calm,
        reloads: facts.reloads,
        drains: facts.drains,
        stays: facts.stays,
        dial: facts.dial,
        seen,
        broken: Vec::new(),
    };
    case.nothing_left_open();
    case.everybody_told_once();
    case.answers_belong_to_their_callers();
    case.nothing_sent_twice_or_by_half();
    case.calls_hold_what_was_asked();
    case.buckets();
    case.pauses();
    case.pauses_of_others();
    case.order();
    case.shares();
    if case.calm {
        case.calm();
    }
    case.broken
}

/// What judges need of a plan, which the run takes.
pub(crate) struct Facts {
    config: Config,
    calm: bool,
    reloads: bool,
    drains: bool,
    stays: bool,
    dial: Duration,
}

impl Facts {
    pub(crate) fn of(plan: &Plan) -> Self {
        Self {
            config: plan.config.clone(),
            calm: plan.calm,
            reloads: plan.reload.is_some(),
            drains: plan.drain.is_some(),
            stays: plan.temper.restarts.is_empty(),
            dial: 3 * Duration::from_millis(plan.temper.dial as u64),
        }
    }
}

impl Outcome {
    fn answer(&self) -> Option<&Answer> {
        match &self.ending {
            Ending::Answer(answer) => Some(answer),
            _ => None,
        }
    }

    /// Everything was sent, whether or not the caller then stayed.
    fn is_fully_sent(&self) -> bool {
        match (&self.ending, self.step.manner) {
            (Ending::Unsent | Ending::Cut, _) | (_, Manner::BreaksOff) => false,
            // Whether the bytes left the house before the caller did is open.
            (Ending::Left, Manner::HangsUp(after)) => after >= TICK,
            _ => true,
        }
    }
}

impl Case {
    /// Whether the answer to a call surely reached the gateway.
    fn is_heard(&self, arrival: &Arrival) -> bool {
        arrival.answer.as_ref().is_some_and(|answer| {
            !self.seen.kills.contains(&answer.at)
                && answer.at - arrival.at < self.config.upstream.response_timeout
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
            self.breaks("no storm", format!("{apps} calls of apps became {calls}"));
        }
        for panic in std::mem::take(&mut self.seen.panics) {
            self.breaks("nothing panics", panic);
        }
        for stray in std::mem::take(&mut self.seen.strays) {
            self.breaks("answered exactly once", stray);
        }
    }

    fn everybody_told_once(&mut self) {
        const LAW: &str = "every caller is told, or sees its connection cut";
        for outcome in self.seen.outcomes.clone() {
            let (tag, sent) = (outcome.step.tag, outcome.sent);
            match &outcome.ending {
                Ending::Silence => self.breaks(LAW, format!("{tag} heard nothing")),
                Ending::Cut if outcome.step.manner == Manner::BreaksOff => {}
                Ending::Cut if outcome.ended >= self.seen.drain => {}
                // The upstream broke off before even the head had gone on.
                Ending::Cut if self.broke_off(&outcome) => {}
                Ending::Cut => self.breaks(
                    LAW,
                    format!(
                        "{tag}, sent at {sent:?}, was cut at {:?} for no reason",
                        outcome.ended
                    ),
                ),
                Ending::Answer(answer) => self.is_possible(&outcome, answer),
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
            "the simulation itself tells one outcome for each call"
        );
    }

    /// Whether the upstream's answer to a call of one's own broke off.
    fn broke_off(&self, outcome: &Outcome) -> bool {
        let mine = self
            .seen
            .arrivals
            .iter()
            .filter(|arrival| arrival.tag == outcome.step.tag);
        mine.filter_map(|arrival| arrival.answer.as_ref())
            .any(|answer| {
                let meanwhile = answer.at..=outcome.ended;
                answer.cut || self.seen.kills.iter().any(|kill| meanwhile.contains(kill))
            })
    }

    /// An answer of the gateway's own must have a reason.
    fn is_possible(&mut self, outcome: &Outcome, answer: &Answer) {
        const LAW: &str = "the gateway's own answers have their reasons";
        let Some(own) = &answer.own else { return };
        let tag = outcome.step.tag;
        let arrivals = self
            .seen
            .arrivals
            .iter()
            .filter(|arrival| arrival.tag == tag)
            .count();
        let reason = own.split(';').nth(1).unwrap_or_default().trim();
        let waited = outcome.ended - outcome.sent;
        let fits = match (answer.status, reason) {
            (429, "error=http_request_denied") => {
                let receipt = self.said[&tag].is_receipt();
                // A slow body is part of the wait.
                if !receipt
                    && waited > self.config.limit.max_wait + 5 * TICK + Duration::from_millis(90)
                {
                    self.breaks(LAW, format!("{tag} was refused after {waited:?}"));
                }
                !self.calm && (receipt || arrivals == 0)
            }
            (503, "error=connection_limit_reached") => {
                arrivals == 0 && self.config.server.max_in_flight < 100
            }
            (
                502,
                "error=connection_refused"
                | "error=connection_timeout"
                | "error=connection_terminated",
            ) => !self.calm,
            (504, "error=http_response_timeout") => {
                waited >= self.config.upstream.response_timeout && !self.calm
            }
            (400, "error=http_request_error") => outcome.step.manner == Manner::BreaksOff,
            _ => false,
        };
        if !fits {
            self.breaks(
                LAW,
                format!(
                    "{tag} got {} {own} after {waited:?}, {arrivals} arrivals",
                    answer.status
                ),
            );
        }
    }

    fn answers_belong_to_their_callers(&mut self) {
        const LAW: &str = "an answer belongs to its caller";
        for outcome in self.seen.outcomes.clone() {
            let (tag, said) = (outcome.step.tag, self.said[&outcome.step.tag].clone());
            let Some(answer) = outcome.answer().cloned() else {
                continue;
            };
            let Some(number) = answer.call else {
                if answer.own.is_none() {
                    self.breaks(LAW, format!("{tag} got {} from nobody", answer.status));
                }
                continue;
            };
            let arrival = self.seen.arrivals[number].clone();
            let (Some(called), Some(given)) = (&arrival.said, &arrival.answer) else {
                self.breaks(
                    LAW,
                    format!("{tag} got an answer that call {number} never had"),
                );
                continue;
            };
            let whole = answer.whole && given.body == answer.body && !given.cut;
            let broken = !answer.whole && given.body.starts_with(&answer.body);
            let killed = self
                .seen
                .kills
                .iter()
                .any(|kill| given.at <= *kill && *kill <= outcome.ended);
            if given.status != answer.status || !(whole || (broken && (given.cut || killed))) {
                self.breaks(
                    LAW,
                    format!("{tag} got {answer:?}, call {number} had {given:?}"),
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
            if !said.is_receipt() {
                if arrival.tag != tag {
                    self.breaks(LAW, format!("{tag} got the answer to {}", arrival.tag));
                }
                continue;
            }
            if !said.may_share(called) {
                self.breaks(
                    LAW,
                    format!("{tag} {said:?} shared call {number} {called:?}"),
                );
            }
            if let Some(lost) = said.ids.iter().find(|id| !called.ids.contains(id)) {
                self.breaks(
                    "no id is lost",
                    format!("{lost} of {tag} was not in call {number}"),
                );
            }
            // Who asked for all that the call asked for has his own verdict.
            let is_own = called.ids.iter().all(|id| said.ids.contains(id));
            if [400, 413, 414, 422, 500].contains(&answer.status) && !is_own {
                self.breaks(
                    "nobody pays for another's id",
                    format!("{tag} got the {} of {}", answer.status, arrival.tag),
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

    fn nothing_sent_twice_or_by_half(&mut self) {
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
            if self.said[&tag].path != SEEN && mine.len() > 1 {
                self.breaks(
                    "no send is repeated",
                    format!("{tag} arrived {} times", mine.len()),
                );
            }
            let whole = mine.iter().any(|arrival| arrival.said.is_some());
            if outcome.step.manner == Manner::BreaksOff && whole {
                self.breaks("no half request becomes whole", format!("{tag}"));
            }
            let planned = &self.said[&tag];
            if let Some(other) = mine
                .iter()
                .filter_map(|arrival| arrival.said.as_ref())
                .find(|said| {
                    if planned.is_receipt() {
                        !said.may_share(planned)
                    } else {
                        *said != planned
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

    /// Each id in a call was asked for, before, by somebody who may share it.
    fn calls_hold_what_was_asked(&mut self) {
        const LAW: &str = "a call holds what was asked for";
        for (number, arrival) in self.seen.arrivals.clone().into_iter().enumerate() {
            let Some(called) = arrival.said.filter(Said::is_receipt) else {
                continue;
            };
            let own = self
                .said
                .get(&arrival.tag)
                .map(|said| said.ids.clone())
                .unwrap_or_default();
            if called.ids == own {
                continue;
            }
            if called.ids.len() > self.config.batch.max_ids && !self.reloads {
                self.breaks(LAW, format!("call {number} holds {} ids", called.ids.len()));
            }
            let distinct: HashSet<_> = called.ids.iter().collect();
            if distinct.len() < called.ids.len() {
                self.breaks(LAW, format!("call {number} holds an id twice"));
            }
            let asked: HashSet<&String> = self
                .seen
                .outcomes
                .iter()
                .filter(|outcome| outcome.sent <= arrival.at)
                .map(|outcome| &self.said[&outcome.step.tag])
                .filter(|said| said.may_share(&called))
                .flat_map(|said| &said.ids)
                .collect();
            if let Some(id) = called.ids.iter().find(|id| !asked.contains(id)) {
                let what =
                    format!("call {number}, {called:?}: nobody who may share it asked for {id}");
                self.breaks(LAW, what);
            }
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
