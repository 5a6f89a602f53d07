//! The upstream's base URL: scheme, host and port, and nothing that could hold a secret.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use http::uri::Authority;

/// Where the API lives; displays as `https://host` or `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamUrl {
    /// Whether calls go over TLS (`https`).
    pub tls: bool,
    /// Host and, where it was written, port: what `Host` becomes.
    pub authority: Authority,
    /// The host alone, an IPv6 address without its brackets.
    pub host: String,
    /// The port, 443 or 80 where none was written.
    pub port: u16,
}

/// A text that is no base URL; displays what is allowed, never the text itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("http:// or https://, a host and perhaps a port; no path, user, query or fragment")]
pub struct UrlError;

impl FromStr for UpstreamUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError)?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(UrlError),
        };
        let written = rest.strip_suffix('/').unwrap_or(rest);
        let (authority, port) = host_and_port(written).ok_or(UrlError)?;
        let host = authority
            .host()
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

/// Reads `host` or `host:port`, in lower case; stricter than `Authority`, which lets odd hosts and ports pass.
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
    // What stands after the host, rather than `Authority::port`, which has none for a number beyond 16 bits.
    let port = match authority.as_str().strip_prefix(host)? {
        "" => None,
        rest => {
            let digits = rest.strip_prefix(':')?;
            // Rust's own numbers may begin with a plus or zeros.
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
mod tests {
    use super::*;

    #[test]
    fn what_is_a_base() {
        for (text, shown, host, port) in [
            (
                "https://api.wawp.net",
                "https://api.wawp.net",
                "api.wawp.net",
                443,
            ),
            (
                "HTTPS://API.wawp.net/",
                "https://api.wawp.net",
                "api.wawp.net",
                443,
            ),
            ("http://a", "http://a", "a", 80),
            ("http://a_b-c.:8081", "http://a_b-c.:8081", "a_b-c.", 8081),
            (
                "https://127.0.0.1:443",
                "https://127.0.0.1:443",
                "127.0.0.1",
                443,
            ),
            ("http://[::1]", "http://[::1]", "::1", 80),
            (
                "https://[2001:DB8::1]:65535/",
                "https://[2001:db8::1]:65535",
                "2001:db8::1",
                65_535,
            ),
        ] {
            let url: UpstreamUrl = text.parse().unwrap();
            assert_eq!(
                (url.to_string().as_str(), url.host.as_str(), url.port),
                (shown, host, port)
            );
            assert_eq!(url.tls, shown.starts_with("https"));
        }
    }

    #[test]
    fn what_is_none() {
        for text in [
            "",
            "a",
            "a:80",
            "//a",
            "ftp://a",
            "https:/a",
            "https://",
            "https:///",
            "https://a//",
            "https://a/v2",
            "https://a?",
            "https://a#",
            "https://me@a",
            "https://me:x@a",
            "https://:80",
            "https://a:",
            "https://a:0",
            "https://a:65536",
            "https://a:99999",
            "https://a:+1",
            "https://a:080",
            "https://a:b",
            "https://[::1",
            "https://[x]",
            "https://::1",
            "https://a b",
            "https://a%20b",
            "https://é",
            "https://a*",
            " https://a",
            "https://a\n",
        ] {
            assert_eq!(text.parse::<UpstreamUrl>(), Err(UrlError), "{text}");
        }
    }
}
