//! What asks for a token, and what it gets: a permit or a refusal.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::config::Quota;
use crate::identity::Fingerprint;
use crate::observe::metrics::Reason;
use crate::tokens::in_flight::Place;

/// What needs a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A request that is passed through.
    Request,
    /// A batch of read receipts: yields to requests until it is
    /// `batch.max_delay` old.
    Receipt {
        /// When the batch was opened.
        opened: Instant,
    },
    /// A further upstream call of an admitted batch (a retry or a part of a
    /// split). It is ordered by when its batch was opened, as a receipt that is
    /// overdue at once: it does not wait for `batch.max_delay`, but still
    /// alternates with requests. `limit.max_queue` does not apply.
    FollowUp {
        /// When the batch was opened.
        opened: Instant,
    },
}

/// The permission to send one upstream call: the bucket token that it took, or none where
/// budgets are only observed.
#[derive(Debug)]
pub(crate) struct Permit {
    /// When the token was taken.
    pub(crate) granted: Instant,
    /// The call has to be sent before this time, where the token is a slot of a cluster.
    pub(crate) usable_until: Option<Instant>,
    /// Tokens left at that time; `None` where the bucket is unlimited.
    pub(crate) remaining: Option<u32>,
    /// The bucket that the token came from.
    pub(crate) bucket: BucketRole,
    /// Its place among the calls in flight, where their number is bounded.
    pub(crate) place: Option<Place>,
}

impl Permit {
    /// The call is sent now. What is returned is to be dropped when it has ended.
    pub(crate) fn send(&mut self) -> Option<Place> {
        self.place.take().map(Place::sent)
    }

    /// The place of a call that is not sent.
    pub(crate) fn take_place(&mut self) -> Option<Place> {
        self.place.take()
    }
}

/// Which of the two buckets of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BucketRole {
    /// The bucket of verified credentials, or of all while none is verified.
    Main,
    /// The bucket of the other credentials.
    Unverified,
}

/// Why a request got no token, on arrival or later. The client gets 429 `rate_limited`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RateLimited {
    /// Why.
    pub(crate) refusal: Refusal,
    /// The budget that was used up.
    pub(crate) scope: Scope,
    /// The quota of that budget; `None` where it is unlimited and only calls in
    /// flight or a pause were in the way.
    pub(crate) quota: Option<Quota>,
    /// How many of its calls may be in flight; `None` where any number may.
    pub(crate) max_in_flight: Option<NonZeroU32>,
    /// Requests that waited at the bucket at that time.
    pub(crate) waiting: usize,
    /// After this time a token would be free for the request.
    pub(crate) retry_after: Duration,
}

/// A budget that a request draws on; it draws on all three at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The budget of the instance for the class of the request.
    Instance,
    /// The budget of the instance's tenant.
    Tenant,
    /// The one budget for all upstream calls.
    Egress,
}

/// Why a request was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// `limit.max_queue` requests wait already.
    QueueFull,
    /// The token would come after the deadline.
    WaitTooLong,
    /// The upstream named a pause that ends after the deadline.
    Paused,
}

/// Ends the wait of one request, with a token or a refusal.
pub(crate) trait Completion {
    /// Ends the wait; false if the request has gone.
    fn settle(self, verdict: Result<Permit, RateLimited>) -> bool;
}

impl Completion for oneshot::Sender<Result<Permit, RateLimited>> {
    fn settle(self, verdict: Result<Permit, RateLimited>) -> bool {
        self.send(verdict).is_ok()
    }
}

/// A request or a batch of receipts that needs a token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Newcomer {
    /// What it is.
    pub(crate) kind: Kind,
    /// When it arrived at the limiter.
    pub(crate) now: Instant,
    /// A token after this time is of no use.
    pub(crate) deadline: Instant,
    /// Its credential: requests of one credential never overtake each other.
    pub(crate) credential: Option<Fingerprint>,
}

impl RateLimited {
    /// The metric label for this refusal.
    pub(crate) fn reason(&self) -> Reason {
        match (self.refusal, self.scope) {
            (Refusal::QueueFull, _) => Reason::QueueFull,
            (Refusal::Paused, _) => Reason::Paused,
            (Refusal::WaitTooLong, Scope::Instance) => Reason::MaxWait,
            (Refusal::WaitTooLong, Scope::Tenant) => Reason::TenantBudget,
            (Refusal::WaitTooLong, Scope::Egress) => Reason::EgressBudget,
        }
    }
}

impl Scope {
    /// As responses, the access log and the admin pages name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Tenant => "tenant",
            Self::Egress => "egress",
        }
    }
}
