//! What several gateways share through a Redis or Valkey server (rule: cluster).
//!
//! Gateways never talk to each other. Each state that they share is one key of the server and is
//! changed by one script, so that a change is whole or absent. The clock of the server is the only
//! clock that scripts read; replies hold delays.
//!
//! Invariants: no credential reaches the server, only hashes with a key that the cluster shares, and
//! texts that are encrypted. No lock is held while the server is asked, and each question has an end.
//!
//! - [`script`]: the scripts, and how they are called; [`keys`]: the keys on the server;
//!   [`sealing`]: what the server must not read;
//! - `supervisor`: keeps the connection and decides with [`health`] whether the server is used;
//! - [`members`]: the gateways of the cluster;
//! - [`transport`]: what is needed of a connection; `network`: a real one, by `dial`, `bounded` (the size
//!   of replies) and `resp` (the client library); `sentinel`: to which server;
//! - [`failure`]: why the server cannot be used; [`mod@check`]: what `wawp-gateway check` says of it.

mod bounded;
mod check;
mod dial;
mod failure;
#[cfg(test)]
pub(crate) mod fake;
mod health;
mod keys;
mod members;
mod network;
mod resp;
mod script;
mod sealing;
mod sentinel;
mod supervisor;
mod transport;

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use prometheus::{Histogram, IntCounter, IntGauge};
use ring::hmac;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::Instant;

pub(crate) use self::check::check;
pub(crate) use self::failure::Failure;
use self::health::Health;
pub(crate) use self::health::Phase;
pub(crate) use self::keys::{hex, random};
use self::members::Members;
pub(crate) use self::members::{Heartbeat, HeartbeatReply, Seen};
use self::network::Network;
pub(crate) use self::script::{Call, Reply, Script, micros};
pub(crate) use self::sealing::{NONCE_LEN, SealingKey};
pub(crate) use self::transport::{Connect, Connection};
use crate::config;
use crate::observe::metrics::{ClusterSeries, Metrics};

/// More events than occur while a task waits for its turn. One that is slower misses hints.
const EVENTS: usize = 1024;

/// The cluster, as one gateway sees it.
pub(crate) struct Cluster {
    transport: Box<dyn Connect>,
    name: String,
    timeout: Duration,
    /// Random for each process.
    id: String,
    /// A hash of the settings that gateways of a cluster should have in common.
    settings: ArcSwap<String>,
    /// The connection; `None` while there is none.
    link: ArcSwapOption<Link>,
    generation: AtomicU64,
    /// Budgets are only observed (`limit.mode`).
    observes: AtomicBool,
    /// Connections that were subscribed to announcements so far.
    subscriptions: AtomicU64,
    health: Mutex<Health>,
    /// What `health` says, to be read for each request.
    is_shared: AtomicBool,
    /// The key for hashes, as the server gave it.
    hash_key: ArcSwapOption<HashKey>,
    members: Mutex<Members>,
    live: AtomicU32,
    known: AtomicU32,
    share: AtomicU32,
    /// The round trip of the last heartbeat, in microseconds.
    round_trip: AtomicU64,
    has_left: AtomicBool,
    /// An operation has failed, so the connection must be tried.
    suspected: Notify,
    /// Changes when a connection was made: announcements must come from its server.
    connections: watch::Sender<()>,
    /// The time at which service goes on without the server may have changed.
    deadline_changed: Notify,
    events: broadcast::Sender<Event>,
    series: Arc<ClusterSeries>,
    call_seconds: [Histogram; Script::ALL.len()],
    heartbeat_seconds: Histogram,
    /// Until when the time without the server is counted in the metric.
    fallback_counted: Mutex<Option<Instant>>,
}

/// A connection that can be used.
struct Link {
    connection: Box<dyn Connection>,
}

/// The key with which values are hashed before the server sees them.
struct HashKey {
    text: String,
    key: hmac::Key,
    /// Of the data set that it is from.
    birth: String,
}

/// What [`Cluster::subscribe`] reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A line that a script has published on [`Cluster::channel`]. Only a hint: lines can be lost.
    Announced(Arc<[u8]>),
    /// A connection was made, or the data set is another one. What the server granted before has to be
    /// asserted again.
    Connected,
    /// From now on [`Cluster::is_shared`] is true.
    Shared,
    /// From now on [`Cluster::is_shared`] is false.
    Fallback,
    /// [`Cluster::live`], [`Cluster::known`] or [`Cluster::share`] has changed.
    Live,
}

/// An operation without a result. It is never repeated: the next one has to find out what holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// There was no connection, so the script was not executed.
    NotSent,
    /// The script counts as executed.
    Unknown,
}

/// The authorities of `cluster.ca` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cluster.ca: {}: {reason}", path.display())]
pub struct CaError {
    pub(crate) path: PathBuf,
    /// What is wrong with the file.
    pub(crate) reason: String,
}

/// The state for the admin page.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) phase: Phase,
    /// How long service has gone on without the server.
    pub(crate) fallback: Option<Duration>,
    pub(crate) last_failure: Option<Failure>,
    /// The round trip of the last report to the server.
    pub(crate) round_trip: Duration,
    /// The id of this gateway.
    pub(crate) id: String,
    /// This gateway first, and those that have vanished lately too.
    pub(crate) gateways: Vec<Seen>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// A cluster over the network. Does nothing until [`run`](Self::run) is polled.
    ///
    /// # Errors
    /// The file `cluster.ca` cannot be used.
    pub(crate) fn new(settings: &config::Cluster, metrics: &Metrics) -> Result<Arc<Self>, CaError> {
        let network = Network::new(settings)?;
        Ok(Self::over(Box::new(network), settings, metrics))
    }

    /// A cluster over any transport.
    pub(crate) fn over(
        transport: Box<dyn Connect>,
        settings: &config::Cluster,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let series = Arc::clone(metrics.cluster());
        // Exported as 0 from the start: otherwise an alert would
        // not see the first failure as an increase.
        for failure in Failure::ALL {
            series.errors(failure.name());
        }
        let id = random::<8>();
        Arc::new(Self {
            transport,
            name: settings.name.clone(),
            timeout: settings.timeout,
            members: Mutex::new(Members::new(id.clone(), settings.replicas)),
            id,
            settings: ArcSwap::from_pointee("-".to_owned()),
            link: ArcSwapOption::empty(),
            generation: AtomicU64::new(0),
            observes: AtomicBool::new(false),
            subscriptions: AtomicU64::new(0),
            health: Mutex::new(Health::new(Instant::now())),
            is_shared: AtomicBool::new(false),
            hash_key: ArcSwapOption::empty(),
            live: AtomicU32::new(1),
            known: AtomicU32::new(1),
            share: AtomicU32::new(settings.replicas.get()),
            round_trip: AtomicU64::new(0),
            has_left: AtomicBool::new(false),
            suspected: Notify::new(),
            connections: watch::Sender::new(()),
            deadline_changed: Notify::new(),
            events: broadcast::channel(EVENTS).0,
            call_seconds: Script::ALL.map(|script| series.operation(script.name())),
            heartbeat_seconds: series.operation("heartbeat"),
            fallback_counted: Mutex::new(None),
            series,
        })
    }

    /// Runs a script, for at most `cluster.timeout`. Also while service goes on without the server, as
    /// soon as there is a connection, so that grants can be asserted again.
    ///
    /// # Errors
    /// There is no reply. Service goes on without the server ([`is_shared`](Self::is_shared) becomes
    /// false) if that lasts for a second; until then the caller should ask again.
    pub(crate) async fn call(&self, call: Call) -> Result<Reply, Unavailable> {
        let Some(link) = self.link.load_full() else {
            // Without a connection no operation fails: this begins the
            // time after which service goes on without the server.
            self.note_need();
            return Err(Unavailable::NotSent);
        };
        // After the connection was read: with a new one the generation has grown.
        if call
            .generation
            .is_some_and(|made_for| made_for != self.generation())
        {
            return Err(Unavailable::NotSent);
        }
        let seconds = &self.call_seconds[call.script as usize];
        let reply = self.bounded(seconds, link.connection.call(&call)).await;
        // Callers read numbers by their position, so a reply of another length is of no use.
        let reply = reply.and_then(|reply| {
            match reply.numbers.len() == call.script.numbers(call.keys.len()) {
                true => Ok(reply),
                false => Err(Failure::WrongReply),
            }
        });
        match reply {
            Ok(reply) => {
                self.record_success();
                Ok(reply)
            }
            Err(failure) => {
                self.record_failure(failure, true);
                // A heartbeat finds out whether only this operation has failed.
                self.suspected.notify_one();
                Err(Unavailable::Unknown)
            }
        }
    }

    /// False from the moment service goes on without the server until it is shared again.
    pub(crate) fn is_shared(&self) -> bool {
        self.is_shared.load(Ordering::Acquire)
    }

    /// Grows with each connection that was made, and where the data set has become another one; 0
    /// before the first. What was granted under another number has to be asserted again.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Grows with each connection that is subscribed to announcements; those of the time before it may
    /// have been missed.
    pub(crate) fn subscriptions(&self) -> u64 {
        self.subscriptions.load(Ordering::Acquire)
    }

    /// The divisor of a rate while service goes on without the server: `cluster.replicas`, or the
    /// highest number of gateways that were seen in the ten minutes before, if that is more.
    pub(crate) fn share(&self) -> NonZeroU32 {
        at_least_one(&self.share)
    }

    /// Gateways that were seen in the last 6 s, this one included.
    pub(crate) fn live(&self) -> NonZeroU32 {
        at_least_one(&self.live)
    }

    /// The live gateways, and those that have vanished in the last 30 s without deregistering: they may
    /// go on without the server.
    pub(crate) fn known(&self) -> NonZeroU32 {
        at_least_one(&self.known)
    }

    /// The round trip of the last report to the server.
    pub(crate) fn round_trip(&self) -> Duration {
        Duration::from_micros(self.round_trip.load(Ordering::Relaxed))
    }

    /// Events from now on. A receiver that is slower than the events misses the oldest.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Tells the other gateways which settings this one runs with.
    pub(crate) fn show_settings(&self, hash: String) {
        self.settings.store(Arc::new(hash));
    }

    /// The gauge of slots that are reserved on the server and not used.
    pub(crate) fn slots_held(&self) -> &IntGauge {
        &self.series.slots_held
    }

    /// The counter of batches whose call carried ids of other gateways.
    pub(crate) fn batches_led(&self) -> &IntCounter {
        &self.series.led
    }

    /// The counter of batches that got the verdict of another gateway's call.
    pub(crate) fn batches_followed(&self) -> &IntCounter {
        &self.series.followed
    }

    /// The state for the admin page.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        let health = self.health();
        let (phase, last_failure) = (health.phase(), health.last_failure());
        let fallback = health.fallback_since().map(|since| now - since);
        drop(health);
        Snapshot {
            phase,
            fallback,
            last_failure,
            round_trip: self.round_trip(),
            id: self.id.clone(),
            gateways: lock(&self.members).all(now),
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        lock(&self.health)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No change under these locks panics halfway.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn at_least_one(count: &AtomicU32) -> NonZeroU32 {
    NonZeroU32::new(count.load(Ordering::Relaxed)).unwrap_or(NonZeroU32::MIN)
}

#[cfg(test)]
mod tests;
