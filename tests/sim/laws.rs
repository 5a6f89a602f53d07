//! What must hold of every run, whatever happened in it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use wawp_gateway::config::{Config, Quota};

use crate::client::{Answer, Ending, Outcome};
use crate::plan::{Manner, Plan};
use crate::run::Seen;
use crate::upstream::{Arrival, STORM};
use crate::wire::{self, At, SEEN, Said};

/// The timer's grain.
const TICK: Duration = Duration::from_millis(1);

/// What a judge knows of a run.
pub(crate) struct Case {
    config: Config,
    calm: bool,
    reloads: bool,
    drains: bool,
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
    case.order();
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
    dial: Duration,
}

impl Facts {
    pub(crate) fn of(plan: &Plan) -> Self {
        Self {
            config: plan.config.clone(),
            calm: plan.calm,
            reloads: plan.reload.is_some(),
            drains: plan.drain.is_some(),
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
    fn breaks(&mut self, law: &str, what: impl Into<String>) {
        self.broken.push(format!("{law}: {}", what.into()));
    }

    fn nothing_left_open(&mut self) {
        const LAW: &str = "nothing is left open";
        if !self.seen.drained {
            self.breaks(LAW, "the drain does not end");
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
            if [400, 413, 414, 422, 500].contains(&answer.status) && arrival.tag != tag {
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

    fn buckets(&mut self) {
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
    fn pauses(&mut self) {
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
    fn order(&mut self) {
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

    /// Where nothing fails and nothing is limited, everything succeeds, and
    /// receipts of one chat are a window apart.
    fn calm(&mut self) {
        for outcome in self.seen.outcomes.clone() {
            let (tag, said) = (outcome.step.tag, self.said[&outcome.step.tag].clone());
            if let Some(answer) = outcome.answer()
                && !(200..300).contains(&answer.status)
                && outcome.step.manner != Manner::BreaksOff
            {
                self.breaks(
                    "in a calm everything succeeds",
                    format!("{tag} got {}", answer.status),
                );
            }
            if !outcome.is_fully_sent() {
                continue;
            }
            let calls: Vec<_> = self
                .seen
                .arrivals
                .iter()
                .filter(|arrival| arrival.at >= outcome.sent)
                .filter(|arrival| {
                    arrival
                        .answer
                        .as_ref()
                        .is_some_and(|answer| answer.status < 300)
                })
                .filter_map(|arrival| Some((arrival.tag, arrival.said.as_ref()?)))
                .collect();
            let done = match said.is_receipt() {
                true if said.ids.is_empty() => {
                    calls.iter().any(|(_, called)| called.may_share(&said))
                }
                true => said.ids.iter().all(|id| {
                    calls
                        .iter()
                        .any(|(_, called)| called.may_share(&said) && called.ids.contains(id))
                }),
                false => calls.iter().any(|(arrived, _)| *arrived == tag),
            };
            if !done {
                let what = format!(
                    "{tag}, sent at {:?}, never arrived: {:?}",
                    outcome.sent, outcome.ending
                );
                self.breaks("in a calm everything arrives", what);
            }
        }
        let batch = &self.config.batch;
        if self.reloads || self.drains || batch.max_ids < 100 || batch.max_callers < 1000 {
            return;
        }
        let window = batch.window;
        let mut last: Vec<(Said, At)> = Vec::new();
        for arrival in self.seen.arrivals.clone() {
            let Some(called) = arrival.said.filter(Said::is_receipt) else {
                continue;
            };
            if arrival.at >= self.seen.drain {
                continue;
            }
            match last.iter_mut().find(|(other, _)| other.may_share(&called)) {
                None => last.push((called, arrival.at)),
                Some((_, before)) => {
                    let apart = arrival.at - std::mem::replace(before, arrival.at);
                    if apart < window {
                        self.breaks(
                            "receipts merge",
                            format!("{called:?} again after {apart:?}"),
                        );
                    }
                }
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
