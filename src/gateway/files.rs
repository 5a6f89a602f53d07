//! The files that settings name, read but not yet used.
//!
//! Invariant: if they can be read here, a start with the same settings can use them,
//! because it reads them with the same functions.

use crate::config::{ClusterServer, Config, pem};
use crate::server::{Certificate, CertificateError};
use crate::upstream::{TlsError, Upstream};

/// What the files contain that settings name.
pub(crate) struct Files {
    pub(super) certificate: Option<Certificate>,
}

/// Problems with the files, each with the path of the setting that names the file.
pub(crate) type Problems = Vec<(&'static str, String)>;

impl Files {
    /// Reads every file that a start with these settings would read. Blocks.
    ///
    /// # Errors
    /// All files with which a start would fail, not only the first.
    pub(crate) fn read(config: &Config) -> Result<Self, Problems> {
        let problems = unreadable(config);
        if !problems.is_empty() {
            return Err(problems);
        }
        // Each file can be read by itself. These calls find files that do not match, such
        // as a key of another certificate.
        let certificate = Certificate::read(&config.server);
        let upstream = Upstream::check(&config.upstream);
        let problems: Problems = [
            certificate.as_ref().err().map(CertificateError::cause),
            upstream.as_ref().err().map(TlsError::cause),
        ]
        .into_iter()
        .flatten()
        .collect();
        match certificate {
            Ok(certificate) if problems.is_empty() => Ok(Self { certificate }),
            _ => Err(problems),
        }
    }
}

fn unreadable(config: &Config) -> Problems {
    let tls = config.server.tls.as_ref();
    let cert = tls.and_then(|tls| pem::certificates(&tls.cert).err());
    let key = tls.and_then(|tls| pem::private_key(&tls.key).err());
    // Without TLS to the upstream, a start does not read `upstream.ca`.
    let ca = config
        .upstream
        .ca
        .as_ref()
        .filter(|_| config.upstream.url.tls);
    let ca = ca.and_then(|ca| pem::certificates(ca).err());
    // Nor `cluster.ca` without TLS to the server.
    let cluster = config.cluster.as_ref().and_then(|cluster| {
        let uses_tls = matches!(cluster.url.server, ClusterServer::Tcp { tls: true, .. });
        pem::certificates(cluster.ca.as_ref().filter(|_| uses_tls)?).err()
    });
    let problems = [
        ("server.tls.cert", cert),
        ("server.tls.key", key),
        ("upstream.ca", ca),
        ("cluster.ca", cluster),
    ];
    problems
        .into_iter()
        .filter_map(|(setting, problem)| Some((setting, problem?)))
        .collect()
}
