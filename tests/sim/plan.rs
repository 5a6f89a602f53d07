//! What a seed decides: the settings, the requests and their times, and the
//! behaviour of the upstream. Nothing here runs.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use wawp_gateway::config::{BatchEdge, Class, Config, PathPattern, Quota, Tenant};

use crate::rng::Rng;
use crate::writing::{BodyKind, Writing};

/// Everything that one run does.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) config: Config,
    /// Settings that are applied during the run.
    pub(crate) reload: Option<(Duration, Config)>,
    /// Nothing fails and nothing is limited: then everything must succeed.
    pub(crate) fault_free: bool,
    pub(crate) behaviour: UpstreamBehaviour,
    pub(crate) clients: Vec<Client>,
    /// When the drain begins; `None` is after the last client.
    pub(crate) drain: Option<Duration>,
}

/// How the upstream behaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct UpstreamBehaviour {
    /// Longest time until a response, in milliseconds, and how many per cent
    /// take far longer.
    pub(crate) latency: usize,
    pub(crate) very_slow: usize,
    /// Longest time until a connection stands, in milliseconds.
    pub(crate) dial: usize,
    /// In per cent of calls.
    pub(crate) throttles: usize,
    pub(crate) fails: usize,
    pub(crate) unavailable: usize,
    pub(crate) resets: usize,
    pub(crate) cuts: usize,
    /// Longest life of a connection, in milliseconds; 0 is unlimited.
    pub(crate) life: usize,
    /// When the upstream is killed, and for how long it is then unreachable.
    pub(crate) restarts: Vec<(Duration, Duration)>,
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
        let mut config = config(&mut rng, fault_free);
        let behaviour = if fault_free {
            UpstreamBehaviour {
                latency: 500,
                ..UpstreamBehaviour::default()
            }
        } else {
            behaviour(&mut rng)
        };
        let world = if !fault_free && rng.percent(20) {
            World::of_rivals(&mut rng)
        } else {
            World::new(&mut rng, fault_free)
        };
        let mut tags = 0;
        let clients = (0..1 + rng.below(8))
            .map(|_| client(&mut rng, &world, &mut tags))
            .collect();
        let mut reload = rng.percent(20).then(|| {
            let mut other = config.clone();
            other.batch = batch(&mut rng, config.limit.max_wait);
            (rng.millis(3000), other)
        });
        let drain = rng.percent(30).then(|| rng.millis(5000));
        if !fault_free && rng.percent(30) {
            let sharing = sharing(&mut rng);
            let other = reload.as_mut().map(|(_, other)| other);
            for config in std::iter::once(&mut config).chain(other) {
                (config.egress.quota, config.tenants) = sharing.clone();
            }
        }
        if !fault_free && rng.percent(25) {
            let (at, other) = reload.get_or_insert_with(|| (rng.millis(3000), config.clone()));
            // Before the last client in most runs, so that requests wait.
            *at = (*at).min(rng.millis(3000));
            moves(&mut rng, &mut config, other);
        }
        Self {
            config,
            reload,
            fault_free,
            behaviour,
            clients,
            drain,
        }
    }
}

/// Makes a reload move instances between classes of the same requests, with other limits, and no
/// request to classes of others.
fn moves(rng: &mut Rng, config: &mut Config, other: &mut Config) {
    let seen = config.limit.classes.iter().position(|it| it.name == "seen");
    let seen = seen.map(|at| config.limit.classes.remove(at));
    config.limit.classes.clear();
    // In front of the class without paths, which would otherwise take receipts of some instances.
    config.limit.classes.extend(seen);
    for (name, path, is_single) in [
        ("new-sends", Some("/v2/send/*"), true),
        ("sends", Some("/v2/send/*"), false),
        ("new", None, true),
    ] {
        let mut class = class(rng, name, path, None);
        if is_single {
            class.instances = some_instances(rng);
        }
        config.limit.classes.push(class);
    }
    other.limit.classes.clone_from(&config.limit.classes);
    for class in &mut other.limit.classes {
        if !class.instances.is_empty() {
            class.instances = some_instances(rng);
        }
        if rng.percent(30) {
            class.quota = quota(rng);
        }
        if rng.percent(20) {
            class.max_in_flight = max_in_flight(rng);
        }
    }
}

/// Half of the instances; never none, which would be all.
fn some_instances(rng: &mut Rng) -> Vec<String> {
    let all = ["i0", "i1", "i2"].into_iter();
    let mut some: Vec<_> = all.filter(|_| rng.percent(50)).collect();
    some.push("another");
    some.into_iter().map(str::to_owned).collect()
}

fn class(rng: &mut Rng, name: &str, path: Option<&str>, instance: Option<&str>) -> Class {
    let paths = path.map(|it| PathPattern::parse(it).unwrap());
    Class {
        name: name.to_owned(),
        paths: paths.into_iter().collect(),
        methods: Vec::new(),
        instances: instance.map(str::to_owned).into_iter().collect(),
        tenants: Vec::new(),
        quota: quota(rng),
        max_in_flight: max_in_flight(rng),
    }
}

fn max_in_flight(rng: &mut Rng) -> Option<NonZeroU32> {
    NonZeroU32::new(rng.pick(&[0, 0, 1, 2]))
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn config(rng: &mut Rng, fault_free: bool) -> Config {
    let mut config = Config::default();
    config.upstream.url = "http://upstream.test".parse().unwrap();
    config.upstream.idle_timeout = rng.pick(&[ms(100), ms(1000), ms(30_000)]);
    config.upstream.max_idle = rng.pick(&[0, 1, 3, 10_000]);
    config.upstream.max_age = rng.pick(&[ms(0), ms(200), ms(2000), ms(300_000)]);
    config.limit.max_wait = rng.pick(&[ms(300), ms(1000), ms(4000)]);
    config.batch = batch(rng, config.limit.max_wait);
    config.limit.headers = rng.percent(30);
    if fault_free {
        config.limit.quota = None;
        return config;
    }
    config.upstream.response_timeout = rng.pick(&[ms(1500), ms(310_000)]);
    config.limit.quota = quota(rng);
    config.limit.max_queue = rng.pick(&[1, 3, 1000]);
    config.server.max_in_flight = rng.pick(&[3, 10_000, 10_000, 10_000]);
    for (name, path, instance) in [
        ("new-sends", Some("/v2/send/*"), Some("i0")),
        ("sends", Some("/v2/send/*"), None),
        ("new", None, Some("i1")),
        ("seen", Some("/v2/send/seen"), None),
    ] {
        if rng.percent(30) {
            let class = class(rng, name, path, instance);
            config.limit.classes.push(class);
        }
    }
    config
}

fn batch(rng: &mut Rng, max_wait: Duration) -> wawp_gateway::config::Batch {
    let mut batch = Config::default().batch;
    batch.window = rng
        .pick(&[ms(0), ms(5), ms(50), ms(50), ms(250)])
        .min(max_wait - ms(1));
    batch.edge = rng.pick(&[BatchEdge::Trailing, BatchEdge::Leading]);
    batch.max_delay = rng.pick(&[ms(0), ms(300), ms(2000)]);
    batch.max_ids = rng.pick(&[3, 10, 100]);
    batch.max_callers = rng.pick(&[2, 1000]);
    batch.quarantine = rng.pick(&[ms(0), ms(1000), ms(60_000)]);
    batch
}

fn quota(rng: &mut Rng) -> Option<Quota> {
    let rate = rng.pick(&[0.0, 0.5, 2.0, 10.0, 50.0]);
    let burst = NonZeroU32::new(rng.pick(&[1, 3, 20])).unwrap();
    (rate > 0.0).then(|| Quota::new(rate, burst).unwrap())
}

/// An egress limit, tenants, or both: one tenant has two instances, the other one.
fn sharing(rng: &mut Rng) -> (Option<Quota>, Vec<Tenant>) {
    let egress = quota(rng);
    let mut tenants = Vec::new();
    for (name, instances) in [("pair", &["i0", "i1"][..]), ("single", &["i2"])] {
        if rng.percent(60) {
            tenants.push(Tenant {
                name: name.to_owned(),
                instances: instances.iter().map(|&it| it.to_owned()).collect(),
                weight: NonZeroU32::new(rng.pick(&[1, 3])).unwrap(),
                quota: quota(rng),
                networks: Vec::new(),
                key: None,
                keys: Vec::new(),
                tokens: BTreeMap::new(),
            });
        }
    }
    (egress, tenants)
}

fn behaviour(rng: &mut Rng) -> UpstreamBehaviour {
    // Each fault in some runs only, otherwise all runs would be alike.
    let mut maybe = |share: &[usize]| {
        if rng.percent(40) { rng.pick(share) } else { 0 }
    };
    let mut behaviour = UpstreamBehaviour {
        latency: maybe(&[20, 300, 2000]),
        very_slow: maybe(&[5, 20]),
        dial: maybe(&[50, 500]),
        throttles: maybe(&[3, 20]),
        fails: maybe(&[5, 30]),
        unavailable: maybe(&[5, 30]),
        resets: maybe(&[5, 30]),
        cuts: maybe(&[5, 30]),
        life: maybe(&[100, 1000]),
        restarts: Vec::new(),
    };
    if rng.percent(40) {
        for _ in 0..1 + rng.below(3) {
            behaviour
                .restarts
                .push((rng.millis(5000), rng.millis(2000)));
        }
    }
    behaviour
}

/// What the clients of a run have in common.
struct World {
    /// Instance, token, source.
    identities: Vec<(String, String, CredentialSource)>,
    /// How the apps write receipts.
    writings: Vec<Writing>,
    chats: usize,
    /// How many ids there are, and how many per cent are poisoned.
    ids: usize,
    poison: usize,
    /// Longest thinking time in milliseconds.
    think: usize,
    /// How many calls in ten are receipts, at least.
    receipts: usize,
    polite: bool,
}

impl World {
    fn new(rng: &mut Rng, fault_free: bool) -> Self {
        let mut identities = Vec::new();
        let sources = [
            CredentialSource::Query,
            CredentialSource::Bearer,
            CredentialSource::Header,
            CredentialSource::Body,
        ];
        for instance in 0..1 + rng.below(3) {
            let usual = rng.pick(&sources);
            for token in 0..1 + rng.below(3) * rng.below(2) {
                // Two tokens in one source are what must never be taken for one.
                let source = match rng.percent(70) {
                    true => usual,
                    false => rng.pick(&sources),
                };
                let bad = !fault_free && token > 0 && rng.percent(40);
                let token = format!("{}{instance}{token}", if bad { "bad" } else { "good" });
                identities.push((format!("i{instance}"), token, source));
            }
        }
        let mut writings = vec![Writing::drawn(rng)];
        for _ in 0..rng.below(3) {
            // Often only the form differs.
            writings.push(match rng.percent(50) {
                true => writings[0].in_another_form(rng),
                false => Writing::drawn(rng),
            });
        }
        Self {
            identities,
            writings,
            chats: 1 + rng.below(3),
            ids: rng.pick(&[4, 30, 500]),
            poison: if fault_free {
                0
            } else {
                rng.pick(&[0, 0, 5, 30])
            },
            think: rng.pick(&[5, 60, 60, 600]),
            receipts: if rng.percent(30) { 10 } else { 6 },
            polite: rng.percent(50),
        }
    }

    /// Several apps of one instance, all with valid tokens, that send more than they
    /// read: credentials move between buckets while requests wait.
    fn of_rivals(rng: &mut Rng) -> Self {
        let source = rng.pick(&[CredentialSource::Query, CredentialSource::Bearer]);
        let token = |token| ("i0".to_owned(), format!("good0{token}"), source);
        Self {
            identities: (0..2 + rng.below(2)).map(token).collect(),
            receipts: 1,
            think: rng.pick(&[5, 60, 600]),
            ..Self::new(rng, false)
        }
    }
}

fn client(rng: &mut Rng, world: &World, tags: &mut usize) -> Client {
    let identity = rng.below(world.identities.len());
    let writing = world.writings[rng.below(world.writings.len())];
    let steps = (0..1 + rng.below(12))
        .map(|_| {
            // Most apps have one identity, and write all receipts alike.
            let identity = match rng.percent(90) {
                true => &world.identities[identity],
                false => &world.identities[rng.below(world.identities.len())],
            };
            let writing = match rng.percent(80) {
                true => writing,
                false => world.writings[rng.below(world.writings.len())],
            };
            *tags += 1;
            step(rng, world, identity, writing, *tags)
        })
        .collect();
    Client {
        http2: rng.percent(30),
        buffer: rng.pick(&[64, 1024, 64 * 1024]),
        steps,
    }
}

fn step(
    rng: &mut Rng,
    world: &World,
    identity: &(String, String, CredentialSource),
    writing: Writing,
    tag: usize,
) -> Step {
    let (instance, token, source) = identity.clone();
    let kind = match rng.below(10) {
        n if n < world.receipts => receipt(rng, world, writing),
        n => match n % 4 {
            0 => RequestKind::Send(rng.pick(&[10, 3000, 100_000])),
            1 => RequestKind::SendByGet,
            2 => RequestKind::Typing,
            _ => RequestKind::Chats,
        },
    };
    let has_body = match kind {
        RequestKind::SendByGet | RequestKind::Chats => false,
        RequestKind::Receipt { .. } => writing.body != BodyKind::None,
        RequestKind::Send(_) | RequestKind::Typing => true,
    };
    let manner = match rng.below(20) {
        _ if world.polite => Manner::Waits,
        0..=2 => Manner::HangsUp(rng.pick(&[ms(0), ms(1), ms(10), ms(250), ms(2000)])),
        3 if has_body => Manner::BreaksOff,
        4 | 5 if has_body => Manner::Slow,
        _ => Manner::Waits,
    };
    Step {
        tag,
        think: rng.millis(world.think),
        instance,
        token,
        source,
        kind,
        manner,
    }
}

fn receipt(rng: &mut Rng, world: &World, writing: Writing) -> RequestKind {
    let chat = format!("{}@c.us", rng.below(world.chats));
    let count = match writing.form.is_single() {
        true => rng.pick(&[0, 1, 1, 1]),
        false => rng.pick(&[0, 1, 1, 1, 2, 5]),
    };
    let ids = (0..count)
        .map(|_| {
            let id = rng.below(world.ids);
            // A poisoned id always fails, as a malformed one would.
            let poisoned = Rng::new(id as u64).percent(world.poison);
            let kind = if poisoned {
                ["P400", "P422", "P500"][id % 3]
            } else {
                "A"
            };
            format!("false_{chat}_{kind}{id}")
        })
        .collect();
    RequestKind::Receipt {
        chat,
        ids,
        participant: rng.pick(&[None, None, None, Some("null"), Some("\"null\"")]),
        writing,
    }
}
