//! Budgets: how fast each instance may be driven, and what waits for how long.
//!
//! Invariant: one token for each upstream call, taken here and nowhere else.
//! This module knows no paths and no headers: a request comes as an identity, a
//! class and a deadline. There are three levels between a request and its
//! token: the [`Limiter`] finds the account, the account chooses the bucket,
//! and the bucket takes the token or keeps the request in its queue.
//!
//! - [`registry`]: the accounts of a class, bounded; [`lane`]: access to one;
//! - [`account`]: which of its two buckets a credential draws on, by the
//!   [`verified`] credentials;
//! - [`bucket`]: tokens and wait queue; [`gcra`] and [`mod@pause`]: the tokens;
//!   [`queue`]: what is next at a bucket;
//! - [`shared`]: what is next where buckets share a budget, by the [`flow`] of
//!   their tenant; [`egress`]: the task that serves it; [`policy`]: the share of
//!   an instance;
//! - [`forecast`]: when a newcomer would be served, and whether it is admitted;
//! - [`shadow`]: what enforcing would have done, where it is not enforced.

mod account;
mod bucket;
mod egress;
mod flow;
mod forecast;
mod gcra;
mod lane;
mod pause;
mod policy;
mod queue;
mod registry;
mod shadow;
mod shared;
mod verified;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use serde::Serialize;
use tokio::time::Instant;

pub(crate) use bucket::{Bucket, next_ticket};
use egress::{Egress, QueueLimits};
pub(crate) use forecast::admit as admit_at;
use lane::TokenRequest;
pub(crate) use lane::{Admission, Lane, SharedBudget};
use policy::{Policy, Sharing};
pub(crate) use queue::{Completion, Kind, Newcomer, Permit, Refusal, Refused, Scope};
use registry::Registry;
pub(crate) use shadow::would_refuse;

use crate::config::{self, Config, LimitMode};
use crate::identity::Identity;
use crate::observe::metrics::{BucketStatus, Metrics, Reason, Route};

/// The name of the base limit: no class can have it.
const BASE: &str = "";

/// All budgets of the gateway.
#[derive(Debug)]
pub(crate) struct Limiter {
    rules: ArcSwap<Rules>,
    egress: Arc<Egress>,
    metrics: Arc<Metrics>,
}

/// The present limits; replaced whole on reload.
#[derive(Debug)]
pub(crate) struct Rules {
    limit: config::Limit,
    pub(crate) max_wait: Duration,
    limits: QueueLimits,
    /// No request is held or refused: shadow requests draw on the buckets.
    pub(crate) observes: bool,
    /// The base limit, then one registry per class in the order of the settings.
    registries: Vec<Arc<Registry>>,
}

/// A token, and how long a request waited for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acquired {
    /// The token.
    pub(crate) permit: Permit,
    /// Time in the queue; `None` for a request that found a token at once.
    pub(crate) waited: Option<Duration>,
}

/// One bucket as an operator sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Budget {
    /// The `[[limit.class]]` it belongs to; `None` is the base limit.
    pub(crate) class: Option<Box<str>>,
    /// Tokens left; `None` where the rate is unlimited.
    pub(crate) tokens: Option<f64>,
    /// Tokens in a full bucket.
    pub(crate) burst: Option<u32>,
    /// Tokens per second.
    pub(crate) rate: Option<f64>,
    /// What waits there.
    pub(crate) waiting: Waiting,
    /// Seconds left of a pause.
    pub(crate) pause: f64,
}

/// What waits for the tokens of a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Waiting {
    /// Requests.
    pub(crate) calls: usize,
    /// Batches, each of which is one upstream call.
    pub(crate) receipts: usize,
}

impl Refusal {
    /// The metric label for this refusal.
    pub(crate) fn reason(self) -> Reason {
        match self {
            Self::QueueFull => Reason::QueueFull,
            Self::WaitTooLong => Reason::MaxWait,
            Self::Paused => Reason::Paused,
        }
    }
}

impl Limiter {
    /// Opens full buckets under these settings.
    pub(crate) fn new(config: &Config, metrics: Arc<Metrics>) -> Self {
        metrics.scraped().max_queue(config.limit.max_queue);
        let egress = Egress::new(config.egress.quota, config.limit.max_wait);
        let egress = Arc::new(egress);
        Self {
            rules: ArcSwap::from_pointee(Rules::new(config, &egress, None)),
            egress,
            metrics,
        }
    }

    /// Applies other settings. Classes that keep their name keep their buckets,
    /// and buckets keep their debt.
    pub(crate) fn reconfigure(&self, config: &Config) {
        self.metrics.scraped().max_queue(config.limit.max_queue);
        let old = self.rules.load();
        let rules = Rules::new(config, &self.egress, Some(&old));
        self.rules.store(Arc::new(rules));
    }

    /// Finds the lane of a request. `class` names its class by the settings;
    /// `verifies` says whether a 2xx to it shows that the upstream accepts the
    /// credential for the instance.
    pub(crate) fn lane(
        &self,
        identity: &Identity,
        class: impl FnOnce(&config::Limit) -> Option<usize>,
        verifies: bool,
    ) -> Lane {
        let rules = self.rules.load();
        let class = class(&rules.limit).map_or(0, |class| class + 1);
        let registry = &rules.registries[class];
        let account = registry.account(identity);
        let metrics = Arc::clone(&self.metrics);
        Lane::new(account, identity.credential, verifies, registry, metrics)
    }

    /// Sets the gauges of tokens and pauses of each instance with a label.
    pub(crate) fn report(&self) {
        let (rules, now) = (self.rules.load(), Instant::now());
        self.metrics.set_bucket_gauges(|instance| {
            let registries = rules.registries.iter();
            registries
                .map(|registry| registry.status(instance, now))
                .fold(BucketStatus::default(), BucketStatus::scarcer)
        });
    }

    /// The budgets of an instance that has an account: the base limit's and
    /// each class's, as verified credentials meet them.
    pub(crate) fn budgets(&self, instance: &str) -> Vec<Budget> {
        let now = Instant::now();
        let rules = self.rules.load();
        let known = rules.registries.iter().filter_map(|registry| {
            let class = (!registry.name.is_empty()).then(|| registry.name.clone());
            let account = registry.known(instance)?;
            account.with_main(|bucket| {
                let (tokens, paused) = bucket.status(now);
                let counts = bucket.waiting().map(|queue| queue.counts());
                let (calls, receipts) = counts.unwrap_or_default();
                Budget {
                    class,
                    tokens,
                    burst: bucket.quota().map(|quota| quota.burst.get()),
                    rate: bucket.quota().map(|quota| quota.rate),
                    waiting: Waiting { calls, receipts },
                    pause: paused.as_secs_f64(),
                }
            })
        });
        known.collect()
    }

    /// The present limits, to be read and not kept.
    pub(crate) fn rules(&self) -> Guard<Arc<Rules>> {
        self.rules.load()
    }

    /// Takes a token for a request of this lane, waiting in the queue for it.
    /// The time limit of the wait counts from `arrived`.
    ///
    /// # Errors
    /// The queue is full, or no token can be had within `limit.max_wait`.
    /// Refused on arrival; later only if a pause, a changed rate or another
    /// tenant's calls make it miss its deadline.
    pub(crate) async fn acquire(
        &self,
        lane: &Lane,
        kind: Kind,
        arrived: Instant,
        route: Route,
    ) -> Result<Acquired, Refused> {
        let admission = {
            let rules = self.rules.load();
            let request = rules.token_request(kind, arrived, arrived + rules.max_wait);
            if rules.observes {
                self.shadow_admit(lane, request, route);
                return Ok(self.untracked(route));
            }
            lane.admit(request)?
        };
        let ticket = match admission {
            Admission::Now(permit) => return Ok(self.record_wait(permit, None, route)),
            Admission::Queued(ticket) => ticket,
        };
        // Boxed: most requests find a token and never hold a ticket.
        let permit = Box::pin(ticket).await?;
        Ok(self.record_wait(permit, Some(arrived.elapsed()), route))
    }

    /// Takes a token or a queue position, for a caller that waits in its own way
    /// and then calls [`record_wait`](Self::record_wait).
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire). A [`Kind::FollowUp`] is refused only where its
    /// deadline lies within a pause.
    pub(crate) fn admit(
        &self,
        lane: &Lane,
        kind: Kind,
        deadline: Instant,
    ) -> Result<Admission, Refused> {
        let rules = self.rules.load();
        lane.admit(rules.token_request(kind, Instant::now(), deadline))
    }

    /// Whether a request could be admitted now; takes nothing.
    ///
    /// # Errors
    /// As [`admit`](Self::admit).
    pub(crate) fn check(&self, lane: &Lane, kind: Kind, deadline: Instant) -> Result<(), Refused> {
        let rules = self.rules.load();
        lane.check(rules.token_request(kind, Instant::now(), deadline))
    }

    /// Records the wait in the metrics.
    pub(crate) fn record_wait(
        &self,
        permit: Permit,
        waited: Option<Duration>,
        route: Route,
    ) -> Acquired {
        let seconds = waited.unwrap_or_default().as_secs_f64();
        self.metrics.limit_wait(route).observe(seconds);
        Acquired { permit, waited }
    }

    /// The refusal of a request whose deadline came while it waited.
    pub(crate) fn too_late(&self, lane: &Lane) -> Refused {
        lane.too_late()
    }
}

impl Rules {
    fn new(config: &Config, egress: &Arc<Egress>, old: Option<&Self>) -> Self {
        let Config { limit, batch, .. } = config;
        let is_limited = config.egress.quota.is_some();
        let sharing = Arc::new(Sharing::new(&config.tenants, egress, is_limited));
        let known = old.and_then(|old| old.registries.split_first());
        let registry = |name: &str, quota| {
            let policy = Policy {
                quota,
                sharing: Arc::clone(&sharing),
                headers: limit.headers,
                max_delay: batch.max_delay,
            };
            let known = known.and_then(|(base, classes)| match name {
                BASE => Some(base),
                name => classes.iter().find(|class| *class.name == *name),
            });
            let Some(registry) = known else {
                return Arc::new(Registry::new(name, policy));
            };
            registry.reconfigure(policy);
            Arc::clone(registry)
        };
        let base = std::iter::once(registry(BASE, limit.quota));
        let classes = limit.classes.iter();
        let classes = classes.map(|class| registry(&class.name, class.quota));
        let registries = base.chain(classes).collect();
        egress.reconfigure(config.egress.quota, limit.max_wait, sharing.flows());
        Self {
            registries,
            limit: limit.clone(),
            max_wait: limit.max_wait,
            limits: QueueLimits {
                max_delay: batch.max_delay,
                max_queue: limit.max_queue,
            },
            observes: limit.mode == LimitMode::Observe,
        }
    }

    fn token_request(&self, kind: Kind, now: Instant, deadline: Instant) -> TokenRequest {
        TokenRequest {
            kind,
            now,
            deadline,
            limits: self.limits,
            is_shadow: self.observes,
        }
    }
}
