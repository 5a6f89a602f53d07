//! The apps of a run: whose instances they use, and what they send when.

use super::{Client, CredentialSource, Manner, RequestKind, Step, ms};
use crate::rng::Rng;
use crate::writing::{BodyKind, Writing};

/// What the clients of a run have in common.
pub(super) struct World {
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
    pub(super) fn new(rng: &mut Rng, fault_free: bool) -> Self {
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
    pub(super) fn of_rivals(rng: &mut Rng) -> Self {
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

pub(super) fn client(rng: &mut Rng, world: &World, tags: &mut usize) -> Client {
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

/// Makes some apps send the rest of their requests later: what is wrong with a connection shows
/// only after some seconds.
pub(super) fn pause(rng: &mut Rng, clients: &mut [Client]) {
    for client in clients {
        let at = rng.below(client.steps.len());
        if rng.percent(60) {
            client.steps[at].think += rng.millis(9000);
        }
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
    let mut ids: Vec<_> = (0..count)
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
    if let (true, Some(last)) = (writing.encodes_ids() && rng.percent(4), ids.last_mut()) {
        // It is not encoded.
        last.push('%');
    }
    RequestKind::Receipt {
        chat,
        ids,
        participant: rng.pick(&[None, None, None, Some("null"), Some("\"null\"")]),
        writing,
    }
}
