//! Tenant keys: clients send them instead of access tokens (rule: tenant keys).
//!
//! Owns which texts are keys, their tenants, and the tokens that replace them.
//! [`search`] finds the keys in a request. Invariants: a key opens the instances of its
//! own tenant and no others; outside its tenant's networks a key is treated like any
//! other text; the time of a comparison reveals nothing about the keys.

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
    /// With random keys for each process, so that no client can compute a digest. Two
    /// give a digest of 128 bits.
    hashers: [RandomState; 2],
    keys: Vec<Key>,
    /// The instances of all tenants that have a key.
    instances: HashMap<String, Instance>,
}

/// A key of a tenant.
struct Key {
    digest: [u64; 2],
    text: Secret,
    /// The index of its tenant.
    tenant: usize,
    /// The clients that may use the tenant's instances; empty means all.
    networks: Vec<IpNet>,
}

/// One instance that a key opens.
struct Instance {
    /// The index of its tenant.
    tenant: usize,
    /// The access token that replaces the key.
    token: Option<Secret>,
}

/// Why a request that contains a tenant key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The request names no instance in the parts that are searched.
    #[error("a tenant key needs an instance, and instance_id or X-Instance-ID is missing")]
    NoInstance,
    /// The request names several instances, and the upstream may use any of them.
    #[error("a tenant key opens one instance at a time, and this request names several")]
    SeveralInstances,
    /// The instance belongs to another tenant or to none. The message does not say which
    /// of the two, so a client cannot find out which instances exist.
    #[error("this tenant key does not open this instance")]
    OtherTenant,
    /// The settings hold no token for the instance.
    #[error("no access token of this instance is configured (tenant.tokens)")]
    NoToken,
    /// The key is in a part of the request where it cannot be replaced.
    #[error("the tenant key cannot be replaced {0}: send it in a header or in the query")]
    NotReplaceable(&'static str),
    /// More keys than a client has reason to send.
    #[error("the tenant key occurs too often in the request: at most {0} times")]
    TooMany(usize),
}

impl Keyring {
    /// Collects the tenants' keys; `None` if no tenant has one.
    pub(crate) fn new(tenants: &[config::Tenant]) -> Option<Self> {
        let mut keyring = Self {
            hashers: [RandomState::new(), RandomState::new()],
            keys: Vec::new(),
            instances: HashMap::new(),
        };
        let with_key = |tenant: &&config::Tenant| tenant.all_keys().next().is_some();
        for (index, tenant) in tenants.iter().filter(with_key).enumerate() {
            for text in tenant.all_keys() {
                let digest = keyring.digest(text.expose().as_bytes());
                keyring.keys.push(Key {
                    digest,
                    text: text.clone(),
                    tenant: index,
                    networks: tenant.networks.clone(),
                });
            }
            for instance in &tenant.instances {
                let token = tenant.tokens.get(instance).cloned();
                let tenant = index;
                keyring
                    .instances
                    .insert(instance.clone(), Instance { tenant, token });
            }
        }
        (!keyring.keys.is_empty()).then_some(keyring)
    }

    /// The index of the key that this text is, in any encoding.
    fn find(&self, text: &[u8], client: Client) -> Option<usize> {
        // All readings are tried, so that the time depends on the text alone.
        readings(text).fold(None, |found, reading| {
            found.or(self.find_exactly(&reading, client))
        })
    }

    /// The index of the key that is exactly this text. From outside its tenant's
    /// networks there is none: otherwise a client there could test keys.
    fn find_exactly(&self, text: &[u8], client: Client) -> Option<usize> {
        // All digests are compared, each to its end. How far two digests agree depends on
        // the hashers' random keys, so their comparison reveals nothing about a key. The
        // texts are compared only if the digests are equal.
        let digest = self.digest(text);
        let mut found = None;
        for (index, key) in self.keys.iter().enumerate() {
            if bool::from(key.digest.ct_eq(&digest)) {
                found = Some(index);
            }
        }
        found.filter(|&found| {
            let key = &self.keys[found];
            // The digest could be a collision.
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

    /// The token of an instance, if the key with this index opens it.
    fn token(&self, key: usize, instance: &str) -> Result<&Secret, Refusal> {
        let tenant = self.keys[key].tenant;
        let instance = self.instances.get(instance);
        let instance = instance.filter(|instance| instance.tenant == tenant);
        let instance = instance.ok_or(Refusal::OtherTenant)?;
        instance.token.as_ref().ok_or(Refusal::NoToken)
    }
}

/// The keys that a client may mean by a text, whose encoding in query, form or JSON is
/// already decoded.
fn readings(sent: &[u8]) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let text = std::str::from_utf8(sent).unwrap_or_default();
    // A base64 key whose `+` was not encoded in a form, where `+` means a space.
    let with_plus = text
        .contains(' ')
        .then(|| Cow::from(text.replace(' ', "+").into_bytes()));
    // A key that was encoded twice, or where nothing decodes it: in JSON or a header.
    let is_encoded = text.contains('%');
    let decoded = is_encoded.then(|| Cow::from(percent_decode_str(text)));
    [Some(Cow::Borrowed(sent)), with_plus, decoded]
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
