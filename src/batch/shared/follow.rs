//! A batch that follows that of another gateway.
//!
//! Invariants: the wait ends early enough for a call of this gateway, at the latest; a verdict counts
//! only if the leader's call carried the ids of this batch.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, sleep};

use super::sealed::Contribution;
use super::{MAX_FOLLOWERS, OpenBatch, SharedBatches, random};
use crate::batch::caller::Caller;
use crate::batch::reply::LastCall;
use crate::cluster::{Reply, Script, Unavailable};

/// How long before the deadline of a caller the wait ends.
const ONE_CALL: Duration = Duration::from_millis(500);
/// How often the verdict is asked for without a hint. It also shows that the leader has ended.
const POLL: Duration = Duration::from_millis(500);
/// After a question without a reply the next follows not before this time.
const RETRY: Duration = Duration::from_millis(50);
/// The ids must arrive so long before the leader closes its batch, in addition to two round trips.
const MARGIN: Duration = Duration::from_millis(5);

/// A batch that may follow that of another gateway.
pub(in crate::batch) struct Follow {
    open: OpenBatch,
    due: Instant,
}

/// What came of following.
pub(in crate::batch) enum Followed {
    /// The ids were not handed over.
    NotAdded,
    /// The leader may have sent the ids; with its call, if that is known to have carried them.
    Added(Option<LastCall>),
}

/// A place among what waits for a verdict.
struct Waiting<'s> {
    batches: &'s SharedBatches,
    key: Vec<u8>,
    hint: Arc<Notify>,
}

impl Follow {
    /// `due`: when the window of the leader's batch ends.
    pub(super) fn new(open: OpenBatch, due: Instant) -> Self {
        Self { open, due }
    }

    /// Until when a batch accepts callers whose own window ends at `until`: in time for the leader.
    /// One that is due and waits for its token accepts ids at any time.
    pub(in crate::batch) fn open_until(&self, until: Instant) -> Instant {
        let round_trip = self.open.batches.cluster.round_trip();
        match self.due.checked_sub(MARGIN + 2 * round_trip) {
            Some(in_time) if self.due > Instant::now() => in_time.min(until),
            _ => until,
        }
    }

    /// Adds the ids of these callers to the leader's batch, and waits for the verdict.
    pub(in crate::batch) async fn verdict(&self, callers: &[Caller]) -> Followed {
        let first = callers.iter().map(|caller| caller.deadline).min();
        let latest = first.and_then(|first| first.checked_sub(ONE_CALL));
        let Some(latest) = latest.filter(|latest| *latest > Instant::now()) else {
            return Followed::NotAdded;
        };
        let Some(own) = Contribution::of(random::<8>(), callers) else {
            return Followed::NotAdded;
        };
        let followed = tokio::time::timeout_at(latest, self.add_and_await(&own)).await;
        // An operation that is abandoned counts as executed.
        let followed = followed.unwrap_or(Followed::Added(None));
        if matches!(&followed, Followed::Added(Some(last)) if last.reply.is_common()) {
            self.open.batches.cluster.batches_followed().inc();
        }
        followed
    }

    async fn add_and_await(&self, own: &Contribution) -> Followed {
        let open = &self.open;
        let waiting = Waiting::new(open);
        let hint = waiting.hint.notified();
        tokio::pin!(hint);
        // From here on no hint is missed.
        hint.as_mut().enable();
        let texts = vec![
            open.leader.clone().into_bytes(),
            open.sealing.contribution(&open.leader, own),
        ];
        let keys = vec![open.key.clone()];
        let added = open.call(Script::Follow, keys, vec![MAX_FOLLOWERS], texts);
        match added.await {
            Ok(reply) if reply.numbers == [1] => {}
            Err(Unavailable::Unknown) => return Followed::Added(None),
            // The batch is closed, has another leader, or is followed by too many.
            Ok(_) | Err(Unavailable::NotSent) => return Followed::NotAdded,
        }
        Followed::Added(self.await_verdict(own, &waiting, hint).await)
    }

    /// Waits for the call of the leader. `None` if none is known to have carried the ids.
    async fn await_verdict<'w>(
        &self,
        own: &Contribution,
        waiting: &'w Waiting<'_>,
        mut hint: Pin<&mut Notified<'w>>,
    ) -> Option<LastCall> {
        let (open, leader) = (&self.open, self.open.leader.as_bytes());
        let mut poll = POLL;
        loop {
            tokio::select! {
                () = &mut hint => {}
                () = sleep(poll) => {}
            }
            // Before the question: a verdict that is stored meanwhile is announced to this one.
            hint.set(waiting.hint.notified());
            hint.as_mut().enable();
            poll = POLL;
            let keys = vec![open.key.clone(), waiting.key.clone()];
            let asked = open.call(Script::Verdict, keys, Vec::new(), vec![leader.to_vec()]);
            match asked.await {
                Ok(Reply { numbers, texts }) => match (&*numbers, &*texts) {
                    // The leader still waits or sends.
                    ([1], []) => {}
                    ([2], [verdict]) => {
                        return open.sealing.open_verdict(&open.leader, &own.id, verdict);
                    }
                    // The leader has ended without a verdict.
                    _ => return None,
                },
                // Without the server no verdict arrives.
                Err(_) if !open.batches.cluster.is_shared() => return None,
                Err(Unavailable::NotSent | Unavailable::Unknown) => poll = RETRY,
            }
        }
    }
}

impl<'s> Waiting<'s> {
    fn new(open: &'s OpenBatch) -> Self {
        let (batches, key) = (&*open.batches, open.verdict_key());
        let hint = Arc::clone(batches.waiting().entry(key.clone()).or_default());
        Self { batches, key, hint }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // Held until the end: `new` adds none between the count and the removal.
        let mut waiting = self.batches.waiting();
        // This one and the table.
        if Arc::strong_count(&self.hint) <= 2 {
            waiting.remove(&self.key);
        }
    }
}
