//! The keys on the server, and the hashes in them.
//!
//! Invariant: what clients choose is in a key only as a hash with the key of the cluster.

use std::sync::atomic::Ordering;

use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::Cluster;

impl Cluster {
    /// A number by which scripts know this gateway: random for each process, and exact in Lua.
    pub(crate) fn number(&self) -> i64 {
        // 52 bits: numbers in Lua are exact up to 2^53.
        let digits = self.id.get(..13).unwrap_or(&self.id);
        i64::from_str_radix(digits, 16).unwrap_or(0)
    }

    /// A key of this cluster: its name in braces, so that all keys are in one hash slot, and the parts,
    /// separated by colons. Parts that clients choose have to be hashed before
    /// ([`digest`](Self::digest)).
    pub(crate) fn key(&self, parts: &[&str]) -> Vec<u8> {
        let mut key = format!("{{{}}}", self.name);
        for part in parts {
            key.push(':');
            key.push_str(part);
        }
        key.into_bytes()
    }

    /// The key of a budget. Where budgets are only observed it is another one: a gateway that observes
    /// takes nothing from those that enforce.
    pub(crate) fn budget_key(&self, parts: &[&str]) -> Vec<u8> {
        match self.observes.load(Ordering::Acquire) {
            true => self.key(&[&["shadow"], parts].concat()),
            false => self.key(parts),
        }
    }

    /// Sets whether budgets are only observed. A change counts as a new connection, so that what was
    /// granted is asserted at the other budgets: debt is kept.
    pub(crate) fn set_observes(&self, observes: bool) {
        let has_changed = self.observes.swap(observes, Ordering::AcqRel) != observes;
        // Before the first connection nothing was granted.
        if has_changed && self.generation() > 0 {
            self.begin_generation();
        }
    }

    /// The key of the birth of the data set (`KEYS[2]` of the scripts on buckets).
    pub(crate) fn birth(&self) -> Vec<u8> {
        self.key(&["birth"])
    }

    /// The channel of announcements (`KEYS[3]` of the scripts on buckets).
    pub(crate) fn channel(&self) -> Vec<u8> {
        self.key(&["announced"])
    }

    /// A hash of texts under the key of the cluster, as 32 hexadecimal digits (128 bits of
    /// HMAC-SHA-256). `None` before the first connection.
    pub(crate) fn digest(&self, parts: &[&str]) -> Option<String> {
        let hash = self.keyed_hash(parts.iter().map(|part| part.as_bytes()))?;
        Some(hex(&hash[..16]))
    }

    /// The HMAC-SHA-256 of texts under the key of the cluster. `None` before the first connection.
    pub(crate) fn keyed_hash<'t>(
        &self,
        parts: impl IntoIterator<Item = &'t [u8]>,
    ) -> Option<[u8; 32]> {
        let hash_key = self.hash_key.load();
        let mut context = hmac::Context::with_key(&hash_key.as_ref()?.key);
        for part in parts {
            // Their lengths too, so that no two lists of texts are hashed alike.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.sign().as_ref().try_into().ok()
    }
}

/// So many random bytes, in hexadecimal digits.
pub(crate) fn random<const BYTES: usize>() -> String {
    let mut bytes = [0; BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the operating system has random bytes");
    hex(&bytes)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}
