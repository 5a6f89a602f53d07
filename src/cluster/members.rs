//! The gateways of the cluster, as the server knows them.
//!
//! Invariant: this gateway is one of them, also while the server cannot be used.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

/// A gateway that was not seen for this time is no longer live. Three heartbeats; the others read it with
/// their next one, at most 8 s after the gateway has vanished.
const LIVE_FOR: Duration = Duration::from_secs(6);
/// For this time after it was last seen live, a gateway that has not deregistered is known.
const KNOWN_FOR: Duration = Duration::from_secs(30);
/// The share during an outage counts the gateways of this time.
const SHARE_WINDOW: Duration = Duration::from_secs(10 * 60);

/// What a gateway reports of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heartbeat {
    /// The hash of all gateways, the key with which values are hashed, and the birth of the data set.
    pub(crate) keys: [Vec<u8>; 3],
    /// Random for each process. No space, as in all texts here.
    pub(crate) id: String,
    pub(crate) version: String,
    /// A hash of the settings that gateways of one cluster should have in common.
    pub(crate) settings: String,
    /// The key for hashes, if the server has none.
    pub(crate) hash_key: String,
    /// It uses the server; false while it goes on without it.
    pub(crate) shares: bool,
    /// The gateway ends and is no longer counted.
    pub(crate) leaves: bool,
}

/// What the server returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeartbeatReply {
    /// The key for hashes, which all gateways share.
    pub(crate) hash_key: String,
    /// When the data set began, on the server's clock.
    pub(crate) birth: String,
    pub(crate) gateways: Vec<Seen>,
}

/// A gateway of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) id: String,
    pub(crate) version: String,
    pub(crate) settings: String,
    /// It uses the server.
    pub(crate) shares: bool,
    /// How long ago it has reported itself.
    pub(crate) ago: Duration,
}

/// The gateways of the last heartbeat, and how many there were before.
#[derive(Debug)]
pub(super) struct Members {
    own_id: String,
    replicas: NonZeroU32,
    gateways: Vec<Seen>,
    read_at: Instant,
    /// How many there were at earlier times. Each entry is smaller than those before it, so the
    /// first is the highest.
    highest: VecDeque<(Instant, u32)>,
}

/// How many gateways there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    /// Seen lately, and using the server.
    pub(super) live: NonZeroU32,
    /// Those, the ones that go on without the server, and the ones that have vanished lately without
    /// deregistering.
    pub(super) known: NonZeroU32,
    /// The divisor of a rate while the server cannot be used.
    pub(super) share: NonZeroU32,
    /// All that were seen lately use the server.
    pub(super) all_share: bool,
}

impl Members {
    pub(super) fn new(own_id: String, replicas: NonZeroU32) -> Self {
        Self {
            own_id,
            replicas,
            gateways: Vec::new(),
            read_at: Instant::now(),
            highest: VecDeque::new(),
        }
    }

    /// Takes over what a heartbeat has returned.
    pub(super) fn update(&mut self, gateways: Vec<Seen>, now: Instant) -> Counts {
        self.gateways = gateways;
        self.read_at = now;
        let others = |is_counted: &dyn Fn(&Seen) -> bool| {
            let others = self.gateways.iter().filter(|seen| seen.id != self.own_id);
            let count = others.filter(|seen| is_counted(seen)).count();
            NonZeroU32::MIN.saturating_add(u32::try_from(count).unwrap_or(u32::MAX))
        };
        let live = others(&|seen| seen.shares && seen.ago <= LIVE_FOR);
        // Also those that go on without the server: in an outage they take a share of the rate.
        let seen_lately = others(&|seen| seen.ago <= LIVE_FOR);
        let known = others(&|seen| seen.ago <= LIVE_FOR + KNOWN_FOR);
        // Only here: an outage does not make the gateways forget each other.
        self.highest
            .retain(|(at, count)| *count > seen_lately.get() && now - *at <= SHARE_WINDOW);
        self.highest.push_back((now, seen_lately.get()));
        let highest = self
            .highest
            .front()
            .map_or(seen_lately.get(), |(_, count)| *count);
        let share = NonZeroU32::new(highest).map_or(self.replicas, |it| it.max(self.replicas));
        Counts {
            live,
            known,
            share,
            all_share: live == seen_lately,
        }
    }

    /// The gateways that are live or known, this one first.
    pub(super) fn all(&self, now: Instant) -> Vec<Seen> {
        let since = now - self.read_at;
        let mut all = self.gateways.clone();
        all.sort_by(|a, b| (a.id != self.own_id, &a.id).cmp(&(b.id != self.own_id, &b.id)));
        for seen in &mut all {
            seen.ago += since;
        }
        all
    }
}
