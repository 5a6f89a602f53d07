//! A request of a log, reduced to the fields that decide its bucket and its batch.

use super::offline::BucketKey;

/// A request of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Arrival {
    /// Nanoseconds since 1970.
    pub(super) at: u64,
    /// The bucket that it takes a token from.
    pub(super) bucket: BucketKey,
    pub(super) kind: RequestKind,
    /// How long its upstream call took, in nanoseconds; 0 if the log does not show it.
    pub(super) took: u64,
}

/// Whether a request can merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RequestKind {
    Other,
    Receipt {
        /// Equal for receipts that may merge; `None` if the log shows no chat.
        key: Option<u64>,
        ids: u32,
    },
}
