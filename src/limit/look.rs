//! What an operator sees of the budgets.
//!
//! Invariant: looking takes no token, opens no account and holds a lock no
//! longer than a call would.

use serde::Serialize;
use tokio::time::Instant;

use super::Limiter;

/// One bucket as it stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Budget {
    /// The `[[limit.class]]` it belongs to; none is the base limit.
    pub(crate) class: Option<Box<str>>,
    /// Tokens left; none where the rate is unlimited.
    pub(crate) tokens: Option<f64>,
    /// The most there can be.
    pub(crate) burst: Option<u32>,
    /// Tokens that come back in a second.
    pub(crate) rate: Option<f64>,
    /// Calls in its line.
    pub(crate) waiting: Waiting,
    /// Seconds that the upstream still wants to be left alone.
    pub(crate) pause: f64,
}

/// Who waits for a bucket's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Waiting {
    pub(crate) calls: usize,
    /// Batches, each of which is one call.
    pub(crate) receipts: usize,
}

impl Limiter {
    /// The budgets of an instance that has drawn on them: the base limit's and
    /// each class's, as accepted credentials meet them.
    pub(crate) fn budgets(&self, instance: &str) -> Vec<Budget> {
        let now = Instant::now();
        let rules = self.rules.load();
        let known = rules.tables.iter().filter_map(|table| {
            let class = (!table.name.is_empty()).then(|| table.name.clone());
            Some(table.known(instance)?.look(class, now))
        });
        known.collect()
    }
}
