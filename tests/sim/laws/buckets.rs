//! Which of the two buckets of its instance a request took its token from, as far
//! as it is visible from outside (rule: verification).
//!
//! Invariant: the bucket is unknown when two events have the same time, or when a
//! response may not have reached the gateway.

use super::{Case, TICK};
use crate::plan::{Manner, RequestKind};
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
    /// The bucket from which the request with this tag took its token before
    /// `left`. Waiting requests move with their credential, so its verification
    /// at that time decides.
    pub(super) fn bucket(&self, tag: usize, left: At) -> Option<Bucket> {
        let parsed = self.parsed.get(&tag)?;
        let all = self.verifications(parsed);
        if all.iter().all(|it| it.at > left) || self.has_one_credential(parsed) {
            return Some(Bucket::Main);
        }
        match self.is_verified(tag, left)? {
            true => Some(Bucket::Main),
            false => {
                let paid = self.paid(left);
                let is_sure = all.iter().any(|it| it.sure && it.at < paid);
                is_sure.then_some(Bucket::Unverified)
            }
        }
    }

    /// Whether the request with this tag that left at `left` took its token with
    /// a verified credential; `None` if that is unknown.
    pub(super) fn is_verified(&self, tag: usize, left: At) -> Option<bool> {
        let parsed = self.parsed.get(&tag)?;
        let all = self.verifications(parsed);
        let mut own = all.iter().filter(|it| it.credential == parsed.credential);
        if own.clone().all(|it| it.at > left) {
            return Some(false);
        }
        let paid = self.paid(left);
        own.any(|it| it.sure && it.at < paid).then_some(true)
    }

    /// The earliest time at which a request that left at `left` took its token.
    fn paid(&self, left: At) -> At {
        left.saturating_sub(self.dial + 2 * TICK)
    }

    /// The responses that may have verified credentials, oldest first.
    fn verifications(&self, of: &Parsed) -> Vec<Verification<'_>> {
        let mut verifications: Vec<_> = self
            .seen
            .upstream
            .arrivals
            .iter()
            .filter_map(|arrival| {
                let parsed = self.parsed.get(&arrival.tag)?;
                let response = arrival.response.as_ref()?;
                let verifies =
                    (200..300).contains(&response.status) && Self::is_same_instance(parsed, of);
                verifies.then(|| Verification {
                    at: response.at,
                    credential: &parsed.credential,
                    sure: self.is_heard(arrival) && !response.cut && self.is_scanned(arrival.tag),
                })
            })
            .collect();
        verifications.sort_by_key(|verification| verification.at);
        verifications
    }

    /// Whether the gateway certainly scanned the whole body of a request: else its
    /// response verifies nothing.
    fn is_scanned(&self, tag: usize) -> bool {
        let mut outcomes = self.seen.outcomes.iter();
        let outcome = outcomes.find(|outcome| outcome.step.tag == tag);
        outcome.is_some_and(|outcome| {
            let is_long = matches!(outcome.step.kind, RequestKind::Send(length) if length > 60_000);
            outcome.step.manner != Manner::Slow && !is_long
        })
    }

    /// Same instance: what one class has verified holds in all.
    fn is_same_instance(one: &Parsed, other: &Parsed) -> bool {
        one.instance == other.instance
    }

    /// Same instance, same class.
    pub(super) fn shares_account(&self, one: &Parsed, other: &Parsed) -> bool {
        self.account(one) == self.account(other)
    }

    pub(super) fn has_one_credential(&self, of: &Parsed) -> bool {
        let mut all = self.parsed.values();
        all.all(|parsed| parsed.credential == of.credential || !Self::is_same_instance(parsed, of))
    }
}
