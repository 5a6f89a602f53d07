//! What the requests of all workers share.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::request::Parts;
use tokio_util::task::TaskTracker;

use super::cors::Cors;
use super::target::ThisHost;
use crate::batch::Batcher;
use crate::config::{self, Config, InForce};
use crate::conn::drain_signal::Drain;
use crate::limit::Limiter;
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
    /// Tenants and access rules; replaced as a whole by a reload.
    pub(crate) tenants: ArcSwap<Tenants>,
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) batcher: Arc<Batcher>,
    /// The CORS fields that the upstream returned recently.
    pub(super) cors: Cors,
    /// The tenants' keys; `None` if no tenant has one.
    pub(crate) keyring: ArcSwapOption<Keyring>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) access_log: Arc<AccessLog>,
    /// The settings that the admin pages show.
    pub(crate) shown: ArcSwapOption<InForce>,
    /// What a drain waits for: batches, requests whose client has disconnected, upgraded
    /// connections.
    pub(crate) tasks: TaskTracker,
    pub(crate) drain: Drain,
}

impl Shared {
    pub(crate) fn new(config: &Config, metrics: Arc<Metrics>) -> Self {
        let tasks = TaskTracker::new();
        // Before anything is counted: labels and log entries must not contain them.
        let secrets = Secrets::new(&config.tenants).map(Arc::new);
        metrics.set_secrets(secrets.clone());
        let limiter = Arc::new(Limiter::new(config, Arc::clone(&metrics)));
        let batcher = Arc::new(Batcher::new(
            config.batch.clone(),
            Arc::clone(&limiter),
            Arc::clone(&metrics),
            tasks.clone(),
        ));
        Self {
            settings: config.server.clone(),
            this_host: ThisHost::new(&config.server, &config.upstream.url),
            tenants: ArcSwap::from_pointee(Tenants::new(&config.tenants, &config.access, &metrics)),
            limiter,
            batcher,
            cors: Cors::default(),
            keyring: ArcSwapOption::from_pointee(Keyring::new(&config.tenants)),
            metrics,
            access_log: Arc::new(AccessLog::new(&config.log, secrets)),
            shown: ArcSwapOption::empty(),
            tasks,
            drain: Drain::default(),
        }
    }

    /// Whether a request is on a path of receipts.
    pub(super) fn route(&self, head: &Parts) -> Route {
        match self.batcher.is_receipt_path(head.uri.path()) {
            true => Route::Seen,
            false => Route::Other,
        }
    }
}
