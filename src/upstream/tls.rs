//! TLS to the upstream.
//!
//! Invariant: the certificate is always verified, against the public roots and
//! those of `upstream.ca`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::config::{HttpVersion, pem};

/// Why TLS to the upstream could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The CA file cannot be read or parsed.
    #[error("upstream.ca: {}: {reason}", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl TlsError {
    /// The setting that names the file, and what is wrong with it.
    pub(crate) fn cause(&self) -> (&'static str, String) {
        let Self::Ca { reason, .. } = self;
        ("upstream.ca", reason.clone())
    }
}

/// How TLS connections to the upstream are made.
pub(super) struct Tls {
    pub(super) name: ServerName<'static>,
    /// Offers the versions of `upstream.http`.
    pub(super) any: TlsConnector,
    /// Offers HTTP/1.1 alone: upgrades need it.
    pub(super) http1: TlsConnector,
}

impl Tls {
    pub(super) fn new(host: &str, ca: Option<&Path>, http: HttpVersion) -> Result<Self, TlsError> {
        let client = pem::client(ca).map_err(|reason| TlsError::Ca {
            path: ca.unwrap_or(Path::new("")).to_owned(),
            reason,
        })?;
        let connector = |protocols: &[&[u8]]| {
            let mut config = client.clone();
            // The order is the preference: HTTP/2 first.
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            TlsConnector::from(Arc::new(config))
        };
        Ok(Self {
            name: ServerName::try_from(host.to_owned())
                .expect("a URL's host is a name or an address"),
            any: connector(match http {
                HttpVersion::Auto => &[b"h2", b"http/1.1"],
                HttpVersion::Http1 => &[b"http/1.1"],
                HttpVersion::Http2 => &[b"h2"],
            }),
            http1: connector(&[b"http/1.1"]),
        })
    }
}

/// Whether the upstream speaks none of the protocols that were offered.
pub(super) fn is_protocol_refused(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(
        cause,
        Some(rustls::Error::AlertReceived(
            rustls::AlertDescription::NoApplicationProtocol
        ))
    )
}

/// Adds to a failed handshake what an operator can do.
pub(super) fn explain_handshake(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    let hint = match cause {
        Some(rustls::Error::InvalidCertificate(wrong)) => match wrong {
            rustls::CertificateError::UnknownIssuer => {
                ": no trusted authority has signed the upstream's certificate; if it is yours, \
                 name the certificate of its authority in upstream.ca"
            }
            // rustls has no variant for this error of webpki and shows only its name.
            other if format!("{other:?}").contains("CaUsedAsEndEntity") => {
                ": the upstream shows the certificate of an authority (CA:TRUE) as its own; give it \
                 one that the authority has signed, or a self-signed one with \
                 basicConstraints=CA:FALSE, and name that in upstream.ca"
            }
            _ => "",
        },
        _ => "",
    };
    format!("{error}{hint}")
}
