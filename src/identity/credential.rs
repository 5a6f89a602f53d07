//! Credentials, as keys only.
//!
//! Invariant: a credential is kept as a keyed hash, never as text, so nothing
//! here can print one (rule: secrets).

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::LazyLock;

use super::instance::{InstanceId, trim};

/// A keyed hash over all credentials of a request and their sources.
///
/// The key is drawn at start, so a fingerprint means nothing outside this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint(u64);

/// Where in a request a credential stands; part of its fingerprint.
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

static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The credentials of one request.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    /// The hash of each source's first credential.
    first: [Option<u64>; 4],
    /// A source holds two different credentials, and a backend may take either.
    pub(super) is_ambiguous: bool,
}

impl Credentials {
    /// Adds a credential; an empty one is none.
    pub(super) fn add(&mut self, source: CredentialSource, credential: &[u8]) {
        let credential = trim_bytes(without_scheme(source, credential));
        if credential.is_empty() {
            return;
        }
        let hash = KEY.hash_one(credential);
        match &mut self.first[source as usize] {
            Some(first) => self.is_ambiguous |= *first != hash,
            first => *first = Some(hash),
        }
    }

    /// All of them as one; `None` if there are none.
    pub(super) fn fingerprint(&self) -> Option<Fingerprint> {
        let is_any = self.first.iter().any(Option::is_some);
        is_any.then(|| Fingerprint(KEY.hash_one(self.first)))
    }
}

impl Fingerprint {
    /// Whether the request's only credential equals the instance's name: a
    /// client has mixed them up, and the name must not be shown.
    pub(crate) fn is_of(self, instance: &InstanceId) -> bool {
        let hash = Some(KEY.hash_one(instance.as_bytes()));
        (0..4).any(|source| {
            let mut first = [None; 4];
            first[source] = hash;
            Self(KEY.hash_one(first)) == self
        })
    }

    /// Stands in for the credential of a request whose identity could not be
    /// read: requests from one address share a bucket. An IPv6 client owns
    /// 2^64 addresses (RFC 6177), so its network counts.
    pub(crate) fn of_client(address: Option<IpAddr>) -> Self {
        let network = match address {
            None => 0,
            Some(IpAddr::V4(address)) => u64::from(address.to_bits()),
            Some(IpAddr::V6(address)) => (address.to_bits() >> 64) as u64,
        };
        let is_v6 = address.map(|address| address.is_ipv6());
        Self(KEY.hash_one((is_v6, network)))
    }
}

/// What follows the scheme (`Bearer`) of an `Authorization` field: the scheme's
/// case and the blanks behind it mean nothing (RFC 9110 §11.1).
fn without_scheme(source: CredentialSource, credential: &[u8]) -> &[u8] {
    let credential = credential.trim_ascii();
    match credential.iter().position(u8::is_ascii_whitespace) {
        Some(at) if source == CredentialSource::Authorization => &credential[at..],
        _ => credential,
    }
}

/// Trimmed as instance ids are, so that one token has one fingerprint.
fn trim_bytes(credential: &[u8]) -> &[u8] {
    match std::str::from_utf8(credential) {
        Ok(text) => trim(text).as_bytes(),
        Err(_) => credential.trim_ascii(),
    }
}
