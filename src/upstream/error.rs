//! Why an upstream call got no response.
//!
//! Invariant: no variant carries text of a request. Errors of hyper and of
//! sockets are reduced to what happened, since targets hold access tokens.

use std::error::Error as _;
use std::io;

use crate::body;

/// Why an upstream call got no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// There is no connection: nothing was sent.
    #[error("the upstream cannot be reached: {0}")]
    Unreachable(#[source] Unreachable),
    /// The connection ended before the response was complete. The upstream may
    /// have processed the request.
    #[error("the upstream closed the connection before its response was complete")]
    BrokeOff,
    /// The response is not valid HTTP.
    #[error("the upstream's response is malformed")]
    Malformed,
    /// No response within `upstream.response_timeout`.
    #[error("the upstream did not respond in time")]
    Timeout,
    /// The response to a merged request is too long to be held for its callers.
    #[error("the upstream's response is too long to be shared by the callers of a merged request")]
    TooLong,
    /// The target has this byte, which only the fast path can send. Nothing was
    /// sent.
    #[error("the request target contains a byte that this connection cannot carry")]
    RawTarget(u8),
    /// The body of the client ended early, so the upstream call was aborted.
    #[error(transparent)]
    Client(body::Error),
}

/// Why no connection could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreachable {
    /// The name has no address.
    #[error("its name could not be resolved")]
    Resolve,
    /// No process listens there.
    #[error("connection refused")]
    Refused,
    /// No connection within `upstream.connect_timeout`.
    #[error("connecting took too long")]
    Timeout,
    /// The TLS handshake failed (certificate, protocol).
    #[error("the TLS handshake failed")]
    Tls,
    /// The connection was closed before it took a request.
    #[error("it closed the connection at once")]
    ClosedAtOnce,
    /// `upstream.http` demands HTTP/2, and the upstream does not speak it.
    #[error("it does not speak HTTP/2, which upstream.http demands")]
    NoHttp2,
    /// The proxy (`upstream.proxy`) made no connection.
    #[error("the proxy {0}")]
    Proxy(#[source] ProxyError),
    /// Another error of the network.
    #[error("network error ({0})")]
    Network(io::ErrorKind),
}

/// Why the proxy made no connection to the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProxyError {
    /// Its name has no address.
    #[error("cannot be reached: its name could not be resolved")]
    Resolve,
    /// No process listens there.
    #[error("cannot be reached: connection refused")]
    Refused,
    /// The proxy had not responded at the end of `upstream.connect_timeout`.
    #[error("did not respond in time")]
    Timeout,
    /// A response with 407.
    #[error("requires other credentials in upstream.proxy (407)")]
    Credentials,
    /// A response with 403.
    #[error("does not permit a connection to the upstream (403)")]
    Forbidden,
    /// A response with another status.
    #[error("could not connect to the upstream")]
    Failed,
    /// The connection was closed without a response.
    #[error("closed the connection")]
    Closed,
    /// The response is not HTTP.
    #[error("did not respond with HTTP")]
    Malformed,
    /// Another error of the network.
    #[error("cannot be reached: network error ({0})")]
    Network(io::ErrorKind),
}

/// Why a request got no response on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendError {
    /// The upstream has certainly not processed the request. It is (again) in
    /// the caller's `request`, and may be sent on another connection.
    Unprocessed,
    /// The upstream may have processed the request.
    Failed(UpstreamError),
}

impl From<io::Error> for Unreachable {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Timeout,
            kind => Self::Network(kind),
        }
    }
}

impl From<io::Error> for ProxyError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Timeout,
            kind => Self::Network(kind),
        }
    }
}

impl From<ProxyError> for Unreachable {
    fn from(error: ProxyError) -> Self {
        Self::Proxy(error)
    }
}

impl From<Unreachable> for UpstreamError {
    fn from(unreachable: Unreachable) -> Self {
        Self::Unreachable(unreachable)
    }
}

impl From<&hyper::Error> for UpstreamError {
    fn from(error: &hyper::Error) -> Self {
        // hyper wraps an error of the request body. Then the client is the cause, not
        // the upstream.
        let mut cause = error.source();
        while let Some(inner) = cause {
            if let Some(client) = inner.downcast_ref::<body::Error>() {
                return Self::Client(*client);
            }
            cause = inner.source();
        }
        if error.is_parse() {
            Self::Malformed
        } else {
            Self::BrokeOff
        }
    }
}

/// Whether an HTTP/2 upstream said that it has not processed the request: it
/// refused the stream, or its GOAWAY names an earlier one as the last (RFC 9113
/// §8.7).
pub(super) fn is_unprocessed(error: &hyper::Error) -> bool {
    let error = error.source().and_then(|it| it.downcast_ref::<h2::Error>());
    error.is_some_and(|error| {
        let is_refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
        // h2 reports a GOAWAY only to streams after the last one that it names. Those
        // are not processed.
        error.is_remote() && (error.is_go_away() || error.is_reset() && is_refused)
    })
}

impl UpstreamError {
    /// Whether a read receipt may be sent again after this error: after a
    /// connection fault, but not after an error of the upstream or the client.
    pub(crate) fn is_connection_fault(self) -> bool {
        match self {
            Self::Unreachable(_) | Self::BrokeOff | Self::Timeout => true,
            Self::Malformed | Self::TooLong | Self::RawTarget(_) | Self::Client(_) => false,
        }
    }
}
