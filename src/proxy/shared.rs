//! What the requests of all workers share.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use tokio_util::task::TaskTracker;

use super::cors::Cors;
use super::target::ThisHost;
use crate::batch::Batcher;
use crate::cluster::Cluster;
use crate::config::{self, BatchMode, Config, InForce};
use crate::conn::drain_signal::Drain;
use crate::http::path;
use crate::limit::{Limiter, Rules};
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::{Metrics, Route};
use crate::redact::Secrets;
use crate::tenant::Tenants;
use crate::tenant::key::Keyring;

/// What the requests of all workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) settings: config::Server,
    pub(super) this_host: ThisHost,
    /// Replaced as a whole by a reload.
    pub(crate) reloadable: ArcSwap<Reloadable>,
    /// What gateways share; `None` without `[cluster]`.
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) batcher: Arc<Batcher>,
    /// The CORS headers that the upstream returned recently.
    pub(super) cors: Cors,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) access_log: Arc<AccessLog>,
    /// The settings that the admin pages show.
    pub(crate) shown: ArcSwapOption<InForce>,
    /// What a drain waits for: batches, requests whose client has disconnected, upgraded
    /// connections.
    pub(crate) tasks: TaskTracker,
    pub(crate) drain: Drain,
}

/// The settings that a reload replaces. A request keeps those with which it began, so
/// that it never sees new access rules with old keys or limits (rule: reload).
#[derive(Debug)]
pub(crate) struct Reloadable {
    pub(crate) tenants: Tenants,
    /// The tenants' keys; `None` if no tenant has one.
    pub(super) keyring: Option<Keyring>,
    pub(super) limits: Arc<Rules>,
    pub(super) batch: config::Batch,
}

impl Reloadable {
    fn new(config: &Config, limiter: &Limiter, metrics: &Metrics) -> Self {
        Self {
            tenants: Tenants::new(&config.tenants, &config.access, metrics),
            keyring: Keyring::new(&config.tenants),
            limits: limiter.rules(),
            batch: config.batch.clone(),
        }
    }

    /// Whether no request is held or refused.
    pub(crate) fn limit_observes(&self) -> bool {
        self.limits.observes()
    }

    /// Whether receipts are only observed, not merged.
    pub(crate) fn batch_observes(&self) -> bool {
        self.batch.mode == BatchMode::Observe
    }

    /// Whether a request is on a path of receipts.
    pub(super) fn route(&self, path: &str) -> Route {
        let mut paths = self.batch.paths.iter();
        match paths.any(|receipt| path::same_segments(receipt, path)) {
            true => Route::ReceiptPath,
            false => Route::Other,
        }
    }
}

impl Shared {
    pub(crate) fn new(
        config: &Config,
        metrics: Arc<Metrics>,
        cluster: Option<Arc<Cluster>>,
    ) -> Self {
        if let Some(cluster) = &cluster {
            cluster.show_settings(common_settings(config));
        }
        let tasks = TaskTracker::new();
        // Before anything is counted: labels and log entries must not contain them.
        let secrets = Secrets::new(&config.tenants).map(Arc::new);
        metrics.set_secrets(secrets.clone());
        let limiter = Arc::new(Limiter::in_cluster(
            config,
            cluster.as_ref(),
            Arc::clone(&metrics),
        ));
        let reloadable = Reloadable::new(config, &limiter, &metrics);
        let merges = config.cluster.as_ref().is_some_and(|it| it.merge);
        let batcher = Arc::new(Batcher::in_cluster(
            cluster.as_ref().filter(|_| merges),
            Arc::clone(&limiter),
            Arc::clone(&metrics),
            tasks.clone(),
        ));
        Self {
            settings: config.server.clone(),
            this_host: ThisHost::new(&config.server, &config.upstream.url),
            reloadable: ArcSwap::from_pointee(reloadable),
            cluster,
            limiter,
            batcher,
            cors: Cors::default(),
            metrics,
            access_log: Arc::new(AccessLog::new(&config.log, secrets)),
            shown: ArcSwapOption::empty(),
            tasks,
            drain: Drain::default(),
        }
    }

    /// Applies the settings that a reload may change.
    pub(crate) fn reload(&self, config: &Config) {
        // First the secrets, so that a request under the new settings is filtered by them.
        let secrets = Secrets::new(&config.tenants).map(Arc::new);
        self.metrics.set_secrets(secrets.clone());
        self.access_log.reconfigure(&config.log, secrets);
        if let Some(cluster) = &self.cluster {
            cluster.show_settings(common_settings(config));
        }
        // Buckets are live: a new rate holds at once for all requests that wait there.
        self.limiter.reconfigure(config);
        let reloadable = Reloadable::new(config, &self.limiter, &self.metrics);
        self.reloadable.store(Arc::new(reloadable));
    }
}

/// A hash of the settings that gateways of one cluster should have in common. Secrets are not part
/// of it: `Debug` does not print them.
fn common_settings(config: &Config) -> String {
    let Config {
        limit,
        batch,
        egress,
        tenants,
        ..
    } = config;
    let text = format!("{limit:?} {batch:?} {egress:?} {tenants:?}");
    let hash = digest(&SHA256, text.as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(&hash.as_ref()[..12])
}
