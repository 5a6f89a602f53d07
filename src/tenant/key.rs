//! Tenant keys: what stands for an access token, and what it opens.
//!
//! Owns which text is a key, whose it is and which token it stands for
//! (design §3.7); where in a request it stands is for [`search`]. Refuses to
//! hand a token to whoever shows another tenant's key, or to name either.
//! Invariants: a key opens its own tenant's instances and no others; from
//! outside its tenant's networks a key is answered like any other text; how
//! long it takes to tell that a text is no key says nothing about the keys.

mod answer;
mod place;
mod search;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;

use ipnet::IpNet;
use subtle::ConstantTimeEq as _;

pub(crate) use answer::Opened;

use super::Client;
use crate::config::{self, Secret};

/// All tenants' keys, and the instances that each opens.
pub(crate) struct Keyring {
    /// Drawn at start: nobody outside can tell what a text's mark is.
    hashers: [RandomState; 2],
    keys: Vec<Key>,
    /// The instances of the tenants that have a key.
    doors: HashMap<String, Door>,
}

/// One tenant's key.
struct Key {
    mark: [u64; 2],
    text: Secret,
    /// From where its tenant's instances may be used; empty means from everywhere.
    networks: Vec<IpNet>,
}

/// One instance that a key opens.
struct Door {
    /// Whose it is, by the place of its key.
    owner: usize,
    /// What is put in the key's place.
    token: Option<Secret>,
}

/// Why a call that shows a tenant's key is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The call names no instance where one is looked for.
    #[error(
        "a tenant key needs the instance it is to open: instance_id or X-Instance-ID is missing"
    )]
    NoInstance,
    /// The call names several, and the upstream may take any of them.
    #[error("a tenant key opens one instance at a time, and this request names several")]
    SeveralInstances,
    /// The instance is another tenant's, or nobody's: which of the two is not said.
    #[error("this tenant key does not open this instance")]
    Foreign,
    /// The settings hold no token for the instance.
    #[error("no access token of this instance is configured (tenant.tokens)")]
    NoToken,
    /// The key stands where nothing can be put in its place.
    #[error("the tenant key cannot be replaced {0}: show it in a header or in the query")]
    Fixed(&'static str),
    /// More keys than any client has reason to show.
    #[error("the tenant key stands in too many places: at most {0}")]
    TooMany(usize),
}

// === impl Keyring ===

impl Keyring {
    /// Takes the tenants' keys; `None` where no tenant has one.
    pub(crate) fn new(tenants: &[config::Tenant]) -> Option<Self> {
        let mut ring = Self {
            hashers: [RandomState::new(), RandomState::new()],
            keys: Vec::new(),
            doors: HashMap::new(),
        };
        for tenant in tenants {
            let Some(text) = tenant.key.clone() else {
                continue;
            };
            let owner = ring.keys.len();
            let mark = ring.mark(text.expose().as_bytes());
            let networks = tenant.networks.clone();
            ring.keys.push(Key {
                mark,
                text,
                networks,
            });
            for instance in &tenant.instances {
                let token = tenant.tokens.get(instance).cloned();
                ring.doors.insert(instance.clone(), Door { owner, token });
            }
        }
        (!ring.keys.is_empty()).then_some(ring)
    }

    /// Tells whose key a text is, shown by this client. From outside its
    /// tenant's networks it is nobody's, or one could ask there whether a key
    /// is right.
    ///
    /// Marks are compared, all of them and each to its end. Whoever does not
    /// know the hashers' keys can bring no text's mark nearer to a key's, so
    /// the time it takes to hash a guess is of no use either; and the text
    /// itself is compared only where the marks are equal.
    fn owner(&self, shown: &[u8], client: Client) -> Option<usize> {
        let mark = self.mark(shown);
        let mut owner = None;
        for (place, key) in self.keys.iter().enumerate() {
            if bool::from(key.mark.ct_eq(&mark)) {
                owner = Some(place);
            }
        }
        owner.filter(|&owner| {
            let key = &self.keys[owner];
            bool::from(key.text.expose().as_bytes().ct_eq(shown)) && client.is_within(&key.networks)
        })
    }

    fn mark(&self, text: &[u8]) -> [u64; 2] {
        [
            self.hashers[0].hash_one(text),
            self.hashers[1].hash_one(text),
        ]
    }

    /// Returns the token that the owner's key stands for at an instance.
    fn token(&self, owner: usize, instance: &str) -> Result<&Secret, Refusal> {
        let door = self.doors.get(instance);
        let door = door.filter(|door| door.owner == owner);
        let door = door.ok_or(Refusal::Foreign)?;
        door.token.as_ref().ok_or(Refusal::NoToken)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("keys", &self.keys.len())
            .field("doors", &self.doors.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
