//! Shadows of receipts (rule: observe mode). They show what merging would save
//! while `batch.mode` is "observe", and what budgets would refuse while
//! `limit.mode` is.
//!
//! Invariants: a shadow takes the same path as a caller (open batch, window,
//! caps, queue), and nothing is ever sent for it; it holds no more than a caller
//! and lives no longer than `limit.max_wait`. Where budgets are only observed, a
//! shadow batch takes the token that the batch would have taken. Where they are
//! enforced, the receipts take their tokens themselves, and a shadow batch takes
//! none. Retries and splits have no shadows.

use std::sync::Arc;

use tokio::time::Instant;

use super::open::{Batch, Caps, Joined, Mergeable};
use super::{Batcher, Windows};
use crate::config::{self, BatchMode};
use crate::limit::{Lane, RateLimited, shadow_call, would_refuse};
use crate::observe::metrics::Route;
use crate::receipt::{IdHash, MergeKey, Receipt};

/// The part of a receipt that an open batch needs. Without the request, so it
/// takes little memory.
#[derive(Debug)]
pub(super) struct Shadow {
    key: MergeKey,
    /// Each id, and the bytes that it would take in a merged request.
    ids: Box<[(IdHash, usize)]>,
    max_id_bytes: usize,
    deadline: Instant,
}

impl Mergeable for Shadow {
    type Key = MergeKey;

    fn key(&self) -> &MergeKey {
        &self.key
    }

    fn each_id(&self, mut each: impl FnMut(IdHash, usize)) {
        for (id, cost) in &self.ids {
            each(*id, *cost);
        }
    }

    fn max_id_bytes(&self) -> usize {
        self.max_id_bytes
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// The task of a batch of shadows.
struct ShadowBatch {
    batch: Arc<Batch<Shadow>>,
    lane: Lane,
    windows: Windows,
    /// Budgets are only observed: this batch takes the token.
    takes_token: bool,
    /// Merging is only observed.
    observes: bool,
}

impl Batcher {
    /// Adds a shadow of a receipt to the shadow batch of its key, and counts its
    /// result in the `would_*` metrics.
    pub(crate) fn shadow(
        self: &Arc<Self>,
        settings: &config::Batch,
        receipt: &Receipt,
        lane: &Lane,
    ) {
        let now = Instant::now();
        let rules = lane.rules();
        let takes_token = rules.observes;
        let alone = self.goes_alone(receipt, settings, now).is_some();
        let deadline = now + rules.max_wait;
        let ids = receipt.ids();
        // The list of a receipt that goes alone may have any length and is not
        // needed.
        let ids = ids.hashed().filter(|_| !alone);
        let shadow = Shadow {
            key: receipt.key.clone(),
            ids: ids.map(|(id, hash)| (hash, receipt.id_cost(&id))).collect(),
            max_id_bytes: receipt.max_id_bytes(),
            deadline,
        };
        let (key, caps) = (shadow.key.clone(), Caps::of(settings));
        // With enforced budgets the receipt itself is refused, if at all.
        let check = || match takes_token {
            true => self.check(lane, now, deadline),
            false => Ok(()),
        };
        let joined = if alone {
            check().map(|()| Joined::New {
                batch: Arc::new(Batch::closed(key, vec![shadow], now, caps)),
                key_was_idle: false,
            })
        } else {
            self.open_shadows.join(shadow, |shadow| {
                check()?;
                Ok(Arc::new(Batch::open(shadow, now, caps)))
            })
        };
        match joined {
            Err(refused) => would_refuse(lane, refused, 1),
            Ok(Joined::Existing) => {}
            Ok(Joined::New {
                batch,
                key_was_idle,
            }) => {
                let shadow_batch = ShadowBatch {
                    batch,
                    lane: lane.clone(),
                    windows: Windows::of(settings, alone, key_was_idle),
                    takes_token,
                    observes: settings.mode == BatchMode::Observe,
                };
                // Not in `tasks`: a drain must not wait for a batch that sends nothing.
                tokio::spawn(shadow_batch.run(Arc::clone(self)));
            }
        }
    }
}

impl ShadowBatch {
    /// Runs like a batch of callers, until it would be sent.
    async fn run(self, batcher: Arc<Batcher>) {
        let Self { batch, lane, .. } = &self;
        batcher
            .stay_open(batch, batch.opened + self.windows.open)
            .await;
        let refuse =
            |shadows: Vec<_>, refused: RateLimited| would_refuse(lane, refused, shadows.len());
        let token = if self.takes_token {
            let token = batcher.first_token(batch, lane, refuse).await;
            token.map(|(permit, waited)| {
                batcher
                    .limiter
                    .record_would_delay(lane, waited, Route::ReceiptPath);
                shadow_call(permit)
            })
        } else {
            Ok(None)
        };
        let shadows = batch.seal();
        // A shadow call takes no time: its key is busy for a window only.
        let busy_until = self.windows.busy.map(|busy| Instant::now() + busy);
        let busy_until = busy_until.filter(|_| token.is_ok());
        if busy_until.is_none() {
            batcher.open_shadows.remove(batch);
        }
        let call = match token {
            Err(refused) => return refuse(shadows, refused),
            Ok(call) => call,
        };
        // In `merge` mode the real batch counts in `saved_total`.
        if self.observes {
            // Without splits, so one call for all: an upper bound.
            let saved = shadows.len().saturating_sub(1);
            lane.series().would_save.inc_by(saved as u64);
        }
        let keep = async {
            if let Some(until) = busy_until {
                batcher.keep(&batcher.open_shadows, batch, until).await;
            }
        };
        let call = async {
            if let Some(call) = call {
                call.await;
            }
        };
        tokio::join!(keep, call);
    }
}
