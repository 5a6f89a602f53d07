//! Which of the two buckets of its instance a request took its token from, as far
//! as it is visible from outside (rule: verification).
//!
//! Invariant: the bucket is unknown when two events have the same time, when a
//! response may not have reached the gateway, or when requests of the same
//! credential may still wait in the other queue.

use super::{Case, TICK};
use crate::client::{Ending, Outcome};
use crate::wire::{At, Parsed};

/// One of the two buckets of an instance in a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bucket {
    /// Of verified credentials; of all credentials until the first is verified.
    Main,
    /// Of all other credentials.
    Unverified,
}

/// A response that verifies its credential.
struct Verification<'c> {
    at: At,
    credential: &'c str,
    /// It certainly reached the gateway.
    sure: bool,
}

impl Case {
    /// The bucket from which the request with this tag took its token before `left`.
    pub(super) fn bucket(&self, tag: usize, left: At) -> Option<Bucket> {
        let parsed = self.parsed.get(&tag)?;
        let asked = self.outcome(tag)?.sent;
        // A receipt has the bucket of its batch, which may be older.
        let asked = match parsed.is_receipt() {
            true => asked.saturating_sub(2 * self.config.limit.max_wait),
            false => asked,
        };
        let verifications = self.verifications(parsed);
        if verifications
            .iter()
            .all(|verification| verification.at > left)
            || self.has_one_credential(parsed)
        {
            return Some(Bucket::Main);
        }
        let own = |verification: &Verification<'_>| verification.credential == parsed.credential;
        let sure = |verification: &Verification<'_>| verification.sure && verification.at < asked;
        let (bucket, verification) = if verifications
            .iter()
            .any(|verification| own(verification) && verification.at <= left)
        {
            let verification = verifications
                .iter()
                .find(|verification| own(verification) && sure(verification))?;
            (Bucket::Main, verification)
        } else {
            (
                Bucket::Unverified,
                verifications
                    .iter()
                    .find(|verification| sure(verification))?,
            )
        };
        self.had_no_waiter(parsed, verification.at, asked)
            .then_some(bucket)
    }

    /// The responses that may have verified credentials, oldest first.
    fn verifications(&self, of: &Parsed) -> Vec<Verification<'_>> {
        let mut verifications: Vec<_> = self
            .seen
            .arrivals
            .iter()
            .filter_map(|arrival| {
                let parsed = self.parsed.get(&arrival.tag)?;
                let response = arrival.response.as_ref()?;
                let verifies =
                    (200..300).contains(&response.status) && self.shares_account(parsed, of);
                verifies.then(|| Verification {
                    at: response.at,
                    credential: &parsed.credential,
                    sure: self.is_heard(arrival) && !response.cut,
                })
            })
            .collect();
        verifications.sort_by_key(|verification| verification.at);
        verifications
    }

    /// Whether at some time between the two no request of this credential waited:
    /// then later ones use the bucket that fits its verification.
    fn had_no_waiter(&self, parsed: &Parsed, from: At, to: At) -> bool {
        let waits: Vec<_> = self
            .seen
            .outcomes
            .iter()
            .filter(|outcome| {
                let other = &self.parsed[&outcome.step.tag];
                other.credential == parsed.credential && self.shares_account(other, parsed)
            })
            .map(|outcome| (outcome.sent, self.waited_until(outcome)))
            .collect();
        let is_free = |at: At| {
            !waits
                .iter()
                .any(|(since, until)| *since < at && at <= *until)
        };
        let ends = waits.iter().map(|(_, until)| *until + TICK);
        ends.chain([from + TICK, to])
            .any(|at| from < at && at <= to && is_free(at))
    }

    /// The latest time at which a request may have waited in the queue.
    fn waited_until(&self, outcome: &Outcome) -> At {
        let tag = outcome.step.tag;
        let arrivals = self.seen.arrivals.iter();
        let last = arrivals
            .filter(|arrival| arrival.tag == tag)
            .map(|arrival| arrival.at)
            .max();
        match (&outcome.ending, last) {
            (_, Some(last)) if !self.parsed[&tag].is_receipt() => last,
            // Its batch waits on without it, and may be sent again.
            (Ending::Left, last) => {
                let latest = outcome.sent + 2 * self.config.limit.max_wait;
                last.unwrap_or_default().max(latest)
            }
            (_, last) => last.unwrap_or_default().max(outcome.ended),
        }
    }

    /// Same instance, same class.
    pub(super) fn shares_account(&self, one: &Parsed, other: &Parsed) -> bool {
        let (class, instance, _) = self.budget(one);
        let budget = self.budget(other);
        class == budget.0 && instance == budget.1
    }

    fn has_one_credential(&self, of: &Parsed) -> bool {
        let mut all = self.parsed.values();
        all.all(|parsed| parsed.credential == of.credential || !self.shares_account(parsed, of))
    }
}
