//! Batches that several gateways share (rule: cluster).
//!
//! One gateway leads the batch of a merge key: it sends the upstream call. The others follow it: they
//! add their ids, and get its verdict. A batch that can do neither is sent by its own gateway, as
//! without a cluster, so what goes wrong here costs upstream calls and no verdict.
//!
//! Invariants: what gateways write for each other can be read and written only by those that hold a
//! receipt of the same merge key ([`sealed`]). A follower takes a verdict only if the leader's call
//! carried its ids. No lock is held while the server is asked, and each question has an end.
//!
//! - [`lead`]: from the first caller of the cluster to the verdict;
//! - [`follow`]: what the other gateways do.

mod follow;
mod lead;
mod sealed;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

pub(super) use self::follow::{Follow, Followed};
pub(super) use self::lead::{Closed, Lead};
use self::sealed::{ID_LENGTH, Sealing};
use crate::cluster::{Call, Cluster, Event, Reply, Script, Unavailable, hex, micros, random};
use crate::receipt::MergeKey;

/// How long a leader that reports nothing still counts.
const LEASE: Duration = Duration::from_secs(1);
/// How often it reports while it waits.
const RENEWAL: Duration = Duration::from_millis(300);
/// How many batches may follow one.
const MAX_FOLLOWERS: i64 = 64;

/// What batches need to be shared.
pub(super) struct SharedBatches {
    cluster: Arc<Cluster>,
    /// What waits for a verdict, by the key of that.
    waiting: Mutex<HashMap<Vec<u8>, Arc<Notify>>>,
}

/// The part of a gateway in a batch.
pub(super) enum Role {
    /// Nothing is shared.
    Local,
    Lead(Box<Lead>),
    Follow(Box<Follow>),
}

/// The open batch of a merge key, as the gateways share it.
struct OpenBatch {
    batches: Arc<SharedBatches>,
    /// Its key on the server.
    key: Vec<u8>,
    sealing: Sealing,
    /// The id of the leader's batch.
    leader: String,
}

impl SharedBatches {
    pub(super) fn new(cluster: Arc<Cluster>) -> Arc<Self> {
        Arc::new(Self {
            cluster,
            waiting: Mutex::default(),
        })
    }

    /// Passes on which verdicts are there, until the gateway ends.
    pub(super) async fn listen(&self) {
        let mut events = self.cluster.subscribe();
        loop {
            match events.recv().await {
                Ok(Event::Announced(line)) => {
                    if let Some(hint) = self.waiting().get(&*line) {
                        hint.notify_waiters();
                    }
                }
                // Announcements are only hints, so one that was missed does no harm.
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Finds out who leads the batch of this key. If none is open, this gateway does, for a batch whose
    /// window ends after `window`.
    pub(super) async fn join(self: Arc<Self>, key: &MergeKey, window: Duration) -> Role {
        let Some(mut open) = self.open_batch(key) else {
            return Role::Local;
        };
        let Ok(Reply { numbers, texts }) = open.join(window).await else {
            return Role::Local;
        };
        let (&[due], [leader]) = (&*numbers, &*texts) else {
            return Role::Local;
        };
        match std::str::from_utf8(leader) {
            Ok(leader) if leader == open.leader => {
                return Role::Lead(Box::new(Lead::new(open, window)));
            }
            // `Sealing` joins ids without a separator, so all must have one length.
            Ok(leader) if leader.len() == ID_LENGTH => open.leader = leader.to_owned(),
            _ => return Role::Local,
        }
        // The window of the leader may be longer, and these
        // callers wait for no longer than their own.
        let due = Duration::from_micros(due.try_into().unwrap_or(0)).min(window);
        Role::Follow(Box::new(Follow::new(open, Instant::now() + due)))
    }

    /// The batch of a key, with an id for that of this gateway; `None` while nothing is shared.
    fn open_batch(self: Arc<Self>, key: &MergeKey) -> Option<OpenBatch> {
        if !self.cluster.is_shared() {
            return None;
        }
        let name = self.cluster.keyed_hash([&b"batch"[..], key.as_bytes()])?;
        // Another hash than the name, which the server knows.
        let sealing = self.cluster.keyed_hash([&b"sealing"[..], key.as_bytes()])?;
        Some(OpenBatch {
            key: self.cluster.key(&["batch", &hex(&name)]),
            sealing: Sealing::new(sealing),
            leader: random::<8>(),
            batches: self,
        })
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Arc<Notify>>> {
        // No change under this lock panics halfway.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenBatch {
    /// The key of the verdict.
    fn verdict_key(&self) -> Vec<u8> {
        self.batches.cluster.key(&["verdict", &self.leader])
    }

    async fn join(&self, window: Duration) -> Result<Reply, Unavailable> {
        let arguments = vec![micros(window), millis(LEASE)];
        let texts = vec![self.leader.clone().into_bytes()];
        self.call(Script::Join, vec![self.key.clone()], arguments, texts)
            .await
    }

    async fn call(
        &self,
        script: Script,
        keys: Vec<Vec<u8>>,
        arguments: Vec<i64>,
        texts: Vec<Vec<u8>>,
    ) -> Result<Reply, Unavailable> {
        let call = Call {
            script,
            keys,
            arguments,
            texts,
            generation: None,
        };
        self.batches.cluster.call(call).await
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

impl fmt::Debug for SharedBatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBatches").finish_non_exhaustive()
    }
}
