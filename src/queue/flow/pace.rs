//! How fast the calls of a flow follow each other.
//!
//! Invariant: as slow as it can be. All flows that were active lately use their
//! shares.

use tokio::time::Instant;

use super::{FlowId, Flows, Source};
use crate::tokens::gcra::Gcra;

/// How fast the calls of a flow follow each other while all active flows use
/// their shares.
pub(crate) struct Pace {
    egress: Gcra,
    own: Gcra,
    now: Instant,
    /// Calls of other flows before the first call of this flow.
    ahead: u32,
    /// Calls of other flows for each call of this flow.
    between: f64,
}

impl Flows {
    /// The pace of a flow from now on.
    pub(crate) fn pace(&self, id: FlowId, now: Instant) -> Option<Pace> {
        let flow = self.flows.get(&id)?;
        let tag = self.start_tag(id);
        let mut ahead = 0_u32;
        let mut weights = 0.0;
        // What a server lends to a flow is for no other.
        if self.source != Source::Server {
            for (other, calls) in self.other_active_flows(id, tag, now) {
                ahead = ahead.saturating_add(calls);
                weights += f64::from(other.weight.get());
            }
        }
        let [egress, own] = self.expected(flow, now);
        Some(Pace {
            egress,
            own,
            now,
            ahead,
            between: weights / f64::from(flow.weight.get()),
        })
    }
}

impl Pace {
    /// The time of the n-th call from now on.
    pub(crate) fn slot_at(&self, n: u32) -> Instant {
        // Rounded up: a pace that is too fast would make a request late.
        let others = (f64::from(n) * self.between).ceil() as u32;
        let before = n.saturating_add(self.ahead).saturating_add(others);
        let egress = self.egress.due(self.now, before);
        egress.max(self.own.due(self.now, n))
    }
}
