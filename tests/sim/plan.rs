//! What a seed stands for: the settings, who calls what and when, and how the
//! upstream behaves. Nothing here runs.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use wawp_gateway::config::{Class, Config, PathPattern, Quota, Tenant};

use crate::dice::Dice;

/// Everything that one run does.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) config: Config,
    /// Settings that are put in force in mid-run.
    pub(crate) reload: Option<(Duration, Config)>,
    /// Nothing fails and nothing is limited: then everything must succeed.
    pub(crate) calm: bool,
    pub(crate) temper: Temper,
    pub(crate) clients: Vec<Client>,
    /// When the drain begins; `None` is after the last client.
    pub(crate) drain: Option<Duration>,
}

/// How the upstream behaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Temper {
    /// Longest time until an answer, in milliseconds, and how many per cent
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
    /// Longest life of a connection, in milliseconds; 0 is for ever.
    pub(crate) life: usize,
    /// When the upstream is killed, and for how long it then is away.
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

/// One call of an app.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// Found again in `x-sim-tag` of what reaches the upstream.
    pub(crate) tag: usize,
    /// After the last answer (HTTP/2: after the last call).
    pub(crate) think: Duration,
    pub(crate) instance: String,
    pub(crate) token: String,
    pub(crate) place: Place,
    pub(crate) what: What,
    pub(crate) manner: Manner,
}

/// Where the credential stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Query,
    Bearer,
    Header,
    Body,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Receipt {
        chat: String,
        /// None is the whole chat.
        ids: Vec<String>,
        participant: Option<&'static str>,
        in_query: bool,
    },
    /// A `POST` that sends a message, with so many bytes of text.
    Send(usize),
    /// A `GET` that sends a message.
    SendByGet,
    Typing,
    Chats,
}

/// How a client behaves over a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Patient,
    /// Sends its body in pieces with pauses.
    Slow,
    /// Goes away so long after sending.
    HangsUp(Duration),
    /// Goes away in the middle of its body.
    BreaksOff,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let calm = dice.percent(15);
        let mut config = config(&mut dice, calm);
        let temper = if calm {
            Temper {
                latency: 500,
                ..Temper::default()
            }
        } else {
            temper(&mut dice)
        };
        let world = if !calm && dice.percent(20) {
            World::of_rivals(&mut dice)
        } else {
            World::new(&mut dice, calm)
        };
        let mut tags = 0;
        let clients = (0..1 + dice.below(8))
            .map(|_| client(&mut dice, &world, &mut tags))
            .collect();
        let mut reload = dice.percent(20).then(|| {
            let mut other = config.clone();
            other.batch = batch(&mut dice, config.limit.max_wait);
            (dice.millis(3000), other)
        });
        let drain = dice.percent(30).then(|| dice.millis(5000));
        if !calm && dice.percent(30) {
            let sharing = sharing(&mut dice);
            let other = reload.as_mut().map(|(_, other)| other);
            for config in std::iter::once(&mut config).chain(other) {
                (config.egress.quota, config.tenants) = sharing.clone();
            }
        }
        Self {
            config,
            reload,
            calm,
            temper,
            clients,
            drain,
        }
    }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn config(dice: &mut Dice, calm: bool) -> Config {
    let mut config = Config::default();
    config.upstream.url = "http://upstream.test".parse().unwrap();
    config.upstream.idle_timeout = dice.pick(&[ms(100), ms(1000), ms(30_000)]);
    config.limit.max_wait = dice.pick(&[ms(300), ms(1000), ms(4000)]);
    config.batch = batch(dice, config.limit.max_wait);
    config.limit.headers = dice.percent(30);
    if calm {
        config.limit.quota = None;
        return config;
    }
    config.upstream.response_timeout = dice.pick(&[ms(1500), ms(310_000)]);
    config.limit.quota = quota(dice);
    config.limit.max_queue = dice.pick(&[1, 3, 1000]);
    config.server.max_in_flight = dice.pick(&[3, 10_000, 10_000, 10_000]);
    if dice.percent(50) {
        config.limit.classes.push(Class {
            name: "sends".to_owned(),
            paths: vec![PathPattern::parse("/v2/send/*").unwrap()],
            methods: Vec::new(),
            quota: quota(dice),
        });
    }
    config
}

fn batch(dice: &mut Dice, max_wait: Duration) -> wawp_gateway::config::Batch {
    let mut batch = Config::default().batch;
    batch.window = dice
        .pick(&[ms(0), ms(5), ms(50), ms(50), ms(250)])
        .min(max_wait - ms(1));
    batch.max_delay = dice.pick(&[ms(0), ms(300), ms(2000)]);
    batch.max_ids = dice.pick(&[3, 10, 100]);
    batch.max_callers = dice.pick(&[2, 1000]);
    batch.quarantine = dice.pick(&[ms(0), ms(1000), ms(60_000)]);
    batch
}

fn quota(dice: &mut Dice) -> Option<Quota> {
    let rate = dice.pick(&[0.0, 0.5, 2.0, 10.0, 50.0]);
    let burst = NonZeroU32::new(dice.pick(&[1, 3, 20])).unwrap();
    (rate > 0.0).then(|| Quota::new(rate, burst).unwrap())
}

/// A scarce egress, tenants, or both: one of two instances with a budget of
/// its own, one of the third alone.
fn sharing(dice: &mut Dice) -> (Option<Quota>, Vec<Tenant>) {
    let egress = quota(dice);
    let mut tenants = Vec::new();
    for (name, instances) in [("pair", &["i0", "i1"][..]), ("single", &["i2"])] {
        if dice.percent(60) {
            tenants.push(Tenant {
                name: name.to_owned(),
                instances: instances.iter().map(|&it| it.to_owned()).collect(),
                weight: NonZeroU32::new(dice.pick(&[1, 3])).unwrap(),
                quota: quota(dice),
                networks: Vec::new(),
                key: None,
                tokens: BTreeMap::new(),
            });
        }
    }
    (egress, tenants)
}

fn temper(dice: &mut Dice) -> Temper {
    // Each fault in some worlds only, or all worlds would be alike.
    let mut maybe = |share: &[usize]| {
        if dice.percent(40) {
            dice.pick(share)
        } else {
            0
        }
    };
    let mut temper = Temper {
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
    if dice.percent(40) {
        for _ in 0..1 + dice.below(3) {
            temper.restarts.push((dice.millis(5000), dice.millis(2000)));
        }
    }
    temper
}

/// What the clients of a run have in common.
struct World {
    /// Instance, token, place.
    identities: Vec<(String, String, Place)>,
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
    fn new(dice: &mut Dice, calm: bool) -> Self {
        let mut identities = Vec::new();
        let places = [Place::Query, Place::Bearer, Place::Header, Place::Body];
        for instance in 0..1 + dice.below(3) {
            let usual = dice.pick(&places);
            for token in 0..1 + dice.below(3) * dice.below(2) {
                // Two tokens in one place are what must never be taken for one.
                let place = match dice.percent(70) {
                    true => usual,
                    false => dice.pick(&places),
                };
                let bad = !calm && token > 0 && dice.percent(40);
                let token = format!("{}{instance}{token}", if bad { "bad" } else { "good" });
                identities.push((format!("i{instance}"), token, place));
            }
        }
        Self {
            identities,
            chats: 1 + dice.below(3),
            ids: dice.pick(&[4, 30, 500]),
            poison: if calm { 0 } else { dice.pick(&[0, 0, 5, 30]) },
            think: dice.pick(&[5, 60, 60, 600]),
            receipts: if dice.percent(30) { 10 } else { 6 },
            polite: dice.percent(50),
        }
    }

    /// Several apps of one instance, all of them rightful, which send more than
    /// they read: what moves credentials between buckets while calls wait.
    fn of_rivals(dice: &mut Dice) -> Self {
        let place = dice.pick(&[Place::Query, Place::Bearer]);
        let token = |token| ("i0".to_owned(), format!("good0{token}"), place);
        Self {
            identities: (0..2 + dice.below(2)).map(token).collect(),
            receipts: 1,
            think: dice.pick(&[5, 60, 600]),
            ..Self::new(dice, false)
        }
    }
}

fn client(dice: &mut Dice, world: &World, tags: &mut usize) -> Client {
    let identity = dice.below(world.identities.len());
    let steps = (0..1 + dice.below(12))
        .map(|_| {
            // Most apps have one identity.
            let identity = match dice.percent(90) {
                true => &world.identities[identity],
                false => &world.identities[dice.below(world.identities.len())],
            };
            *tags += 1;
            step(dice, world, identity, *tags)
        })
        .collect();
    Client {
        http2: dice.percent(30),
        buffer: dice.pick(&[64, 1024, 64 * 1024]),
        steps,
    }
}

fn step(dice: &mut Dice, world: &World, identity: &(String, String, Place), tag: usize) -> Step {
    let (instance, token, place) = identity.clone();
    let what = match dice.below(10) {
        n if n < world.receipts => receipt(dice, world, place),
        n => match n % 4 {
            0 => What::Send(dice.pick(&[10, 3000, 100_000])),
            1 => What::SendByGet,
            2 => What::Typing,
            _ => What::Chats,
        },
    };
    let has_body = !matches!(
        what,
        What::SendByGet | What::Chats | What::Receipt { in_query: true, .. }
    );
    let manner = match dice.below(20) {
        _ if world.polite => Manner::Patient,
        0..=2 => Manner::HangsUp(dice.pick(&[ms(0), ms(1), ms(10), ms(250), ms(2000)])),
        3 if has_body => Manner::BreaksOff,
        4 | 5 if has_body => Manner::Slow,
        _ => Manner::Patient,
    };
    Step {
        tag,
        think: dice.millis(world.think),
        instance,
        token,
        place,
        what,
        manner,
    }
}

fn receipt(dice: &mut Dice, world: &World, place: Place) -> What {
    let chat = format!("{}@c.us", dice.below(world.chats));
    let count = dice.pick(&[0, 1, 1, 1, 2, 5]);
    let ids = (0..count)
        .map(|_| {
            let id = dice.below(world.ids);
            // An id is poisoned for good, as a malformed one would be.
            let poisoned = Dice::new(id as u64).percent(world.poison);
            let kind = if poisoned {
                ["P400", "P422", "P500"][id % 3]
            } else {
                "A"
            };
            format!("false_{chat}_{kind}{id}")
        })
        .collect();
    What::Receipt {
        chat,
        ids,
        participant: dice.pick(&[None, None, None, Some("null"), Some("\"null\"")]),
        in_query: place != Place::Body && dice.percent(30),
    }
}
