//! TLS to clients: certificate, key, and the protocols that are offered.
//!
//! Invariant: an error names the setting and the file, and contains nothing of the
//! file (rule: secrets).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;

use crate::config::{self, pem};

/// Accepts TLS connections, with one certificate.
pub(super) struct Acceptor {
    pub(super) acceptor: TlsAcceptor,
    /// When the certificate expires, as Unix time.
    pub(super) expiry: Option<i64>,
}

/// Why a certificate or its key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {}: {reason}", path.display())]
pub struct CertificateError {
    setting: &'static str,
    path: PathBuf,
    reason: String,
}

/// Reads certificate and key.
pub(super) fn acceptor(settings: &config::Tls) -> Result<Arc<Acceptor>, CertificateError> {
    let chain = pem::certificates(&settings.cert)
        .map_err(|error| wrong("server.tls.cert", &settings.cert, error))?;
    let key = pem::private_key(&settings.key)
        .map_err(|error| wrong("server.tls.key", &settings.key, error))?;
    let expiry = chain.first().and_then(expiry);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| match error {
            // The usual mistake after a renewal: only one of the two files is new.
            rustls::Error::InconsistentKeys(_) => wrong(
                "server.tls.key",
                &settings.key,
                format_args!(
                    "the key that belongs to the certificate in {} is expected",
                    settings.cert.display()
                ),
            ),
            error => wrong("server.tls.key", &settings.key, error),
        })?;
    // ALPN (RFC 7301): the first one that the client offers, too, is used.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(Acceptor {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        expiry,
    }))
}

fn expiry(certificate: &rustls_pki_types::CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

impl CertificateError {
    /// Which setting names the file, and what is wrong with it.
    pub(crate) fn cause(&self) -> (&'static str, String) {
        (self.setting, self.reason.clone())
    }
}

fn wrong(setting: &'static str, path: &Path, reason: impl std::fmt::Display) -> CertificateError {
    CertificateError {
        setting,
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}
