//! Tenant keys: texts that stand for an access token, and the instances they open.
//!
//! Owns which text is a key, which tenant it belongs to and which token it
//! stands for (rule: tenant keys). [`search`] finds the keys in a request.
//! Invariants: a key opens its own tenant's instances and no others; outside
//! its tenant's networks a key is treated like any other text; the time it
//! takes to find that a text is no key says nothing about the keys.

mod encode;
mod search;
mod substitution;

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;

use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use subtle::ConstantTimeEq as _;

pub(crate) use substitution::Substitution;

use crate::config::{self, Secret};
use crate::http::forwarded_for::Client;

/// All tenants' keys, and the instances that each opens.
pub(crate) struct Keyring {
    /// Drawn at start, so that no client can compute a digest.
    hashers: [RandomState; 2],
    keys: Vec<Key>,
    /// The instances of the tenants that have a key.
    instances: HashMap<String, Instance>,
}

/// One tenant's key.
struct Key {
    digest: [u64; 2],
    text: Secret,
    /// The clients that may use the tenant's instances; empty means all.
    networks: Vec<IpNet>,
}

/// One instance that a key opens.
struct Instance {
    /// The index of its tenant's key.
    owner: usize,
    /// The access token that replaces the key.
    token: Option<Secret>,
}

/// Why a request that shows a tenant's key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The request names no instance where one is searched for.
    #[error(
        "a tenant key needs the instance it is to open: instance_id or X-Instance-ID is missing"
    )]
    NoInstance,
    /// The request names several, and the upstream may take any of them.
    #[error("a tenant key opens one instance at a time, and this request names several")]
    SeveralInstances,
    /// The instance belongs to another tenant or to none; which one is not said.
    #[error("this tenant key does not open this instance")]
    Foreign,
    /// The settings hold no token for the instance.
    #[error("no access token of this instance is configured (tenant.tokens)")]
    NoToken,
    /// The key stands where nothing can replace it.
    #[error("the tenant key cannot be replaced {0}: show it in a header or in the query")]
    Fixed(&'static str),
    /// More keys than any client has reason to show.
    #[error("the tenant key stands in too many places: at most {0}")]
    TooMany(usize),
}

impl Keyring {
    /// Takes the tenants' keys; `None` if no tenant has one.
    pub(crate) fn new(tenants: &[config::Tenant]) -> Option<Self> {
        let mut ring = Self {
            hashers: [RandomState::new(), RandomState::new()],
            keys: Vec::new(),
            instances: HashMap::new(),
        };
        for tenant in tenants {
            let Some(text) = tenant.key.clone() else {
                continue;
            };
            let owner = ring.keys.len();
            let digest = ring.digest(text.expose().as_bytes());
            let networks = tenant.networks.clone();
            ring.keys.push(Key {
                digest,
                text,
                networks,
            });
            for instance in &tenant.instances {
                let token = tenant.tokens.get(instance).cloned();
                let instance = instance.clone();
                ring.instances.insert(instance, Instance { owner, token });
            }
        }
        (!ring.keys.is_empty()).then_some(ring)
    }

    /// Finds the key that a client shows as this text, in whichever encoding.
    fn owner(&self, shown: &[u8], client: Client) -> Option<usize> {
        // All of them are tried, so that the time depends on the text alone.
        readings(shown).fold(None, |owner, reading| {
            owner.or(self.owner_of(&reading, client))
        })
    }

    /// Finds the key that is this very text. Outside its tenant's networks
    /// there is none, or a client there could try whether a key is right.
    ///
    /// All digests are compared, each to its end. A client that does not know
    /// the hashers' keys cannot bring a text's digest nearer to a key's, so the
    /// time says nothing; and the texts are compared only if the digests are equal.
    fn owner_of(&self, text: &[u8], client: Client) -> Option<usize> {
        let digest = self.digest(text);
        let mut owner = None;
        for (index, key) in self.keys.iter().enumerate() {
            if bool::from(key.digest.ct_eq(&digest)) {
                owner = Some(index);
            }
        }
        owner.filter(|&owner| {
            let key = &self.keys[owner];
            let is_same = bool::from(key.text.expose().as_bytes().ct_eq(text));
            is_same && client.is_within(&key.networks)
        })
    }

    fn digest(&self, text: &[u8]) -> [u64; 2] {
        [
            self.hashers[0].hash_one(text),
            self.hashers[1].hash_one(text),
        ]
    }

    /// Returns the token that the owner's key stands for at an instance.
    fn token(&self, owner: usize, instance: &str) -> Result<&Secret, Refusal> {
        let instance = self.instances.get(instance);
        let instance = instance.filter(|instance| instance.owner == owner);
        let instance = instance.ok_or(Refusal::Foreign)?;
        instance.token.as_ref().ok_or(Refusal::NoToken)
    }
}

/// What a text from a request may stand for. Its carrier's own encoding is
/// undone already, but clients often forget to encode the `+` of a base64 key
/// in a form, where it stands for a space; or they percent-encode the key
/// where nothing decodes it, as in JSON or a header, once or twice.
fn readings(shown: &[u8]) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let text = std::str::from_utf8(shown).unwrap_or_default();
    let with_plus = text
        .contains(' ')
        .then(|| Cow::from(text.replace(' ', "+").into_bytes()));
    let is_encoded = text.contains('%');
    let decoded = is_encoded.then(|| Cow::from(percent_decode_str(text)));
    [Some(Cow::Borrowed(shown)), with_plus, decoded]
        .into_iter()
        .flatten()
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("keys", &self.keys.len())
            .field("instances", &self.instances.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
