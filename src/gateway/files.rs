//! The files that settings name, read before they are used.
//!
//! Invariant: files that are read here without an error work in a start with the
//! same settings, because both use the same functions.

use crate::config::{self, Effective, Mistakes};
use crate::server::{Certificate, CertificateError};
use crate::upstream::{TlsError, Upstream};

/// The contents of the files, found usable.
pub(crate) struct Files {
    pub(super) certificate: Option<Certificate>,
}

impl Files {
    /// Reads every file that a start with these settings would read. Blocks.
    ///
    /// # Errors
    /// All that makes such a start fail, and files that are not regular: reading
    /// from a FIFO may never end.
    pub(crate) fn read(effective: &Effective) -> Result<Self, Mistakes> {
        let irregular = irregular(effective);
        if !irregular.is_empty() {
            return Err(effective.mistakes(irregular));
        }
        let certificate = Certificate::read(&effective.config.server);
        let upstream = Upstream::check(&effective.config.upstream);
        let wrong = [
            certificate.as_ref().err().map(CertificateError::cause),
            upstream.as_ref().err().map(TlsError::cause),
        ];
        match (certificate, upstream) {
            (Ok(certificate), Ok(())) => Ok(Self { certificate }),
            _ => Err(effective.mistakes(wrong.into_iter().flatten())),
        }
    }
}

/// Finds the settings that name something other than a regular file.
fn irregular(effective: &Effective) -> Vec<(&'static str, String)> {
    let (server, upstream) = (&effective.config.server, &effective.config.upstream);
    let tls = server.tls.as_ref();
    let ca = upstream.ca.as_ref().filter(|_| upstream.url.tls);
    let named = [
        ("server.tls.cert", tls.map(|tls| &tls.cert)),
        ("server.tls.key", tls.map(|tls| &tls.key)),
        ("upstream.ca", ca),
    ];
    named
        .into_iter()
        .filter_map(|(setting, path)| Some((setting, config::regular(path?).err()?)))
        .collect()
}
