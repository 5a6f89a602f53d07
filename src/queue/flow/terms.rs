//! The script that lends tokens: what it is asked, and what it returns.
//!
//! Invariant: of a reply that the script cannot have returned, nothing is used.

use std::time::Duration;

use tokio::time::Instant;

use super::FlowId;
use crate::cluster::micros;
use crate::config::Quota;
use crate::tokens::gcra::Gcra;
use crate::tokens::micros::{LONGEST, are_exact, limit_of, offset, quota_of};

/// A question for the tokens of some flows.
#[derive(Debug, Default)]
pub(crate) struct LeaseQuestion {
    pub(super) flows: Vec<AskedFlow>,
    is_limited: bool,
    /// Those of the egress and of the flows.
    pub(crate) arguments: Vec<i64>,
}

/// One flow in a question.
#[derive(Clone, Copy, Debug)]
pub(super) struct AskedFlow {
    pub(super) id: FlowId,
    /// How many slots it needs.
    pub(super) missing: u32,
    is_limited: bool,
}

/// The reply to a question.
#[derive(Debug)]
pub(super) struct LeaseReply {
    pub(super) birth: i64,
    /// `None` where it is unlimited.
    pub(super) egress: Option<Terms>,
    /// The weights of the flows that wait for the egress, in sum.
    pub(super) weights: u32,
    /// In the order of the question.
    pub(super) flows: Vec<LentFlow>,
}

/// What is lent to a flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct LentFlow {
    pub(super) count: u32,
    /// How many of its requests wait on other gateways.
    pub(super) elsewhere: u32,
    /// Its own budget, if it has one.
    pub(super) own: Option<Terms>,
}

/// A budget on the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    tat: i64,
    between: i64,
    spare: i64,
}

impl LeaseQuestion {
    /// Begins with the egress, as far as it is known.
    pub(super) fn new(egress: &Gcra, quota: Option<Quota>, now: Instant) -> Self {
        Self {
            flows: Vec::new(),
            is_limited: quota.is_some(),
            arguments: budget(egress, quota, now).to_vec(),
        }
    }

    /// Adds a flow, with its own budget as far as it is known.
    pub(super) fn push(
        &mut self,
        (id, weight): (FlowId, u32),
        (missing, waited): (u32, Duration),
        (known, quota): (&Gcra, Option<Quota>),
        now: Instant,
    ) {
        let wants = [i64::from(weight), i64::from(missing), micros(waited)];
        self.arguments.extend(wants);
        self.arguments.extend(budget(known, quota, now));
        self.flows.push(AskedFlow {
            id,
            missing,
            is_limited: quota.is_some(),
        });
    }

    /// The flows that it is about.
    pub(crate) fn flows(&self) -> impl Iterator<Item = FlowId> {
        self.flows.iter().map(|flow| flow.id)
    }

    /// Reads a reply; `None` if the script cannot have returned it.
    pub(super) fn read(&self, reply: &[i64]) -> Option<LeaseReply> {
        let (&[birth, tat, between, spare, weights], flows) = reply.split_first_chunk::<5>()?;
        let (flows, rest) = flows.as_chunks::<5>();
        // Numbers belong to flows by their position only.
        if flows.len() != self.flows.len() || !rest.is_empty() || !are_exact(reply) {
            return None;
        }
        let flows = self.flows.iter().zip(flows);
        Some(LeaseReply {
            birth,
            egress: Terms::read(self.is_limited, [tat, between, spare])?,
            weights: u32::try_from(weights).ok()?,
            flows: flows
                .map(|(asked, lent)| asked.read(lent))
                .collect::<Option<_>>()?,
        })
    }
}

impl AskedFlow {
    fn read(&self, &[count, elsewhere, tat, between, spare]: &[i64; 5]) -> Option<LentFlow> {
        Some(LentFlow {
            count: u32::try_from(count).ok().filter(|it| *it <= self.missing)?,
            elsewhere: u32::try_from(elsewhere).ok()?,
            own: Terms::read(self.is_limited, [tat, between, spare])?,
        })
    }
}

impl Terms {
    fn read(is_limited: bool, [tat, between, spare]: [i64; 3]) -> Option<Option<Self>> {
        if !is_limited {
            return Some(None);
        }
        // `between` is a divisor. A time without a bound would stop a flow for ever.
        let is_sane = (1..=LONGEST).contains(&between) && spare >= 0 && tat - spare <= LONGEST;
        is_sane.then_some(Some(Self {
            tat,
            between,
            spare,
        }))
    }

    /// From now, when the n-th last slot is due that was lent.
    pub(super) fn slot(&self, n: u32) -> i64 {
        self.tat - self.spare - i64::from(n) * self.between
    }

    /// The budget as it is after what was lent.
    pub(super) fn budget(&self, now: Instant) -> Gcra {
        // The limit of the server: the strictest of all gateways,
        // and slower while some are missing.
        let quota = quota_of(self.between, self.spare);
        Gcra::new(Some(quota), offset(now, self.tat.max(0)))
    }
}

/// How much later than now all tokens will be back, and the limit.
fn budget(known: &Gcra, quota: Option<Quota>, now: Instant) -> [i64; 3] {
    let known = micros(known.full().saturating_duration_since(now));
    match quota.map(limit_of) {
        Some([interval, spare]) => [known, interval, spare],
        None => [0; 3],
    }
}
