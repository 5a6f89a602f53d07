//! What the steps of one request share, beside its head and body.

use std::sync::Arc;

use http::request::Parts;

use super::shared::Reloadable;
use crate::http::forwarded_for::Client;
use crate::identity::{Certainty, Identity, InstanceId};
use crate::observe::access_log::LogEntry;
use crate::observe::metrics::{Metrics, Route, TenantSeries};
use crate::tenant::Denied;

/// What the steps of one request share.
pub(super) struct RequestCtx<'r> {
    pub(super) client: Client,
    /// As they were when the request began.
    pub(super) settings: &'r Reloadable,
    pub(super) route: Route,
    pub(super) log_entry: &'r mut LogEntry,
}

impl RequestCtx<'_> {
    /// Notes for the access log which instance and tenant the request is of.
    pub(super) fn log_identity(&mut self, identity: &Identity, head: &Parts) {
        let tenants = &self.settings.tenants;
        let tenant_name = || tenants.name_of(identity.instance.as_deref()?);
        self.log_entry.set_identity(identity, head, tenant_name);
    }

    /// Applies the access rules for the instance, before the request takes a bucket
    /// token or joins a batch. Returns the metrics of the tenant.
    ///
    /// # Errors
    /// A rule forbids the request.
    pub(super) fn admit(&self, identity: &Identity) -> Result<Arc<TenantSeries>, Denied> {
        // As bytes: as text it would be checked for UTF-8 again.
        let instance = identity.instance.as_ref().map(InstanceId::as_bytes);
        let is_ambiguous = identity.certainty == Certainty::Ambiguous;
        let series = self
            .settings
            .tenants
            .may_use(self.client, instance, is_ambiguous)?;
        // Refused requests are not counted for the tenant: any client can name its instances.
        series.requests(self.route).inc();
        Ok(Arc::clone(series))
    }

    /// Shows a refused request under its instance, if that is one of the settings or has
    /// a label: a client can write any other.
    pub(super) fn name_refused(&mut self, identity: &Identity, metrics: &Metrics) {
        if let Some(instance) = identity.instance.as_deref() {
            let is_listed = self.settings.tenants.name_of(instance).is_some();
            let label = match is_listed {
                true => instance,
                false => metrics.label_of(instance),
            };
            self.log_entry.name_instance(label);
        }
    }
}
