//! An authority of our own, for certificates made for the test.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;
use wawp_gateway::config::{self, Config, Overrides};

static NUMBER: AtomicU32 = AtomicU32::new(1);

/// An authority of our own.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        // Two authorities with one name would be taken for each other.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("authority {number}");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    /// Its own certificate, as PEM.
    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for `localhost`, and its key, as PEM.
    pub(crate) fn certificate(&self) -> (String, String) {
        self.certificate_until(4096)
    }

    /// The same, valid until the first day of a year.
    pub(crate) fn certificate_until(&self, year: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// Clients that trust it and offer these protocols.
    pub(crate) fn client(&self, protocols: &[&[u8]]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }

    /// A server that shows a certificate of its and takes these protocols.
    pub(crate) fn server(&self, protocols: &[&[u8]]) -> TlsAcceptor {
        Self::server_with(self.certificate(), protocols)
    }

    /// A server that shows the authority's own certificate, self-signed.
    pub(crate) fn server_of_itself(&self) -> TlsAcceptor {
        Self::server_with((self.pem(), self.issuer.key().serialize_pem()), &[])
    }

    fn server_with((cert, key): (String, String), protocols: &[&[u8]]) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Settings for an upstream of this URL whose certificate this file vouches for.
pub(crate) fn trusting(url: &str, ca: &Path) -> Config {
    let settings = [
        ("WAWP_GATEWAY_UPSTREAM__URL", url),
        ("WAWP_GATEWAY_UPSTREAM__CA", ca.to_str().unwrap()),
    ];
    let env = settings.map(|(key, value)| (key.into(), value.into()));
    let effective = config::load(None, env.into_iter(), &Overrides::default());
    effective.unwrap().config
}
