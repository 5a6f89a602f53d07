//! Why an upstream call brought no answer.
//!
//! Invariant: no variant carries the request; hyper's and the socket's errors
//! are reduced to what happened, since targets hold access tokens.

use std::error::Error as _;
use std::io;

use crate::body;

/// Why an upstream call brought no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// No connection: nothing was sent.
    #[error("the upstream cannot be reached: {0}")]
    Unreachable(#[source] Unreachable),
    /// The connection died before the answer was complete; the request may
    /// have arrived.
    #[error("the upstream broke the connection off before its answer was complete")]
    BrokeOff,
    /// The upstream's answer was no HTTP.
    #[error("the upstream's answer could not be understood")]
    Malformed,
    /// No answer within `upstream.response_timeout`.
    #[error("the upstream did not answer in time")]
    Timeout,
    /// The answer to a merged call is too long to be handed to every caller.
    #[error("the upstream's answer is too long to be shared by the callers of a merged call")]
    TooLong,
    /// The client's body ended early; the call was aborted.
    #[error(transparent)]
    Client(body::Error),
}

/// Why no connection could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreachable {
    /// The name has no address.
    #[error("its name could not be resolved")]
    Resolve,
    /// Nobody listens there.
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
    /// Another error of the network.
    #[error("network error ({0})")]
    Network(io::ErrorKind),
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

impl From<Unreachable> for Failure {
    fn from(unreachable: Unreachable) -> Self {
        Self::Unreachable(unreachable)
    }
}

impl From<&hyper::Error> for Failure {
    fn from(error: &hyper::Error) -> Self {
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

impl Failure {
    /// Whether a read receipt that failed this way may be sent again:
    /// connection faults are, what the upstream or the client did is not.
    pub(crate) fn is_connection_fault(self) -> bool {
        match self {
            Self::Unreachable(_) | Self::BrokeOff | Self::Timeout => true,
            Self::Malformed | Self::TooLong | Self::Client(_) => false,
        }
    }
}
