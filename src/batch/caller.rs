//! A caller of a batch, and its verdict.
//!
//! Invariants: a caller gets exactly one verdict; the verdict of a caller that
//! has disconnected is dropped without an effect on the others.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::open::Mergeable;
use crate::body::ClientResponse;
use crate::http::response_head::ResponseHead;
use crate::limit::RateLimited;
use crate::receipt::{IdHash, MergeKey, NotMerged, Receipt};
use crate::upstream::UpstreamError;

/// What a caller gets.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// The upstream's response, or why there is none.
    pub(crate) response: Result<BatchResponse, NoResponse>,
    /// How the caller's time was spent.
    pub(crate) timing: Timing,
}

/// A response of the upstream.
#[derive(Debug)]
pub(crate) enum BatchResponse {
    /// Read in full; any number of callers may get it.
    Shared(Arc<SharedResponse>),
    /// To a call for one caller, too long to be held in full.
    Streamed(Box<ClientResponse>),
}

/// A response that any number of callers may get.
#[derive(Debug)]
pub(crate) struct SharedResponse {
    pub(crate) head: ResponseHead,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
    /// Bucket tokens left when the call was sent; `None` where unlimited.
    pub(crate) remaining: Option<u32>,
}

/// Why a caller gets no response of the upstream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum NoResponse {
    /// There was no bucket token in time.
    RateLimited(RateLimited),
    /// The upstream call failed.
    Failed(UpstreamError),
}

/// How a caller's time was spent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timing {
    /// From its arrival to the end of the window.
    pub(crate) window: Duration,
    /// After the window, outside the calls that carried its ids: waiting for
    /// bucket tokens, for a retry, or for calls with other callers' ids.
    pub(crate) queue: Duration,
    /// In the upstream calls that carried its ids.
    pub(crate) upstream: Duration,
    /// Callers that shared the call.
    pub(crate) callers: usize,
    /// Distinct ids in the call.
    pub(crate) ids: usize,
    /// Why the call was for this caller alone; `None` for a call that it shared.
    pub(crate) not_merged: Option<NotMerged>,
}

/// A caller that waits for its verdict.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) receipt: Box<Receipt>,
    /// Why it is not merged if it stays alone.
    pub(super) if_alone: NotMerged,
    /// When the last byte of its request arrived.
    pub(super) arrived: Instant,
    /// The last attempt must begin before this time (rule: settling).
    pub(super) deadline: Instant,
    /// Time spent in upstream calls that carried its ids.
    pub(super) in_calls: Duration,
    /// The index of its [`Split`](super::split::Split) member, once a batch is
    /// split: callers with the same ids have the same one.
    pub(super) member: usize,
    pub(super) verdict: oneshot::Sender<Verdict>,
}

impl Caller {
    /// Gives the caller its verdict.
    pub(super) fn settle(self, response: Result<BatchResponse, NoResponse>, timing: Timing) {
        // The receiver is dropped where the client has disconnected.
        drop(self.verdict.send(Verdict { response, timing }));
    }
}

/// Refuses callers for which there is no bucket token.
pub(super) fn refuse(callers: Vec<Caller>, refused: RateLimited) {
    for caller in callers {
        caller.settle(Err(NoResponse::RateLimited(refused)), Timing::default());
    }
}

impl Mergeable for Caller {
    type Key = MergeKey;

    fn key(&self) -> &MergeKey {
        &self.receipt.key
    }

    fn each_id(&self, each: impl FnMut(IdHash, usize)) {
        self.receipt.each_id(each);
    }

    fn max_id_bytes(&self) -> usize {
        self.receipt.max_id_bytes()
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }
}
