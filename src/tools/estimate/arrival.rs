//! A request of a log, reduced to what decides about it.

use super::offline::BucketKey;

/// A request of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Arrival {
    /// Nanoseconds since 1970.
    pub(super) at: u64,
    /// The bucket that it takes a token from.
    pub(super) bucket: BucketKey,
    pub(super) kind: RequestKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RequestKind {
    Other,
    Receipt {
        /// Equal for receipts that may merge; `None` if the log shows no chat.
        key: Option<u64>,
        ids: u32,
    },
}
