//! The address of the client, against which access rules are checked.
//!
//! Owns how `X-Forwarded-For` is read. Invariants: only entries that trusted
//! proxies wrote are believed; a client with an entry that cannot be understood
//! is let in by no rule.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

/// Each proxy appends the address that connected to it.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// This process: a stream in memory has no address.
    Local,
    At(IpAddr),
    /// A trusted proxy sent an address that cannot be understood.
    Unknown,
}

impl Client {
    /// Its address, if it is known.
    pub(crate) fn address(self) -> Option<IpAddr> {
        match self {
            Self::At(address) => Some(address),
            Self::Local | Self::Unknown => None,
        }
    }

    /// Whether a rule with these networks lets it in. Without networks there is
    /// no rule.
    pub(crate) fn is_within(self, networks: &[IpNet]) -> bool {
        networks.is_empty()
            || match self {
                Self::Local => true,
                Self::At(address) => contain(networks, address),
                Self::Unknown => false,
            }
    }

    /// The client on a connection of `peer`.
    ///
    /// Behind a trusted proxy, this is the last address in `X-Forwarded-For`
    /// that is not a trusted proxy itself: anything before it may be invented.
    /// If all addresses are trusted proxies, it is the first.
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

/// Reads one entry: an address, to which some proxies add the port.
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

/// Whether an address is in one of the networks. The settings hold networks in
/// canonical form.
pub(crate) fn contain(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}
