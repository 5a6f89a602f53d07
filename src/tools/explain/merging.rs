//! Which receipts share a call, if all of them arrive within one window.
//!
//! Invariant: batches of the serving code decide.

use std::time::Duration;

use tokio::time::Instant;

use super::Explained;
use crate::batch::{Batch, Caps, Mergeable, fits_no_batch};
use crate::config::{self, BatchMode};
use crate::receipt::{IdHash, MergeKey, NotMerged, Receipt};

/// A receipt among the requests, by its index.
#[derive(Clone, Copy, Debug)]
struct Candidate<'r> {
    index: usize,
    receipt: &'r Receipt,
    deadline: Instant,
}

impl Mergeable for Candidate<'_> {
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

/// The calls, each as the indices of its requests.
pub(super) fn calls(explained: &[Explained], settings: &config::Batch) -> Vec<Vec<usize>> {
    let now = Instant::now();
    let caps = Caps::of(settings);
    let mut batches: Vec<Batch<Candidate<'_>>> = Vec::new();
    for (index, explained) in explained.iter().enumerate() {
        let Some(receipt) = explained.receipt() else {
            continue;
        };
        let candidate = Candidate {
            index,
            receipt,
            deadline: now + Duration::from_secs(1),
        };
        if excluded(receipt, settings).is_some() {
            let key = candidate.key().clone();
            batches.push(Batch::closed(key, vec![candidate], now, caps));
            continue;
        }
        let is_open = |batch: &&Batch<_>| batch.key == receipt.key && batch.is_open();
        let rest = match batches.iter().find(is_open) {
            Some(batch) => batch.join(candidate),
            None => Some(candidate),
        };
        if let Some(candidate) = rest {
            batches.push(Batch::open(candidate, now, caps));
        }
    }
    let indices = |batch: Batch<Candidate<'_>>| batch.seal().iter().map(|it| it.index).collect();
    batches.into_iter().map(indices).collect()
}

/// Why the settings keep a receipt out of batches.
pub(super) fn excluded(receipt: &Receipt, settings: &config::Batch) -> Option<NotMerged> {
    let is_off = settings.mode == BatchMode::Observe;
    let off = is_off.then_some(NotMerged::MergingOff);
    off.or_else(|| fits_no_batch(receipt, settings))
}
