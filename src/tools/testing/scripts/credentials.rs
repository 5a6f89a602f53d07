//! The script on verified credentials in Rust.

use std::collections::HashMap;

use super::Outcome;
use crate::cluster::{Call, Script};

const KEPT: i64 = 3_600_000_000;
const MOST: usize = 16;

/// The verified credentials of a server, by their keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Credentials(HashMap<Vec<u8>, Set>);

#[derive(Clone, Debug, Default)]
struct Set {
    reported: HashMap<Vec<u8>, i64>,
    expires: i64,
}

impl Credentials {
    /// When a key expires.
    pub(super) fn expires(&self, key: &[u8]) -> Option<i64> {
        Some(self.0.get(key)?.expires)
    }

    /// Runs a script at this time, in microseconds; `None` if it is another one.
    pub(super) fn run(&mut self, call: &Call, now: i64) -> Option<Outcome> {
        if call.script != Script::Credentials {
            return None;
        }
        self.0.retain(|_, set| {
            set.reported.retain(|_, at| *at > now - KEPT);
            set.expires > now && !set.reported.is_empty()
        });
        let (key, change) = (
            &call.keys[0],
            call.arguments.first().zip(call.texts.first()),
        );
        let set = self.0.entry(key.clone()).or_default();
        let has_changed = change.is_some_and(|(change, credential)| match change {
            1 => set.add(credential, now),
            _ => set.reported.remove(credential).is_some(),
        });
        let mut all: Vec<_> = set
            .reported
            .iter()
            .map(|(it, at)| (*at, it.clone()))
            .collect();
        all.sort();
        if all.is_empty() {
            self.0.remove(key);
        }
        let announced = change.filter(|_| has_changed).map(|(change, credential)| {
            let (key, credential) = (
                String::from_utf8_lossy(key),
                String::from_utf8_lossy(credential),
            );
            format!("{key} {change} {credential}")
        });
        let texts = all.into_iter().map(|(_, credential)| credential).collect();
        Some(Outcome {
            announced,
            ..Outcome::of(Vec::new(), texts)
        })
    }
}

impl Set {
    /// True if the credential is new.
    fn add(&mut self, credential: &[u8], now: i64) -> bool {
        let is_known = self.reported.contains_key(credential);
        if !is_known && self.reported.len() >= MOST {
            return false;
        }
        self.reported.insert(credential.to_vec(), now);
        self.expires = now + KEPT;
        !is_known
    }
}
