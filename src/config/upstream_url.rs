//! The base URL of the upstream.
//!
//! Invariant: scheme, host and port only, so that the URL cannot contain a secret.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use http::uri::Authority;
use serde::Deserialize;

/// Where the API is; displays as `https://host` or `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct UpstreamUrl {
    /// Whether connections use TLS (`https`).
    pub tls: bool,
    /// Host, and port where one was written: the value of `Host` in forwarded requests.
    pub authority: Authority,
    /// The host alone, an IPv6 address without its brackets.
    pub host: String,
    /// The port; 443 or 80 where none was written.
    pub port: u16,
}

/// A text that is not a base URL; displays what is allowed, never the text itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("http:// or https://, a host and perhaps a port; no path, user, query or fragment")]
pub struct UrlError;

impl UpstreamUrl {
    /// Host and port, an IPv6 address in brackets.
    pub(crate) fn host_and_port(&self) -> String {
        format!("{}:{}", self.authority.host(), self.port)
    }
}

impl FromStr for UpstreamUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError)?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(UrlError),
        };
        // A base URL is often copied with its slash.
        let written = rest.strip_suffix('/').unwrap_or(rest);
        let (authority, port) = host_and_port(written).ok_or(UrlError)?;
        let host = authority
            .host()
            // Sockets and TLS names take an IPv6 address without its brackets.
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        Ok(Self {
            tls,
            authority,
            host,
            port: port.unwrap_or(if tls { 443 } else { 80 }),
        })
    }
}

impl TryFrom<String> for UpstreamUrl {
    type Error = UrlError;

    fn try_from(text: String) -> Result<Self, UrlError> {
        text.parse()
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}://{}",
            if self.tls { "https" } else { "http" },
            self.authority
        )
    }
}

/// Reads `host` or `host:port`, in lower case. Stricter than `Authority`, which accepts hosts and
/// ports that cannot exist.
pub(super) fn host_and_port(text: &str) -> Option<(Authority, Option<u16>)> {
    /// A host name has at most 253 characters, a port 5.
    const MAX_LENGTH: usize = 260;
    let authority: Authority = text.to_ascii_lowercase().parse().ok()?;
    let host = authority.host();
    let is_host = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        }
    };
    if text.len() > MAX_LENGTH || !is_host {
        return None;
    }
    // Not `Authority::port`, which is `None` for a number beyond 16 bits.
    let port = match authority.as_str().strip_prefix(host)? {
        "" => None,
        rest => {
            let digits = rest.strip_prefix(':')?;
            // `parse` also accepts a plus and leading zeros.
            Some(
                digits
                    .parse()
                    .ok()
                    .filter(|port: &u16| *port != 0 && port.to_string() == digits)?,
            )
        }
    };
    Some((authority, port))
}

#[cfg(test)]
mod tests;
