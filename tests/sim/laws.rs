//! The laws that must hold in every run.

mod buckets;
mod cluster;
mod connections;
mod counters;
mod fault_free;
mod limits;
mod merging;
mod outcomes;
mod pace;
mod reasons;
mod responses;
mod sending;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use wawp_gateway::config::Config;

pub(crate) use self::cluster::AMONG_GATEWAYS;
use self::limits::Rules;
use crate::client::{Ending, Outcome, ReceivedResponse};
use crate::plan::{Cluster, Manner, Plan, UpstreamBehaviour};
use crate::run::Seen;
use crate::upstream::Arrival;
use crate::wire::{self, At, Parsed};

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
    behaviour: UpstreamBehaviour,
    /// The longest time between a token and the arrival of its request.
    dial: Duration,
    cluster: Option<Cluster>,
    seen: Seen,
    /// The planned requests by their tags.
    parsed: HashMap<usize, Parsed>,
    verdict: Verdict,
}

/// What the laws found in a run.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// The laws that it broke.
    pub(crate) broken: Vec<String>,
    /// How often a law among gateways could have been broken.
    pub(crate) chances: BTreeMap<&'static str, usize>,
}

/// Applies all laws to a run.
pub(crate) fn judge(facts: Facts, seen: Seen) -> Verdict {
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
        behaviour: facts.behaviour,
        dial: facts.dial,
        cluster: facts.cluster,
        seen,
        verdict: Verdict::default(),
    };
    case.nothing_left_open();
    case.every_caller_gets_one_outcome();
    case.every_caller_is_answered_in_time();
    case.responses_belong_to_their_callers();
    case.nothing_is_sent_twice_or_in_part();
    case.refused_requests();
    case.retries_respect_retry_after();
    case.connections();
    case.merging();
    if let Some(cluster) = case.cluster.clone() {
        case.shared(&cluster);
        return case.verdict;
    }
    case.counters();
    case.buckets();
    case.calls_in_flight();
    case.pauses();
    case.pauses_hold_one_bucket_only();
    case.order();
    case.shares();
    if case.fault_free {
        case.fault_free();
    }
    case.verdict
}

/// The parts of a plan that the laws need; the run consumes the plan.
pub(crate) struct Facts {
    config: Config,
    reload: Option<(At, Config)>,
    fault_free: bool,
    drains: bool,
    behaviour: UpstreamBehaviour,
    dial: Duration,
    cluster: Option<Cluster>,
}

impl Facts {
    pub(crate) fn of(plan: &Plan) -> Self {
        let requests = plan.clients.iter().map(|client| client.steps.len());
        Self {
            config: plan.config.clone(),
            fault_free: plan.fault_free,
            reload: plan.reload.clone(),
            drains: plan.drain.is_some(),
            behaviour: plan.behaviour.clone(),
            dial: plan.behaviour.longest_send(requests.sum()),
            cluster: plan.cluster.clone(),
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
            !response.lost
                && !self.has_crashed(arrival, response.at)
                && !self.seen.upstream.kills.contains(&response.at)
                && response.at - arrival.at < self.config.upstream.response_timeout
        })
    }

    /// The number of the gateway that made a call.
    fn gateway_of(&self, arrival: &Arrival) -> usize {
        self.seen.upstream.connections[arrival.connection].gateway
    }

    /// Whether the gateway of a call had crashed at that time.
    fn has_crashed(&self, arrival: &Arrival, at: At) -> bool {
        let gateway = self.gateway_of(arrival);
        let mut crashes = self.seen.crashes.iter();
        crashes.any(|&(crash, crashed)| crashed == gateway && crash <= at)
    }

    /// Whether the gateway of a request crashed before it had its response.
    fn met_a_crash(&self, outcome: &Outcome) -> bool {
        let meanwhile = outcome.sent..=outcome.ended;
        let mut crashes = self.seen.crashes.iter();
        crashes.any(|(at, gateway)| outcome.gateway == Some(*gateway) && meanwhile.contains(at))
    }

    /// How long the server of a cluster may hold up what has its token: a leader closes its batch.
    fn server_wait(&self) -> Duration {
        let cluster = self.config.cluster.as_ref();
        cluster.map_or(Duration::ZERO, |cluster| cluster.timeout)
    }

    /// Counts the cases in which a law could have been broken.
    fn had_chances(&mut self, law: &'static str, count: usize) {
        *self.verdict.chances.entry(law).or_default() += count;
    }

    fn breaks(&mut self, law: &str, what: impl std::fmt::Display) {
        self.verdict.broken.push(format!("{law}: {what}"));
    }
}

/// How long the body of a slow client takes.
fn slow(outcome: &Outcome) -> Duration {
    match outcome.step.manner {
        Manner::Slow | Manner::BreaksOff => Duration::from_millis(200),
        _ => Duration::ZERO,
    }
}
