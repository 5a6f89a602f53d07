//! The address of a client, for the access rules.
//!
//! Owns which statements of a proxy in front of the gateway count (rule: access).
//! Invariants: text from an untrusted peer has no effect; if a trusted proxy
//! states an address that cannot be read, no rule admits the client; an IPv4
//! address is the same one written as IPv6 (RFC 4291 §2.5.5.2).

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

/// Each proxy appends the address of its own client.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// A client in this process: its stream in memory has no address.
    Local,
    /// A client with this address.
    At(IpAddr),
    /// The client of a trusted proxy that states no usable address.
    Unknown,
}

impl Client {
    /// Its address, if known.
    pub(crate) fn address(self) -> Option<IpAddr> {
        match self {
            Self::At(address) => Some(address),
            Self::Local | Self::Unknown => None,
        }
    }

    /// Whether a rule with these networks admits it; without networks there is no rule.
    pub(crate) fn is_within(self, networks: &[IpNet]) -> bool {
        networks.is_empty()
            || match self {
                Self::Local => true,
                Self::At(address) => contain(networks, address),
                Self::Unknown => false,
            }
    }

    /// The client of a request on a connection of `peer`.
    ///
    /// It is the last address in `X-Forwarded-For` that is not a trusted
    /// proxy's: untrusted clients may have written anything before it. If all
    /// are trusted, it is the first. Empty elements do not count (RFC 9110
    /// §5.6.1).
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
        // From the end: the nearest proxy wrote last. Entries before the first
        // untrusted address may be forged, so the search stops there.
        for value in headers.get_all(FORWARDED_FOR).iter().rev() {
            // Not skipped: the entries before it could be forged.
            let Ok(value) = value.to_str() else {
                return Client::Unknown;
            };
            for entry in value.rsplit(',') {
                let entry = entry.trim_matches([' ', '\t']);
                if entry.is_empty() {
                    continue;
                }
                match address(entry) {
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

/// Reads one entry: an address. Some proxies add the client's port, or the zone
/// of a link-local address (RFC 4007 §11), which means nothing elsewhere.
fn address(entry: &str) -> Option<IpAddr> {
    let (address, port) = match entry.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            let address = IpAddr::V6(without_zone(address).parse().ok()?);
            (address, port)
        }
        None => match without_zone(entry).parse() {
            Ok(address) => (address, ""),
            Err(_) => {
                let (address, _) = entry.split_once(':')?;
                let port = &entry[address.len()..];
                (IpAddr::V4(address.parse().ok()?), port)
            }
        },
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    let is_read = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    is_read.then(|| address.to_canonical())
}

/// An IPv6 address without its zone; any other text as it is.
fn without_zone(address: &str) -> &str {
    match address.split_once('%') {
        Some((bare, zone)) if bare.contains(':') && !zone.is_empty() => bare,
        _ => address,
    }
}

/// Whether an address is in one of the networks. The settings hold networks in
/// canonical form.
pub(crate) fn contain(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}
