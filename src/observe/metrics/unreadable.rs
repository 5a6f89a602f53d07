//! Connections that end before there is a request.

use prometheus::IntCounter;

use super::registrar::Registrar;

/// Why the bytes of a client could not be read as a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// TLS on a port without TLS.
    Tls,
    /// A PROXY header of a peer that is not trusted, or a malformed one.
    ProxyHeader,
    /// Malformed HTTP.
    Http,
    /// A head or a target that is too long, or has too many fields.
    TooLong,
    /// A TLS handshake that failed.
    Handshake,
}

impl Unreadable {
    pub(crate) const ALL: [Self; 5] = [
        Self::Tls,
        Self::ProxyHeader,
        Self::Http,
        Self::TooLong,
        Self::Handshake,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::ProxyHeader => "proxy_header",
            Self::Http => "http",
            Self::TooLong => "too_long",
            Self::Handshake => "handshake",
        }
    }
}

pub(super) fn counters(registrar: &Registrar<'_>) -> [IntCounter; Unreadable::ALL.len()] {
    let vec = registrar.counters(
        "wawp_gateway_unreadable_total",
        "Client connections that ended because they could not be read, by reason.",
        &["reason"],
    );
    Unreadable::ALL.map(|reason| vec.with_label_values(&[reason.as_str()]))
}
