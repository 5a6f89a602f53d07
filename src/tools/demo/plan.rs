//! The traffic of a demo: who calls what, and when.
//!
//! Owns the dice and the scenes played with them. It knows no HTTP and no
//! clock. Invariant: the same plan gives the same calls at the same moments,
//! and every message id and every sent text in it is unique.

use std::time::Duration;

/// The instance whose sends use up its budget, so that its receipts must wait.
pub(super) const CAMPAIGN: &str = "campaign";
/// The instance a bot answers on.
const BOT: &str = "bot";

/// How long a fire-and-forget client waits for its answer: as the vendor's
/// WordPress plugin does (250 ms).
const IMPATIENCE: Duration = Duration::from_millis(250);

/// How much traffic, and which.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the dice start: one seed, one traffic.
    pub seed: u64,
    /// The time in which scenes begin; the last of them end a little later.
    pub length: Duration,
    /// How long the upstream takes to answer.
    pub latency: Duration,
    /// Instances with agents who open chats, each within its budget.
    pub inboxes: usize,
}

/// Calls that belong together: an opened chat, a bot's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scene {
    /// When it begins.
    pub(super) at: Duration,
    /// Whether a call waits for the answer to the one before it.
    pub(super) in_turn: bool,
    pub(super) calls: Vec<Planned>,
}

/// A call of a scene.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    /// The pause before it.
    pub(super) pause: Duration,
    /// How long its client waits for an answer before it hangs up.
    pub(super) patience: Option<Duration>,
    pub(super) order: Order,
}

/// What a call asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) instance: String,
    pub(super) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// `POST /v2/send/seen`.
    Receipt { chat: String, id: String },
    /// `POST /v2/send/start-typing`.
    Typing { chat: String },
    /// `POST /v2/send/text`.
    Text { chat: String, text: String },
    /// `GET /v2/chats`.
    Chats,
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
    /// All scenes, in the order in which they begin.
    pub(super) fn scenes(&self) -> Vec<Scene> {
        let mut stage = Stage {
            dice: Dice(self.seed),
            length: self.length,
            chats: 0,
            messages: 0,
            scenes: Vec::new(),
        };
        let inboxes: Vec<_> = (1..=self.inboxes).map(|n| format!("inbox-{n}")).collect();
        for inbox in &inboxes {
            stage.every(700, |stage, at| stage.chat_is_opened(at, inbox, 1));
            stage.every(2_400, |stage, at| stage.chat_is_opened(at, inbox, 2));
        }
        stage.every(600, Stage::bot_answers);
        stage.every(125, Stage::campaign_sends);
        let busy = [stage.chat(), stage.chat(), stage.chat()];
        stage.every(40, |stage, at| {
            let chat = &busy[stage.dice.below(busy.len())];
            stage.reply_is_read(at, chat, None);
        });
        stage.every(1_900, |stage, at| {
            stage.reply_is_read(at, &busy[0], Some(IMPATIENCE));
        });
        let polled: Vec<_> = inboxes.into_iter().chain([BOT.to_owned()]).collect();
        stage.every(1_000, |stage, at| stage.dashboard_polls(at, &polled));
        stage.scenes.sort_by_key(|scene| scene.at);
        stage.scenes
    }
}

/// Where scenes are made up.
struct Stage {
    dice: Dice,
    length: Duration,
    chats: usize,
    messages: usize,
    scenes: Vec<Scene>,
}

impl Stage {
    /// Plays a scene again and again, on average this many milliseconds apart.
    fn every(&mut self, millis: usize, mut play: impl FnMut(&mut Self, Duration)) {
        let pause = |dice: &mut Dice| ms(millis / 2 + dice.below(millis.max(1)));
        let mut at = pause(&mut self.dice);
        while at < self.length {
            play(self, at);
            at += pause(&mut self.dice);
        }
    }

    /// Agents look at the same chat: for every unread message each of them
    /// posts a receipt of its own, a few milliseconds apart, as inboxes do.
    fn chat_is_opened(&mut self, at: Duration, instance: &str, agents: usize) {
        let chat = self.chat();
        let unread: Vec<_> = (0..2 + self.dice.below(8))
            .map(|_| self.id(&chat))
            .collect();
        for agent in 0..agents {
            let calls = unread.iter().map(|id| Planned {
                pause: ms(self.dice.below(5)),
                patience: None,
                order: receipt(instance, &chat, id.clone()),
            });
            let scene = Scene {
                at: at + ms(agent * 20),
                in_turn: false,
                calls: calls.collect(),
            };
            self.scenes.push(scene);
        }
    }

    /// The order the vendor's guides give a bot: seen, typing, then the text.
    fn bot_answers(&mut self, at: Duration) {
        let chat = self.chat();
        let id = self.id(&chat);
        let typing = What::Typing { chat: chat.clone() };
        let text = self.text(&chat);
        self.scenes.push(Scene {
            at,
            in_turn: true,
            calls: vec![
                planned(0, receipt(BOT, &chat, id)),
                planned(0, order(BOT, typing)),
                planned(200, order(BOT, text)),
            ],
        });
    }

    fn campaign_sends(&mut self, at: Duration) {
        let chat = self.chat();
        let text = self.text(&chat);
        self.alone(at, planned(0, order(CAMPAIGN, text)));
    }

    fn reply_is_read(&mut self, at: Duration, chat: &str, patience: Option<Duration>) {
        let id = self.id(chat);
        let call = Planned {
            patience,
            ..planned(0, receipt(CAMPAIGN, chat, id))
        };
        self.alone(at, call);
    }

    fn dashboard_polls(&mut self, at: Duration, instances: &[String]) {
        for instance in instances {
            self.alone(at, planned(0, order(instance, What::Chats)));
        }
    }

    fn alone(&mut self, at: Duration, call: Planned) {
        self.scenes.push(Scene {
            at,
            in_turn: true,
            calls: vec![call],
        });
    }

    fn chat(&mut self) -> String {
        self.chats += 1;
        format!("2010{:08}@c.us", self.chats)
    }

    fn id(&mut self, chat: &str) -> String {
        self.messages += 1;
        format!("false_{chat}_3EB0{:016X}", self.messages)
    }

    fn text(&mut self, chat: &str) -> What {
        self.messages += 1;
        What::Text {
            chat: chat.to_owned(),
            text: format!("Your order {} is on its way.", self.messages),
        }
    }
}

fn planned(pause: usize, order: Order) -> Planned {
    Planned {
        pause: ms(pause),
        patience: None,
        order,
    }
}

fn order(instance: &str, what: What) -> Order {
    Order {
        instance: instance.to_owned(),
        what,
    }
}

fn receipt(instance: &str, chat: &str, id: String) -> Order {
    let chat = chat.to_owned();
    order(instance, What::Receipt { chat, id })
}

fn ms(millis: usize) -> Duration {
    Duration::from_millis(millis as u64)
}

/// SplitMix64 (Steele, Lea and Flood 2014): enough for traffic, and the same
/// on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % end as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    #[test]
    fn one_seed_is_one_traffic() {
        let plan = Plan::default();
        assert_eq!(plan.scenes(), plan.scenes());
        let other = Plan {
            seed: plan.seed + 1,
            ..plan.clone()
        };
        assert_ne!(plan.scenes(), other.scenes());
    }

    #[test]
    fn texts_are_unique_and_only_agents_side_by_side_share_ids() {
        let scenes = Plan::default().scenes();
        let mut ids = HashMap::new();
        let mut texts = HashSet::new();
        for call in scenes.iter().flat_map(|scene| &scene.calls) {
            match &call.order.what {
                What::Receipt { chat, id } => {
                    assert!(id.contains(chat.as_str()), "{id} {chat}");
                    *ids.entry(id.clone()).or_insert(0) += 1;
                }
                What::Text { text, .. } => assert!(texts.insert(text.clone()), "{text}"),
                What::Typing { .. } | What::Chats => {}
            }
        }
        assert!(ids.values().all(|&count| count <= 2));
        assert!(ids.values().any(|&count| count == 2));
        assert!(texts.len() > 50, "{}", texts.len());
    }

    #[test]
    fn scenes_begin_in_order_and_in_time() {
        let plan = Plan::default();
        let scenes = plan.scenes();
        assert!(scenes.is_sorted_by_key(|scene| scene.at));
        let last = scenes.last().unwrap().at;
        assert!(last < plan.length + ms(20), "{last:?}");
        let hurried = |scene: &&Scene| scene.calls.iter().any(|call| call.patience.is_some());
        assert!(scenes.iter().filter(hurried).count() >= 3);
    }
}
