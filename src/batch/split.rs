//! Which calls follow when the call of a batch is rejected (rule: splitting).
//!
//! A state machine without I/O. It knows the members of a batch by number: a
//! member is one caller, or several callers with the same ids: the request of any
//! of them serves all.
//!
//! ```text
//!  Recheck ──fails as before──────────────────────────────► Done (common)
//!     │ anything else
//!     ▼
//!   Whole ──rejected──► Sample ──three members (or all) fail alike──► Done (common)
//!                         │ one member succeeds, or fails otherwise
//!                         ▼
//!                       Halve ──────────────────────────────────────► Done
//! ```
//!
//! - **Whole**: one call for all members.
//! - **Sample**: is the failure common? One member after another is sent alone.
//!   Members are chosen so that the ones that failed have as few ids in common
//!   as possible: one bad id must never look like a common failure.
//! - **Halve**: the failure is not common. The members are sent in four parts, and
//!   rejected parts are halved until each rejected request is that of one member.
//! - **Recheck**: a common failure is remembered. One member is sent alone: if it
//!   fails as before, the failure lasts, and the batch has cost one call.
//!
//! Invariants: a member whose ids are all the ids of a call has the verdict of
//! that call, so no list is sent twice; there are never more calls than members
//! plus three; with one guilty member among n there are at most 2·log2(n) + 4;
//! a failure that is common costs at most four.

use std::collections::BTreeSet;

use super::rejection::Rejection;
use crate::receipt::IdHash;

/// The distinct ids of a member.
pub(super) type IdSet = BTreeSet<IdHash>;

/// A failure counts as common once this many members without a common id failed
/// alike, each sent alone. With the call for all members that makes four calls.
const SAMPLES: usize = 3;

/// The parts into which a batch is split.
const PARTS: usize = 4;

/// Calls beyond one for each member.
const EXTRA_CALLS: usize = 3;

/// The result of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A verdict for all members of the call.
    Settled,
    /// An id or the length of the list may be the cause.
    Rejected(Rejection),
    /// The call was not sent: the deadlines of all its callers had passed.
    Expired,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Recheck(Rejection),
    Whole,
    Sample,
    Halve,
    Done,
}

/// The members that failed alone, all in the same way.
#[derive(Debug, Default)]
struct AlikeFailures {
    rejection: Option<Rejection>,
    members: usize,
    /// The ids that all of them have. Each may be the one bad id, so a failure
    /// counts as common only when this is empty.
    suspects: IdSet,
}

/// The state of one batch.
#[derive(Debug)]
pub(super) struct Split {
    members: Vec<IdSet>,
    phase: Phase,
    /// The groups to be sent next, at the same time.
    next: Vec<Vec<usize>>,
    /// Members that wait for the results of the groups sent.
    rest: Vec<usize>,
    calls: usize,
    alike: AlikeFailures,
    /// A member succeeded alone or failed differently: the failure is not common.
    is_refuted: bool,
    common: Option<Rejection>,
}

impl Split {
    /// Begins with one call for all members.
    pub(super) fn new(members: Vec<IdSet>) -> Self {
        Self {
            next: vec![(0..members.len()).collect()],
            members,
            phase: Phase::Whole,
            rest: Vec::new(),
            calls: 0,
            alike: AlikeFailures::default(),
            is_refuted: false,
            common: None,
        }
    }

    /// Begins with `first` alone, because a common failure is remembered.
    pub(super) fn recheck(members: Vec<IdSet>, remembered: Rejection, first: usize) -> Self {
        let mut split = Self::new(members);
        split.phase = Phase::Recheck(remembered);
        split.rest = split.next.concat();
        split.rest.retain(|member| *member != first);
        split.next = vec![vec![first]];
        split
    }

    /// The groups to be sent now, each in one call; none when the split is over.
    /// Members in no later group keep the result of their last call.
    pub(super) fn round(&mut self) -> Vec<Vec<usize>> {
        let groups = std::mem::take(&mut self.next);
        let open = self.rest.len() + groups.iter().map(Vec::len).sum::<usize>();
        // Each open member may still need a separate call. A rejected call for several
        // members is additional.
        let spare = (self.members.len() + EXTRA_CALLS).saturating_sub(self.calls + open);
        // Without a bound, halving a batch of only guilty members would cost nearly
        // two calls for each of them.
        let mut shared = 0;
        let mut round = Vec::with_capacity(groups.len());
        for group in groups {
            if group.len() == 1 {
                round.push(group);
            } else if shared < spare {
                shared += 1;
                round.push(group);
            } else if shared > 0 {
                // Postponed: each group that succeeds in this round frees the calls
                // reserved for its members.
                self.next.push(group);
            } else {
                // No call to spare: only single members are certain to end the split.
                round.extend(group.into_iter().map(|member| vec![member]));
            }
        }
        self.calls += round.len();
        round
    }

    /// The member whose ids are all the ids of the call, so that a rejection of
    /// the call is its verdict. There is at most one: members differ in their ids.
    pub(super) fn owner(&self, call: &[usize]) -> Option<usize> {
        let ids = call.iter().flat_map(|member| &self.members[*member]);
        let all: BTreeSet<_> = ids.collect();
        // All its ids are in `all`, so equal sizes mean equal sets.
        let is_owner = |member: &usize| self.members[*member].len() == all.len();
        call.iter().copied().find(is_owner)
    }

    /// Takes the outcomes of the last round into account.
    pub(super) fn learn(&mut self, outcomes: Vec<(Vec<usize>, Outcome)>) {
        for (call, outcome) in outcomes {
            match self.phase {
                Phase::Recheck(remembered) => self.rechecked(&call, outcome, remembered),
                Phase::Whole => self.sent_whole(call, outcome),
                Phase::Sample => self.sampled(&call, outcome),
                Phase::Halve => self.sent_half(call, outcome),
                Phase::Done => {}
            }
        }
    }

    /// The failure that all members have in common, if there is one.
    pub(super) fn common(&self) -> Option<Rejection> {
        self.common
    }

    fn rechecked(&mut self, call: &[usize], outcome: Outcome, remembered: Rejection) {
        match outcome {
            Outcome::Rejected(rejection) if rejection == remembered => {
                return self.finish(Some(rejection));
            }
            // Another failure may be a new common one, or this member's own id: it
            // counts as the first sample.
            Outcome::Rejected(rejection) => self.failed_alone(rejection, call[0]),
            Outcome::Settled => self.is_refuted = true,
            Outcome::Expired => {}
        }
        self.phase = Phase::Whole;
        let rest = std::mem::take(&mut self.rest);
        self.next.extend((!rest.is_empty()).then_some(rest));
    }

    fn sent_whole(&mut self, call: Vec<usize>, outcome: Outcome) {
        match outcome {
            Outcome::Settled | Outcome::Expired => self.finish(None),
            Outcome::Rejected(rejection) => {
                let owner = self.owner(&call);
                if let Some(owner) = owner {
                    self.failed_alone(rejection, owner);
                } else if self.alike.rejection.is_none() {
                    // The samples must fail in the same way as the call for all.
                    self.alike.rejection = Some(rejection);
                } else if self.alike.rejection != Some(rejection) {
                    self.is_refuted = true;
                }
                self.rest = without(call, owner);
                self.sample_or_halve(owner.is_some());
            }
        }
    }

    fn sampled(&mut self, call: &[usize], outcome: Outcome) {
        match outcome {
            Outcome::Rejected(rejection) => self.failed_alone(rejection, call[0]),
            Outcome::Settled => self.is_refuted = true,
            Outcome::Expired => {}
        }
        let is_guilty = matches!(outcome, Outcome::Rejected(_));
        self.sample_or_halve(is_guilty || self.alike.members > 0);
    }

    /// Goes on with the members of `rest`. If a guilty member of their call was
    /// found, they may all be innocent: they are first sent together.
    fn sample_or_halve(&mut self, is_culprit_found: bool) {
        let AlikeFailures {
            rejection,
            members,
            suspects,
        } = &self.alike;
        let (rejection, members) = (*rejection, *members);
        // No single id can explain these failures.
        let is_independent = members > 1 && suspects.is_empty();
        if self.rest.is_empty() {
            // No member is left to sample: two independent failures are enough.
            return self.finish(rejection.filter(|_| is_independent && !self.is_refuted));
        }
        if !self.is_refuted {
            if is_independent && members >= SAMPLES {
                return self.finish(rejection);
            }
            let has_all = |member: &usize| suspects.is_subset(&self.members[*member]);
            if !suspects.is_empty() && self.rest.iter().all(has_all) {
                // Every other member has all suspects, the bad one included: its own
                // request must fail too, and no sample can tell more.
                return self.finish(None);
            }
            if members < SAMPLES {
                self.phase = Phase::Sample;
                let sample = self.pick();
                return self.next.push(vec![sample]);
            }
        }
        self.phase = Phase::Halve;
        let rest = std::mem::take(&mut self.rest);
        match is_culprit_found {
            true => self.next.push(rest),
            // Quarters, not halves. Two guilty members in two halves would reject
            // both, and no call would be left to spare; in quarters that is rare.
            false => {
                let part = rest.len().div_ceil(PARTS);
                self.next.extend(rest.chunks(part).map(<[usize]>::to_vec));
            }
        }
    }

    /// Removes from `rest` the member with the fewest suspects among its ids. On
    /// a tie: the first, then the last, then the middle one, because guilty
    /// members are often neighbours.
    fn pick(&mut self) -> usize {
        let length = self.rest.len();
        let from = [0, length - 1, length / 2][self.alike.members];
        let positions = (from..length).chain(0..from);
        let suspects = |position: &usize| {
            let ids = &self.members[self.rest[*position]];
            ids.intersection(&self.alike.suspects).count()
        };
        // `min_by_key` returns the first minimum, so the order decides ties.
        let position = positions.min_by_key(suspects).unwrap_or(0);
        self.rest.remove(position)
    }

    fn sent_half(&mut self, call: Vec<usize>, outcome: Outcome) {
        if let Outcome::Rejected(_) = outcome {
            let owner = self.owner(&call);
            self.halve(without(call, owner));
        }
    }

    fn halve(&mut self, mut group: Vec<usize>) {
        let later = group.split_off(group.len() / 2);
        let halves = [group, later].into_iter();
        self.next.extend(halves.filter(|half| !half.is_empty()));
    }

    fn failed_alone(&mut self, rejection: Rejection, member: usize) {
        let alike = &mut self.alike;
        if alike.rejection.is_some_and(|it| it != rejection) {
            self.is_refuted = true;
            return;
        }
        let ids = &self.members[member];
        alike.suspects = match alike.members {
            0 => ids.clone(),
            _ => alike.suspects.intersection(ids).copied().collect(),
        };
        alike.rejection = Some(rejection);
        alike.members += 1;
    }

    fn finish(&mut self, common: Option<Rejection>) {
        self.phase = Phase::Done;
        self.common = common;
    }
}

fn without(mut call: Vec<usize>, owner: Option<usize>) -> Vec<usize> {
    call.retain(|member| Some(*member) != owner);
    call
}

#[cfg(test)]
mod tests;
