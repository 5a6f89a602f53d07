//! Receipts whose request failed alone stay out of batches for a while.
//!
//! Invariants: an entry is one id under one merge key, so it affects no receipt
//! of another chat or credential; the table is bounded. Whole-chat receipts are
//! never quarantined: no id can cause their failure (rule: quarantine).

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::time::Duration;

use tokio::time::Instant;

use super::remembered::Remembered;
use crate::receipt::Receipt;

/// Ids in quarantine at a time.
const CAPACITY: usize = 10_000;

/// Ids of one receipt in quarantine, so that one long receipt cannot displace
/// all others.
const MAX_OF_ONE: usize = CAPACITY / 10;

/// Ids that made a call fail.
#[derive(Debug)]
pub(super) struct Quarantine {
    /// By a hash of merge key and id. A collision only sends one receipt alone
    /// without need.
    entries: Remembered<u64, ()>,
    hasher: RandomState,
}

impl Quarantine {
    pub(super) fn new() -> Self {
        Self {
            entries: Remembered::new(CAPACITY),
            hasher: RandomState::new(),
        }
    }

    /// Whether an id of this receipt is in quarantine.
    pub(super) fn holds(&self, receipt: &Receipt, now: Instant) -> bool {
        // Checked first: otherwise every receipt would hash its ids.
        if self.entries.is_unused() {
            return false;
        }
        // Hashed before `find` takes the lock, which all workers share.
        let entries: Vec<_> = self.entries_of(receipt);
        self.entries.find(entries.iter(), now).is_some()
    }

    /// Keeps the ids of a receipt out of batches for `duration`.
    pub(super) fn add(&self, receipt: &Receipt, now: Instant, duration: Duration) {
        if !duration.is_zero() && receipt.id_count() > 0 {
            let entries = self.entries_of(receipt).into_iter();
            self.entries
                .extend(entries.map(|entry| (entry, ())), now, now + duration);
        }
    }

    fn entries_of(&self, receipt: &Receipt) -> Vec<u64> {
        let ids = receipt.ids();
        let entry = |id| self.hasher.hash_one((&receipt.key, id));
        ids.hashes().take(MAX_OF_ONE).map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn receipt(chat: &str, ids: usize) -> Receipt {
        let ids: Vec<_> = (0..ids).map(|id| format!("false_1@c.us_{id}")).collect();
        let body = format!(r#"{{"chatId":"{chat}","messageIds":{ids:?}}}"#);
        let request = Request::post("/v2/send/seen?instance_id=1&access_token=t");
        let (head, ()) = request.body(()).unwrap().into_parts();
        Receipt::by_default(head, Bytes::from(body)).unwrap()
    }

    #[test]
    fn one_long_receipt_replaces_no_other_and_many_replace_only_the_oldest() {
        let (quarantine, now) = (Quarantine::new(), Instant::now());
        let first = receipt("first", 1);
        quarantine.add(&first, now, MINUTE);
        for chat in 0..9 {
            quarantine.add(&receipt(&chat.to_string(), 2000), now, MINUTE);
        }
        assert!(quarantine.holds(&first, now));
        assert!(!quarantine.holds(&receipt("second", 1), now));
        quarantine.add(&receipt("9", 2000), now, MINUTE);
        assert!(!quarantine.holds(&first, now));
        assert!(quarantine.holds(&receipt("0", 2), now));
        assert!(!quarantine.holds(&receipt("0", 2), now + MINUTE));
    }

    #[test]
    fn whole_chat_receipts_are_never_kept_out() {
        let (quarantine, now) = (Quarantine::new(), Instant::now());
        quarantine.add(&receipt("1", 0), now, MINUTE);
        assert!(!quarantine.holds(&receipt("1", 0), now));
    }
}
