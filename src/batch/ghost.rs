//! What merging would have done to receipts that go as they came (`batch.mode`),
//! and what budgets would have done to those that are merged (`limit.mode`).
//!
//! Invariants: a ghost goes through the same table, windows, caps and lines as
//! a caller, and nothing is ever sent for it; it holds no more than a caller
//! would, and no longer (`limit.max_wait`). Who pays: where budgets are only
//! observed, a batch of ghosts takes the token that the batch would have
//! taken; where they are enforced, each receipt pays for itself, and ghosts
//! keep to window and caps alone. Repeats and splits have no ghosts.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Batcher;
use super::open::{Batch, Caps, Member, Offer};
use crate::limit::{Kind, Lane, Refused, would_refuse};
use crate::observe::metrics::Route;
use crate::receipt::{Form, MergeKey, MessageId, Receipt};

/// A receipt, as far as batches look at it.
#[derive(Debug)]
pub(super) struct Ghost {
    key: MergeKey,
    ids: Vec<MessageId>,
    form: Form,
    room: usize,
    deadline: Instant,
}

impl Member for Ghost {
    type Key = MergeKey;
    type Id = MessageId;

    fn key(&self) -> &MergeKey {
        &self.key
    }

    fn ids(&self) -> &[MessageId] {
        &self.ids
    }

    fn cost(&self, id: &MessageId) -> usize {
        self.form.cost(id)
    }

    fn room(&self) -> usize {
        self.room
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// How a batch of ghosts lives.
#[derive(Clone, Copy, Debug)]
struct Afterlife {
    window: Duration,
    /// It takes a token.
    pays: bool,
}

impl Batcher {
    /// Sends a ghost of a receipt through the batches, and counts what becomes
    /// of it.
    pub(crate) fn haunt(self: &Arc<Self>, receipt: &Receipt, lane: &Lane) {
        let now = Instant::now();
        let settings = self.settings.load();
        let rules = self.limiter.rules();
        let alone = self.goes_alone(receipt, &settings, now);
        let life = Afterlife {
            window: if alone {
                Duration::ZERO
            } else {
                settings.window
            },
            pays: rules.observes,
        };
        let deadline = now + rules.max_wait;
        let ghost = Ghost {
            key: receipt.key.clone(),
            ids: receipt.ids.clone(),
            form: receipt.form(),
            room: receipt.room(),
            deadline,
        };
        let open = |ghost| {
            if life.pays {
                let kind = Kind::Receipt { opened: now };
                self.limiter.check(lane, kind, deadline)?;
            }
            Ok(Arc::new(Batch::open(ghost, now, Caps::of(&settings))))
        };
        let opened = if alone {
            open(ghost).map(|batch| {
                batch.close();
                Some(batch)
            })
        } else {
            self.ghosts.offer(ghost, open).map(|offer| match offer {
                Offer::Joined => None,
                Offer::Opened(batch) => Some(batch),
            })
        };
        match opened {
            Err(refused) => would_refuse(lane, refused, 1),
            Ok(None) => {}
            Ok(Some(batch)) => {
                let (batcher, lane) = (Arc::clone(self), lane.clone());
                // Not one of the tasks that a drain waits for.
                tokio::spawn(async move { batcher.linger(batch, lane, life).await });
            }
        }
    }

    /// Lives a batch of ghosts, as `live` does one of callers, to the moment in
    /// which it would be sent.
    async fn linger(self: Arc<Self>, batch: Arc<Batch<Ghost>>, lane: Lane, life: Afterlife) {
        // Nobody waits for a ghost: it need not be on time to the millisecond.
        let over = tokio::time::sleep_until(batch.opened + life.window);
        self.stay_open(&batch, over).await;
        let refuse = |ghosts: Vec<_>, refused: Refused| would_refuse(&lane, refused, ghosts.len());
        let passed = if life.pays {
            let granted = self.wait_for_token(&batch, &lane, refuse).await;
            granted.map(|(_, waited)| self.limiter.would_have_passed(waited, Route::Seen))
        } else {
            Ok(())
        };
        self.ghosts.forget(&batch);
        let (ghosts, _) = batch.seal();
        match passed {
            Err(refused) => refuse(ghosts, refused),
            // What is merged in earnest is counted when it is.
            Ok(()) if self.observes() => {
                let saved = ghosts.len().saturating_sub(1);
                self.metrics.would_save.inc_by(saved as u64);
            }
            Ok(()) => {}
        }
    }
}
