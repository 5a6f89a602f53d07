//! Asks the server of a cluster for the tokens that are missing (rule: cluster).
//!
//! Invariants: at most one question is under way, and the lock is not held
//! meanwhile. A question is about what can go soon, never about more.

use std::sync::{Arc, MutexGuard};

use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::{Egress, State};
use crate::cluster::{Call, Cluster, Event, Script};
use crate::queue::flow::{FlowId, Flows, LeaseQuestion, PERIOD, Source};
use crate::tokens::slots::RETRY;

/// With n gateways a question is about this many flows, divided by n². Each gateway asks 20 times
/// per second while the egress is scarce, and each question reads what all gateways wait for: so the
/// time that the server needs for all questions is bounded (`benches/README.md`).
const FLOWS: u32 = 3000;

/// Flows whose own budgets are asserted at once.
const ASSERTED: usize = 1000;

/// The questions of this gateway.
#[derive(Debug)]
pub(super) struct Leases {
    cluster: Arc<Cluster>,
    is_asking: bool,
    /// No question before this time.
    ask_at: Option<Instant>,
    /// The connection and the data set of the last reply.
    generation: u64,
    birth: i64,
}

/// What to ask now.
struct Question {
    of_flows: LeaseQuestion,
    /// There are flows that it does not ask for.
    is_cut: bool,
    call: Call,
    generation: u64,
}

impl Leases {
    pub(super) fn new(cluster: &Arc<Cluster>) -> Self {
        Self {
            cluster: Arc::clone(cluster),
            is_asking: false,
            ask_at: None,
            generation: 0,
            birth: 0,
        }
    }

    /// Where tokens come from now.
    fn source(&self) -> Source {
        match self.cluster.is_shared() {
            true => Source::Server,
            false => Source::Part(self.cluster.share()),
        }
    }

    /// The question for these slots: since when each flow has waited, and how many it lacks. The own
    /// budgets of `debtors` are asserted.
    fn question(
        &self,
        flows: &Flows,
        mut wanted: Vec<(Instant, FlowId, u32)>,
        debtors: Vec<FlowId>,
        now: Instant,
    ) -> Option<Question> {
        let cluster = &self.cluster;
        let (live, known) = (cluster.live().get(), cluster.known().get());
        // Where there are too many, those that have waited longest.
        wanted.sort_unstable();
        let most = (FLOWS / known.saturating_mul(known)).clamp(8, 256) as usize;
        let is_cut = wanted.len() > most;
        wanted.truncate(most);
        let is_wanted = |id: &FlowId| wanted.iter().any(|wanted| wanted.1 == *id);
        // A tenant that stands twice in a question would lose the first of its two changes.
        let asserted = debtors.into_iter().filter(|id| !is_wanted(id));
        // No slots are asked for: the question only asserts what they owe.
        let asserted: Vec<_> = asserted.take(ASSERTED).map(|id| (now, id, 0)).collect();
        let wanted = wanted.into_iter().chain(asserted);
        let wanted =
            wanted.map(|(since, id, missing)| (id, missing, now.saturating_duration_since(since)));
        let of_flows = flows.question(wanted, now);
        let mut keys = vec![cluster.budget_key(&["egress"]), cluster.birth()];
        for id in of_flows.flows() {
            let digest = cluster.digest(&["tenant", flows.name_of(id)])?;
            keys.push(cluster.budget_key(&["tenant", &digest]));
        }
        let generation = cluster.generation();
        let birth = match self.generation == generation {
            true => self.birth,
            // The server may have lost what it had lent, and takes over what is known here.
            false => 0,
        };
        // Gateways that have vanished may go on without the server, with their part.
        let share = 1000 * i64::from(known) / i64::from(live);
        let mut arguments = vec![cluster.number(), birth, share];
        arguments.extend(&of_flows.arguments);
        Some(Question {
            of_flows,
            is_cut,
            call: Call {
                script: Script::Lease,
                keys,
                arguments,
                texts: Vec::new(),
                generation: Some(generation),
            },
            generation,
        })
    }
}

impl State {
    /// The question that is due, or when one will be.
    fn question(&self, now: Instant) -> Result<Question, Option<Instant>> {
        let Some(leases) = self.leases.as_ref().filter(|leases| !leases.is_asking) else {
            // If a question is under way, its reply wakes the task.
            return Err(None);
        };
        if let Some(at) = leases.ask_at.filter(|at| *at > now) {
            return Err(Some(at));
        }
        let flows = &self.queue.flows;
        let demand = self.queue.demand(now);
        let (mut wanted, mut due) = (Vec::new(), None);
        for (id, of_flow) in demand.by_flow {
            if let Some((missing, at)) = flows.missing(id, of_flow.count, now) {
                wanted.push((of_flow.since, id, missing));
                due = Some(due.map_or(at, |due: Instant| due.min(at)));
            }
        }
        let is_new = leases.generation != leases.cluster.generation();
        let debts = flows.debts(now).filter(|_| is_new);
        if debts.is_none() && due.is_none_or(|due| due > now) {
            return Err([due, demand.grows_at].into_iter().flatten().min());
        }
        let question = leases.question(flows, wanted, debts.unwrap_or_default(), now);
        // Names cannot be hashed before the first connection.
        question.ok_or(Some(now + RETRY))
    }
}

impl Egress {
    /// The state, after what has changed with the connection.
    pub(super) fn current(&self, now: Instant) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if let Some(source) = state.leases.as_ref().map(Leases::source)
            && state.queue.flows.follow(source, now)
        {
            self.wake(&mut state);
        }
        state
    }

    /// Asks the server, if something is to be asked; returns when it will be.
    pub(super) fn ask_if_needed(
        self: &Arc<Self>,
        state: &mut State,
        now: Instant,
    ) -> Option<Instant> {
        let question = match state.question(now) {
            Ok(question) => question,
            Err(next) => return next,
        };
        if let Some(leases) = &mut state.leases {
            // Under the lock under which the question was made: so there is no second one.
            leases.is_asking = true;
            let cluster = Arc::clone(&leases.cluster);
            tokio::spawn(Arc::clone(self).ask(cluster, question));
        }
        None
    }

    async fn ask(self: Arc<Self>, cluster: Arc<Cluster>, question: Question) {
        let Question {
            of_flows,
            is_cut,
            call,
            generation,
        } = question;
        let reply = cluster.call(call).await.ok();
        let now = Instant::now();
        let mut state = self.current(now);
        let flows = &mut state.queue.flows;
        let learned = reply.and_then(|reply| flows.on_reply(&of_flows, &reply.numbers, now));
        if let Some(leases) = &mut state.leases {
            leases.is_asking = false;
            leases.ask_at = match learned {
                Some(learned) => {
                    (leases.generation, leases.birth) = (generation, learned.birth);
                    // The flows that were left out wait as well: each
                    // question takes time of the server.
                    (is_cut || learned.is_scarce).then(|| now + PERIOD)
                }
                None => Some(now + RETRY),
            };
        }
        self.wake(&mut state);
    }

    /// Keeps up with the connection, until the process ends.
    pub(crate) async fn follow(self: Arc<Self>, cluster: &Cluster) {
        let mut events = cluster.subscribe();
        loop {
            match events.recv().await {
                Ok(Event::Announced(_)) => continue,
                Err(RecvError::Closed) => return,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
            }
            let now = Instant::now();
            let mut state = self.current(now);
            // Debts are asserted also where nothing waits, and no task runs.
            self.ask_if_needed(&mut state, now);
        }
    }
}
