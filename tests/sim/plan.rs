//! What a seed decides: the settings, the requests and their times, and the
//! behaviour of the upstream. Nothing here runs.
//!
//! - [`settings`]: the settings, and those that a reload applies;
//! - [`apps`]: who sends what and when;
//! - [`faults`]: what the upstream does, how its connections end, and where it is;
//! - [`cluster`]: several gateways, and what becomes of them and of their server;
//! - [`contention`]: runs of several gateways in which requests meet.

mod apps;
mod cluster;
mod contention;
mod faults;
mod settings;

use std::time::Duration;

use wawp_gateway::config::{Config, HttpVersion};

use self::apps::World;
pub(crate) use self::cluster::{Cluster, Crash, ServerFault};
pub(crate) use self::faults::{
    ATTEMPT_DELAY, Address, AddressState, Http2Behaviour, LOST_AFTER, UpstreamBehaviour,
};
use crate::rng::Rng;
use crate::writing::Writing;

/// Everything that one run does.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) config: Config,
    /// Settings that are applied during the run.
    pub(crate) reload: Option<(Duration, Config)>,
    /// Nothing is limited, and nothing fails that clients could notice: then everything must
    /// succeed.
    pub(crate) fault_free: bool,
    pub(crate) behaviour: UpstreamBehaviour,
    pub(crate) clients: Vec<Client>,
    /// When the drain begins; `None` is after the last client.
    pub(crate) drain: Option<Duration>,
    /// `None` for a single gateway.
    pub(crate) cluster: Option<Cluster>,
}

/// One app.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) http2: bool,
    /// Bytes on the way between it and the gateway.
    pub(crate) buffer: usize,
    pub(crate) steps: Vec<Step>,
}

/// One request of an app.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// The value of `x-sim-tag`, by which the upstream finds the request again.
    pub(crate) tag: usize,
    /// After the last response (HTTP/2: after the last call).
    pub(crate) think: Duration,
    pub(crate) instance: String,
    pub(crate) token: String,
    pub(crate) source: CredentialSource,
    pub(crate) kind: RequestKind,
    pub(crate) manner: Manner,
}

/// Where the credential is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CredentialSource {
    Query,
    Bearer,
    Header,
    Body,
}

#[derive(Clone, Debug)]
pub(crate) enum RequestKind {
    Receipt {
        chat: String,
        /// None is the whole chat.
        ids: Vec<String>,
        participant: Option<&'static str>,
        writing: Writing,
    },
    /// A `POST` that sends a message, with so many bytes of text.
    Send(usize),
    /// A `GET` that sends a message.
    SendByGet,
    Typing,
    Chats,
}

/// How a client behaves during a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Waits,
    /// Sends its body in pieces with pauses.
    Slow,
    /// Leaves this long after sending.
    HangsUp(Duration),
    /// Leaves in the middle of its body.
    BreaksOff,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let fault_free = rng.percent(15);
        let mut config = settings::config(&mut rng, fault_free);
        let behaviour = match fault_free {
            true => UpstreamBehaviour::fault_free(&mut rng),
            false => UpstreamBehaviour::drawn(&mut rng),
        };
        if behaviour.http2.is_some() {
            config.upstream.http = HttpVersion::Http2;
        }
        let world = if !fault_free && rng.percent(20) {
            World::of_rivals(&mut rng)
        } else {
            World::new(&mut rng, fault_free)
        };
        let mut tags = 0;
        let mut clients: Vec<_> = (0..1 + rng.below(8))
            .map(|_| apps::client(&mut rng, &world, &mut tags))
            .collect();
        if behaviour.losses > 0 {
            apps::pause(&mut rng, &mut clients);
        }
        let mut reload = rng.percent(20).then(|| {
            let mut other = config.clone();
            other.batch = settings::batch(&mut rng, config.limit.max_wait);
            (rng.millis(3000), other)
        });
        let drain = rng.percent(30).then(|| rng.millis(5000));
        if !fault_free && rng.percent(30) {
            let sharing = settings::sharing(&mut rng);
            let other = reload.as_mut().map(|(_, other)| other);
            for config in std::iter::once(&mut config).chain(other) {
                (config.egress.quota, config.tenants) = sharing.clone();
            }
        }
        if !fault_free && rng.percent(25) {
            let (at, other) = reload.get_or_insert_with(|| (rng.millis(3000), config.clone()));
            // Before the last client in most runs, so that requests wait.
            *at = (*at).min(rng.millis(3000));
            settings::moves(&mut rng, &mut config, other);
        }
        Self {
            config,
            reload,
            fault_free,
            behaviour,
            clients,
            drain,
            cluster: None,
        }
    }

    /// The same with several gateways that share their budgets and batches, or requests that
    /// meet there.
    pub(crate) fn of_cluster(seed: u64) -> Self {
        let mut rng = Rng::new(!seed);
        let mut cluster = Cluster::drawn(&mut rng);
        let contended = match rng.below(100) {
            0..20 => Some(contention::of_instances(&mut rng)),
            20..28 => Some(contention::of_tenants(&mut rng)),
            28..36 => Some(contention::of_receipts(&mut rng)),
            36..48 => Some(contention::with_quiet_times(&mut rng)),
            _ => None,
        };
        if contended.is_some() {
            cluster.faults.clear();
        }
        let mut plan = contended.unwrap_or_else(|| Self::new(seed));
        let other = plan.reload.as_mut().map(|(_, other)| other);
        for config in std::iter::once(&mut plan.config).chain(other) {
            config.cluster = Some(cluster.settings());
        }
        plan.fault_free = false;
        plan.cluster = Some(cluster);
        plan
    }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
