//! Which of its instance's two buckets a call drew on (rule: verification), as
//! far as it can be told from outside.
//!
//! Invariant: where two things happen at one moment, or an answer may not have
//! got through, nothing is told.

use super::{Case, TICK};
use crate::wire::{At, Said};

/// One of the two buckets of an instance in a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bucket {
    /// Of the credentials that the upstream has accepted; of everybody, until
    /// it accepted one.
    Main,
    /// Of all others.
    Strangers,
}

/// An answer that proves its credential.
struct Proof<'c> {
    at: At,
    credential: &'c str,
    /// Nothing kept it from the gateway.
    sure: bool,
}

impl Case {
    /// The bucket that a call of this tag drew on which left at `left`: waiting
    /// calls move with their credential, so its standing at that moment counts.
    pub(super) fn bucket(&self, tag: usize, left: At) -> Option<Bucket> {
        let said = self.said.get(&tag)?;
        let proofs = self.proofs(said);
        if proofs.iter().all(|proof| proof.at > left) || self.has_one_credential(said) {
            return Some(Bucket::Main);
        }
        let paid = left.saturating_sub(self.dial + 2 * TICK);
        let own = |proof: &Proof<'_>| proof.credential == said.credential;
        let sure = |proof: &Proof<'_>| proof.sure && proof.at < paid;
        if proofs.iter().any(|proof| own(proof) && proof.at <= left) {
            let is_known = proofs.iter().any(|proof| own(proof) && sure(proof));
            return is_known.then_some(Bucket::Main);
        }
        proofs.iter().any(sure).then_some(Bucket::Strangers)
    }

    /// Whether the call of this tag that left at `left` was surely paid for by a
    /// verified credential, or surely not; `None` where that is not told.
    pub(super) fn is_verified(&self, tag: usize, left: At) -> Option<bool> {
        let said = self.said.get(&tag)?;
        let proofs = self.proofs(said);
        let mut own = proofs.iter().filter(|it| it.credential == said.credential);
        let paid = left.saturating_sub(self.dial + 2 * TICK);
        if own.clone().all(|proof| proof.at > left) {
            return Some(false);
        }
        own.any(|proof| proof.sure && proof.at < paid)
            .then_some(true)
    }

    /// What the gateway may have learned about credentials, oldest first.
    fn proofs(&self, of: &Said) -> Vec<Proof<'_>> {
        let mut proofs: Vec<_> = self
            .seen
            .arrivals
            .iter()
            .filter_map(|arrival| {
                let said = self.said.get(&arrival.tag)?;
                let answer = arrival.answer.as_ref()?;
                let proves = (200..300).contains(&answer.status) && self.shares_account(said, of);
                proves.then(|| Proof {
                    at: answer.at,
                    credential: &said.credential,
                    sure: self.is_heard(arrival) && !answer.cut,
                })
            })
            .collect();
        proofs.sort_by_key(|proof| proof.at);
        proofs
    }

    /// Same instance, same class.
    pub(super) fn shares_account(&self, one: &Said, other: &Said) -> bool {
        let (class, instance, _) = self.budget(one);
        let budget = self.budget(other);
        class == budget.0 && instance == budget.1
    }

    fn has_one_credential(&self, of: &Said) -> bool {
        let mut all = self.said.values();
        all.all(|said| said.credential == of.credential || !self.shares_account(said, of))
    }
}
