//! Laws that hold for any callers.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::cluster::Gateways;
use super::*;
use crate::config::BatchEdge;
use crate::tools::sandbox::Fault;
use crate::tools::testing::server::Path;

const WINDOW: Duration = ms(50);

/// A caller of a scenario.
#[derive(Clone, Debug)]
struct Arrival {
    /// The time after the previous caller, in ms.
    gap: u64,
    /// The gateway that it reaches.
    gateway: usize,
    /// The index in `KEYS`.
    key: usize,
    /// Which messages; none means the whole chat.
    messages: Vec<usize>,
    /// When it disconnects, in ms after its arrival.
    disconnects: Option<u64>,
}

/// The settings and faults of a scenario.
#[derive(Clone, Debug)]
struct Setting {
    max_ids: usize,
    max_callers: usize,
    rate: Option<(f64, u32)>,
    latency: u64,
    edge: BatchEdge,
    gateways: u32,
    /// Changes on the way of a gateway to the server, each with the time after the previous one in ms.
    disturbances: Vec<(u64, usize, Path)>,
    /// A message on which every call fails, of each key.
    bad_message: Option<usize>,
}

/// Receipts of different keys never share a call: chat, token, participant, `Accept`.
const KEYS: [(&str, &str, Option<&str>, Option<&str>); 6] = [
    ("1@c.us", "t", None, None),
    ("1@c.us", "u", None, None),
    ("2@c.us", "t", None, None),
    ("1@c.us", "t", Some("3@c.us"), None),
    ("1@c.us", "t", Some("null"), None),
    ("1@c.us", "t", None, Some("text/html")),
];

fn callers() -> impl Strategy<Value = Vec<Arrival>> {
    let arrival = (
        prop_oneof![3 => Just(0_u64), 3 => 0_u64..30, 1 => 0_u64..200],
        0_usize..3,
        prop_oneof![2 => Just(0_usize), 1 => 0..KEYS.len()],
        prop_oneof![
            6 => proptest::collection::vec(0_usize..12, 1..4),
            1 => Just(Vec::new()),
            1 => proptest::collection::vec(0_usize..12, 4..12),
        ],
        prop_oneof![3 => Just(None), 1 => (0_u64..300).prop_map(Some)],
    );
    let arrival = arrival.prop_map(|(gap, gateway, key, messages, disconnects)| Arrival {
        gap,
        gateway,
        key,
        messages,
        disconnects,
    });
    proptest::collection::vec(arrival, 1..25)
}

fn setting() -> impl Strategy<Value = Setting> {
    (
        2_usize..9,
        2_usize..6,
        prop_oneof![
            2 => Just(None),
            1 => Just(Some((20.0, 2))),
            1 => Just(Some((5.0, 1))),
        ],
        prop_oneof![Just(0_u64), 0_u64..120],
        prop_oneof![Just(BatchEdge::Trailing), Just(BatchEdge::Leading)],
        prop_oneof![1 => Just((1, Vec::new())), 1 => Just((3, Vec::new())), 1 => (2_u32..=3, disturbances())],
        prop_oneof![2 => Just(None), 1 => (0_usize..12).prop_map(Some)],
    )
        .prop_map(
            |(max_ids, max_callers, rate, latency, edge, (gateways, disturbances), bad_message)| Setting {
                max_ids,
                max_callers,
                rate,
                latency,
                edge,
                gateways,
                disturbances,
                bad_message,
            },
        )
}

fn disturbances() -> impl Strategy<Value = Vec<(u64, usize, Path)>> {
    let path = prop_oneof![
        3 => Just(Path::Open(ms(1))),
        1 => Just(Path::Open(ms(20))),
        1 => Just(Path::Lost),
        1 => Just(Path::RepliesLost),
        1 => Just(Path::Refused),
    ];
    let disturbance = (prop_oneof![0_u64..100, 0_u64..2_000], 0_usize..3, path);
    proptest::collection::vec(disturbance, 1..8)
}

/// An id that names its key, so that a call that mixes two keys is detected.
fn id(key: usize, message: usize) -> String {
    format!("false_{}_K{key}M{message}", KEYS[key].0)
}

impl Setting {
    /// Nothing but its window makes a call wait.
    fn is_undisturbed(&self) -> bool {
        self.rate.is_none() && self.bad_message.is_none() && self.disturbances.is_empty()
    }

    /// How much longer a caller may wait for the server, and for the call of another gateway that its
    /// ids did not fit into.
    fn at_server(&self) -> Duration {
        match self.gateways {
            1 => ms(0),
            _ => ms(15 + self.latency),
        }
    }
}

impl Arrival {
    fn receipt_of(&self, index: usize) -> TestReceipt {
        let (chat, token, participant, accept) = KEYS[self.key];
        TestReceipt {
            chat: chat.to_owned(),
            ids: self.messages.iter().map(|&n| id(self.key, n)).collect(),
            token: token.to_owned(),
            participant: participant.map(str::to_owned),
            accept: accept.map(str::to_owned),
            mark: index + 1,
        }
    }
}

/// The result of a scenario.
struct ScenarioResult {
    calls: Vec<Call>,
    arrivals: Vec<Instant>,
    /// What each caller got, unless it disconnected first.
    settled: BTreeMap<usize, Settled>,
    start: Instant,
    saved: u64,
}

async fn run(callers: &[Arrival], setting: &Setting) -> ScenarioResult {
    let mut config = Config::default();
    config.batch.window = WINDOW;
    config.batch.edge = setting.edge;
    config.batch.max_ids = setting.max_ids;
    config.batch.max_callers = setting.max_callers;
    config.batch.quarantine = Duration::ZERO;
    config.limit.max_wait = ms(600_000);
    config.limit.quota = setting.rate.and_then(|(rate, burst)| quota(rate, burst));
    let settings = sandbox::Settings {
        latency: ms(setting.latency),
        ..Default::default()
    };
    let all = Gateways::start(setting.gateways, config, settings).await;
    let world = &all[0];
    if let Some(message) = setting.bad_message {
        for key in 0..KEYS.len() {
            let fault = Fault::status(500).id(id(key, message));
            world.sandbox.script(fault.times(usize::MAX));
        }
    }
    let links = all.links.clone();
    let disturbances = setting.disturbances.clone();
    let disturbing = tokio::spawn(async move {
        for (after, link, path) in disturbances {
            tokio::time::sleep(ms(after)).await;
            links[link % links.len()].set(path);
        }
    });
    let mut arrivals = Vec::new();
    let mut listening = tokio::task::JoinSet::new();
    for (index, arrival) in callers.iter().enumerate() {
        tokio::time::sleep(ms(arrival.gap)).await;
        arrivals.push(Instant::now());
        let gateway = arrival.gateway % setting.gateways as usize;
        let settled = all[gateway].await_verdict(&arrival.receipt_of(index));
        let stays = arrival.disconnects.map_or(ms(3_600_000), ms);
        listening.spawn(async move {
            let settled = tokio::time::timeout(stays, settled).await.ok()?;
            Some((index, settled))
        });
    }
    let mut settled = BTreeMap::new();
    while let Some(verdict) = listening.join_next().await {
        settled.extend(verdict.expect("a caller never got a verdict"));
    }
    disturbing.await.unwrap();
    let mut saved = 0;
    for world in &all.worlds {
        world.tasks.close();
        world.tasks.wait().await;
        assert_eq!(world.metrics.batches.open.get(), 0);
        saved += world.metrics.saved_by_instances();
    }
    ScenarioResult {
        calls: world.calls(),
        arrivals,
        settled,
        start: world.start,
        saved,
    }
}

/// The caller from whose request a call was made, by its white space.
fn origin(call: &Call) -> usize {
    let blanks = call.body[1..].iter().take_while(|&&byte| byte == b' ');
    blanks.count() - 1
}

fn check(
    callers: &[Arrival],
    setting: &Setting,
    scenario: &ScenarioResult,
) -> Result<(), TestCaseError> {
    // Each caller that stayed got the verdict of its own request.
    for (index, arrival) in callers.iter().enumerate() {
        let Some(settled) = scenario.settled.get(&index) else {
            prop_assert!(
                arrival.disconnects.is_some(),
                "caller {index} never got a verdict"
            );
            continue;
        };
        let bad_message = setting
            .bad_message
            .is_some_and(|message| arrival.messages.contains(&message));
        prop_assert_eq!(
            settled.status,
            Ok(if bad_message { 500 } else { 201 }),
            "caller {}",
            index
        );
        if settled.callers == 1 {
            let own = Bytes::from(arrival.receipt_of(index).body());
            prop_assert!(
                scenario.calls.iter().any(|call| call.body == own),
                "caller {index} was alone, and its request changed"
            );
        }
        prop_assert!(settled.callers <= setting.max_callers);
    }
    let mut sent: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for call in &scenario.calls {
        let first = origin(call);
        let (first_one, key) = (callers[first].receipt_of(first), callers[first].key);
        // Credentials, chat, participant and fields are the first caller's.
        let target = format!(
            "/v2/send/seen?instance_id=1&access_token={}",
            first_one.token
        );
        prop_assert_eq!(&call.target, &target);
        let accept = call
            .headers
            .get("accept")
            .map(|value| value.to_str().unwrap());
        prop_assert_eq!(accept, first_one.accept.as_deref());
        let mut body: serde_json::Value = serde_json::from_slice(&call.body).unwrap();
        body.as_object_mut().unwrap().remove("messageIds");
        let mut own: serde_json::Value = serde_json::from_str(&first_one.body()).unwrap();
        own.as_object_mut().unwrap().remove("messageIds");
        prop_assert_eq!(body, own);
        // Whole chats and lists stay apart, and no other key's id is in it.
        prop_assert_eq!(call.ids.is_empty(), first_one.ids.is_empty());
        for id in &call.ids {
            prop_assert!(
                id.contains(&format!("_K{key}M")),
                "{id} in a call of key {key}"
            );
        }
        let alone = call.body == first_one.body();
        let distinct: BTreeSet<_> = call.ids.iter().cloned().collect();
        if !alone {
            prop_assert_eq!(
                distinct.len(),
                call.ids.len(),
                "an id twice in a merged call"
            );
            prop_assert!(call.ids.len() <= setting.max_ids);
            prop_assert!(
                call.ids.starts_with(&dedup(&first_one.ids)),
                "first seen, first sent"
            );
        }
        // No later caller moves the window of the first.
        if setting.is_undisturbed() {
            prop_assert!(call.at <= scenario.arrivals[first] + WINDOW + setting.at_server());
        }
        let sent = sent.entry(key).or_default();
        sent.extend(distinct);
        if call.ids.is_empty() {
            sent.insert(String::new());
        }
    }
    // Every id of every caller was sent, also of callers that disconnected.
    for (index, arrival) in callers.iter().enumerate() {
        let receipt = arrival.receipt_of(index);
        let sent = sent.get(&arrival.key);
        let wanted = if receipt.ids.is_empty() {
            vec![String::new()]
        } else {
            receipt.ids
        };
        for id in wanted {
            prop_assert!(
                sent.is_some_and(|sent| sent.contains(&id)),
                "{id:?} of {index}"
            );
        }
    }
    if setting.is_undisturbed() {
        let calls = scenario.calls.len() as u64;
        prop_assert_eq!(scenario.saved, callers.len() as u64 - calls);
        for (index, settled) in &scenario.settled {
            let arrived = (scenario.arrivals[*index] - scenario.start).as_millis();
            let most = (WINDOW + ms(setting.latency) + setting.at_server()).as_millis();
            prop_assert!(
                settled.at - arrived <= most,
                "caller {index} waited too long"
            );
        }
    }
    Ok(())
}

fn dedup(ids: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    ids.iter().filter(|id| seen.insert(*id)).cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// Each caller gets one right verdict; each id is sent; no two keys share a call.
    #[test]
    fn any_callers(callers in callers(), setting in setting()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let scenario = runtime.block_on(run(&callers, &setting));
        check(&callers, &setting, &scenario)?;
    }
}

/// Each case simulates a whole gateway, so there are few; `PROPTEST_CASES` sets more.
fn cases() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.and_then(|cases| cases.parse().ok()).unwrap_or(96)
}
