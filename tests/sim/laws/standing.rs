//! Which of its instance's two buckets a call drew on (design §3.1, §7.3), as
//! far as it can be told from outside.
//!
//! Invariant: where two things happen at one moment, or an answer may not have
//! got through, or calls of the same credential may still wait in the other
//! line, nothing is told.

use super::{Case, TICK};
use crate::client::{Ending, Outcome};
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
    /// The bucket that a call of this tag drew on which left at `left`.
    pub(super) fn bucket(&self, tag: usize, left: At) -> Option<Bucket> {
        let said = self.said.get(&tag)?;
        let asked = self.outcome(tag)?.sent;
        // A receipt has the bucket of its batch, which may be older.
        let asked = match said.is_receipt() {
            true => asked.saturating_sub(2 * self.config.limit.max_wait),
            false => asked,
        };
        let proofs = self.proofs(said);
        if proofs.iter().all(|proof| proof.at > left) || self.has_one_credential(said) {
            return Some(Bucket::Main);
        }
        let own = |proof: &Proof<'_>| proof.credential == said.credential;
        let sure = |proof: &Proof<'_>| proof.sure && proof.at < asked;
        let (bucket, proof) = if proofs.iter().any(|proof| own(proof) && proof.at <= left) {
            let proof = proofs.iter().find(|proof| own(proof) && sure(proof))?;
            (Bucket::Main, proof)
        } else {
            (Bucket::Strangers, proofs.iter().find(|proof| sure(proof))?)
        };
        self.had_nobody_waiting(said, proof.at, asked)
            .then_some(bucket)
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

    /// Whether, at some moment between the two, no call of this credential
    /// waited: then it is where its standing puts it.
    fn had_nobody_waiting(&self, said: &Said, from: At, to: At) -> bool {
        let waits: Vec<_> = self
            .seen
            .outcomes
            .iter()
            .filter(|outcome| {
                let other = &self.said[&outcome.step.tag];
                other.credential == said.credential && self.shares_account(other, said)
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

    /// When at the latest a call no longer waited in line.
    fn waited_until(&self, outcome: &Outcome) -> At {
        let tag = outcome.step.tag;
        let arrivals = self.seen.arrivals.iter();
        let last = arrivals
            .filter(|arrival| arrival.tag == tag)
            .map(|arrival| arrival.at)
            .max();
        match (&outcome.ending, last) {
            (_, Some(last)) if !self.said[&tag].is_receipt() => last,
            // Its call waits on without it, and may be sent again.
            (Ending::Left, last) => {
                let latest = outcome.sent + 2 * self.config.limit.max_wait;
                last.unwrap_or_default().max(latest)
            }
            (_, last) => last.unwrap_or_default().max(outcome.ended),
        }
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
