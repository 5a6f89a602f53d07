//! A bucket while there is no server: a part of the rate, after what was reserved before.
//!
//! Invariant: tokens that the server may have granted are not given a second time.

use std::num::NonZeroU32;

use tokio::time::Instant;

use super::State;
use super::pauses::{Held, Probe};
use super::slot::Reservation;
use crate::tokens::Tokens;
use crate::tokens::pause::LocalTokens;

impl State {
    /// Begins or ends the time without a server. `share`: among how many gateways the rate is
    /// divided while there is none.
    pub(in crate::tokens::slots) fn follow(&mut self, share: Option<NonZeroU32>, now: Instant) {
        match (
            share.map(|share| self.quota.part(share)),
            &mut self.fallback,
        ) {
            (Some(part), Some(fallback)) => fallback.set_quota(Some(part), now),
            (Some(part), None) => {
                let mut fallback = LocalTokens::new(Some(part), now);
                // Empty: what the server granted last is on its way.
                let known = self.known.due(now, 0).max(self.held(now));
                fallback.empty_until(known + part.interval());
                self.fallback = Some(Box::new(fallback));
                self.drop_paused(now);
                // The fallback is empty until the pause has ended.
                // What was admitted may be late now.
                (self.pause, self.ask_at, self.has_news) = (None, None, true);
            }
            (None, Some(fallback)) => {
                // Asserted with the next question, as the connection is another.
                self.known.empty_until(fallback.due(now, 0));
                if let Some(until) = fallback.held_until(now) {
                    let probe = Probe::AskAt(until);
                    self.pause = Some(Held { until, probe });
                }
                self.fallback = None;
                // The server may have lost the slots that are reserved, so none can go back.
                (self.last, self.has_news) = (Reservation::default(), true);
            }
            (None, None) => {}
        }
    }

    /// Drops what was reserved, if there is a pause and no server: only the server moves slots.
    pub(super) fn drop_paused(&mut self, now: Instant) {
        let Some(fallback) = &mut self.fallback else {
            return;
        };
        if let Some(pause) = self.pause {
            fallback.empty_until(fallback.due(now, 0).max(pause.until));
        }
        if self.pause.is_some() || fallback.is_recovering() {
            self.reserved.clear();
            // What was admitted may be late now.
            self.has_news = true;
        }
    }
}
