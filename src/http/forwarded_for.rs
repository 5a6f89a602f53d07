//! Who speaks: the address a rule of access is held against.
//!
//! Owns what a proxy in front is believed. Invariant: nothing a stranger
//! writes has a say; where a trusted proxy says what cannot be understood, the
//! client is somebody whom no rule lets in.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

/// Where proxies write for whom they speak, each behind the ones before it.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// This very process: a stream in memory has no address.
    Local,
    /// Somebody with an address.
    At(IpAddr),
    /// Somebody for whom a trusted proxy speaks without a usable address.
    Unknown,
}

impl Client {
    /// Its address, where that is known.
    pub(crate) fn address(self) -> Option<IpAddr> {
        match self {
            Self::At(address) => Some(address),
            Self::Local | Self::Unknown => None,
        }
    }

    /// Whether a rule with these networks lets it in; no networks, no rule.
    pub(crate) fn is_within(self, networks: &[IpNet]) -> bool {
        networks.is_empty()
            || match self {
                Self::Local => true,
                Self::At(address) => contain(networks, address),
                Self::Unknown => false,
            }
    }
}

impl Client {
    /// Who speaks on a connection of `peer`: it, or the one for whom it does.
    ///
    /// That is the last address in `X-Forwarded-For` which is no trusted
    /// proxy's: whatever stands before it was written by strangers. Where all
    /// are, it is the first.
    pub(crate) fn of(
        peer: Option<IpAddr>,
        headers: &HeaderMap,
        trusts: impl Fn(IpAddr) -> bool,
    ) -> Self {
        let Some(peer) = peer else {
            return Client::Local;
        };
        let mut client = peer.to_canonical();
        if !trusts(client) {
            return Client::At(client);
        }
        for value in headers.get_all(FORWARDED_FOR).iter().rev() {
            let Ok(value) = value.to_str() else {
                return Client::Unknown;
            };
            for entry in value.rsplit(',') {
                match address(entry.trim_matches([' ', '\t'])) {
                    Some(address) => client = address,
                    None => return Client::Unknown,
                }
                if !trusts(client) {
                    return Client::At(client);
                }
            }
        }
        Client::At(client)
    }
}

/// Reads one entry: an address, by some proxies with the client's port.
fn address(entry: &str) -> Option<IpAddr> {
    let bare = entry
        .strip_prefix('[')
        .and_then(|entry| entry.strip_suffix(']'));
    let address = match bare {
        Some(bare) => IpAddr::V6(bare.parse().ok()?),
        None => entry
            .parse()
            .or_else(|_| entry.parse().map(|entry: SocketAddr| entry.ip()))
            .ok()?,
    };
    Some(address.to_canonical())
}

/// Whether an address is in one of the networks, which the settings hold in
/// their canonical form.
pub(crate) fn contain(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}
