//! Which of the requests that wait at a bucket are refused, when, and with what reason.

use std::time::Duration;

use tokio::time::Instant;

use super::Bucket;
use crate::queue::request::{Completion, RateLimited, Refusal, Scope};
use crate::queue::wait_queue::Waiter;

/// How late a timer may fire: tokio's timer wheel advances once a millisecond. A token
/// that was due by the deadline counts, although the serving task woke so much later.
const TIMER_GRANULARITY: Duration = Duration::from_millis(2);

/// When a request that still waits has to be refused.
pub(crate) fn expiry<G>(request: &Waiter<G>) -> Instant {
    request.deadline + TIMER_GRANULARITY
}

impl<G: Completion> Bucket<G> {
    /// Refuses what cannot be served in time any more, if the token times have changed.
    pub(crate) fn refuse_unreachable(&mut self, now: Instant) {
        if !self.tokens.has_news() {
            return;
        }
        // Another gateway may have got a 429.
        self.refuse_held(now);
        if let Some(queue) = &mut self.queue {
            let tokens = &self.tokens;
            let late = queue.take_unreachable(|before| tokens.due(now, before));
            // After they were taken out: `Retry-After` counts what still waits.
            let refused = self.too_late(now);
            for waiter in late {
                waiter.completion.settle(Err(refused));
            }
        }
    }

    /// Refuses the requests whose deadline has passed; returns when the next
    /// one will have to be refused. To be called after the tokens that are
    /// there have been handed out.
    pub(crate) fn expire(
        &mut self,
        now: Instant,
        refused: impl FnOnce(&Self) -> RateLimited,
    ) -> Option<Instant> {
        let queue = self.queue.as_mut()?;
        let expired = now.checked_sub(TIMER_GRANULARITY);
        let expired = expired.map(|until| queue.take_expired(until));
        let next = queue.first_deadline();
        if let Some(expired) = expired
            && !expired.is_empty()
        {
            let refused = refused(self);
            for waiter in expired {
                waiter.completion.settle(Err(refused));
            }
        }
        next.map(|deadline| deadline + TIMER_GRANULARITY)
    }

    pub(super) fn refuse_held(&mut self, now: Instant) {
        let (Some(until), Some(queue)) = (self.tokens.source().refuses_until(), &mut self.queue)
        else {
            return;
        };
        // If the pause is over already, this finds only what is past its deadline.
        let late = queue.take_late(until);
        let refused = self.refused(Refusal::Paused, until, now);
        for waiter in late {
            waiter.completion.settle(Err(refused));
        }
    }

    /// Refuses a deadline that lies within a pause, as the waiters were.
    ///
    /// # Errors
    /// The deadline lies within a pause.
    pub(crate) fn check_pause(&self, now: Instant, deadline: Instant) -> Result<(), RateLimited> {
        let until = self.tokens.source().refuses_until();
        let until = until.filter(|until| deadline < *until && now < *until);
        until.map_or(Ok(()), |until| {
            Err(self.refused(Refusal::Paused, until, now))
        })
    }

    /// The refusal of a request whose deadline came while it waited.
    pub(crate) fn too_late(&self, now: Instant) -> RateLimited {
        let at = self.due(now, self.len());
        self.refused(self.why_late(now), at, now)
    }

    /// Why a request would wait so long for this bucket.
    pub(crate) fn why_late(&self, now: Instant) -> Refusal {
        match self.tokens.source().held_until(now) {
            Some(_) => Refusal::Paused,
            None => Refusal::WaitTooLong,
        }
    }

    /// A refusal by this bucket's own budget.
    pub(crate) fn refused(&self, refusal: Refusal, at: Instant, now: Instant) -> RateLimited {
        RateLimited {
            refusal,
            scope: Scope::Instance,
            quota: self.quota(),
            max_in_flight: self.in_flight().and_then(|it| it.cap()),
            waiting: self.len(),
            retry_after: at.saturating_duration_since(now),
        }
    }
}
