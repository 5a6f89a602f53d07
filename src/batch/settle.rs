//! Sends a sealed batch until every caller has its verdict (rule: settling).
//!
//! Invariants: a caller never gets the failure of another caller's id where its
//! own request could have succeeded; a caller whose ids an upstream call has
//! carried never gets a refusal of the gateway.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::Batcher;
use super::call::{CallContext, Others, Tally};
use super::caller::{Caller, refuse};
use super::reply::LastCall;
use super::shared::Closed;
use super::split::{IdSet, Outcome, Split};
use crate::limit::{Acquired, Lane};
use crate::receipt::MergeKey;
use crate::upstream::Upstream;

/// A sealed batch on its way to the upstream.
pub(super) struct Settlement<'b> {
    calls: CallContext<'b>,
}

/// Callers with the same ids: the request of any of them serves all.
#[derive(Default)]
struct BatchMember {
    callers: Vec<Caller>,
    /// The last call with their ids.
    last: Option<LastCall>,
}

/// A call for some members, and its outcome.
struct Sent {
    call: Vec<usize>,
    outcome: Outcome,
    /// The callers that have no verdict yet.
    open: Vec<Caller>,
    /// `None` if the call was not sent, or its response was too long to share.
    last: Option<LastCall>,
}

impl<'b> Settlement<'b> {
    pub(super) fn new(
        batcher: &'b Batcher,
        lane: &'b Lane,
        upstream: &'b Upstream,
        (opened, due): (Instant, Instant),
        callers: usize,
        quarantine_time: Duration,
    ) -> Self {
        let calls = CallContext {
            batcher,
            lane,
            upstream,
            opened,
            due,
            quarantine_time,
            callers,
            others: Others::default(),
            tally: Tally::default(),
        };
        Self { calls }
    }

    /// Sends a batch with its first token, and all further calls that it needs.
    pub(super) async fn settle(&self, callers: Vec<Caller>, acquired: Acquired) {
        let metrics = &self.calls.batcher.metrics;
        metrics.batches.callers.observe(callers.len() as f64);
        let key = &callers[0].receipt.key;
        match self.calls.batcher.common_failures.of(key, Instant::now()) {
            None => self.send_whole(callers, Some(acquired), None).await,
            // `Box::pin` below: batches without failures need no room for this future.
            Some(remembered) => {
                let key = key.clone();
                let (ids, members) = by_ids(callers);
                let all: IdSet = ids.iter().flatten().copied().collect();
                metrics.batches.ids.observe(all.len() as f64);
                // A quarantined caller may fail because of its own id. It would seem to
                // confirm a common failure that is over.
                let is_fresh = |member: &BatchMember| {
                    let receipt = &member.callers[0].receipt;
                    !self.calls.batcher.quarantine.holds(receipt, Instant::now())
                };
                let first = members.iter().position(is_fresh).unwrap_or(0);
                let split = Split::recheck(ids, remembered, first);
                Box::pin(self.send_parts(split, members, &key, Some(acquired))).await;
            }
        }
        self.record_savings();
    }

    /// Sends a batch that others follow, with its first token. Only a result that holds for all of
    /// them settles them: after any other, each gateway sends what is left for its own callers.
    pub(super) async fn settle_for_all(
        mut self,
        mut callers: Vec<Caller>,
        acquired: Acquired,
        followed: Closed,
    ) {
        let batches = &self.calls.batcher.metrics.batches;
        let (key, remembered) = (&callers[0].receipt.key, &self.calls.batcher.common_failures);
        if remembered.of(key, Instant::now()).is_some() {
            // At the same time: a slot has to be used in time.
            let own = self.settle(callers, acquired);
            tokio::join!(own, followed.conclude(None));
            return;
        }
        self.calls.others = followed.others();
        let count = callers.len() + self.calls.others.callers;
        batches.callers.observe(count as f64);
        let sending = self.calls.send(&mut callers, Some(acquired), None);
        let last = followed.during(sending).await;
        self.calls.others = Others::default();
        let own = async {
            let Some(last) = &last else { return };
            // An id of another gateway may be the cause.
            let may_be_of_others = last.reply.rejection().is_some() || last.reply.is_too_long();
            if !may_be_of_others {
                batches.ids.observe(last.size.ids as f64);
                self.calls.settle(callers, last.share());
            } else if !callers.is_empty() {
                Box::pin(self.send_whole(callers, None, Some(last.share()))).await;
            }
        };
        tokio::join!(own, followed.conclude(last.as_ref()));
        self.record_savings();
    }

    /// Settles a batch whose ids a leader has got; `last` is the call that carried them, if one is
    /// known. Where it does not hold for all, this gateway sends further calls, which a full queue
    /// does not refuse.
    pub(super) async fn settle_followed(&self, mut callers: Vec<Caller>, last: Option<LastCall>) {
        let Some(last) = last else {
            if let Some(acquired) = self.calls.follow_up(&mut callers, None).await {
                self.settle(callers, acquired).await;
            }
            return;
        };
        // It counts as upstream time (rule: server timing).
        for caller in &mut callers {
            caller.in_calls += last.took;
        }
        // Where budgets are only observed, nothing would wait for the end of the pause.
        let is_last = last.reply.is_throttled() && self.calls.lane.rules().observes;
        if is_last || last.reply.is_common() {
            self.calls.settle(callers, last);
        } else {
            self.send_whole(callers, None, Some(last)).await;
        }
        self.record_savings();
    }

    fn record_savings(&self) {
        let Tally { calls, responses } = &self.calls.tally;
        let responses = responses.load(Ordering::Relaxed);
        let calls = calls.load(Ordering::Relaxed);
        self.calls.lane.record_savings(responses, calls);
    }

    /// Sends one call for all callers, and the calls that follow where it is
    /// rejected. Without an `acquired` token it waits for one; `last` is the last call with their ids.
    async fn send_whole(
        &self,
        mut callers: Vec<Caller>,
        acquired: Option<Acquired>,
        last: Option<LastCall>,
    ) {
        let Some(last) = self.calls.send(&mut callers, acquired, last).await else {
            return;
        };
        self.calls
            .batcher
            .metrics
            .batches
            .ids
            .observe(last.size.ids as f64);
        // Boxed like the split: rare futures must not enlarge that of each batch.
        if last.reply.is_too_long() {
            return Box::pin(self.send_each(callers, last)).await;
        }
        if callers.is_empty() || last.reply.rejection().is_none() {
            return self.calls.settle(callers, last);
        }
        let follow_up = async {
            let key = callers[0].receipt.key.clone();
            let (ids, mut members) = by_ids(callers);
            // The call for all has been made. Its result is the outcome of the
            // first round of the split.
            let mut split = Split::new(ids);
            for call in split.round() {
                let callers = take_callers(&mut members, &call);
                let sent = self.conclude(&split, call, callers, last.share());
                learn(&mut split, &mut members, vec![sent]);
            }
            self.send_parts(split, members, &key, None).await;
        };
        Box::pin(follow_up).await;
    }

    /// Sends the calls of a split until it ends. With an `acquired` token, the first of
    /// them rechecks a remembered failure.
    async fn send_parts(
        &self,
        mut split: Split,
        mut members: Vec<BatchMember>,
        key: &MergeKey,
        mut acquired: Option<Acquired>,
    ) {
        let is_recheck = acquired.is_some();
        let mut recheck = None;
        loop {
            let calls = split.round().into_iter().map(|call| {
                // For callers whose deadline passes before this call. All members of
                // a call were together in the last one, so any of them has it.
                let last = members[call[0]].last.take();
                let callers = take_callers(&mut members, &call);
                self.send_part(&split, call, callers, (acquired.take(), last))
            });
            let calls: Vec<_> = calls.collect();
            if calls.is_empty() {
                break;
            }
            // The parts of one round run at the same time; each waits for its own
            // token. The next round depends on all of them.
            let sent = join_all(calls).await;
            if is_recheck && recheck.is_none() {
                recheck = sent[0].last.as_ref().map(LastCall::share);
            }
            learn(&mut split, &mut members, sent);
        }
        let common = split.common();
        match common {
            Some(it) => self
                .calls
                .batcher
                .common_failures
                .remember(key, it, Instant::now()),
            // The recheck succeeded or failed in another way: the failure is over.
            None if is_recheck => self.calls.batcher.common_failures.forget(key),
            None => {}
        }
        self.settle_rest(members, recheck.as_ref().filter(|_| common.is_some()));
    }

    /// Settles the members that need no further call: with the last call that
    /// carried their ids, or with the recheck that confirmed a common failure.
    fn settle_rest(&self, members: Vec<BatchMember>, recheck: Option<&LastCall>) {
        let waiting = members.iter().map(|member| member.callers.len()).sum();
        for BatchMember { mut callers, last } in members {
            match (last, recheck) {
                (Some(last), _) => self.calls.settle(callers, last),
                (None, Some(recheck)) => {
                    // They waited for this call as if it had carried their ids: it
                    // counts as upstream time (rule: server timing).
                    for caller in &mut callers {
                        caller.in_calls += recheck.took;
                    }
                    self.calls.settle(callers, recheck.share_with(waiting));
                }
                // Not expected: a member without a last call has no callers left.
                (None, None) => refuse(
                    callers,
                    self.calls.batcher.limiter.too_late(self.calls.lane),
                ),
            }
        }
    }

    /// Sends one call for some members.
    async fn send_part(
        &self,
        split: &Split,
        call: Vec<usize>,
        mut callers: Vec<Caller>,
        (acquired, last): (Option<Acquired>, Option<LastCall>),
    ) -> Sent {
        let mut sent = Sent {
            call,
            outcome: Outcome::Expired,
            open: Vec::new(),
            last: None,
        };
        match self.calls.send(&mut callers, acquired, last).await {
            None => {}
            Some(last) if last.reply.is_too_long() => {
                self.send_each(callers, last).await;
                sent.outcome = Outcome::Settled;
            }
            Some(last) => return self.conclude(split, sent.call, callers, last),
        }
        sent
    }

    /// Sends a call for each caller: the response is too long to be shared.
    async fn send_each(&self, callers: Vec<Caller>, last: LastCall) {
        self.calls.batcher.metrics.batches.splits.inc();
        let send_one = async |caller| {
            let (mut callers, last) = (vec![caller], Some(last.share()));
            if let Some(last) = self.calls.send(&mut callers, None, last).await {
                self.calls.settle(callers, last);
            }
        };
        join_all(callers.into_iter().map(send_one)).await;
    }

    /// Settles the callers for which the result of a call is their verdict.
    fn conclude(
        &self,
        split: &Split,
        call: Vec<usize>,
        mut open: Vec<Caller>,
        last: LastCall,
    ) -> Sent {
        let mut own = Vec::new();
        let outcome = match last.reply.rejection() {
            None => {
                own.append(&mut open);
                Outcome::Settled
            }
            Some(rejection) => {
                // The owner's ids are all the ids of the call, so to send it alone
                // would repeat the call. The others may be innocent.
                let owner = split.owner(&call);
                own.extend(open.extract_if(.., |caller| Some(caller.member) == owner));
                if let Some(caller) = own.first() {
                    let length = self.calls.quarantine_time;
                    let quarantine = &self.calls.batcher.quarantine;
                    quarantine.add(&caller.receipt, Instant::now(), length);
                }
                Outcome::Rejected(rejection)
            }
        };
        if !open.is_empty() {
            self.calls.batcher.metrics.batches.splits.inc();
        }
        // Before `settle`, which consumes it. A streamed response is settled there
        // and leaves no callers, so its copy is never used.
        let shared = last.share();
        self.calls.settle(own, last);
        Sent {
            call,
            outcome,
            open,
            last: Some(shared),
        }
    }
}

/// Groups callers by their ids, in the order in which they joined.
fn by_ids(callers: Vec<Caller>) -> (Vec<IdSet>, Vec<BatchMember>) {
    let mut numbers = BTreeMap::new();
    let (mut sets, mut members) = (Vec::new(), Vec::<BatchMember>::new());
    for mut caller in callers {
        let ids: IdSet = caller.receipt.ids().hashes().collect();
        caller.member = *numbers.entry(ids).or_insert_with_key(|ids| {
            sets.push(ids.clone());
            members.push(BatchMember::default());
            members.len() - 1
        });
        members[caller.member].callers.push(caller);
    }
    (sets, members)
}

fn take_callers(members: &mut [BatchMember], call: &[usize]) -> Vec<Caller> {
    let of_member = |member: &usize| std::mem::take(&mut members[*member].callers);
    call.iter().flat_map(of_member).collect()
}

/// Returns the callers without a verdict to their members, and reports the
/// outcomes to the split.
fn learn(split: &mut Split, members: &mut [BatchMember], sent: Vec<Sent>) {
    let mut outcomes = Vec::with_capacity(sent.len());
    for Sent {
        call,
        outcome,
        open,
        last,
    } in sent
    {
        for caller in open {
            members[caller.member].callers.push(caller);
        }
        for member in &call {
            members[*member].last = last.as_ref().map(LastCall::share);
        }
        outcomes.push((call, outcome));
    }
    split.learn(outcomes);
}
