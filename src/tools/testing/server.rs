//! A server for several gateways in simulated time, over the model of its scripts.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{self, BoxFuture};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::scripts::DataSet;
use crate::cluster::{Call, Connect, Connection, Failure, Heartbeat, HeartbeatReply, Reply, Seen};
use crate::config::Config;
use crate::gateway::{BuildError, Gateway};
use crate::upstream::Dial;

/// The server's clock at the beginning, in microseconds.
const BEGINNING: i64 = 1_796_000_000_000_000;

/// Lines that a listener may be behind.
const LINES: usize = 1024;

/// A server, shared by the links of all gateways.
#[derive(Debug)]
pub struct ModelServer {
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    data: DataSet,
    saved: Option<DataSet>,
    hash_key: Option<String>,
    gateways: BTreeMap<String, (String, String, bool, Instant)>,
    listeners: Vec<mpsc::Sender<Vec<u8>>>,
    calls: usize,
    /// Replies in the place of those of some scripts, by their names.
    wrong: HashMap<&'static str, Vec<i64>>,
}

/// What becomes of the operations of one gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// They arrive after half of this round trip.
    Open(Duration),
    /// They are lost on the way there.
    Lost,
    /// They are executed, and the replies are lost.
    RepliesLost,
    /// Connections are refused.
    Refused,
}

/// The way of one gateway to the server.
#[derive(Clone, Debug)]
pub struct Link {
    server: Arc<ModelServer>,
    path: Arc<Mutex<Path>>,
}

impl ModelServer {
    /// An empty server; its clock begins now.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            state: Mutex::default(),
        })
    }

    /// Loses all data, as a restart without persistence does.
    pub fn clear(&self) {
        let mut state = self.lock();
        state.data.clear();
        state.hash_key = None;
    }

    /// Has other data, of a cluster with this key for hashes.
    pub fn replace(&self, hash_key: &str) {
        let mut state = self.lock();
        state.data.clear();
        state.hash_key = Some(hash_key.to_owned());
    }

    /// Ends the connections that receive announcements; gateways make others.
    pub fn end_listening(&self) {
        self.lock().listeners.clear();
    }

    /// Remembers the data for [`restore`](Self::restore).
    pub fn save(&self) {
        let mut state = self.lock();
        state.saved = Some(state.data.clone());
    }

    /// Loses what was written since [`save`](Self::save), as a failover does.
    pub fn restore(&self) {
        let mut state = self.lock();
        if let Some(saved) = state.saved.take() {
            state.data = saved;
        }
    }

    /// Returns this in the place of each reply of these scripts, as a broken server might.
    pub fn replace_replies(&self, scripts: &[&'static str], wrong: &[i64]) {
        let wrong = scripts.iter().map(|script| (*script, wrong.to_vec()));
        self.lock().wrong = wrong.collect();
    }

    /// Scripts that were run, without reports of gateways.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.lock().calls
    }

    fn now(&self) -> i64 {
        let micros = self.began.elapsed().as_micros();
        BEGINNING + i64::try_from(micros).unwrap_or(i64::MAX / 2)
    }

    fn run(&self, call: &Call) -> Reply {
        let now = self.now();
        let mut state = self.lock();
        state.calls += 1;
        let mut outcome = state.data.run(call, now);
        if let Some(line) = outcome.announced.take() {
            let line = line.into_bytes();
            let is_open = |listener: &mpsc::Sender<Vec<u8>>| !listener.is_closed();
            state.listeners.retain(is_open);
            for listener in &state.listeners {
                listener.try_send(line.clone()).ok();
            }
        }
        let wrong = state
            .wrong
            .get(call.script.name())
            .cloned()
            .map(Reply::from);
        wrong.unwrap_or_else(|| outcome.into())
    }

    fn heartbeat(&self, heartbeat: &Heartbeat) -> HeartbeatReply {
        let now = self.now();
        let mut state = self.lock();
        let birth = state.data.birth(now).to_string();
        if heartbeat.leaves {
            state.gateways.remove(&heartbeat.id);
        } else {
            let seen = (
                heartbeat.version.clone(),
                heartbeat.settings.clone(),
                heartbeat.shares,
                Instant::now(),
            );
            state.gateways.insert(heartbeat.id.clone(), seen);
        }
        let gateways = state.gateways.iter();
        let gateways = gateways.map(|(id, (version, settings, shares, at))| Seen {
            id: id.clone(),
            version: version.clone(),
            settings: settings.clone(),
            shares: *shares,
            ago: at.elapsed(),
        });
        let gateways = gateways
            .filter(|it| it.ago < Duration::from_secs(36))
            .collect();
        let hash_key = state
            .hash_key
            .get_or_insert_with(|| heartbeat.hash_key.clone());
        HeartbeatReply {
            hash_key: hash_key.clone(),
            birth,
            gateways,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// A way with this round trip.
    #[must_use]
    pub fn new(server: &Arc<ModelServer>, round_trip: Duration) -> Self {
        Self {
            server: Arc::clone(server),
            path: Arc::new(Mutex::new(Path::Open(round_trip))),
        }
    }

    /// A gateway with settings of a cluster, which reaches the server by this way; and the task that
    /// keeps up with the others.
    ///
    /// # Errors
    /// As [`Gateway::new`].
    pub fn gateway(
        &self,
        config: &Config,
        dial: Dial,
    ) -> Result<(Gateway, AbortHandle), BuildError> {
        let gateway = Gateway::over(config, dial, Box::new(self.clone()))?;
        let follow = tokio::spawn(gateway.clone().follow_cluster());
        Ok((gateway, follow.abort_handle()))
    }

    /// Changes what becomes of operations from now on.
    pub fn set(&self, path: Path) {
        *self.path.lock().unwrap_or_else(PoisonError::into_inner) = path;
    }

    fn path(&self) -> Path {
        *self.path.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn exchange<R>(&self, act: impl FnOnce(&ModelServer) -> R) -> Result<R, Failure> {
        match self.path() {
            Path::Open(round_trip) => {
                sleep(round_trip / 2).await;
                let result = act(&self.server);
                sleep(round_trip / 2).await;
                if self.path() == Path::RepliesLost {
                    future::pending::<()>().await;
                }
                Ok(result)
            }
            Path::Lost => future::pending().await,
            Path::RepliesLost => {
                act(&self.server);
                future::pending().await
            }
            Path::Refused => Err(Failure::Refused),
        }
    }
}

impl Connect for Link {
    fn connect(&self) -> BoxFuture<'_, Result<Box<dyn Connection>, Failure>> {
        let connection = Box::new(self.clone()) as Box<dyn Connection>;
        self.exchange(|_| connection).boxed()
    }

    fn listen<'a>(
        &'a self,
        _: &'a [u8],
    ) -> BoxFuture<'a, Result<mpsc::Receiver<Vec<u8>>, Failure>> {
        let listen = |server: &ModelServer| {
            let (sender, receiver) = mpsc::channel(LINES);
            server.lock().listeners.push(sender);
            receiver
        };
        self.exchange(listen).boxed()
    }
}

impl Connection for Link {
    fn call<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Reply, Failure>> {
        self.exchange(|server| server.run(call)).boxed()
    }

    fn heartbeat<'a>(
        &'a self,
        heartbeat: &'a Heartbeat,
    ) -> BoxFuture<'a, Result<HeartbeatReply, Failure>> {
        self.exchange(|server| server.heartbeat(heartbeat)).boxed()
    }

    fn closed(&self) -> BoxFuture<'static, ()> {
        future::pending().boxed()
    }
}
