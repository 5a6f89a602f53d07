//! What holds for any callers whatever.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::tools::sandbox::Fault;

const WINDOW: Duration = ms(50);

/// A caller of a story.
#[derive(Clone, Debug)]
struct Comes {
    /// After the one before, in ms.
    gap: u64,
    /// Which of the keys below.
    key: usize,
    /// Which messages; none means the whole chat.
    messages: Vec<usize>,
    /// Stops listening after that long.
    hangs_up: Option<u64>,
}

/// The rules of a story.
#[derive(Clone, Debug)]
struct Setting {
    max_ids: usize,
    max_callers: usize,
    rate: Option<(f64, u32)>,
    latency: u64,
    /// A message on which every call fails, of each key.
    poisoned: Option<usize>,
}

/// What must never mix: chat, token, participant, accepted types.
const KEYS: [(&str, &str, Option<&str>, Option<&str>); 6] = [
    ("1@c.us", "t", None, None),
    ("1@c.us", "u", None, None),
    ("2@c.us", "t", None, None),
    ("1@c.us", "t", Some("3@c.us"), None),
    ("1@c.us", "t", Some("null"), None),
    ("1@c.us", "t", None, Some("text/html")),
];

fn callers() -> impl Strategy<Value = Vec<Comes>> {
    let comes = (
        prop_oneof![3 => Just(0_u64), 3 => 0_u64..30, 1 => 0_u64..200],
        prop_oneof![2 => Just(0_usize), 1 => 0..KEYS.len()],
        prop_oneof![
            6 => proptest::collection::vec(0_usize..12, 1..4),
            1 => Just(Vec::new()),
            1 => proptest::collection::vec(0_usize..12, 4..12),
        ],
        prop_oneof![3 => Just(None), 1 => (0_u64..300).prop_map(Some)],
    );
    let comes = comes.prop_map(|(gap, key, messages, hangs_up)| Comes {
        gap,
        key,
        messages,
        hangs_up,
    });
    proptest::collection::vec(comes, 1..25)
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
        prop_oneof![2 => Just(None), 1 => (0_usize..12).prop_map(Some)],
    )
        .prop_map(|(max_ids, max_callers, rate, latency, poisoned)| Setting {
            max_ids,
            max_callers,
            rate,
            latency,
            poisoned,
        })
}

/// An id that names its key, so that a call that mixes two is seen.
fn id(key: usize, message: usize) -> String {
    format!("false_{}_K{key}M{message}", KEYS[key].0)
}

impl Comes {
    fn asks(&self, index: usize) -> Asks {
        let (chat, token, participant, accept) = KEYS[self.key];
        Asks {
            chat: chat.to_owned(),
            ids: self.messages.iter().map(|&n| id(self.key, n)).collect(),
            token: token.to_owned(),
            participant: participant.map(str::to_owned),
            accept: accept.map(str::to_owned),
            mark: index + 1,
        }
    }
}

/// What a story came to.
struct Told {
    calls: Vec<Call>,
    arrivals: Vec<Instant>,
    /// What each caller heard, unless it hung up first.
    heard: BTreeMap<usize, Heard>,
    start: Instant,
    saved: u64,
}

async fn run(callers: &[Comes], setting: &Setting) -> Told {
    let mut config = Config::default();
    config.batch.window = WINDOW;
    config.batch.max_ids = setting.max_ids;
    config.batch.max_callers = setting.max_callers;
    config.batch.quarantine = Duration::ZERO;
    config.limit.max_wait = ms(600_000);
    config.limit.quota = setting.rate.and_then(|(rate, burst)| quota(rate, burst));
    let world = World::new(
        &config,
        sandbox::Settings {
            latency: ms(setting.latency),
            ..Default::default()
        },
    );
    if let Some(message) = setting.poisoned {
        for key in 0..KEYS.len() {
            let fault = Fault::status(500).id(id(key, message));
            world.sandbox.script(fault.times(usize::MAX));
        }
    }
    let mut arrivals = Vec::new();
    let mut listening = tokio::task::JoinSet::new();
    for (index, comes) in callers.iter().enumerate() {
        tokio::time::sleep(ms(comes.gap)).await;
        arrivals.push(Instant::now());
        let heard = world.hear(&comes.asks(index));
        let patience = comes.hangs_up.map_or(ms(3_600_000), ms);
        listening.spawn(async move {
            let heard = tokio::time::timeout(patience, heard).await.ok()?;
            Some((index, heard))
        });
    }
    let mut heard = BTreeMap::new();
    while let Some(told) = listening.join_next().await {
        heard.extend(told.expect("a caller was never told"));
    }
    world.tasks.close();
    world.tasks.wait().await;
    assert_eq!(world.metrics.batches.open.get(), 0);
    Told {
        calls: world.calls(),
        arrivals,
        heard,
        start: world.start,
        saved: world.metrics.saved.get(),
    }
}

/// The caller from whose request a call was made, by its white space.
fn origin(call: &Call) -> usize {
    let blanks = call.body[1..].iter().take_while(|&&byte| byte == b' ');
    blanks.count() - 1
}

fn check(callers: &[Comes], setting: &Setting, told: &Told) -> Result<(), TestCaseError> {
    // Everybody who listened was told, and what its own request deserves.
    for (index, comes) in callers.iter().enumerate() {
        let Some(heard) = told.heard.get(&index) else {
            prop_assert!(comes.hangs_up.is_some(), "caller {index} was never told");
            continue;
        };
        let poisoned = setting
            .poisoned
            .is_some_and(|message| comes.messages.contains(&message));
        prop_assert_eq!(
            heard.status,
            Ok(if poisoned { 500 } else { 201 }),
            "caller {}",
            index
        );
        if heard.callers == 1 {
            let own = Bytes::from(comes.asks(index).body());
            prop_assert!(
                told.calls.iter().any(|call| call.body == own),
                "caller {index} was alone, and its request changed"
            );
        }
        prop_assert!(heard.callers <= setting.max_callers);
    }
    let mut sent: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for call in &told.calls {
        let first = origin(call);
        let (asks, key) = (callers[first].asks(first), callers[first].key);
        // Credentials, chat, participant and fields are the first caller's.
        let target = format!("/v2/send/seen?instance_id=1&access_token={}", asks.token);
        prop_assert_eq!(&call.target, &target);
        let accept = call
            .headers
            .get("accept")
            .map(|value| value.to_str().unwrap());
        prop_assert_eq!(accept, asks.accept.as_deref());
        let mut body: serde_json::Value = serde_json::from_slice(&call.body).unwrap();
        body.as_object_mut().unwrap().remove("messageIds");
        let mut own: serde_json::Value = serde_json::from_str(&asks.body()).unwrap();
        own.as_object_mut().unwrap().remove("messageIds");
        prop_assert_eq!(body, own);
        // Whole chats and lists stay apart, and no other key's id is in it.
        prop_assert_eq!(call.ids.is_empty(), asks.ids.is_empty());
        for id in &call.ids {
            prop_assert!(
                id.contains(&format!("_K{key}M")),
                "{id} in a call of key {key}"
            );
        }
        let alone = call.body == asks.body();
        let distinct: BTreeSet<_> = call.ids.iter().cloned().collect();
        if !alone {
            prop_assert_eq!(
                distinct.len(),
                call.ids.len(),
                "an id twice in a merged call"
            );
            prop_assert!(call.ids.len() <= setting.max_ids);
            prop_assert!(
                call.ids.starts_with(&dedup(&asks.ids)),
                "first seen, first sent"
            );
        }
        // Nobody's coming moves the window of the first.
        if setting.rate.is_none() && setting.poisoned.is_none() {
            prop_assert!(call.at <= told.arrivals[first] + WINDOW);
        }
        let sent = sent.entry(key).or_default();
        sent.extend(distinct);
        if call.ids.is_empty() {
            sent.insert(String::new());
        }
    }
    // Every id of every caller went out, also of those who hung up.
    for (index, comes) in callers.iter().enumerate() {
        let asks = comes.asks(index);
        let sent = sent.get(&comes.key);
        let wanted = if asks.ids.is_empty() {
            vec![String::new()]
        } else {
            asks.ids
        };
        for id in wanted {
            prop_assert!(
                sent.is_some_and(|sent| sent.contains(&id)),
                "{id:?} of {index}"
            );
        }
    }
    if setting.rate.is_none() && setting.poisoned.is_none() {
        let calls = told.calls.len() as u64;
        prop_assert_eq!(told.saved, callers.len() as u64 - calls);
        for (index, heard) in &told.heard {
            let arrived = (told.arrivals[*index] - told.start).as_millis();
            let most = WINDOW.as_millis() + u128::from(setting.latency);
            prop_assert!(heard.at - arrived <= most, "caller {index} waited too long");
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

    /// Each caller is told once and rightly; each id is sent; no two keys meet.
    #[test]
    fn any_callers(callers in callers(), setting in setting()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let told = runtime.block_on(run(&callers, &setting));
        check(&callers, &setting, &told)?;
    }
}

/// Each case is a small gateway's life; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.and_then(|cases| cases.parse().ok()).unwrap_or(96)
}
