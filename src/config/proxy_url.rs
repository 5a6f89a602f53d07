//! The proxy through which the upstream is reached (`upstream.proxy`), and the variables that name
//! one where the setting does not.
//!
//! Invariants: user and password appear in no `Debug` and no `Display`; a proxy in a variable is
//! used for the same upstreams for which curl would use it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use super::secret::Secret;
use super::upstream_url::{UpstreamUrl, host_and_port};
use super::value::MASK;

/// Longer than any name and password.
const MAX_CREDENTIALS: usize = 1024;

/// A proxy that understands `CONNECT`; displays as `http://host:port`, credentials as a mask.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ProxyUrl {
    /// The host alone, an IPv6 address without its brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// `user:password`, as `Basic` authentication takes them (RFC 7617).
    pub credentials: Option<Secret>,
    authority: String,
}

/// A text that is not a proxy; displays what is allowed, never the text itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "http://host:port or http://user:password@host:port, signs in user and password \
     percent-encoded; the proxy must know CONNECT (no SOCKS, no https:// to the proxy)"
)]
pub struct ProxyUrlError;

impl TryFrom<String> for ProxyUrl {
    type Error = ProxyUrlError;

    fn try_from(text: String) -> Result<Self, ProxyUrlError> {
        // As in curl, a proxy without a scheme is an HTTP proxy.
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(ProxyUrlError),
            None => &text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // The last `@`, because some write that of a password without its escape.
        let (credentials, address) = match rest.rsplit_once('@') {
            Some((credentials, address)) => (Some(read_credentials(credentials)?), address),
            None => (None, rest),
        };
        let (authority, port) = host_and_port(address).ok_or(ProxyUrlError)?;
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        Ok(Self {
            host: host.to_owned(),
            // Required: without one, curl takes 1080, and other programs take 80.
            port: port.ok_or(ProxyUrlError)?,
            credentials,
            authority: authority.to_string(),
        })
    }
}

fn read_credentials(text: &str) -> Result<Secret, ProxyUrlError> {
    let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.map_err(|_| ProxyUrlError)?;
    let (user, password) = match text.split_once(':') {
        Some((user, _)) => (percent_decode_str(user).decode_utf8_lossy(), &*decoded),
        None => (decoded.clone(), ""),
    };
    let is_allowed = is_visible
        && !user.is_empty()
        // A colon ends the user in `Basic` authentication.
        && !user.contains(':')
        && !decoded.contains(char::is_control)
        && decoded.len() <= MAX_CREDENTIALS;
    match (is_allowed, password) {
        (true, "") => Ok(Secret::new(format!("{user}:"))),
        (true, whole) => Ok(Secret::new(whole)),
        (false, _) => Err(ProxyUrlError),
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let credentials = match self.credentials {
            Some(_) => format!("{MASK}@"),
            None => String::new(),
        };
        write!(f, "http://{credentials}{}", self.authority)
    }
}

/// The variable that names a proxy for this upstream, and its value. An empty variable counts as
/// unset.
pub(super) fn variable<'v>(
    upstream: &UpstreamUrl,
    variables: &'v [(OsString, OsString)],
) -> Option<(&'static str, &'v OsStr)> {
    let find = |names: &[&'static str]| {
        names.iter().find_map(|wanted| {
            let mut variables = variables.iter();
            let found = variables.find(|(name, value)| name == wanted && !value.is_empty());
            found.map(|(_, value)| (*wanted, value.as_os_str()))
        })
    };
    let proxy = match upstream.tls {
        true => find(&["https_proxy", "HTTPS_PROXY"]),
        // Not `HTTP_PROXY`: a CGI program gets the field `Proxy` of a client under this name.
        false => find(&["http_proxy"]),
    };
    let exceptions = find(&["no_proxy", "NO_PROXY"]);
    let is_excepted =
        |(_, exceptions): (_, &OsStr)| matches(&exceptions.to_string_lossy(), &upstream.host);
    proxy.filter(|_| !exceptions.is_some_and(is_excepted))
}

/// Whether `NO_PROXY` names this host: by `*`, its name, a domain above it, its address or a
/// network.
fn matches(exceptions: &str, host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    let mut items = exceptions.split([',', ' ', '\t']);
    items.any(|item| {
        if item == "*" {
            return true;
        }
        match address {
            Some(address) => {
                let item = item.trim_start_matches('[').trim_end_matches(']');
                let network = item.parse::<IpNet>();
                network.is_ok_and(|network| network.contains(&address))
                    || item.parse() == Ok(address)
            }
            None => {
                let domain = item.trim_end_matches('.').trim_start_matches('.');
                let domain = domain.to_ascii_lowercase();
                let above = host.strip_suffix(&domain);
                !domain.is_empty()
                    && above.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
        }
    })
}

#[cfg(test)]
mod tests;
