//! The scripts in Rust, for tests in simulated time: those on buckets, those on batches (`batches`),
//! that on verified credentials (`credentials`), and that which lends tokens (`lease`).
//!
//! Invariant: line by line the same as `src/cluster/scripts/*.lua`. `tests/scripts.rs` runs random
//! histories through both.

mod batches;
mod credentials;
mod lease;

use std::collections::HashMap;

use crate::cluster::{Call, Reply, Script};
use batches::Batches;
use credentials::Credentials;
use lease::Leases;

const STRICT_FOR: i64 = 10_000_000;
const MAX_PAUSE: i64 = 60_000_000;
const FIRST_PAUSE: i64 = 1_000_000;
const MAX_REPEATED: i64 = 1_000_000;

/// The data set of a server, as far as scripts change it.
#[derive(Clone, Debug, Default)]
pub struct DataSet {
    born: Option<i64>,
    buckets: HashMap<Vec<u8>, Bucket>,
    batches: Batches,
    credentials: Credentials,
    /// By the key of the egress.
    leases: HashMap<Vec<u8>, Leases>,
}

/// The result of a script.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The numbers that it returns.
    pub numbers: Vec<i64>,
    /// The texts that it returns.
    pub texts: Vec<Vec<u8>>,
    /// What it announces.
    pub announced: Option<String>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    tat: i64,
    interval: i64,
    spare: i64,
    strict: i64,
    paused: i64,
    epoch: i64,
    recovers: bool,
    probe: i64,
    step: i64,
    named: i64,
    shift: i64,
    expires: i64,
}

/// The scripts: their names and their texts in Lua.
#[must_use]
pub fn texts() -> Vec<(&'static str, &'static str)> {
    let all = Script::ALL.iter();
    all.map(|script| (script.name(), script.text())).collect()
}

impl DataSet {
    /// Runs a script by its name, at this time in microseconds.
    ///
    /// # Panics
    /// There is no script of this name, or it has other keys or arguments.
    pub fn run_named(
        &mut self,
        name: &str,
        keys: &[&str],
        (arguments, texts): (&[i64], &[Vec<u8>]),
        now: i64,
    ) -> Outcome {
        let mut all = Script::ALL.into_iter();
        let call = Call {
            script: all.find(|script| script.name() == name).expect("a script"),
            keys: keys.iter().map(|key| key.as_bytes().to_vec()).collect(),
            arguments: arguments.to_vec(),
            texts: texts.to_vec(),
            generation: None,
        };
        self.run(&call, now)
    }

    /// For how long a key is kept, in microseconds; `None` where there is none.
    #[must_use]
    pub fn kept(&self, key: &str, now: i64) -> Option<i64> {
        let bucket = self.buckets.get(key.as_bytes()).map(|it| it.expires);
        let batch = || self.batches.expires(key.as_bytes());
        let credentials = || self.credentials.expires(key.as_bytes());
        let expires = bucket.or_else(batch).or_else(credentials)?;
        Some(expires - now).filter(|left| *left > 0)
    }

    /// Runs the script that lends tokens of an egress, to these tenants.
    pub fn lend(
        &mut self,
        egress: &[u8],
        tenants: &[Vec<u8>],
        arguments: &[i64],
        now: i64,
    ) -> Vec<i64> {
        let born = *self.born.get_or_insert(now);
        let leases = self.leases.entry(egress.to_vec()).or_default();
        leases.lend(tenants, arguments, born, now)
    }

    /// The keys of that script that have expired, of an egress and its tenants.
    #[must_use]
    pub fn expired(&self, egress: &[u8], now: i64) -> Vec<Vec<u8>> {
        let leases = self.leases.get(egress);
        leases.map_or_else(Vec::new, |leases| leases.expired(egress, now))
    }

    /// For how long such a key is kept, in microseconds; `None` where there is none.
    #[must_use]
    pub fn lease_kept(&self, egress: &[u8], key: &[u8], now: i64) -> Option<i64> {
        let leases = self.leases.get(egress)?;
        leases.kept((key != egress).then_some(key), now)
    }

    /// Runs a script at this time, in microseconds.
    pub(crate) fn run(&mut self, call: &Call, now: i64) -> Outcome {
        if call.script == Script::Lease {
            let reply = self.lend(&call.keys[0], &call.keys[2..], &call.arguments, now);
            return Outcome::of(reply, Vec::new());
        }
        let other = self.batches.run(call, now);
        let other = other.or_else(|| self.credentials.run(call, now));
        other.unwrap_or_else(|| self.run_on_bucket(call, now))
    }

    fn run_on_bucket(&mut self, call: &Call, now: i64) -> Outcome {
        let born = *self.born.get_or_insert(now);
        let key = &call.keys[0];
        let known = self.buckets.get(key).filter(|known| known.expires > now);
        let mut bucket = known.copied().unwrap_or_default();
        let arguments = &*call.arguments;
        bucket.limit(arguments[0], arguments[1], now);
        bucket.tat = bucket.tat.max(born + bucket.interval + bucket.spare);
        let (mut reply, changes, announces) = match call.script {
            Script::Reserve => (bucket.reserve(&arguments[2..], born, now), true, false),
            Script::Throttled => {
                bucket.throttled(arguments[2], arguments[3], now);
                (Vec::new(), true, true)
            }
            Script::Probe => {
                let wait = bucket.probe(arguments[2], arguments[3], now);
                (
                    vec![i64::from(wait == 0), wait],
                    bucket.recovers && wait == 0,
                    false,
                )
            }
            Script::Settled => {
                let changes = bucket.settled(arguments[2], arguments[3] == 1, now);
                (Vec::new(), changes, changes)
            }
            _ => (Vec::new(), false, false),
        };
        if changes {
            let until_same = bucket.tat.max(bucket.strict).max(bucket.paused + MAX_PAUSE) - now;
            // The server counts in milliseconds.
            bucket.expires = now + (until_same / 1000 + 1000) * 1000;
            self.buckets.insert(key.clone(), bucket);
        }
        let state = bucket.state(now);
        reply.extend(state);
        Outcome {
            numbers: reply,
            texts: Vec::new(),
            announced: announces.then(|| {
                let state = state.map(|it| it.to_string()).join(" ");
                format!("{} {state}", String::from_utf8_lossy(key))
            }),
        }
    }

    /// When the data set began; it exists from now on.
    pub fn birth(&mut self, now: i64) -> i64 {
        *self.born.get_or_insert(now)
    }

    /// Forgets everything, as a server without persistence does that is restarted.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Outcome {
    fn of(numbers: Vec<i64>, texts: Vec<Vec<u8>>) -> Self {
        Self {
            numbers,
            texts,
            announced: None,
        }
    }
}

impl From<Outcome> for Reply {
    fn from(outcome: Outcome) -> Self {
        let Outcome { numbers, texts, .. } = outcome;
        Self { numbers, texts }
    }
}

/// Interval, spare and until when they are the strictest.
fn strictest(limit: (i64, i64, i64), own: (i64, i64), now: i64) -> (i64, i64, i64) {
    let ((interval, spare, mut strict), (own_interval, own_spare)) = (limit, own);
    if strict <= now || (interval <= own_interval && spare >= own_spare) {
        return (own_interval, own_spare, now + STRICT_FOR);
    }
    if own_interval == interval || own_spare == spare {
        strict = now + STRICT_FOR;
    }
    (interval.max(own_interval), spare.min(own_spare), strict)
}

impl Bucket {
    fn limit(&mut self, interval: i64, spare: i64, now: i64) {
        let limit = (self.interval, self.spare, self.strict);
        (self.interval, self.spare, self.strict) = strictest(limit, (interval, spare), now);
    }

    fn shift_to(&mut self, from: i64, to: i64) {
        if to > from {
            self.shift += to - from;
            self.tat = (self.tat + to - from).max(to + self.spare);
        }
    }

    fn reserve(&mut self, arguments: &[i64], born: i64, now: i64) -> Vec<i64> {
        let &[
            known_birth,
            known_tat,
            known_pause,
            back,
            tat,
            yields,
            share,
            ref deadlines @ ..,
        ] = arguments
        else {
            return Vec::new();
        };
        if known_birth != born {
            self.tat = self.tat.max(now + known_tat);
            let paused = now + known_pause;
            if paused > self.paused.max(now) {
                self.shift_to(self.paused.max(now), paused);
                (self.paused, self.recovers) = (paused, true);
                if self.epoch == 0 {
                    self.epoch = now;
                }
            }
        }
        if back > 0 && self.tat == tat {
            self.tat -= back;
        }
        let step = self.interval * share / 1000;
        let empty = if self.recovers { self.spare } else { 0 };
        self.tat = self.tat.max(now + empty);
        let first = self.tat - self.spare - now;
        let mut reserved = 0;
        for deadline in deadlines {
            let due = (first + reserved * step).max(0);
            if due <= *deadline && (yields == 0 || due == 0) {
                reserved += 1;
            }
        }
        self.tat += reserved * step;
        vec![reserved, first, self.tat, born, step]
    }

    fn throttled(&mut self, epoch: i64, named: i64, now: i64) {
        let named = named.min(MAX_PAUSE);
        let from = if self.recovers { self.paused } else { now };
        if !self.recovers && self.paused + MAX_PAUSE <= now {
            (self.step, self.named) = (0, 0);
        }
        if epoch == self.epoch {
            let length = if named > 0 {
                named.max(self.named)
            } else {
                let length = self.step.max(FIRST_PAUSE);
                self.step = (length * 2).min(MAX_PAUSE);
                length
            };
            self.named = (length * 2).min(MAX_REPEATED);
            self.epoch = now.max(self.epoch + 1);
            self.paused = now + length;
            (self.recovers, self.probe) = (true, 0);
        } else if named > 0 {
            self.paused = self.paused.max(now + named);
            self.recovers = true;
        }
        self.shift_to(from, self.paused);
    }

    fn probe(&mut self, timeout: i64, late: i64, now: i64) -> i64 {
        if !self.recovers {
            return 0;
        }
        let wait = self.paused.max(self.probe + timeout) - now;
        if wait > 0 {
            return wait;
        }
        self.shift_to(self.paused.max(now - late), now);
        (self.paused, self.probe) = (now, now);
        0
    }

    fn settled(&mut self, epoch: i64, is_accepted: bool, now: i64) -> bool {
        if !self.recovers || epoch != self.epoch || now < self.paused {
            return false;
        }
        self.probe = 0;
        if is_accepted {
            self.recovers = false;
            (self.step, self.named) = (0, 0);
            self.shift_to(self.paused + self.interval, now);
        }
        true
    }

    fn state(&self, now: i64) -> [i64; 7] {
        [
            self.epoch,
            self.paused - now,
            i64::from(self.recovers) * (1 + i64::from(self.probe > 0)),
            self.shift,
            self.tat - now,
            self.interval,
            self.spare,
        ]
    }
}
