//! A batch that this gateway leads.
//!
//! Invariants: the leader sends the ids of exactly those followers that it names in the verdict.
//! While it waits or sends, it renews its lease, so that the followers go on waiting.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::sealed::{Contribution, ID_LENGTH};
use super::{LEASE, OpenBatch, RENEWAL, millis};
use crate::batch::call::Others;
use crate::batch::caller::Caller;
use crate::batch::open::{Caps, Mergeable as _};
use crate::batch::reply::LastCall;
use crate::cluster::Script;
use crate::receipt::is_message_id;

/// How long a verdict is kept for the followers.
const KEPT: Duration = Duration::from_secs(10);

/// An open batch that this gateway leads.
pub(in crate::batch) struct Lead {
    open: OpenBatch,
    window: Duration,
}

/// A batch that is closed, with those that follow it.
pub(in crate::batch) struct Closed {
    open: OpenBatch,
    /// Those whose ids the call carries.
    followers: Vec<Contribution>,
    /// Batches wait for the verdict, also if their ids are not carried.
    is_awaited: bool,
}

impl Lead {
    pub(super) fn new(open: OpenBatch, window: Duration) -> Self {
        Self { open, window }
    }

    /// Waits for something while the batch stays open for others.
    pub(in crate::batch) async fn during<T>(&self, wait: impl Future<Output = T>) -> T {
        let renew = || async {
            // To join as the leader renews its lease.
            self.open.join(self.window).await.ok();
        };
        renewing(wait, renew).await
    }

    /// Closes the batch. If that takes longer than `until`, nothing follows.
    pub(in crate::batch) async fn close(self, until: Option<Instant>) -> Closed {
        let open = self.open;
        let keys = vec![open.key.clone(), open.verdict_key()];
        let texts = vec![open.leader.clone().into_bytes()];
        let closing = open.call(Script::Close, keys, vec![millis(LEASE)], texts);
        let added = match until {
            // After `until` the token could not be used any more.
            Some(until) => timeout_at(until, closing).await.ok().and_then(Result::ok),
            None => closing.await.ok(),
        };
        let added = added.map_or(Vec::new(), |reply| reply.texts);
        let read = |text: &Vec<u8>| {
            let (id, sealed) = text.split_at_checked(ID_LENGTH)?;
            let id = std::str::from_utf8(id).ok()?;
            open.sealing.open_contribution(&open.leader, id, sealed)
        };
        Closed {
            followers: added.iter().filter_map(read).collect(),
            is_awaited: !added.is_empty(),
            open,
        }
    }
}

impl Closed {
    /// Drops the followers that do not fit into one call with these callers.
    pub(in crate::batch) fn fit(&mut self, callers: &[Caller], caps: Caps) {
        let Some(first) = callers.first().filter(|_| !self.followers.is_empty()) else {
            return self.followers.clear();
        };
        let (mut ids, mut bytes) = (HashSet::new(), 0);
        for caller in callers {
            for id in caller.receipt.ids().iter() {
                let cost = first.receipt.id_cost(&id);
                if ids.insert(id.into_owned()) {
                    bytes += cost;
                }
            }
        }
        let most = callers.iter().map(Caller::max_id_bytes).min();
        let mut count = callers.len();
        self.followers.retain(|follower| {
            let new: HashSet<_> = follower
                .ids
                .iter()
                .map(|id| id.as_bytes())
                .filter(|id| !ids.contains(*id))
                .collect();
            let cost: usize = new.iter().map(|id| first.receipt.id_cost(id)).sum();
            let fits = ids.len() + new.len() <= caps.ids
                && Some(bytes + cost) <= most
                && count + follower.callers <= caps.callers
                // They are put into the merged request as they are,
                // so each must be an id here, too.
                && follower.ids.iter().all(|id| is_message_id(id));
            if fits {
                ids.extend(new.into_iter().map(<[u8]>::to_vec));
                (bytes, count) = (bytes + cost, count + follower.callers);
            }
            fits
        });
    }

    pub(in crate::batch) fn has_followers(&self) -> bool {
        !self.followers.is_empty()
    }

    /// What the call has to carry for the followers.
    pub(in crate::batch) fn others(&self) -> Others {
        let ids = self.followers.iter().flat_map(|it| it.ids.iter().cloned());
        Others {
            callers: self.followers.iter().map(|it| it.callers).sum(),
            ids: ids.collect(),
        }
    }

    /// Waits for something while the followers wait for the verdict.
    pub(in crate::batch) async fn during<T>(&self, wait: impl Future<Output = T>) -> T {
        renewing(wait, || self.store(Vec::new(), LEASE)).await
    }

    /// Gives the followers the result of a call that carried their ids. Without one, where they did not
    /// fit, and after a result that does not hold for all, each sends its own.
    pub(in crate::batch) async fn conclude(&self, last: Option<&LastCall>) {
        if self.is_awaited {
            let is_common = last.is_some_and(|last| last.reply.is_common());
            if is_common && self.has_followers() {
                self.open.batches.cluster.batches_led().inc();
            }
            let ids = self.followers.iter().map(|it| &*it.id);
            let verdict = self.open.sealing.verdict(&self.open.leader, last, ids);
            self.store(verdict, KEPT).await;
        }
    }

    async fn store(&self, verdict: Vec<u8>, kept: Duration) {
        let keys = vec![self.open.verdict_key(), self.open.batches.cluster.channel()];
        let (arguments, texts) = (vec![millis(kept)], vec![verdict]);
        let stored = self.open.call(Script::Conclude, keys, arguments, texts);
        // Without it the followers send their own calls.
        stored.await.ok();
    }
}

/// Waits for something, and renews a lease meanwhile.
async fn renewing<T, R: Future<Output = ()>>(
    wait: impl Future<Output = T>,
    renew: impl Fn() -> R,
) -> T {
    tokio::pin!(wait);
    loop {
        let renewal = async {
            sleep(RENEWAL).await;
            renew().await;
        };
        tokio::select! {
            // Nothing is renewed once the wait is over.
            biased;
            done = &mut wait => return done,
            () = renewal => {}
        }
    }
}
