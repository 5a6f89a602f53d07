//! Bodies of requests and responses.
//!
//! - [`client`], [`incoming`]: a request body as it comes from the client;
//! - [`request`]: the same as it goes to the upstream;
//! - [`response`]: a response as it goes to the client.
//!
//! Invariant: bodies are streamed with backpressure and never held as a whole;
//! at most [`LOOK`] bytes of one are held, and passed on unchanged.

mod byte_counter;
mod client;
mod incoming;
mod request;
mod response;
mod splice;

pub(crate) use byte_counter::ByteCounter;
pub(crate) use client::ClientBody;
pub(crate) use request::{Progress, RequestBody, ResponsePending, UpstreamRequest};
pub(crate) use response::{BodyObserver, ClientResponse, ResponseBody};

/// Bytes of a request body that may be held while it is scanned (rule: identity),
/// and the size of the largest body that is merged (rule: bounds): 64 KiB.
pub(crate) const LOOK: usize = 64 * 1024;

/// Why a body ended early. Carries no text of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The client disconnected, or its framing was malformed.
    #[error("the client's body broke off")]
    ClientGone,
    /// The client sent nothing for `server.body_timeout`.
    #[error("the client's body came too slowly")]
    ClientTooSlow,
    /// The response was sent before the client was asked for the body.
    #[error("the client's body was not asked for")]
    Declined,
    /// The upstream disconnected before its response was complete.
    #[error("the upstream's response broke off")]
    UpstreamBrokeOff,
}

/// Whether the header with this name seals the body: the recipient checks it
/// against the body, which must not change on the way.
pub(crate) fn is_seal(field: &str) -> bool {
    ["content-digest", "repr-digest", "digest", "content-md5"].contains(&field)
}
