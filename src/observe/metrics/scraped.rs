//! Figures that are read off when somebody scrapes, and those of the drain.
//!
//! Invariant: none of them costs a call anything; whoever asks for the
//! exposition has them set first ([`Gateway::exposition`]).
//!
//! [`Gateway::exposition`]: crate::gateway::Gateway::exposition

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::{Gauge, GaugeVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::Metrics;
use super::make::{VALID, gauge, register};

/// What is known of a budget at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Standing {
    /// Tokens left; `None` where there is no limit.
    pub(crate) tokens: Option<f64>,
    /// What is left of a pause.
    pub(crate) paused: Duration,
}

/// The gauges that are set at a scrape, and those of the drain.
#[derive(Debug)]
pub(crate) struct Scraped {
    tokens: GaugeVec,
    paused: GaugeVec,
    max_queue: IntGauge,
    idle: IntGauge,
    active: IntGauge,
    draining: IntGauge,
    drain_deadline: Gauge,
}

impl Standing {
    /// Of two budgets of one instance the one that holds it up more.
    #[must_use]
    pub(crate) fn scarcer(self, other: Self) -> Self {
        let tokens = match (self.tokens, other.tokens) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Self {
            tokens,
            paused: self.paused.max(other.paused),
        }
    }
}

impl Scraped {
    pub(super) fn new(registry: &Registry) -> Self {
        let by_instance = |name, help| {
            let vec = GaugeVec::new(Opts::new(name, help), &["instance"]).expect(VALID);
            register(registry, &vec);
            vec
        };
        let connections = IntGaugeVec::new(
            Opts::new(
                "wawp_gateway_upstream_connections",
                "Open connections to the upstream, by state.",
            ),
            &["state"],
        )
        .expect(VALID);
        register(registry, &connections);
        let drain_deadline = Gauge::new(
            "wawp_gateway_drain_deadline_timestamp_seconds",
            "When a drain will cut what has not ended, as Unix time; 0 while there is none.",
        )
        .expect(VALID);
        register(registry, &drain_deadline);
        Self {
            tokens: by_instance(
                "wawp_gateway_limit_tokens",
                "Tokens left in the scarcest budget of an instance.",
            ),
            paused: by_instance(
                "wawp_gateway_limit_paused",
                "Seconds left of the pause after an upstream 429, by instance; 0 = none.",
            ),
            max_queue: gauge(
                registry,
                "wawp_gateway_limit_max_queue",
                "Calls that may wait in one line: limit.max_queue.",
            ),
            idle: connections.with_label_values(&["idle"]),
            active: connections.with_label_values(&["active"]),
            draining: gauge(
                registry,
                "wawp_gateway_draining",
                "1 while the gateway ends what it has accepted and takes no more, else 0.",
            ),
            drain_deadline,
        }
    }

    pub(crate) fn max_queue(&self, calls: usize) {
        self.max_queue.set(whole(calls));
    }

    pub(crate) fn upstream_connections(&self, idle: usize, active: usize) {
        self.idle.set(whole(idle));
        self.active.set(whole(active));
    }

    /// A drain has begun.
    pub(crate) fn draining(&self) {
        self.draining.set(1);
    }

    /// The drain will cut what is left after this time.
    pub(crate) fn drain_deadline(&self, timeout: Duration) {
        let deadline = (SystemTime::now() + timeout).duration_since(UNIX_EPOCH);
        self.drain_deadline
            .set(deadline.unwrap_or_default().as_secs_f64());
    }
}

impl Metrics {
    /// The gauges that are set at a scrape, and those of the drain.
    pub(crate) fn scraped(&self) -> &Scraped {
        &self.scraped
    }

    /// Asks how each instance with a label stands, and sets its gauges.
    pub(crate) fn stand(&self, standing: impl Fn(&str) -> Standing) {
        for series in self.named_instances() {
            let name = &*series.name;
            let standing = standing(name);
            let paused = self.scraped.paused.with_label_values(&[name]);
            paused.set(standing.paused.as_secs_f64());
            match standing.tokens {
                Some(tokens) => self.scraped.tokens.with_label_values(&[name]).set(tokens),
                // A reload has lifted the limit; or there never was one.
                None => drop(self.scraped.tokens.remove_label_values(&[name])),
            }
        }
    }
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
