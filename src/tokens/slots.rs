//! Tokens that several gateways reserve from one bucket on a server (rule: cluster).
//!
//! A slot is the right to send one request, from a time on. The bucket reserves slots for what
//! waits there and hands them out in their order; the waiting itself is on the clock of this
//! process. While there is no server, a bucket of this process takes the place of the slots, with
//! this gateway's share of the rate.
//!
//! Invariants: at most one question about a bucket is under way. No slot is used before it is due,
//! and none more than [`USABLE`] later, so that in no interval more requests leave than the bucket
//! and its rate allow for an interval longer by that. A slot that nothing needs goes back. The
//! lock here is taken last, and never held while the server is asked.
//!
//! - [`state`]: what a gateway knows of a bucket, without a clock or a task;
//! - [`table`]: the buckets by their keys, for what the server announces.

mod state;
mod table;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::micros::{LONGEST, are_exact};
use super::{Demand, SimulatedTokens, Tokens};
use crate::cluster::{Call, Cluster, Script};
use crate::config::Quota;
use state::{Question, Report, State};
pub(crate) use table::{SharedBuckets, SharedGroup};

/// How long after it is due a slot may be used.
pub(crate) const USABLE: Duration = Duration::from_millis(100);

/// After a question without a reply the next follows not before this time.
pub(crate) const RETRY: Duration = Duration::from_millis(50);

/// Longer than any wait: something else wakes the task.
pub(crate) const UNKNOWN: Duration = Duration::from_secs(3600);

/// What a bucket is called in the whole cluster. The server sees a keyed hash of it.
#[derive(Debug)]
pub(crate) struct BucketName {
    group: SharedGroup,
    instance: Box<str>,
    /// Which of the buckets of the instance.
    role: &'static str,
}

/// The tokens of a bucket that gateways share.
#[derive(Debug)]
pub(super) struct SharedTokens {
    slots: Arc<Slots>,
}

/// A bucket that gateways share, as one of them knows it.
pub(super) struct Slots {
    name: BucketName,
    state: Mutex<State>,
    /// Wakes the task that serves the bucket's queue.
    changed: Arc<Notify>,
}

impl SharedTokens {
    /// `changed` wakes the task that serves the bucket's queue.
    pub(super) fn new(name: BucketName, quota: Quota, changed: Arc<Notify>, now: Instant) -> Self {
        Self {
            slots: Arc::new(Slots {
                name,
                state: Mutex::new(State::new(quota, now)),
                changed,
            }),
        }
    }

    pub(super) fn set_quota(&self, quota: Quota) {
        self.slots.lock().set_quota(quota);
    }

    /// Takes over a pause, of which the server learns with the first question.
    pub(super) fn pause_until(&self, until: Option<Instant>) {
        self.slots.lock().pause_until(until);
    }

    pub(super) fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.slots.changed)
    }

    pub(super) fn set_egress(&self, egress: Option<Arc<Notify>>) {
        self.slots.lock().egress = egress;
    }

    /// Whether only one slot is reserved at a time.
    pub(super) fn set_one_at_a_time(&self, one_at_a_time: bool) {
        self.slots.lock().one_at_a_time = one_at_a_time;
    }

    /// Asks the server for the slots that are missing, up to this number, or gives back what is left
    /// over.
    pub(super) fn reserve(&self, now: Instant, most: usize, demand: Demand) {
        let mut state = self.slots.current(now);
        state.set_demand(demand, most, now);
        self.slots.ask_if_needed(state, now);
    }

    /// Until when the token that was taken last may be used, if that is limited.
    pub(super) fn usable_until(&self) -> Option<Instant> {
        self.slots.lock().usable_until
    }

    /// Whether the server has replied since this was last asked.
    pub(super) fn take_news(&self) -> bool {
        std::mem::take(&mut self.slots.lock().has_news)
    }

    /// Reports a response to the server.
    fn report(&self, report: Report) {
        tokio::spawn(Arc::clone(&self.slots).report(report));
    }
}

impl Slots {
    fn cluster(&self) -> &Cluster {
        self.name.group.cluster()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No change under this lock panics halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, after what has changed with the connection.
    fn current(&self, now: Instant) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        let share = (!self.cluster().is_shared()).then(|| self.cluster().share());
        state.follow(share, now);
        state
    }

    /// Asks the server, if something is to be asked and no question is under way.
    fn ask_if_needed(self: &Arc<Self>, mut state: MutexGuard<'_, State>, now: Instant) {
        if !state.is_asking
            && let Some(question) = state.question(now, self.cluster())
        {
            // Under the lock under which the question was made: so there is no second one.
            state.is_asking = true;
            drop(state);
            tokio::spawn(Arc::clone(self).ask(question));
        }
    }

    /// Asks the server. After the reply the serving task asks again if it has to; where nothing
    /// waits there is none, and what is left is asked here.
    async fn ask(self: Arc<Self>, question: Question) {
        let mut next = Some(question);
        while let Some(mut question) = next {
            let arguments = std::mem::take(&mut question.arguments);
            let generation = question.generation();
            let reply = self.call(question.script(), arguments, generation).await;
            let now = Instant::now();
            let mut state = self.current(now);
            match reply {
                Some(reply) => state.on_reply(&question, &reply, now),
                None => state.on_no_reply(&question, now),
            }
            let is_served = !state.demand.is_empty();
            next = (!is_served)
                .then(|| state.question(now, self.cluster()))
                .flatten();
            // Under the lock of the question: a demand that comes later asks for itself.
            state.is_asking = next.is_some();
            drop(state);
            self.wake();
        }
    }

    async fn report(self: Arc<Self>, report: Report) {
        let arguments = self.lock().report_arguments(&report);
        let reply = self.call(report.script(), arguments, None).await;
        let mut state = self.lock();
        // Before `learn`: while a report is under way, it ignores that the server knows no pause.
        state.reports -= 1;
        let now = Instant::now();
        if let Some(reply) = reply {
            state.learn(&reply, now);
        }
        // Where nothing waits, no task asks. Requests that a pause refused may have left slots.
        if state.demand.is_empty() {
            self.ask_if_needed(state, now);
        } else {
            drop(state);
        }
        self.wake();
    }

    async fn call(
        self: &Arc<Self>,
        script: Script,
        arguments: Vec<i64>,
        generation: Option<u64>,
    ) -> Option<Vec<i64>> {
        let keys = self.keys()?;
        let call = Call {
            script,
            keys,
            arguments,
            texts: Vec::new(),
            generation,
        };
        let reply = self.cluster().call(call).await.ok()?.numbers;
        (is_sane(&reply) && is_in_reach(script, &reply)).then_some(reply)
    }

    /// What the server announced of this bucket.
    pub(super) fn announced(&self, reply: &[i64]) {
        if is_sane(reply) {
            self.lock().learn(reply, Instant::now());
            self.wake();
        }
    }

    /// Asserts after a new connection what is known here.
    pub(super) fn reassert(self: &Arc<Self>) {
        let now = Instant::now();
        self.ask_if_needed(self.current(now), now);
    }

    fn wake(&self) {
        let egress = self.lock().egress.clone();
        self.changed.notify_one();
        if let Some(egress) = egress {
            egress.notify_one();
        }
    }
}

/// Whether a script can have returned this, so that one wrong reply does not stop a bucket for
/// ever. Every reply ends with the state of the bucket.
fn is_sane(reply: &[i64]) -> bool {
    let Some(&[_, paused, _, _, tat, interval, spare]) = reply.last_chunk::<7>() else {
        return false;
    };
    are_exact(reply) && paused.max(tat - spare) <= LONGEST && (1..=LONGEST).contains(&interval)
}

/// Whether the times that a script returns before the state are not too far away: a slot that is due in
/// a hundred years would stop the bucket.
fn is_in_reach(script: Script, reply: &[i64]) -> bool {
    let within = |micros: &i64| *micros <= LONGEST;
    match (script, reply) {
        (Script::Reserve, [_, first, _, _, step, ..]) => within(first) && within(step),
        (Script::Probe, [_, wait, ..]) => within(wait),
        _ => true,
    }
}

impl Tokens for SharedTokens {
    fn due(&self, now: Instant, before: u32) -> Instant {
        self.slots.current(now).due(now, before)
    }

    fn ready_at(&self, now: Instant) -> Instant {
        self.slots.current(now).ready_at(now)
    }

    fn take(&mut self, now: Instant) -> Result<Option<u32>, Instant> {
        let mut state = self.slots.current(now);
        let taken = state.take(now);
        // Where requests wait, the task that serves them asks when it has served all.
        if taken.is_ok() && state.demand.is_empty() {
            self.slots.ask_if_needed(state, now);
        }
        taken
    }

    fn on_429(&mut self, now: Instant, sent: Instant, retry_after: Option<Duration>) {
        let report = self.slots.current(now).on_429(now, sent, retry_after);
        if let Some(report) = report {
            self.report(report);
        }
    }

    fn on_other_result(&mut self, now: Instant, sent: Instant, is_accepted: bool) -> bool {
        let mut state = self.slots.current(now);
        match state.on_other_result(now, sent, is_accepted) {
            Ok(goes_sooner) => goes_sooner,
            // Only the server knows whether that ends the pause. Its reply wakes what waits.
            Err(report) => {
                drop(state);
                self.report(report);
                false
            }
        }
    }

    fn refuses_until(&self) -> Option<Instant> {
        self.slots.lock().refuses_until()
    }

    fn held_until(&self, now: Instant) -> Option<Instant> {
        self.slots.current(now).held_until(now)
    }

    fn is_recovering(&self) -> bool {
        self.slots.lock().is_recovering()
    }

    fn quota(&self) -> Option<Quota> {
        Some(self.slots.lock().quota())
    }

    fn tokens(&self, now: Instant) -> Option<f64> {
        self.slots.current(now).tokens(now)
    }

    fn is_full(&self, now: Instant) -> bool {
        self.slots.lock().is_full(now)
    }

    fn simulated(&self, now: Instant) -> SimulatedTokens {
        self.slots.current(now).simulated(now)
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").finish_non_exhaustive()
    }
}
