//! The upstream's base URL: scheme, host and port, and nothing that could hold a secret.

use std::{fmt, str::FromStr};

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
        if written.contains(['/', '@', '?', '#']) {
            return Err(UrlError);
        }
        let authority: Authority = written.to_ascii_lowercase().parse().map_err(|_| UrlError)?;
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let port = match (authority.port(), tls) {
            (Some(port), _) => port.as_str().parse().map_err(|_| UrlError)?,
            (None, true) => 443,
            (None, false) => 80,
        };
        // `host:` parses as an authority without a port; it is a typing mistake, and no good `Host`.
        if host.is_empty() || port == 0 || written.ends_with(':') {
            return Err(UrlError);
        }
        Ok(Self {
            tls,
            authority,
            host,
            port,
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
