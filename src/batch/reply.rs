//! The result of an upstream call, and what it means for its callers.
//!
//! Invariant: only this file and [`rejection`](super::rejection) decide what a status means for a
//! batch.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::caller::SharedResponse;
use super::rejection::Rejection;
use crate::body::ClientResponse;
use crate::http::retry_after;
use crate::upstream::UpstreamError;

/// The result of a call.
pub(super) enum Reply {
    /// A response that was read to its end.
    Whole(Arc<SharedResponse>),
    /// A response that is too long to be held, to a single caller, streamed to it.
    Long(Box<ClientResponse>),
    Failed(UpstreamError),
}

/// The last call with a caller's ids.
pub(super) struct LastCall {
    pub(super) reply: Reply,
    pub(super) size: CallSize,
    /// From sending it to the end of the response.
    pub(super) took: Duration,
}

/// How many callers and ids shared a call.
#[derive(Clone, Copy)]
pub(super) struct CallSize {
    pub(super) callers: usize,
    pub(super) ids: usize,
}

impl LastCall {
    /// A copy for another caller. A streamed response cannot be copied and becomes
    /// a failure.
    pub(super) fn share(&self) -> Self {
        let reply = match &self.reply {
            Reply::Whole(shared) => Reply::Whole(Arc::clone(shared)),
            Reply::Failed(failure) => Reply::Failed(*failure),
            Reply::Long(_) => Reply::Failed(UpstreamError::TooLong),
        };
        Self { reply, ..*self }
    }

    /// A copy for `callers` more, whose ids were not in the call.
    pub(super) fn share_with(&self, callers: usize) -> Self {
        let mut shared = self.share();
        shared.size.callers += callers;
        shared
    }
}

impl Reply {
    pub(super) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Whole(shared) => Some(shared.head.status()),
            Self::Long(response) => Some(response.head.status()),
            Self::Failed(_) => None,
        }
    }

    /// The rejection, if the reply is one.
    pub(super) fn rejection(&self) -> Option<Rejection> {
        match self {
            Self::Whole(shared) => Rejection::of(&shared.head, &shared.body),
            Self::Long(_) | Self::Failed(_) => None,
        }
    }

    /// Neither the ids nor the moment are the cause: it holds for all receipts of the key.
    pub(super) fn is_common(&self) -> bool {
        matches!(self, Self::Whole(_))
            && self.rejection().is_none()
            && !self.is_throttled()
            && !self.is_worth_a_retry()
    }

    /// Each caller needs a separate call.
    pub(super) fn is_too_long(&self) -> bool {
        matches!(self, Self::Failed(UpstreamError::TooLong))
    }

    pub(super) fn is_throttled(&self) -> bool {
        self.status() == Some(StatusCode::TOO_MANY_REQUESTS)
    }

    /// No caller is the cause, and another attempt may succeed.
    pub(super) fn is_worth_a_retry(&self) -> bool {
        match self {
            Self::Failed(failure) => failure.is_connection_fault(),
            _ => matches!(self.status().map(|status| status.as_u16()), Some(502..=504)),
        }
    }

    /// The pause that the upstream asks for.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Whole(shared) => retry_after::of(&shared.head),
            Self::Long(_) | Self::Failed(_) => None,
        }
    }
}
