//! A server for tests: it can fail and hang, and what scripts return is up to the test.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::members::{Heartbeat, HeartbeatReply, Seen};
use super::script::{Call, Reply};
use super::transport::{Connect, Connection};

/// How the server responds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Works,
    Fails(Failure),
    /// Nothing returns.
    Hangs,
}

/// The server; clones are the same one.
#[derive(Clone)]
pub(crate) struct Fake(Arc<Mutex<State>>);

/// What a script returns.
type Run = dyn FnMut(&Call) -> Result<Reply, Failure> + Send;

/// What a test sets and sees.
pub(crate) struct State {
    /// Of attempts to connect.
    pub(crate) connect: Manner,
    /// Of scripts and heartbeats, also on connections that exist.
    pub(crate) operate: Manner,
    /// What scripts return.
    pub(crate) script: Box<Run>,
    /// Other gateways.
    pub(crate) others: Vec<Seen>,
    pub(crate) hash_key: Option<String>,
    pub(crate) birth: &'static str,
    /// Attempts to connect so far.
    pub(crate) attempts: usize,
    pub(crate) heartbeats: Vec<Heartbeat>,
    connections: CancellationToken,
    listeners: Vec<mpsc::Sender<Vec<u8>>>,
    /// Those of servers that hang.
    isolated: Vec<mpsc::Sender<Vec<u8>>>,
}

impl Default for Fake {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            connect: Manner::Works,
            operate: Manner::Works,
            script: Box::new(|call| Ok(vec![0; call.script.numbers(call.keys.len())].into())),
            others: Vec::new(),
            hash_key: None,
            birth: "1",
            attempts: 0,
            heartbeats: Vec::new(),
            connections: CancellationToken::new(),
            listeners: Vec::new(),
            isolated: Vec::new(),
        })))
    }
}

impl Fake {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Ends all connections.
    pub(crate) fn reset(&self) {
        let mut state = self.state();
        std::mem::take(&mut state.connections).cancel();
        state.listeners.clear();
    }

    /// Another server takes over. The old one hangs: connections that listen there stay open and
    /// receive nothing.
    pub(crate) fn fail_over(&self) {
        let mut state = self.state();
        std::mem::take(&mut state.connections).cancel();
        let listeners = std::mem::take(&mut state.listeners);
        state.isolated.extend(listeners);
    }

    /// How many gateways still listen at servers that hang.
    pub(crate) fn isolated(&self) -> usize {
        let state = self.state();
        let open = state.isolated.iter().filter(|it| !it.is_closed());
        open.count()
    }

    /// Publishes a line; returns how many gateways listen.
    pub(crate) fn announce(&self, line: &[u8]) -> usize {
        let state = self.state();
        for listener in &state.listeners {
            listener.try_send(line.to_vec()).ok();
        }
        state.listeners.len()
    }

    /// Refuses connections, and ends those that exist.
    pub(crate) fn stop(&self) {
        self.state().connect = Manner::Fails(Failure::Refused);
        self.reset();
    }

    pub(crate) fn start(&self) {
        self.state().connect = Manner::Works;
    }

    async fn behave(&self, manner: impl Fn(&State) -> Manner) -> Result<(), Failure> {
        let manner = manner(&self.state());
        match manner {
            Manner::Works => Ok(()),
            Manner::Fails(failure) => Err(failure),
            Manner::Hangs => std::future::pending().await,
        }
    }
}

struct FakeConnection {
    server: Fake,
    closed: CancellationToken,
}

impl Connect for Fake {
    fn connect(&self) -> BoxFuture<'_, Result<Box<dyn Connection>, Failure>> {
        Box::pin(async {
            self.state().attempts += 1;
            self.behave(|state| state.connect).await?;
            let closed = self.state().connections.clone();
            let server = self.clone();
            Ok(Box::new(FakeConnection { server, closed }) as Box<dyn Connection>)
        })
    }

    fn listen<'a>(
        &'a self,
        _: &'a [u8],
    ) -> BoxFuture<'a, Result<mpsc::Receiver<Vec<u8>>, Failure>> {
        Box::pin(async {
            self.behave(|state| state.connect).await?;
            let (sender, receiver) = mpsc::channel(8);
            self.state().listeners.push(sender);
            Ok(receiver)
        })
    }
}

impl FakeConnection {
    async fn behave(&self) -> Result<(), Failure> {
        if self.closed.is_cancelled() {
            return Err(Failure::Reset);
        }
        self.server.behave(|state| state.operate).await
    }
}

impl Connection for FakeConnection {
    fn call<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Reply, Failure>> {
        Box::pin(async {
            self.behave().await?;
            (self.server.state().script)(call)
        })
    }

    fn heartbeat<'a>(
        &'a self,
        heartbeat: &'a Heartbeat,
    ) -> BoxFuture<'a, Result<HeartbeatReply, Failure>> {
        Box::pin(async {
            self.behave().await?;
            let mut state = self.server.state();
            state.heartbeats.push(heartbeat.clone());
            let own = (!heartbeat.leaves).then(|| Seen {
                id: heartbeat.id.clone(),
                version: heartbeat.version.clone(),
                settings: heartbeat.settings.clone(),
                shares: heartbeat.shares,
                ago: Duration::ZERO,
            });
            let hash_key = state
                .hash_key
                .get_or_insert_with(|| heartbeat.hash_key.clone());
            Ok(HeartbeatReply {
                hash_key: hash_key.clone(),
                birth: state.birth.to_owned(),
                gateways: state.others.iter().cloned().chain(own).collect(),
            })
        })
    }

    fn closed(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.closed.clone().cancelled_owned())
    }
}
