//! The part of one gateway in budgets that the server of a cluster does not hand out.
//!
//! Invariant: the parts of all gateways together are at most the whole, except that no part is
//! smaller than one call in flight or a burst of one.
//!
//! Buckets of instances are shared exactly ([`tokens`](crate::tokens)), and so are the egress and the
//! rates of tenants ([`egress`](crate::queue::egress)). Calls in flight, and buckets of requests without an
//! instance, are divided evenly.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast::error::RecvError;

use super::credentials::SharedCredentials;
use crate::cluster::{Cluster, Event};
use crate::config::Config;
use crate::tokens::SharedBuckets;

/// What the limiter needs to be one of several.
#[derive(Debug)]
pub(super) struct ClusterSharing {
    pub(super) cluster: Arc<Cluster>,
    pub(super) buckets: Arc<SharedBuckets>,
    pub(super) credentials: Arc<SharedCredentials>,
    /// The settings before they are divided.
    whole: Mutex<Config>,
}

/// The settings of one of several gateways.
#[derive(Debug)]
pub(super) struct DividedSettings {
    pub(super) named: Config,
    /// For requests that name no instance.
    pub(super) unnamed: Config,
}

impl ClusterSharing {
    pub(super) fn new(cluster: &Arc<Cluster>, whole: &Config) -> Self {
        Self {
            cluster: Arc::clone(cluster),
            buckets: SharedBuckets::new(Arc::clone(cluster)),
            credentials: Arc::new(SharedCredentials::new(Arc::clone(cluster))),
            whole: Mutex::new(whole.clone()),
        }
    }

    /// Divides other settings from now on.
    pub(super) fn set_whole(&self, whole: &Config) {
        self.whole().clone_from(whole);
    }

    /// This gateway's part of the settings.
    pub(super) fn divide(&self, whole: &Config) -> DividedSettings {
        let gateways = self.gateways();
        DividedSettings {
            named: divided(whole, gateways),
            unnamed: of_unnamed(whole, gateways),
        }
    }

    /// Passes on the settings when they have to be divided among another number of gateways.
    pub(super) async fn on_division(&self, apply: impl Fn(&Config)) {
        let mut events = self.cluster.subscribe();
        let mut gateways = self.gateways();
        loop {
            match events.recv().await {
                Err(RecvError::Closed) => return,
                // What was missed may have been one of them.
                Err(RecvError::Lagged(_)) | Ok(Event::Live | Event::Shared | Event::Fallback) => {}
                Ok(_) => continue,
            }
            let now = self.gateways();
            if std::mem::replace(&mut gateways, now) != now {
                // A copy: `apply` takes the same lock.
                let whole = self.whole().clone();
                apply(&whole);
            }
        }
    }

    /// Among how many gateways budgets are divided now.
    fn gateways(&self) -> NonZeroU32 {
        match self.cluster.is_shared() {
            // A gateway that has vanished may go on without the server, and use its part.
            true => self.cluster.known(),
            false => self.cluster.share(),
        }
    }

    fn whole(&self) -> MutexGuard<'_, Config> {
        // No change under this lock panics halfway.
        self.whole.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The settings with this gateway's part of the calls in flight.
pub(super) fn divided(config: &Config, gateways: NonZeroU32) -> Config {
    let mut config = config.clone();
    for class in &mut config.limit.classes {
        let cap = class
            .max_in_flight
            .map(|cap| cap.get().div_ceil(gateways.get()));
        class.max_in_flight = cap.and_then(NonZeroU32::new);
    }
    config
}

/// The settings with this gateway's part of the buckets of requests that name no instance, too.
/// These buckets are not shared: the server would get a name for each credential.
pub(super) fn of_unnamed(config: &Config, gateways: NonZeroU32) -> Config {
    let mut config = divided(config, gateways);
    config.limit.quota = config.limit.quota.map(|whole| whole.part(gateways));
    for class in &mut config.limit.classes {
        class.quota = class.quota.map(|whole| whole.part(gateways));
    }
    config
}
