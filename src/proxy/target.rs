//! The host that a request is for: this gateway's upstream, or another one.
//!
//! Invariant: no request is forwarded to a host that the client chose (rule:
//! pass-through).

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::Authority;
use http::{Method, Version};

use super::error::Error;
use crate::config;
use crate::http::h1::FramingConflict;

/// The hosts that count as "this host".
#[derive(Debug)]
pub(crate) struct ThisHost {
    names: Vec<String>,
}

impl ThisHost {
    pub(crate) fn new(settings: &config::Server, upstream: &config::UpstreamUrl) -> Self {
        let mut names = settings.names.clone();
        names.push(settings.listen.to_string());
        // With and without the default port: clients write both.
        names.push(upstream.authority.as_str().to_ascii_lowercase());
        names.push(format!(
            "{}:{}",
            upstream.host.to_ascii_lowercase(),
            upstream.port
        ));
        if settings.listen.ip().is_loopback() || settings.listen.ip().is_unspecified() {
            names.push(format!("localhost:{}", settings.listen.port()));
        }
        Self { names }
    }

    /// Refuses a request that is for another host or can be read in two ways.
    ///
    /// # Errors
    /// `CONNECT`, a foreign target, ambiguous framing.
    pub(crate) fn check(&self, head: &Parts) -> Result<(), Error> {
        if head.method == Method::CONNECT {
            return Err(Error::Connect);
        }
        // In HTTP/2 the authority is the host (RFC 9113 §8.3.1), not a target
        // chosen for a forward proxy.
        let named = head
            .uri
            .authority()
            .filter(|_| head.version < Version::HTTP_2);
        if named.is_some_and(|named| head.uri.scheme().is_none() || !self.is(named)) {
            return Err(Error::ForeignTarget);
        }
        // What follows prevents request smuggling: the upstream may resolve an ambiguous
        // framing in another way than hyper (RFC 9112 §11.2).
        if let Some(FramingConflict(reason)) = head.extensions.get() {
            return Err(Error::Malformed(reason));
        }
        let (mut hosts, mut lengths) = (0, 0);
        for (name, value) in &head.headers {
            if name == HOST {
                hosts += 1;
            } else if name == CONTENT_LENGTH {
                lengths += 1;
            } else if name == TRANSFER_ENCODING {
                if !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                    // The header is hop-by-hop: without it the upstream would take a
                    // `gzip` coding for the body itself.
                    return Err(Error::Malformed(
                        "no Transfer-Encoding but chunked is understood",
                    ));
                }
                if head.version == Version::HTTP_10 {
                    return Err(Error::Malformed("Transfer-Encoding in HTTP/1.0"));
                }
            }
        }
        if hosts > 1 || (hosts == 0 && head.version == Version::HTTP_11) {
            return Err(Error::Malformed("exactly one Host field is expected"));
        }
        if lengths > 1 {
            return Err(Error::Malformed("more than one Content-Length field"));
        }
        Ok(())
    }

    fn is(&self, authority: &Authority) -> bool {
        let name = authority.as_str().to_ascii_lowercase();
        let host = authority.host().to_ascii_lowercase();
        // A configured name without a port matches any port. User information (`@`) can
        // make another host look like this one (RFC 3986 §7.6).
        !name.contains('@')
            && self
                .names
                .iter()
                .any(|known| *known == name || *known == host)
    }
}
