//! The PEM files that settings name: certificates and private keys.
//!
//! Owns the messages for files that cannot be used: what is wrong, and what to do. No message
//! repeats the content of a file.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::{Error, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::files;

/// Holds every public authority many times over.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Reads all certificates of a file. Blocks.
///
/// # Errors
/// What is wrong with the file, and what to do.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| malformed(&error))?;
    // A file without any PEM section parses as an empty list, not as an error.
    if certificates.is_empty() {
        return Err(without(
            &text,
            "certificate",
            "PRIVATE KEY",
            "a private key",
        ));
    }
    Ok(certificates)
}

/// TLS as a client: certificates are verified against the public roots and those of a file. Blocks.
///
/// # Errors
/// What is wrong with the file, and what to do.
pub(crate) fn client(ca: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    for certificate in ca.map_or(Ok(Vec::new()), certificates)? {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    // Named explicitly: rustls panics if it finds two providers in the build.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// Reads the private key of a file. Blocks.
///
/// # Errors
/// What is wrong with the file, and what to do.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let text = read(path)?;
    // Two forms: PKCS#8, and the older one of OpenSSL (RFC 1421).
    if contains(&text, "BEGIN ENCRYPTED PRIVATE KEY") || contains(&text, "Proc-Type: 4,ENCRYPTED") {
        return Err(
            "the private key is encrypted, and the gateway cannot ask for a passphrase; \
                    decrypt it with `openssl pkey -in FILE -out NEWFILE`, and let only the \
                    gateway's user read the new file"
                .to_owned(),
        );
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        Error::NoItemsFound => without(&text, "private key", "CERTIFICATE", "a certificate"),
        error => malformed(&error),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    files::regular(path)?;
    let bytes = files::read(path, MAX_FILE_BYTES, "a PEM file has at most 16 MiB")?;
    // Windows editors write these marks, and PEM parsers then find no beginning.
    match &bytes[..] {
        [0xef, 0xbb, 0xbf, ..] => Err("the file begins with a byte order mark (BOM), which PEM \
                                       does not allow; remove it with `sed -i '1s/^\\xef\\xbb\\xbf//' FILE`"
            .to_owned()),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            Err("the file is UTF-16 text; save it as plain ASCII".to_owned())
        }
        _ => Ok(bytes),
    }
}

/// Says what a file contains instead of the expected item.
fn without(text: &[u8], expected: &str, other: &str, other_name: &str) -> String {
    if contains(text, other) {
        format!("the file contains {other_name}, but no {expected}")
    } else {
        format!(
            "the file contains no {expected} in PEM form (text that begins with `-----BEGIN`); \
             `openssl` converts a DER file with `-inform DER`"
        )
    }
}

fn malformed(error: &Error) -> String {
    match error {
        Error::MissingSectionEnd { .. } => {
            "the PEM text is incomplete: its last line is missing".to_owned()
        }
        Error::Base64Decode(_) => "the PEM text is damaged: it is not base64".to_owned(),
        _ => "this is not PEM text".to_owned(),
    }
}

fn contains(text: &[u8], piece: &str) -> bool {
    text.windows(piece.len())
        .any(|window| window == piece.as_bytes())
}
