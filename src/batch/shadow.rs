//! What merging would have done to receipts that are sent as they came
//! (`batch.mode`), and what budgets would have done to those that are merged
//! (`limit.mode`).
//!
//! Invariants: a shadow takes the same path as a caller (open batch, window,
//! caps, queue), and nothing is ever sent for it; it holds no more than a caller
//! and lives no longer than `limit.max_wait`. Where budgets are only observed, a
//! shadow batch takes the token that the batch would have taken. Where they are
//! enforced, each receipt pays for itself, and a shadow batch keeps to window
//! and caps. Retries and splits have no shadows.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Batcher;
use super::open::{Batch, Caps, Joined, Mergeable};
use crate::limit::{Lane, Refused, would_refuse};
use crate::observe::metrics::Route;
use crate::receipt::{IdHash, MergeKey, Receipt};

/// As much of a receipt as a batch looks at.
#[derive(Debug)]
pub(super) struct Shadow {
    key: MergeKey,
    /// Each id, and the bytes that it would take in a merged request.
    ids: Box<[(IdHash, usize)]>,
    room: usize,
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

    fn room(&self) -> usize {
        self.room
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// The task of a batch of shadows.
struct ShadowBatch {
    batch: Arc<Batch<Shadow>>,
    lane: Lane,
    window: Duration,
    /// It takes a token.
    pays: bool,
}

impl Batcher {
    /// Puts a shadow of a receipt into the shadow batch of its key, and counts
    /// what becomes of it.
    pub(crate) fn shadow(self: &Arc<Self>, receipt: &Receipt, lane: &Lane) {
        let now = Instant::now();
        let settings = self.settings.load();
        let rules = self.limiter.rules();
        let pays = rules.observes;
        let alone = self.goes_alone(receipt, &settings, now);
        let deadline = now + rules.max_wait;
        let form = receipt.form();
        let ids = receipt.ids();
        // A lone receipt's list may be of any length, and is not looked at.
        let ids = ids.hashed().filter(|_| !alone);
        let shadow = Shadow {
            key: receipt.key.clone(),
            ids: ids.map(|(id, hash)| (hash, form.cost(&id))).collect(),
            room: receipt.room(),
            deadline,
        };
        let caps = Caps::of(&settings);
        let check = || match pays {
            true => self.check(lane, now, deadline),
            false => Ok(()),
        };
        let joined = if alone {
            check().map(|()| Joined::New(Arc::new(Batch::alone(shadow, now, caps))))
        } else {
            self.open_shadows.join(shadow, |shadow| {
                check()?;
                Ok(Arc::new(Batch::open(shadow, now, caps)))
            })
        };
        match joined {
            Err(refused) => would_refuse(lane, refused, 1),
            Ok(Joined::Existing) => {}
            Ok(Joined::New(batch)) => {
                let shadow_batch = ShadowBatch {
                    batch,
                    lane: lane.clone(),
                    window: if alone {
                        Duration::ZERO
                    } else {
                        settings.window
                    },
                    pays,
                };
                // A drain does not wait for this task.
                tokio::spawn(shadow_batch.run(Arc::clone(self)));
            }
        }
    }
}

impl ShadowBatch {
    /// Runs as a batch of callers does, up to the moment it would be sent.
    async fn run(self, batcher: Arc<Batcher>) {
        let Self { batch, lane, .. } = &self;
        // No caller waits for it, so the timer of the runtime is exact enough.
        let window_end = tokio::time::sleep_until(batch.opened + self.window);
        batcher.stay_open(batch, window_end).await;
        let refuse = |shadows: Vec<_>, refused: Refused| would_refuse(lane, refused, shadows.len());
        let token = if self.pays {
            let token = batcher.first_token(batch, lane, refuse).await;
            token.map(|(_, waited)| batcher.limiter.would_have_passed(waited, Route::Seen))
        } else {
            Ok(())
        };
        batcher.open_shadows.remove(batch);
        let shadows = batch.seal();
        match token {
            Err(refused) => refuse(shadows, refused),
            // Receipts that are merged for real are counted then.
            Ok(()) if batcher.observes() => {
                let saved = shadows.len().saturating_sub(1);
                batcher.metrics.would_save.inc_by(saved as u64);
            }
            Ok(()) => {}
        }
    }
}
