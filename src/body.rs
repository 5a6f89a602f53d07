//! Bodies of requests and responses.
//!
//! - [`client`], [`incoming`], [`held`]: a request body, received from the client;
//! - [`request`], [`kept`]: a request body, sent to the upstream;
//! - [`client_response`]: a response, sent to the client;
//! - [`splice`]: replaced bytes within a body.
//!
//! Invariant: bodies are streamed with backpressure; at most [`SCAN_LIMIT`] bytes of a
//! request body are held.

mod byte_counter;
mod client;
mod client_response;
mod held;
mod incoming;
mod kept;
mod request;
mod splice;

pub(crate) use byte_counter::ByteCounter;
pub(crate) use client::ClientBody;
pub(crate) use client_response::{BodyObserver, ClientResponse, ResponseBody};
pub(crate) use request::{Progress, RequestBody, ResponsePending, UpstreamRequest};

/// Bytes of a request body that may be held while it is scanned (rule: identity),
/// and the size of the largest body that is merged (rule: bounds): 64 KiB.
pub(crate) const SCAN_LIMIT: usize = 64 * 1024;

/// Why a body ended early. Holds nothing of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The client disconnected, or its framing was malformed.
    #[error("the client's body broke off")]
    ClientGone,
    /// The client sent nothing for `server.body_timeout`.
    #[error("the client sent its body too slowly")]
    ClientTooSlow,
    /// The response was sent before the client was asked for the body.
    #[error("the client's body was not asked for")]
    Declined,
    /// The upstream disconnected before its response was complete.
    #[error("the upstream's response broke off")]
    UpstreamBrokeOff,
}

/// Whether the header with this name is a digest of the body (RFC 9530): the
/// recipient would detect any change of the body.
pub(crate) fn is_body_digest(name: &str) -> bool {
    ["content-digest", "repr-digest", "digest", "content-md5"].contains(&name)
}
