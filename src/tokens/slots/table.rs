//! The buckets that gateways share, by their keys.
//!
//! Invariant: the table keeps no bucket alive, and entries of dropped ones are removed when the
//! table has doubled.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::{BucketName, Slots};
use crate::cluster::{Cluster, Event};

/// The table is searched for dropped buckets when it has grown to this size.
const FIRST_SWEEP: usize = 1024;

/// The buckets that gateways share.
pub(crate) struct SharedBuckets {
    cluster: Arc<Cluster>,
    table: Mutex<Table>,
}

struct Table {
    by_key: HashMap<Vec<u8>, Weak<Slots>>,
    sweep_at: usize,
}

/// The buckets of one group of requests, which differ by instance and role.
#[derive(Clone, Debug)]
pub(crate) struct SharedGroup {
    buckets: Arc<SharedBuckets>,
    requests: Arc<str>,
}

impl SharedGroup {
    pub(crate) fn name(&self, instance: &str, role: &'static str) -> BucketName {
        BucketName {
            group: self.clone(),
            instance: Box::from(instance),
            role,
        }
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.buckets.cluster
    }
}

impl SharedBuckets {
    pub(crate) fn new(cluster: Arc<Cluster>) -> Arc<Self> {
        Arc::new(Self {
            cluster,
            table: Mutex::new(Table {
                by_key: HashMap::new(),
                sweep_at: FIRST_SWEEP,
            }),
        })
    }

    /// The buckets of the requests with these paths and methods.
    pub(crate) fn group(self: &Arc<Self>, requests: &str) -> SharedGroup {
        SharedGroup {
            buckets: Arc::clone(self),
            requests: Arc::from(requests),
        }
    }

    /// Passes on what the server announces, until the gateway ends.
    pub(crate) async fn follow(&self) {
        let mut events = self.cluster.subscribe();
        loop {
            match events.recv().await {
                Ok(Event::Announced(line)) => self.announced(&line),
                Ok(Event::Connected) => self.all().iter().for_each(Slots::reassert),
                // Announcements are only hints, so one that was missed does no harm.
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Sets the gauge of slots that are held.
    pub(crate) fn report(&self) {
        let now = Instant::now();
        let held = self
            .all()
            .iter()
            .map(|slots| slots.lock().count(now))
            .sum::<usize>();
        self.cluster
            .slots_held()
            .set(held.try_into().unwrap_or(i64::MAX));
    }

    /// `<key> <state…>`, separated by blanks.
    fn announced(&self, line: &[u8]) {
        let mut words = line.split(|byte| *byte == b' ');
        let Some(key) = words.next() else { return };
        let number = |word| std::str::from_utf8(word).ok()?.parse().ok();
        let state: Option<Vec<i64>> = words.map(number).collect();
        if let (Some(slots), Some(state)) = (self.get(key), state) {
            slots.announced(&state);
        }
    }

    fn get(&self, key: &[u8]) -> Option<Arc<Slots>> {
        self.lock().by_key.get(key)?.upgrade()
    }

    fn all(&self) -> Vec<Arc<Slots>> {
        let table = self.lock();
        table.by_key.values().filter_map(Weak::upgrade).collect()
    }

    /// Adds a bucket, which had another key before.
    fn insert(&self, key: Vec<u8>, before: Option<&[u8]>, slots: &Arc<Slots>) {
        let mut table = self.lock();
        if let Some(before) = before {
            table.by_key.remove(before);
        }
        if table.by_key.len() >= table.sweep_at {
            table.by_key.retain(|_, slots| slots.strong_count() > 0);
            table.sweep_at = (2 * table.by_key.len()).max(FIRST_SWEEP);
        }
        table.by_key.insert(key, Arc::downgrade(slots));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        // No change under this lock panics halfway.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    /// The keys of the scripts; `None` before the first connection.
    pub(super) fn keys(self: &Arc<Self>) -> Option<Vec<Vec<u8>>> {
        let BucketName {
            group,
            instance,
            role,
        } = &self.name;
        let (buckets, cluster) = (&group.buckets, group.cluster());
        let digest = cluster.digest(&[&group.requests, instance, role])?;
        let key = cluster.budget_key(&["bucket", &digest]);
        let is_known = self.lock().key.as_deref() == Some(&*key);
        if !is_known {
            // The first time, a server with another key for hashes, or another `limit.mode`.
            let before = self.lock().key.replace(Box::from(&*key));
            buckets.insert(key.clone(), before.as_deref(), self);
        }
        Some(vec![key, cluster.birth(), cluster.channel()])
    }
}

impl fmt::Debug for SharedBuckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBuckets").finish_non_exhaustive()
    }
}
