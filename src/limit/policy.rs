//! The settings that the accounts of a class are held to, the share of the shared
//! budgets that an instance draws on (rules: egress, tenants), and a bucket with
//! its share.
//!
//! Invariant: where neither the egress nor the tenant has a budget, nothing is
//! shared and a bucket has no [`Share`].

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::credentials::SharedCredentials;
use crate::config::{self, Classes, InstanceLimit};
use crate::queue::bucket::Bucket;
use crate::queue::egress::{Egress, FlowSpec, QueueLimits, Sender, Share};
use crate::queue::forecast;
use crate::queue::request::{BucketRole, Newcomer, Permit, RateLimited};
use crate::queue::shared_queue::EntryId;
use crate::tokens::{BucketName, SharedGroup};

/// The flow of all unverified credentials together: settings cannot name it.
const UNVERIFIED: &str = "?";

/// The settings of one group of classes; replaced whole on reload.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) classes: Arc<Classes>,
    /// The same for requests that name no instance.
    pub(super) of_unnamed: Arc<Classes>,
    /// Which group of `classes`.
    pub(super) group: usize,
    pub(super) sharing: Arc<Sharing>,
    /// The buckets that several gateways share, if they do.
    pub(super) shared: Option<SharedGroup>,
    /// The credentials that they have verified.
    pub(super) credentials: Option<Arc<SharedCredentials>>,
    /// Whether responses carry `RateLimit` headers.
    pub(super) headers: bool,
    /// `batch.max_delay`.
    pub(super) max_delay: Duration,
}

impl Policy {
    /// The limit of an instance in this group.
    pub(super) fn limit_of(&self, instance: Option<&str>) -> &InstanceLimit {
        let classes = match instance {
            Some(_) => &self.classes,
            None => &self.of_unnamed,
        };
        classes.limit_of(self.group, instance)
    }

    /// What a bucket of an instance is called among several gateways; `None` where it belongs to
    /// this one alone.
    pub(super) fn name_of(&self, instance: Option<&str>, role: BucketRole) -> Option<BucketName> {
        let role = match role {
            BucketRole::Main => "main",
            BucketRole::Unverified => "unverified",
        };
        Some(self.shared.as_ref()?.name(instance?, role))
    }
}

/// The present shares; replaced whole on reload.
#[derive(Debug)]
pub(super) struct Sharing {
    egress: Arc<Egress>,
    /// `[egress]` has a rate: then every upstream call counts.
    egress_is_limited: bool,
    /// The configured tenants, by instance.
    tenants: HashMap<Box<str>, Tenant>,
    unverified: Arc<FlowSpec>,
}

/// A configured tenant.
#[derive(Clone, Debug)]
struct Tenant {
    flow: Arc<FlowSpec>,
    /// For unverified credentials of its instances, if the tenant has a budget:
    /// a second budget of the same size, so that a made-up credential neither
    /// gets around the tenant's budget nor uses it up.
    unverified: Option<Arc<FlowSpec>>,
}

impl Sharing {
    /// Opens the shares of these settings; the egress keeps its debt.
    pub(super) fn new(
        tenants: &[config::Tenant],
        egress: &Arc<Egress>,
        egress_is_limited: bool,
    ) -> Self {
        let spec = |name: String, weight, quota| {
            Arc::new(FlowSpec {
                name: Arc::from(name),
                weight,
                quota,
            })
        };
        let mut by_instance = HashMap::new();
        for settings in tenants {
            let unverified = || {
                let name = format!("{UNVERIFIED}/{}", settings.name);
                spec(name, NonZeroU32::MIN, settings.quota)
            };
            let tenant = Tenant {
                flow: spec(settings.name.clone(), settings.weight, settings.quota),
                unverified: settings.quota.is_some().then(unverified),
            };
            for instance in &settings.instances {
                by_instance.insert(Box::from(&**instance), tenant.clone());
            }
        }
        Self {
            egress: Arc::clone(egress),
            egress_is_limited,
            tenants: by_instance,
            unverified: spec(UNVERIFIED.to_owned(), NonZeroU32::MIN, None),
        }
    }

    /// All flows that the settings name; one may come several times.
    pub(super) fn flows(&self) -> impl Iterator<Item = &Arc<FlowSpec>> {
        let of_tenants = self.tenants.values().flat_map(|tenant| {
            let unverified = tenant.unverified.as_ref();
            std::iter::once(&tenant.flow).chain(unverified)
        });
        of_tenants.chain(std::iter::once(&self.unverified))
    }

    /// The share of an instance's verified credentials: its tenant's, else one
    /// of its own.
    pub(super) fn of_verified(&self, instance: Option<&str>) -> Option<Arc<Share>> {
        let Some(instance) = instance else {
            return self.of_unverified(None);
        };
        match self.tenants.get(instance) {
            Some(tenant) if self.egress_is_limited || tenant.flow.quota.is_some() => {
                self.share(&tenant.flow)
            }
            None if self.egress_is_limited => self.share(&Arc::new(FlowSpec {
                // No tenant's name holds a slash.
                name: Arc::from(format!("instance/{instance}")),
                weight: NonZeroU32::MIN,
                quota: None,
            })),
            // Nothing is shared, and a share would only cost a lock.
            _ => None,
        }
    }

    /// The share of an instance's other credentials: never the tenant's own.
    pub(super) fn of_unverified(&self, instance: Option<&str>) -> Option<Arc<Share>> {
        let tenant = instance.and_then(|instance| self.tenants.get(instance));
        match tenant.and_then(|tenant| tenant.unverified.as_ref()) {
            Some(of_tenant) => self.share(of_tenant),
            None if self.egress_is_limited => self.share(&self.unverified),
            None => None,
        }
    }

    fn share(&self, flow: &Arc<FlowSpec>) -> Option<Arc<Share>> {
        Some(Arc::new(Share {
            egress: Arc::clone(&self.egress),
            flow: Arc::clone(flow),
        }))
    }
}

/// A bucket, wherever it is kept, and its share of the shared budgets.
#[derive(Debug)]
pub(super) struct BucketHandle {
    pub(super) location: BucketLocation,
    pub(super) share: Option<Arc<Share>>,
}

/// Where a bucket is kept.
#[derive(Debug)]
pub(super) enum BucketLocation {
    /// In the account.
    InAccount(Bucket<Sender>),
    /// In the egress, among those that wait for shared budgets.
    InEgress(Arc<Egress>, EntryId),
}

impl BucketHandle {
    pub(super) fn new(
        policy: &Policy,
        instance: Option<&str>,
        share: Option<Arc<Share>>,
        role: BucketRole,
    ) -> Self {
        let (limit, name) = (policy.limit_of(instance), policy.name_of(instance, role));
        let bucket = Bucket::new(limit, name, role, Instant::now());
        Self {
            location: BucketLocation::InAccount(bucket),
            share,
        }
    }

    /// Takes the tokens for a request that need not wait.
    pub(super) fn try_acquire(&mut self, newcomer: &Newcomer) -> Option<Permit> {
        match (&mut self.location, &self.share) {
            (BucketLocation::InAccount(bucket), None) => bucket.try_acquire(newcomer.now),
            (BucketLocation::InAccount(bucket), Some(share)) => {
                share.egress.try_acquire(&share.flow, bucket, newcomer)
            }
            // Something waits there, or did until now: the queue decides what is next.
            (BucketLocation::InEgress(..), _) => None,
        }
    }

    pub(super) fn check(
        &mut self,
        newcomer: &Newcomer,
        limits: QueueLimits,
    ) -> Result<(), RateLimited> {
        let bucket_ref = match (&self.location, &self.share) {
            (BucketLocation::InAccount(bucket), None) => {
                return forecast::admit(bucket, newcomer, limits.max_delay, limits.max_queue);
            }
            (BucketLocation::InAccount(bucket), Some(_)) => forecast::BucketRef::Outside(bucket),
            (BucketLocation::InEgress(_, id), _) => forecast::BucketRef::Registered(*id),
        };
        let Some(share) = &self.share else {
            return Ok(());
        };
        share
            .egress
            .check(&share.flow, bucket_ref, newcomer, limits)
    }

    pub(super) fn with<R: Default>(&mut self, act: impl FnOnce(&mut Bucket<Sender>) -> R) -> R {
        match &mut self.location {
            BucketLocation::InAccount(bucket) => act(bucket),
            BucketLocation::InEgress(egress, id) => egress.with(*id, act).unwrap_or_default(),
        }
    }

    pub(super) fn inspect<R>(&self, inspect: impl FnOnce(&Bucket<Sender>) -> R) -> Option<R> {
        match &self.location {
            BucketLocation::InAccount(bucket) => Some(inspect(bucket)),
            BucketLocation::InEgress(egress, id) => egress.inspect(*id, inspect),
        }
    }

    /// The refusal of a request whose deadline came while it waited.
    pub(super) fn too_late(&self, now: Instant) -> Option<RateLimited> {
        match &self.location {
            BucketLocation::InAccount(bucket) => Some(bucket.too_late(now)),
            BucketLocation::InEgress(egress, id) => egress.too_late(*id, now),
        }
    }

    /// Takes the bucket back from the egress.
    pub(super) fn unregister(&mut self) {
        if let BucketLocation::InEgress(egress, id) = &self.location
            && let Some(mut bucket) = egress.unregister(*id)
        {
            // In an account a queue means that a task serves it, and this one has none.
            bucket.drop_empty_queue();
            self.location = BucketLocation::InAccount(bucket);
        }
    }

    pub(super) fn is_idle(&self, now: Instant) -> bool {
        // In the egress something waits, or did until now.
        matches!(&self.location, BucketLocation::InAccount(bucket) if bucket.is_idle(now))
    }
}

#[cfg(test)]
impl BucketHandle {
    /// When a newcomer would be served.
    pub(super) fn forecast(&self, newcomer: &Newcomer, max_delay: Duration) -> Instant {
        let bucket_ref = match (&self.location, &self.share) {
            (BucketLocation::InAccount(bucket), None) => {
                return forecast::of_bucket(bucket, newcomer, max_delay).at;
            }
            (BucketLocation::InAccount(bucket), Some(_)) => forecast::BucketRef::Outside(bucket),
            (BucketLocation::InEgress(_, id), _) => forecast::BucketRef::Registered(*id),
        };
        let share = self.share.as_ref().unwrap();
        share
            .egress
            .forecast(&share.flow, bucket_ref, newcomer, max_delay)
    }
}
