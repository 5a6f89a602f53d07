//! Bodies: as they come from a client, as they go upstream, as they come back.
//!
//! Invariant: a body is streamed with backpressure and never held whole; what
//! is held of one is bounded by [`LOOK`] and handed on unchanged.

mod byte_counter;
mod client;
mod incoming;
mod request;
mod response;
mod splice;

pub(crate) use byte_counter::ByteCounter;
pub(crate) use client::ClientBody;
pub(crate) use request::{Answering, Progress, RequestBody};
pub(crate) use response::{BodyObserver, ClientResponse, ResponseBody};

/// Bytes of a request body that may be held while it is looked into, and the
/// size of the largest body that is merged (design §3.1, §3.10): 64 KiB.
pub(crate) const LOOK: usize = 64 * 1024;

/// Why a body ended early. Carries no text of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The client went away, or its framing was broken.
    #[error("the client's body broke off")]
    ClientGone,
    /// Nothing came from the client for `server.body_timeout`.
    #[error("the client's body came too slowly")]
    ClientTooSlow,
    /// It was answered before the client was asked for its body.
    #[error("the client's body was not asked for")]
    Declined,
    /// The upstream went away before its answer was complete.
    #[error("the upstream's answer broke off")]
    UpstreamBrokeOff,
}

/// Whether a field of this name seals the body: its recipient checks it, so
/// that it cannot change on the way.
pub(crate) fn is_seal(field: &str) -> bool {
    ["content-digest", "repr-digest", "digest", "content-md5"].contains(&field)
}
