//! The traffic of a demo: which requests, and when.
//!
//! It knows no HTTP and no clock. Invariant: the same plan gives the same requests
//! at the same times, and every message id and every text in it is unique.

use std::time::Duration;

/// The instance whose messages use up its bucket, so that its receipts must wait.
pub(super) const CAMPAIGN: &str = "campaign";
/// The instance of a bot that replies.
const BOT: &str = "bot";

/// The timeout of a fire-and-forget client: 250 ms, as in the vendor's WordPress
/// plugin.
const SHORT_TIMEOUT: Duration = Duration::from_millis(250);

/// How much traffic, and which.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed of the random numbers: one seed always gives the same traffic.
    pub seed: u64,
    /// The time in which scenes start; the last ones end a little later.
    pub length: Duration,
    /// The response time of the upstream.
    pub latency: Duration,
    /// Instances with agents who open chats, each within its limit.
    pub inboxes: usize,
}

/// Requests that belong together: an opened chat, a bot's reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scene {
    /// When it starts.
    pub(super) at: Duration,
    /// Whether a request waits for the response to the one before it.
    pub(super) is_sequential: bool,
    pub(super) requests: Vec<PlannedRequest>,
}

/// A request of a scene.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlannedRequest {
    /// The pause before it.
    pub(super) pause: Duration,
    /// How long its client waits for a response before it closes the connection.
    pub(super) timeout: Option<Duration>,
    pub(super) request: DemoRequest,
}

/// An instance, and what to do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DemoRequest {
    pub(super) instance: String,
    pub(super) operation: Operation,
}

/// What a request does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// `POST /v2/send/seen`.
    Receipt { chat: String, id: String },
    /// `POST /v2/send/start-typing`.
    Typing { chat: String },
    /// `POST /v2/send/text`.
    Text { chat: String, text: String },
    /// `GET /v2/chats`.
    Chats,
}

impl Operation {
    /// Whether it may be sent again after its response was lost. A text may have arrived, and one that
    /// is sent twice cannot be taken back.
    pub(super) fn is_repeatable(&self) -> bool {
        !matches!(self, Self::Text { .. })
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            seed: 7,
            length: Duration::from_secs(9),
            latency: Duration::from_millis(80),
            inboxes: 3,
        }
    }
}

impl Plan {
    /// All scenes in the order of their start.
    pub(super) fn scenes(&self) -> Vec<Scene> {
        let mut scenes = SceneBuilder {
            rng: Rng(self.seed),
            length: self.length,
            chats: 0,
            messages: 0,
            scenes: Vec::new(),
        };
        let inboxes: Vec<_> = (1..=self.inboxes).map(|n| format!("inbox-{n}")).collect();
        for inbox in &inboxes {
            scenes.every(700, |scenes, at| scenes.chat_is_opened(at, inbox, 1));
            scenes.every(2_400, |scenes, at| scenes.chat_is_opened(at, inbox, 2));
        }
        scenes.every(600, SceneBuilder::bot_replies);
        // 8 messages a second, and 25 receipts below: together more than `limit.rate` (10).
        scenes.every(125, SceneBuilder::campaign_sends);
        // Few chats, so that the receipts that wait have partners to merge with.
        let busy = [scenes.chat(), scenes.chat(), scenes.chat()];
        scenes.every(40, |scenes, at| {
            let chat = &busy[scenes.rng.below(busy.len())];
            scenes.reply_is_read(at, chat, None);
        });
        // Their client disconnects after 250 ms. The ids must arrive all the same (rule: batch life
        // cycle).
        scenes.every(1_900, |scenes, at| {
            scenes.reply_is_read(at, &busy[0], Some(SHORT_TIMEOUT));
        });
        let polled: Vec<_> = inboxes.into_iter().chain([BOT.to_owned()]).collect();
        scenes.every(1_000, |scenes, at| scenes.dashboard_polls(at, &polled));
        // Stable, so that one seed always gives the same order.
        scenes.scenes.sort_by_key(|scene| scene.at);
        scenes.scenes
    }
}

/// Makes the scenes.
struct SceneBuilder {
    rng: Rng,
    length: Duration,
    chats: usize,
    messages: usize,
    scenes: Vec<Scene>,
}

impl SceneBuilder {
    /// Adds a scene again and again, on average this many milliseconds apart.
    fn every(&mut self, millis: usize, mut add: impl FnMut(&mut Self, Duration)) {
        // Half to one and a half times the mean: at fixed intervals, the same requests would always
        // or never share a window.
        let pause = |rng: &mut Rng| ms(millis / 2 + rng.below(millis.max(1)));
        let mut at = pause(&mut self.rng);
        while at < self.length {
            add(self, at);
            at += pause(&mut self.rng);
        }
    }

    /// Agents open the same chat: each of them sends a receipt for every unread
    /// message, a few milliseconds apart, as inboxes do.
    fn chat_is_opened(&mut self, at: Duration, instance: &str, agents: usize) {
        let chat = self.chat();
        // 2 to 9 messages.
        let unread: Vec<_> = (0..2 + self.rng.below(8)).map(|_| self.id(&chat)).collect();
        for agent in 0..agents {
            let requests = unread.iter().map(|id| PlannedRequest {
                pause: ms(self.rng.below(5)),
                timeout: None,
                request: receipt(instance, &chat, id.clone()),
            });
            let scene = Scene {
                // Within the default window of 50 ms, so that the agents' receipts merge.
                at: at + ms(agent * 20),
                // Inboxes send a receipt without waiting for the response to the one before.
                is_sequential: false,
                requests: requests.collect(),
            };
            self.scenes.push(scene);
        }
    }

    /// The order that the vendor's guides recommend: receipt, typing, then the text.
    fn bot_replies(&mut self, at: Duration) {
        let chat = self.chat();
        let id = self.id(&chat);
        let typing = Operation::Typing { chat: chat.clone() };
        let text = self.text(&chat);
        self.scenes.push(Scene {
            at,
            is_sequential: true,
            requests: vec![
                planned(0, receipt(BOT, &chat, id)),
                planned(0, request(BOT, typing)),
                planned(200, request(BOT, text)),
            ],
        });
    }

    /// A campaign sends one message to a new chat.
    fn campaign_sends(&mut self, at: Duration) {
        let chat = self.chat();
        let text = self.text(&chat);
        self.single(at, planned(0, request(CAMPAIGN, text)));
    }

    /// An agent reads the reply to a campaign: one receipt.
    fn reply_is_read(&mut self, at: Duration, chat: &str, timeout: Option<Duration>) {
        let id = self.id(chat);
        let request = PlannedRequest {
            timeout,
            ..planned(0, receipt(CAMPAIGN, chat, id))
        };
        self.single(at, request);
    }

    /// A dashboard lists the chats of all instances at once.
    fn dashboard_polls(&mut self, at: Duration, instances: &[String]) {
        for instance in instances {
            self.single(at, planned(0, request(instance, Operation::Chats)));
        }
    }

    /// A scene of one request.
    fn single(&mut self, at: Duration, request: PlannedRequest) {
        self.scenes.push(Scene {
            at,
            is_sequential: true,
            requests: vec![request],
        });
    }

    /// A new chat.
    fn chat(&mut self) -> String {
        self.chats += 1;
        format!("2010{:08}@c.us", self.chats)
    }

    /// A new message id of a chat.
    fn id(&mut self, chat: &str) -> String {
        self.messages += 1;
        format!("false_{chat}_3EB0{:016X}", self.messages)
    }

    /// A send with a unique text, so that a lost or repeated one is found.
    fn text(&mut self, chat: &str) -> Operation {
        self.messages += 1;
        Operation::Text {
            chat: chat.to_owned(),
            text: format!("Your order {} is on its way.", self.messages),
        }
    }
}

fn planned(pause: usize, request: DemoRequest) -> PlannedRequest {
    PlannedRequest {
        pause: ms(pause),
        timeout: None,
        request,
    }
}

fn request(instance: &str, operation: Operation) -> DemoRequest {
    DemoRequest {
        instance: instance.to_owned(),
        operation,
    }
}

fn receipt(instance: &str, chat: &str, id: String) -> DemoRequest {
    let chat = chat.to_owned();
    request(instance, Operation::Receipt { chat, id })
}

fn ms(millis: usize) -> Duration {
    Duration::from_millis(millis as u64)
}

/// SplitMix64 (Steele, Lea and Flood 2014): good enough for traffic, and equal on
/// every machine.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        // The bias of the remainder is negligible for these small numbers.
        usize::try_from(self.next() % end as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    #[test]
    fn one_seed_gives_the_same_traffic() {
        let plan = Plan::default();
        assert_eq!(plan.scenes(), plan.scenes());
        let other = Plan {
            seed: plan.seed + 1,
            ..plan.clone()
        };
        assert_ne!(plan.scenes(), other.scenes());
    }

    #[test]
    fn texts_are_unique_and_only_agents_of_one_chat_share_ids() {
        let scenes = Plan::default().scenes();
        let mut ids = HashMap::new();
        let mut texts = HashSet::new();
        for planned in scenes.iter().flat_map(|scene| &scene.requests) {
            match &planned.request.operation {
                Operation::Receipt { chat, id } => {
                    assert!(id.contains(chat.as_str()), "{id} {chat}");
                    *ids.entry(id.clone()).or_insert(0) += 1;
                }
                Operation::Text { text, .. } => assert!(texts.insert(text.clone()), "{text}"),
                Operation::Typing { .. } | Operation::Chats => {}
            }
        }
        assert!(ids.values().all(|&count| count <= 2));
        assert!(ids.values().any(|&count| count == 2));
        assert!(texts.len() > 50, "{}", texts.len());
    }

    #[test]
    fn scenes_start_in_order_and_in_time() {
        let plan = Plan::default();
        let scenes = plan.scenes();
        assert!(scenes.is_sorted_by_key(|scene| scene.at));
        let last = scenes.last().unwrap().at;
        assert!(last < plan.length + ms(20), "{last:?}");
        let hurried = |scene: &&Scene| {
            scene
                .requests
                .iter()
                .any(|planned| planned.timeout.is_some())
        };
        assert!(scenes.iter().filter(hurried).count() >= 3);
    }
}
