//! The credentials of a request, as hashes.
//!
//! Invariant: a credential is never kept as text, and its hash is never shown, so no
//! log line or metric can contain either (rule: secrets).

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::LazyLock;

use siphasher::sip::SipHasher13;

use super::instance::{InstanceId, is_plain, trim};

/// A hash over all credentials of a request and their sources, the same in all
/// gateways.
///
/// It replaces the credential in comparisons. That needs no secret key: a client that
/// does not know a credential does not know its hash either, and so cannot find another
/// credential with the same one. A client that knows it can use the credential itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint(u64);

/// The part of a request that contains a credential. It is part of the fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CredentialSource {
    /// `access_token` in the query.
    Query,
    /// The `Authorization` header.
    Authorization,
    /// The `access-token` header.
    Header,
    /// `access_token` in the body.
    Body,
}

/// For addresses, which are no secrets: with a random key no credential can be found that
/// counts as the address of another client.
static ADDRESSES: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The credentials of one request.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    /// The hash of each source's first credential.
    first: [Option<u64>; 4],
    /// A source holds two different credentials, and a backend may take either.
    pub(super) is_ambiguous: bool,
}

impl Credentials {
    /// Adds a credential. An empty one is ignored.
    pub(super) fn add(&mut self, source: CredentialSource, credential: &[u8]) {
        // `Bearer t` and `bearer  t` must be the same credential, or a client could get
        // a new bucket by each spelling.
        let credential = trim_bytes(without_scheme(source, credential));
        if credential.is_empty() {
            return;
        }
        let hash = hash(credential);
        match &mut self.first[source as usize] {
            Some(first) => self.is_ambiguous |= *first != hash,
            first => *first = Some(hash),
        }
    }

    /// One fingerprint for all of them; `None` if there are none.
    pub(super) fn fingerprint(&self) -> Option<Fingerprint> {
        let is_any = self.first.iter().any(Option::is_some);
        is_any.then(|| Fingerprint(combine(&self.first)))
    }
}

/// The same in gateways of all versions: they share what they have verified.
fn hash(credential: &[u8]) -> u64 {
    SipHasher13::new().hash(credential)
}

/// One number for the hashes of all sources. A client cannot aim at the sum of credentials
/// that it does not know: a sum with a factor for each source needs no second hash.
fn combine(hashes: &[Option<u64>; 4]) -> u64 {
    // Odd, so that no bit of a hash is lost; different, so that the source counts.
    const FACTORS: [u64; 4] = [
        0x9e37_79b9_7f4a_7c15,
        0xbf58_476d_1ce4_e5b9,
        0x94d0_49bb_1331_11eb,
        0xd6e8_feb8_6659_fd93,
    ];
    let present = hashes.iter().zip(FACTORS);
    let terms = present.filter_map(|(hash, factor)| Some(hash.as_ref()?.wrapping_mul(factor)));
    terms.fold(0, u64::wrapping_add)
}

impl Fingerprint {
    /// The hash, for gateways that share what they have verified; to be encrypted.
    pub(crate) fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// The hash that another gateway has shared.
    pub(crate) fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_be_bytes(bytes))
    }

    /// Whether the request's only credential has the same text as the instance id: a
    /// client has confused the two, and the id must not be logged.
    pub(crate) fn is_of(self, instance: &InstanceId) -> bool {
        let hash = Some(hash(instance.as_bytes()));
        // A fingerprint does not say which source it is from, so all are tried.
        (0..4).any(|source| {
            let mut first = [None; 4];
            first[source] = hash;
            Self(combine(&first)) == self
        })
    }

    /// Replaces the credential of a request whose identity could not be read: such
    /// requests from one address share a bucket.
    pub(crate) fn of_client(address: Option<IpAddr>) -> Self {
        let network = match address {
            None => 0,
            Some(IpAddr::V4(address)) => u64::from(address.to_bits()),
            // The /64 network: an IPv6 client can use 2^64 addresses (RFC 6177).
            Some(IpAddr::V6(address)) => (address.to_bits() >> 64) as u64,
        };
        let is_v6 = address.map(|address| address.is_ipv6());
        Self(ADDRESSES.hash_one((is_v6, network)))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fingerprint").finish_non_exhaustive()
    }
}

/// The text after the scheme (`Bearer`) of an `Authorization` field. The case of the
/// scheme and the number of spaces after it mean nothing (RFC 9110 §11.1).
fn without_scheme(source: CredentialSource, credential: &[u8]) -> &[u8] {
    if source != CredentialSource::Authorization {
        return credential;
    }
    let credential = credential.trim_ascii();
    let scheme_end = credential.iter().position(u8::is_ascii_whitespace);
    scheme_end.map_or(credential, |at| &credential[at..])
}

/// Trimmed as instance ids are, so that one token has one fingerprint.
fn trim_bytes(credential: &[u8]) -> &[u8] {
    if is_plain(credential) {
        return credential;
    }
    match std::str::from_utf8(credential) {
        Ok(text) => trim(text).as_bytes(),
        Err(_) => credential.trim_ascii(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: CredentialSource, credential: &[u8]) -> Fingerprint {
        let mut credentials = Credentials::default();
        credentials.add(source, credential);
        credentials.fingerprint().unwrap()
    }

    #[test]
    fn a_fingerprint_is_the_same_in_all_processes_and_versions() {
        let fingerprint = of(CredentialSource::Query, b"token");
        assert_eq!(fingerprint.to_bytes(), [5, 32, 156, 134, 56, 52, 201, 51]);
        assert_eq!(Fingerprint::from_bytes(fingerprint.to_bytes()), fingerprint);
        assert_ne!(of(CredentialSource::Header, b"token"), fingerprint);
    }

    #[test]
    fn a_fingerprint_is_not_shown() {
        let shown = format!("{:?}", of(CredentialSource::Query, b"token"));
        assert_eq!(shown, "Fingerprint { .. }");
    }
}
