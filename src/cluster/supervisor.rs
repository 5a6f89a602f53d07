//! Keeps the connection, and decides when service goes on without the server.
//!
//! Invariants: an outage has one line at its start and one at its end in the log; a connection is
//! used by requests only after this gateway has reported itself on it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus::Histogram;
use ring::hmac;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tower::util::rng::{HasherRng, Rng as _};

use super::failure::Failure;
use super::health::{FALLBACK_AFTER, Health, Phase};
use super::members::Heartbeat;
use super::{Cluster, Event, HashKey, Link, lock, random};

/// How often a gateway reports itself.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How often while it is not known whether the server can be used.
const TRIAL: Duration = Duration::from_millis(100);
/// Longest time to connect: name, TCP, TLS, login and role.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two attempts to connect, at most; half of it at least.
const RECONNECT: Duration = Duration::from_millis(500);
/// The longest addition to the time of recovery.
const JITTER: Duration = Duration::from_millis(500);

/// Why announcements are no longer received on a connection.
#[derive(PartialEq, Eq)]
enum Ended {
    Closed,
    /// The connection of the scripts is another one, perhaps to another server. A server that only
    /// hangs would keep this one open and announce nothing.
    Superseded,
}

/// The result of a heartbeat.
struct HeartbeatResult {
    /// All gateways are known to use the server.
    all_share: bool,
    is_another_data_set: bool,
}

impl Cluster {
    /// Keeps the connection until the process ends. To be run once.
    pub(crate) async fn run(self: Arc<Self>) {
        tokio::join!(self.supervise(), self.watch_deadline(), self.listen());
    }

    /// Deregisters this gateway, for at most `cluster.timeout`. It can go on, but others do not count it.
    pub(crate) async fn leave(&self) {
        // First: a later heartbeat of the supervisor must not register this gateway again.
        self.has_left.store(true, Ordering::Relaxed);
        if let Some(link) = self.link.load_full() {
            // A failure is logged and counted as any other; the others notice after some seconds.
            self.heartbeat(&link).await.ok();
        }
    }

    /// Sets the gauges, before metrics are scraped.
    pub(crate) fn report(&self) {
        self.count_fallback(Instant::now());
        let phase = self.health().phase();
        let names = Phase::ALL.into_iter().map(Phase::name);
        self.series.set_state(phase.name(), names);
        self.series.set_replicas(self.live().get());
    }

    /// Bounds the time of an operation, and counts it.
    pub(super) async fn bounded<T>(
        &self,
        seconds: &Histogram,
        operation: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let begun = Instant::now();
        let result = timeout(self.timeout, operation).await;
        seconds.observe(begun.elapsed().as_secs_f64());
        result.unwrap_or(Err(Failure::Timeout))
    }

    pub(super) fn record_success(&self) {
        self.change(|health, now| {
            health.record_success(now, || JITTER.mul_f64(HasherRng::default().next_f64()));
        });
    }

    pub(super) fn record_failure(&self, failure: Failure, is_needed: bool) {
        self.series.errors(failure.name()).inc();
        self.change(|health, now| health.record_failure(failure, is_needed, now));
        // Only a request that needs the server sets a deadline.
        if is_needed {
            self.deadline_changed.notify_one();
        }
    }

    /// A request needed the server, and there is no connection.
    pub(super) fn note_need(&self) {
        let had_deadline = self.health().deadline().is_some();
        self.change(|health, now| health.record_need(now));
        // Not for each request: the task knows that time already.
        if !had_deadline {
            self.deadline_changed.notify_one();
        }
    }

    /// Changes the state, and reports what follows.
    fn change(&self, change: impl FnOnce(&mut Health, Instant)) {
        let now = Instant::now();
        let mut health = self.health();
        let before = health.phase();
        let fallback_since = health.fallback_since();
        change(&mut health, now);
        let (phase, failure) = (health.phase(), health.last_failure());
        // An outage has one start and one end in the log, however often its phase changes.
        if before.is_shared() == phase.is_shared() {
            return;
        }
        // Under the lock, so that two changes are reported in their order. Nothing here waits.
        self.is_shared.store(phase.is_shared(), Ordering::Release);
        if phase.is_shared() {
            self.count_fallback_until(fallback_since, now);
            let gateways = self.live().get();
            // The first connection, without a failure before it, ends no outage.
            match fallback_since.filter(|_| failure.is_some()) {
                Some(since) => tracing::info!(
                    gateways,
                    outage_s = (now - since).as_secs_f64(),
                    "the cluster's server is used again"
                ),
                None => tracing::info!(gateways, "the cluster's server is used"),
            }
        } else if let Some(failure) = failure {
            *lock(&self.fallback_counted) = Some(now);
            self.log_outage(failure);
        }
        let event = if phase.is_shared() {
            Event::Shared
        } else {
            Event::Fallback
        };
        self.events.send(event).ok();
    }

    fn log_outage(&self, failure: Failure) {
        tracing::warn!(
            reason = failure.name(),
            detail = %failure,
            gateways = self.share().get(),
            "the cluster's server cannot be used: this gateway takes its share of every rate"
        );
    }

    /// Counts the time without the server up to now.
    fn count_fallback(&self, now: Instant) {
        let since = self.health().fallback_since();
        self.count_fallback_until(since, now);
    }

    fn count_fallback_until(&self, fallback_since: Option<Instant>, now: Instant) {
        let Some(since) = fallback_since else {
            return;
        };
        let counted = lock(&self.fallback_counted).replace(now);
        // What was counted last may belong to an earlier outage.
        let from = counted.map_or(since, |counted| counted.max(since));
        self.series
            .add_fallback(now.saturating_duration_since(from));
    }

    /// Ends the use of the server in time, also while a connection is being made.
    async fn watch_deadline(&self) {
        loop {
            let deadline = self.health().deadline();
            let ends = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = ends => self.change(Health::check),
                // `notify_one` leaves a permit, so a change since
                // `deadline` was read is not missed.
                () = self.deadline_changed.notified() => {}
            }
        }
    }

    async fn supervise(&self) {
        let mut is_logged = false;
        loop {
            match self.connect().await {
                Ok(link) => {
                    let begun = Instant::now();
                    self.serve(&link).await;
                    // From now on a call counts as not sent, and does not wait for its timeout.
                    self.link.store(None);
                    // One that lasted is replaced at once. One that
                    // ended at once would be tried in a tight loop.
                    if begun.elapsed() >= RECONNECT {
                        continue;
                    }
                }
                Err(failure) => {
                    self.record_failure(failure, false);
                    // An outage that begins before the first connection has no other line.
                    if !is_logged && self.generation() == 0 {
                        self.log_outage(failure);
                    }
                    is_logged = true;
                }
            }
            // Not all gateways at the same time.
            sleep(RECONNECT.mul_f64(0.5 + HasherRng::default().next_f64() / 2.0)).await;
        }
    }

    /// Makes a connection, and reports this gateway on it.
    async fn connect(&self) -> Result<Arc<Link>, Failure> {
        let connection = timeout(CONNECT_TIMEOUT, self.transport.connect()).await;
        let link = Arc::new(Link {
            connection: connection.unwrap_or(Err(Failure::Timeout))?,
        });
        // It writes, so it fails where the scripts of requests would fail.
        self.heartbeat(&link).await?;
        // Before the connection is there: what was made for an earlier one is not sent on it.
        self.link.store(None);
        self.generation.fetch_add(1, Ordering::Release);
        self.link.store(Some(Arc::clone(&link)));
        self.connections.send_replace(());
        self.events.send(Event::Connected).ok();
        self.record_success();
        Ok(link)
    }

    pub(super) fn begin_generation(&self) {
        self.generation.fetch_add(1, Ordering::Release);
        self.events.send(Event::Connected).ok();
    }

    /// Reports this gateway from time to time, until the connection cannot be used any more.
    async fn serve(&self, link: &Link) {
        let mut closed = link.connection.closed();
        // Others take a part of the budget in account while this gateway goes on without the
        // server, and so they have to know soon when it does not any more.
        let mut is_settled = false;
        loop {
            let last = Instant::now();
            let phase = self.health().phase();
            let next = match phase {
                Phase::Shared if is_settled => HEARTBEAT,
                _ => TRIAL,
            };
            tokio::select! {
                () = &mut closed => return self.record_failure(Failure::Reset, false),
                () = sleep_until(last + next) => {}
                () = async {
                    self.suspected.notified().await;
                    // Many operations may fail at once, and one trial is enough.
                    sleep_until(last + TRIAL).await;
                } => {}
            }
            match self.heartbeat(link).await {
                Ok(result) => {
                    self.record_success();
                    is_settled = result.all_share;
                    if result.is_another_data_set {
                        self.begin_generation();
                    }
                }
                Err(failure) => {
                    self.record_failure(failure, false);
                    // A server that is only slow keeps its connection
                    // for a second; then another one is tried.
                    let is_over = self.health().last_success().elapsed() >= FALLBACK_AFTER;
                    if failure.ends_connection() || is_over {
                        return;
                    }
                }
            }
        }
    }

    /// Reports this gateway, and takes over what the server knows of the others.
    async fn heartbeat(&self, link: &Link) -> Result<HeartbeatResult, Failure> {
        let own_key = self.hash_key.load_full();
        // Read once: `all_share` holds only for what is reported here.
        let shares = self.is_shared();
        let heartbeat = Heartbeat {
            keys: [
                self.key(&["gateways"]),
                self.key(&["hash_key"]),
                self.birth(),
            ],
            id: self.id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            settings: self.settings.load().as_ref().clone(),
            // A data set that was emptied gets the key back with which hashes were made.
            hash_key: own_key
                .as_ref()
                .map_or_else(random::<32>, |own| own.text.clone()),
            shares,
            leaves: self.has_left.load(Ordering::Relaxed),
        };
        let begun = Instant::now();
        let reply = self
            .bounded(
                &self.heartbeat_seconds,
                link.connection.heartbeat(&heartbeat),
            )
            .await?;
        let round_trip = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.round_trip.store(round_trip, Ordering::Relaxed);
        let is_another_data_set =
            own_key.is_none_or(|own| (&own.text, &own.birth) != (&reply.hash_key, &reply.birth));
        if is_another_data_set {
            let key = hmac::Key::new(hmac::HMAC_SHA256, reply.hash_key.as_bytes());
            let (text, birth) = (reply.hash_key, reply.birth);
            let hash_key = HashKey { text, key, birth };
            // Before the generation grows: what is asserted then has the new names.
            self.hash_key.store(Some(Arc::new(hash_key)));
        }
        let counts = lock(&self.members).update(reply.gateways, Instant::now());
        let counters = [
            (&self.live, counts.live),
            (&self.known, counts.known),
            (&self.share, counts.share),
        ];
        let mut is_changed = false;
        for (counter, count) in counters {
            is_changed |= counter.swap(count.get(), Ordering::Relaxed) != count.get();
        }
        if is_changed {
            self.events.send(Event::Live).ok();
        }
        Ok(HeartbeatResult {
            all_share: shares && counts.all_share,
            is_another_data_set,
        })
    }

    /// Passes on what scripts announce. Its connection is its own, and its loss costs hints only.
    async fn listen(&self) {
        let channel = self.channel();
        let mut made = self.connections.subscribe();
        loop {
            made.mark_unchanged();
            // Without the other connection there is none for this one either.
            if self.link.load().is_some() {
                let subscribed = timeout(CONNECT_TIMEOUT, self.transport.listen(&channel)).await;
                if let Ok(Ok(lines)) = subscribed {
                    self.subscriptions.fetch_add(1, Ordering::Release);
                    if self.pass_on(lines, &mut made).await == Ended::Superseded {
                        continue;
                    }
                }
            }
            sleep(RECONNECT).await;
        }
    }

    /// Passes on announcements, until their connection ends or the other one is replaced.
    async fn pass_on(
        &self,
        mut lines: mpsc::Receiver<Vec<u8>>,
        made: &mut watch::Receiver<()>,
    ) -> Ended {
        loop {
            tokio::select! {
                line = lines.recv() => match line {
                    Some(line) => {
                        self.events.send(Event::Announced(line.into())).ok();
                    }
                    None => return Ended::Closed,
                },
                // Also one that was made while this one was subscribed, perhaps to the server before.
                _ = made.changed() => return Ended::Superseded,
            }
        }
    }
}
