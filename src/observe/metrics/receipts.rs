//! How many receipts were merged, and why the others were not.
//!
//! Invariant: each response to a request on a path of receipts counts once, as merged or
//! under one reason.

use prometheus::IntCounter;

use super::NotMerged;
use super::registrar::Registrar;

/// Receipts by what became of them.
pub(crate) struct Receipts {
    merged: IntCounter,
    /// By the number of the reason.
    unmerged: [IntCounter; NotMerged::ALL.len()],
}

impl Receipts {
    pub(super) fn new(registrar: &Registrar<'_>) -> Self {
        let unmerged = registrar.counters(
            "wawp_gateway_receipts_unmerged_total",
            "Responses to requests on a path of receipts that had an upstream call for themselves or none, by reason.",
            &["reason"],
        );
        Self {
            merged: registrar.counter(
                "wawp_gateway_receipts_merged_total",
                "Responses to read receipts that shared an upstream call.",
            ),
            // Looked up here once, so that a request only increments an atomic.
            unmerged: NotMerged::ALL.map(|reason| unmerged.with_label_values(&[reason.as_str()])),
        }
    }

    /// Counts the response to a request on a path of receipts.
    pub(crate) fn count(&self, merging: Result<(), NotMerged>) {
        match merging {
            Ok(()) => self.merged.inc(),
            Err(reason) => self.unmerged[reason as usize].inc(),
        }
    }

    /// Receipts that shared an upstream call.
    pub(crate) fn merged(&self) -> u64 {
        self.merged.get()
    }

    /// Receipts that did not, for this reason.
    pub(crate) fn unmerged(&self, reason: NotMerged) -> u64 {
        self.unmerged[reason as usize].get()
    }
}
