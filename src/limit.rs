//! Budgets: how fast each instance may be driven, and what waits for how long.
//!
//! Invariant: one token for each upstream call, taken here and nowhere else.
//! This module knows no paths and no headers: a request comes as an identity, a
//! class and a deadline. There are three levels between a request and its
//! token: the [`Limiter`] finds the account, the account chooses the bucket,
//! and the bucket takes the token or keeps the request in its queue.
//!
//! - [`registry`]: the accounts of a group of classes, bounded;
//! - [`lane`]: the access of a request to its account: its credential and its wait rules;
//! - [`account`]: which of its two buckets a credential draws on, by the
//!   verified credentials ([`Verified`](crate::identity::Verified));
//! - [`policy`]: where its buckets are served, and the share of an instance;
//! - [`credentials`]: which credentials the gateways of a cluster have verified;
//! - [`division`]: the part of one of several gateways in the other budgets;
//! - [`shadow`]: what enforcing would have done, where it is not enforced.
//!
//! Buckets and their queues are in [`queue`](crate::queue).

mod account;
mod credentials;
mod division;
mod lane;
mod policy;
mod registry;
mod shadow;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::time::Instant;

use division::ClusterSharing;
use lane::WaitRules;
pub(crate) use lane::{Admission, Lane, SharedBudget};
use policy::{Policy, Sharing};
use registry::Registry;
pub(crate) use shadow::{shadow_call, would_refuse};

use crate::cluster::Cluster;
use crate::config::{Classes, Config, LimitMode};
use crate::identity::{Identity, InstanceId};
use crate::observe::metrics::{BucketStatus, Metrics, Route};
use crate::queue::egress::{Egress, QueueLimits};
pub(crate) use crate::queue::request::{Completion, Kind, Permit, RateLimited, Refusal, Scope};

/// All budgets of the gateway.
#[derive(Debug)]
pub(crate) struct Limiter {
    rules: ArcSwap<Rules>,
    egress: Arc<Egress>,
    /// What several gateways share, if there are several.
    cluster: Option<ClusterSharing>,
    metrics: Arc<Metrics>,
}

/// The present limits; replaced whole on reload.
#[derive(Debug)]
pub(crate) struct Rules {
    classes: Arc<Classes>,
    wait: WaitRules,
    /// One for each group of `classes`; the first is that of the base limit.
    registries: Arc<[Arc<Registry>]>,
}

/// A token, and how long a request waited for it.
#[derive(Debug)]
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
    /// Calls in flight, where their number is bounded.
    pub(crate) in_flight: Option<usize>,
    /// The most calls that may be in flight; `None` where any number may.
    pub(crate) max_in_flight: Option<u32>,
    /// What waits there.
    pub(crate) waiting: Waiting,
    /// Seconds left of a pause.
    pub(crate) pause: f64,
}

/// How much waits for the tokens of a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Waiting {
    /// Requests that are no receipts.
    #[serde(rename = "calls")]
    pub(crate) requests: usize,
    /// Batches, each of which is one upstream call.
    pub(crate) receipts: usize,
}

impl Limiter {
    /// Opens full buckets under these settings.
    pub(crate) fn new(config: &Config, metrics: Arc<Metrics>) -> Self {
        Self::in_cluster(config, None, metrics)
    }

    /// As [`new`](Self::new), with buckets that several gateways share.
    pub(crate) fn in_cluster(
        config: &Config,
        cluster: Option<&Arc<Cluster>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        metrics.scraped().max_queue(config.limit.max_queue);
        let egress = Egress::new(config.egress.quota, config.limit.max_wait, cluster);
        let egress = Arc::new(egress);
        let cluster = cluster.map(|cluster| ClusterSharing::new(cluster, config));
        let rules = Rules::new(config, &egress, cluster.as_ref(), None);
        Self {
            rules: ArcSwap::from_pointee(rules),
            egress,
            cluster,
            metrics,
        }
    }

    /// Applies other settings. Groups of classes that keep their paths and methods,
    /// or the name of a class, keep their buckets, and buckets keep their debt and
    /// what waits (rule: reload).
    pub(crate) fn reconfigure(&self, config: &Config) {
        self.metrics.scraped().max_queue(config.limit.max_queue);
        let cluster = self.cluster.as_ref();
        if let Some(cluster) = cluster {
            cluster.set_whole(config);
        }
        let old = self.rules.load();
        let rules = Rules::new(config, &self.egress, cluster, Some(&old));
        self.rules.store(Arc::new(rules));
    }

    /// Keeps up with the other gateways, until the process ends.
    pub(crate) async fn follow_cluster(&self) {
        if let Some(cluster) = &self.cluster {
            let divide = cluster.on_division(|whole| self.reconfigure(whole));
            let verify = cluster.credentials.follow(|instance, change| {
                registry::verify(&self.rules.load().registries, instance, change);
            });
            let lease = Arc::clone(&self.egress).follow(&cluster.cluster);
            tokio::join!(cluster.buckets.follow(), divide, verify, lease);
        }
    }

    /// Opens the lane of a request that began under `rules`. `class` finds its class;
    /// `verifies` says whether a 2xx to it shows that the upstream accepts the
    /// credential for the instance.
    pub(crate) fn lane(
        &self,
        rules: &Rules,
        identity: &Identity,
        class: impl FnOnce(&Classes, Option<&InstanceId>) -> Option<usize>,
        verifies: bool,
    ) -> Lane {
        let class = class(&rules.classes, identity.instance.as_ref());
        let group = rules.classes.group_of(class);
        let account = rules.registries[group].account(identity, &rules.registries);
        let metrics = Arc::clone(&self.metrics);
        let credential = identity.credential;
        let lane = Lane::new(
            account,
            credential,
            verifies,
            (&rules.registries, group),
            rules.wait,
            metrics,
        );
        lane.ask_cluster();
        lane
    }

    /// Sets the gauges of tokens and pauses of each instance with a label, and of held slots.
    pub(crate) fn report(&self) {
        if let Some(cluster) = &self.cluster {
            cluster.buckets.report();
        }
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
            let class = registry.policy().limit_of(Some(instance)).class.clone();
            let account = registry.known(instance)?;
            account.with_main(|bucket| {
                let (tokens, paused) = bucket.status(now);
                let counts = bucket.waiting().map(|queue| queue.counts());
                let (requests, receipts) = counts.unwrap_or_default();
                Budget {
                    class,
                    tokens,
                    burst: bucket.quota().map(|quota| quota.burst.get()),
                    rate: bucket.quota().map(|quota| quota.rate),
                    in_flight: bucket.calls_in_flight(),
                    max_in_flight: bucket.in_flight().and_then(|it| Some(it.cap()?.get())),
                    waiting: Waiting { requests, receipts },
                    pause: paused.as_secs_f64(),
                }
            })
        });
        known.collect()
    }

    /// The present limits.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
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
    ) -> Result<Acquired, RateLimited> {
        let rules = lane.rules();
        let request = rules.token_request(kind, arrived, arrived + rules.max_wait);
        if rules.observes {
            self.shadow_admit(lane, request, route);
            return Ok(self.untracked(lane, route));
        }
        let ticket = match lane.admit(request)? {
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
    ) -> Result<Admission, RateLimited> {
        lane.admit(lane.rules().token_request(kind, Instant::now(), deadline))
    }

    /// Whether a request could be admitted now; takes nothing.
    ///
    /// # Errors
    /// As [`admit`](Self::admit).
    pub(crate) fn check(
        &self,
        lane: &Lane,
        kind: Kind,
        deadline: Instant,
    ) -> Result<(), RateLimited> {
        lane.check(lane.rules().token_request(kind, Instant::now(), deadline))
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
    pub(crate) fn too_late(&self, lane: &Lane) -> RateLimited {
        lane.too_late()
    }
}

impl Rules {
    /// Whether no request is held or refused.
    pub(crate) fn observes(&self) -> bool {
        self.wait.observes
    }

    fn new(
        config: &Config,
        egress: &Arc<Egress>,
        cluster: Option<&ClusterSharing>,
        old: Option<&Self>,
    ) -> Self {
        let divided = cluster.map(|cluster| cluster.divide(config));
        let config = divided.as_ref().map_or(config, |divided| &divided.named);
        let Config { limit, batch, .. } = config;
        let observes = limit.mode == LimitMode::Observe;
        if let Some(cluster) = cluster {
            cluster.cluster.set_observes(observes);
        }
        let is_limited = config.egress.quota.is_some();
        let sharing = Arc::new(Sharing::new(&config.tenants, egress, is_limited));
        let classes = Arc::new(Classes::new(config));
        let unnamed = divided
            .as_ref()
            .map(|divided| Arc::new(Classes::new(&divided.unnamed)));
        let registries = (0..classes.groups().len()).map(|group| {
            let policy = Policy {
                classes: Arc::clone(&classes),
                of_unnamed: Arc::clone(unnamed.as_ref().unwrap_or(&classes)),
                group,
                sharing: Arc::clone(&sharing),
                shared: cluster.map(|cluster| cluster.buckets.group(&classes.requests_of(group))),
                credentials: cluster.map(|cluster| Arc::clone(&cluster.credentials)),
                headers: limit.headers,
                max_delay: batch.max_delay,
            };
            let Some(known) = old.and_then(|old| old.registry_of(&classes, group)) else {
                return Arc::new(Registry::new(policy));
            };
            known.reconfigure(policy);
            Arc::clone(known)
        });
        let registries = registries.collect();
        egress.reconfigure(config.egress.quota, limit.max_wait, sharing.flows());
        Self {
            registries,
            classes,
            wait: WaitRules {
                max_wait: limit.max_wait,
                limits: QueueLimits {
                    max_delay: batch.max_delay,
                    max_queue: limit.max_queue,
                },
                observes,
            },
        }
    }

    /// The buckets that a group of later settings goes on with: those of the same
    /// requests, else those of a class of the same name whose requests no group has
    /// any more.
    fn registry_of(&self, later: &Classes, group: usize) -> Option<&Arc<Registry>> {
        let (requests, own) = (&later.groups()[group], self.classes.groups());
        let is_free = |index: &usize| *index > 0 && !later.groups().contains(&own[*index]);
        let same = own.iter().position(|known| known == requests);
        let shares_name = |index: usize, group: usize| {
            let mut names = self.classes.names_of(index);
            names.any(|name| later.names_of(group).any(|later| later == name))
        };
        let same = same.or_else(|| {
            let mut free = (0..own.len()).filter(is_free);
            // Of two groups that could go on with it, the first does.
            free.find(|&index| {
                shares_name(index, group) && !(0..group).any(|earlier| shares_name(index, earlier))
            })
        });
        same.map(|index| &self.registries[index])
    }
}
