//! The PROXY protocol, versions 1 and 2.
//!
//! Reads the header by which a proxy states the client's address at the start of
//! a connection (haproxy's `doc/proxy-protocol.txt`, sections 2.1 and 2.2).
//! `server/proxy_protocol.rs` decides which proxies are trusted. Invariants: the
//! header is bounded; bytes that deviate from the format are never accepted as a
//! header.

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The beginning of version 1. No HTTP request begins like this.
const V1: &[u8] = b"PROXY ";
/// The beginning of version 2.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, its end included (section 2.1).
const V1_MAX: usize = 107;
/// The fixed part of version 2: signature, version, family, length.
const V2_FIXED: usize = 16;
/// The longest accepted header of version 2. Addresses need at most 232 bytes;
/// extensions after them (TLS names, a client certificate) are skipped.
const V2_MAX: usize = 16 * 1024;

/// The beginning of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// No header.
    Other,
    /// More bytes are needed to know.
    Unfinished,
    /// A header.
    Header {
        /// Its length in bytes.
        length: usize,
        /// The client; `None` where the proxy connects for itself or does not
        /// know.
        source: Option<IpAddr>,
    },
}

/// A header that violates the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed PROXY protocol header: {0}")]
pub(crate) struct Malformed(&'static str);

/// Reads the first bytes of a connection.
///
/// # Errors
/// They begin like a header and continue differently.
pub(crate) fn read(bytes: &[u8]) -> Result<Begin, Malformed> {
    if bytes.starts_with(V1) {
        v1(bytes)
    } else if bytes.starts_with(V2) {
        v2(bytes)
    } else if V1.starts_with(bytes) || V2.starts_with(bytes) {
        Ok(Begin::Unfinished)
    } else {
        Ok(Begin::Other)
    }
}

/// `PROXY TCP4 source destination port port\r\n`, or `PROXY UNKNOWN …\r\n`.
fn v1(bytes: &[u8]) -> Result<Begin, Malformed> {
    // Not searched further: an endless line must not be buffered.
    let window = &bytes[..bytes.len().min(V1_MAX)];
    let Some(end) = window.iter().position(|&byte| byte == b'\n') else {
        return if window.len() == V1_MAX {
            Err(Malformed("a line of more than 107 bytes"))
        } else {
            Ok(Begin::Unfinished)
        };
    };
    let line = window[V1.len()..end]
        .strip_suffix(b"\r")
        .ok_or(Malformed("a line that ends without CR"))?;
    let line = std::str::from_utf8(line).map_err(|_| Malformed("bytes that are no text"))?;
    let mut words = line.split(' ');
    let source = match words.next() {
        // The rest of the line must be ignored (section 2.1).
        Some("UNKNOWN") => None,
        Some("TCP4") => Some(IpAddr::V4(addresses::<Ipv4Addr>(words)?)),
        Some("TCP6") => Some(IpAddr::V6(addresses::<Ipv6Addr>(words)?)),
        _ => return Err(Malformed("neither TCP4, TCP6 nor UNKNOWN")),
    };
    Ok(Begin::Header {
        length: end + 1,
        source,
    })
}

/// Reads two addresses and two ports, and returns the first address.
fn addresses<'w, A: std::str::FromStr>(
    mut words: impl Iterator<Item = &'w str>,
) -> Result<A, Malformed> {
    let mut address = || words.next().and_then(|word| word.parse::<A>().ok());
    let (Some(source), Some(_)) = (address(), address()) else {
        return Err(Malformed("an address that is none of its family"));
    };
    if !(words.next().is_some_and(is_port) && words.next().is_some_and(is_port)) {
        return Err(Malformed("a port that is no number from 0 to 65535"));
    }
    match words.next() {
        None => Ok(source),
        Some(_) => Err(Malformed("more than two addresses and ports")),
    }
}

/// Whether it is a port as the protocol writes it: no sign, no leading zeros.
fn is_port(word: &str) -> bool {
    // `parse` alone would accept `+80` and `080`.
    word.parse::<u16>()
        .is_ok_and(|port| port.to_string() == word)
}

/// Signature, version and command, family and transport, length, addresses.
fn v2(bytes: &[u8]) -> Result<Begin, Malformed> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<V2_FIXED>() else {
        return match bytes.get(V2.len()) {
            // A wrong command is refused before more bytes are awaited.
            Some(&command) => is_local(command).map(|_| Begin::Unfinished),
            None => Ok(Begin::Unfinished),
        };
    };
    let [.., command, family, high, low] = *fixed;
    let is_local = is_local(command)?;
    let taken = usize::from(u16::from_be_bytes([high, low]));
    let length = V2_FIXED + taken;
    if length > V2_MAX {
        return Err(Malformed("more than 16384 bytes"));
    }
    let needed = match family {
        _ if is_local => 0,
        // The proxy does not know its client, which is allowed.
        UNSPECIFIED => 0,
        TCP4 | UDP4 => 12,
        TCP6 | UDP6 => 36,
        UNIX_STREAM | UNIX_DATAGRAM => 216,
        _ => return Err(Malformed("an unknown family or transport")),
    };
    // The length includes extensions after the addresses, so it may be larger.
    if taken < needed {
        return Err(Malformed("less room than its addresses need"));
    }
    let Some(addresses) = rest.get(..taken) else {
        return Ok(Begin::Unfinished);
    };
    let source = match family {
        _ if is_local => None,
        TCP4 | UDP4 => addresses
            .first_chunk::<4>()
            .map(|&octets| IpAddr::from(octets)),
        TCP6 | UDP6 => addresses
            .first_chunk::<16>()
            .map(|&octets| IpAddr::from(octets)),
        _ => None,
    };
    Ok(Begin::Header { length, source })
}

const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
/// A client that is connected to the proxy over QUIC.
const UDP4: u8 = 0x12;
const TCP6: u8 = 0x21;
const UDP6: u8 = 0x22;
const UNIX_STREAM: u8 = 0x31;
const UNIX_DATAGRAM: u8 = 0x32;

/// Reads version and command. Returns whether the proxy connects for itself.
fn is_local(command: u8) -> Result<bool, Malformed> {
    match command {
        0x20 => Ok(true),
        0x21 => Ok(false),
        _ => Err(Malformed("neither LOCAL nor PROXY of version 2")),
    }
}
