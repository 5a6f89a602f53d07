//! The gateways of a run, and how they crash.
//!
//! A crash cuts all ways between a gateway and the rest of the run: connections of clients,
//! connections to the upstream, and the way to the server. Its tasks cannot be ended together, but
//! nothing that they still do has an effect. Invariant: what a gateway has not sent before its
//! crash never arrives, and nothing arrives at it.
//!
//! - [`streams`]: the connections of one gateway.

mod streams;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use wawp_gateway::Io;
use wawp_gateway::config::Config;
use wawp_gateway::gateway::Gateway;
use wawp_gateway::testing::server::{Link, ModelServer, Path};

use self::streams::Streams;
use crate::plan::{Cluster, Crash, ServerFault};
use crate::upstream::Upstream;
use crate::wire::At;

/// The gateways, each in the place of a machine behind a load balancer.
#[derive(Debug)]
pub(crate) struct Gateways {
    upstream: Arc<Upstream>,
    /// The server that they share, and the round trip to it; `None` for a single gateway.
    server: Option<(Arc<ModelServer>, Duration)>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The settings, which a reload replaces.
    config: Config,
    places: Vec<Place>,
    /// How many gateways have started.
    started: usize,
    crashes: Vec<(At, usize)>,
}

#[derive(Debug)]
struct Place {
    /// What becomes of the operations of its gateway.
    path: Option<Path>,
    /// `None` after a crash.
    running: Option<Running>,
}

#[derive(Clone, Debug)]
struct Running {
    number: usize,
    gateway: Gateway,
    streams: Streams,
    /// Its way to the server, and the task that keeps up with the other gateways.
    cluster: Option<(Link, AbortHandle)>,
}

impl Gateways {
    pub(crate) fn start(
        config: Config,
        cluster: Option<&Cluster>,
        upstream: &Arc<Upstream>,
    ) -> Arc<Self> {
        let round_trip = cluster.map(|cluster| cluster.round_trip);
        let place = || Place {
            path: round_trip.map(Path::Open),
            running: None,
        };
        let count = cluster.map_or(1, |cluster| cluster.gateways);
        let gateways = Arc::new(Self {
            upstream: Arc::clone(upstream),
            server: round_trip.map(|round_trip| (ModelServer::new(), round_trip)),
            state: Mutex::new(State {
                config,
                places: (0..count).map(|_| place()).collect(),
                started: 0,
                crashes: Vec::new(),
            }),
        });
        (0..count).for_each(|place| gateways.start_at(place));
        gateways
    }

    /// Starts a gateway without any state.
    fn start_at(&self, place: usize) {
        let mut state = self.state.lock().unwrap();
        let number = state.started;
        state.started += 1;
        let streams = Streams::default();
        let dial = streams.dial(self.upstream.dial(number));
        let config = state.config.clone();
        let path = state.places[place].path;
        let (gateway, cluster) = match &self.server {
            None => (Gateway::new(&config, dial).unwrap(), None),
            Some((server, round_trip)) => {
                let link = Link::new(server, *round_trip);
                path.into_iter().for_each(|path| link.set(path));
                let (gateway, follower) = link.gateway(&config, dial).unwrap();
                (gateway, Some((link, follower)))
            }
        };
        state.places[place].running = Some(Running {
            number,
            gateway,
            streams,
            cluster,
        });
    }

    /// Crashes the gateway of a place. Another one takes the place later, if the plan says so.
    pub(crate) async fn crash(self: Arc<Self>, began: Instant, crash: Crash) {
        tokio::time::sleep_until(began + crash.at).await;
        let crashed = {
            let mut state = self.state.lock().unwrap();
            let crashed = state.places[crash.gateway].running.take();
            let number = crashed.as_ref().map(|it| it.number);
            let at = began.elapsed();
            state.crashes.extend(number.map(|number| (at, number)));
            crashed
        };
        if let Some(crashed) = crashed {
            crashed.streams.abort();
            if let Some((link, follower)) = &crashed.cluster {
                link.set(Path::Refused);
                follower.abort();
            }
        }
        if let Some(after) = crash.restart {
            tokio::time::sleep(after).await;
            self.start_at(crash.gateway);
        }
    }

    /// Lets a fault of the server happen.
    pub(crate) fn disturb(&self, fault: ServerFault) {
        let Some((server, _)) = &self.server else {
            return;
        };
        match fault {
            ServerFault::Way(gateway, path) => {
                let mut state = self.state.lock().unwrap();
                for (index, place) in state.places.iter_mut().enumerate() {
                    if gateway.is_none_or(|gateway| gateway == index) {
                        place.set(path);
                    }
                }
            }
            ServerFault::Clear => server.clear(),
            ServerFault::Save => server.save(),
            ServerFault::Restore => server.restore(),
            ServerFault::EndAnnouncements => server.end_listening(),
        }
    }

    /// Serves a connection of this app at its gateway, or at another one after a crash. Returns the
    /// number of the gateway.
    pub(crate) fn serve(&self, app: usize, io: impl Io + 'static) -> Option<usize> {
        let running = {
            let state = self.state.lock().unwrap();
            let count = state.places.len();
            let mut places = (0..count).map(|offset| (app + offset) % count);
            places.find_map(|place| state.places[place].running.clone())?
        };
        let Running {
            number,
            gateway,
            streams,
            ..
        } = running;
        let io = streams.wrap(Box::new(io)).ok()?;
        tokio::spawn(async move {
            tokio::select! {
                () = gateway.serve(io) => {}
                () = streams.aborted() => {}
            }
        });
        Some(number)
    }

    pub(crate) fn reload(&self, config: &Config) {
        self.state.lock().unwrap().config = config.clone();
        self.running()
            .iter()
            .for_each(|it| it.gateway.reload(config));
    }

    /// Drains those that run. Whether they end within this time.
    pub(crate) async fn drain(&self, most: Duration) -> bool {
        let running = self.running();
        running.iter().for_each(|it| it.gateway.drain());
        let all = join_all(running.iter().map(|it| it.gateway.drained()));
        tokio::time::timeout(most, all).await.is_ok()
    }

    /// The metrics of those that run.
    pub(crate) fn metrics(&self) -> String {
        let running = self.running().into_iter();
        running
            .map(|it| it.gateway.metrics().exposition())
            .collect()
    }

    /// When gateways crashed, and their numbers.
    pub(crate) fn crashes(&self) -> Vec<(At, usize)> {
        self.state.lock().unwrap().crashes.clone()
    }

    /// Ends them.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock().unwrap();
        for place in &mut state.places {
            let cluster = place.running.take().and_then(|running| running.cluster);
            cluster
                .into_iter()
                .for_each(|(_, follower)| follower.abort());
        }
    }

    fn running(&self) -> Vec<Running> {
        let state = self.state.lock().unwrap();
        let places = state.places.iter();
        places.filter_map(|place| place.running.clone()).collect()
    }
}

impl Place {
    fn set(&mut self, path: Path) {
        self.path = Some(path);
        let cluster = self.running.as_ref().and_then(|it| it.cluster.as_ref());
        cluster.into_iter().for_each(|(link, _)| link.set(path));
    }
}
