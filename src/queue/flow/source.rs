//! Where the tokens of shared budgets come from.
//!
//! Invariant: a budget that changes its source gains no token.

use std::num::NonZeroU32;

use tokio::time::Instant;

use crate::config::Quota;
use crate::tokens::gcra::Gcra;

/// Where the tokens of shared budgets come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// This process: it is alone.
    Own,
    /// The server of a cluster.
    Server,
    /// This process, which has its part of each budget, among so many gateways.
    Part(NonZeroU32),
}

impl Source {
    /// A budget from this source.
    pub(super) fn quota(self, whole: Option<Quota>) -> Option<Quota> {
        match self {
            Self::Part(share) => whole.map(|whole| whole.part(share)),
            Self::Own | Self::Server => whole,
        }
    }

    /// A budget that came from another source before.
    pub(super) fn take_over(
        self,
        before: Self,
        budget: Gcra,
        whole: Option<Quota>,
        now: Instant,
    ) -> Gcra {
        let quota = self.quota(whole);
        let mut taken = Gcra::new(quota, now);
        match (before, self) {
            // Only the number of gateways is another, so debt is kept.
            (Self::Part(_), Self::Part(_)) => {
                taken = budget;
                taken.set_quota(quota, now);
            }
            // What the server lent last is on its way.
            (_, Self::Part(_)) => {
                let interval = quota.map(|quota| quota.interval());
                taken.empty_until(budget.due(now, 0) + interval.unwrap_or_default());
            }
            // Asserted with the next question, as the connection is another.
            (Self::Part(_), Self::Server) => taken.empty_until(budget.due(now, 0)),
            // The server knows what is owed, and its first reply says so.
            (_, Self::Own) | (Self::Own | Self::Server, Self::Server) => {}
        }
        taken
    }
}
