//! What the steps of one request share, beside its head and body.

use std::sync::Arc;

use http::request::Parts;

use crate::http::forwarded_for::Client;
use crate::identity::{Certainty, Identity};
use crate::observe::access_log::LogEntry;
use crate::observe::metrics::{Route, TenantSeries};
use crate::tenant::{Denied, Tenants};

/// What the steps of one request share.
pub(super) struct RequestCtx<'r> {
    pub(super) client: Client,
    /// The access rules when the request began. A reload does not change them for it.
    pub(super) tenants: &'r Tenants,
    pub(super) route: Route,
    pub(super) log_entry: &'r mut LogEntry,
}

impl RequestCtx<'_> {
    /// Notes for the access log which instance and tenant the request is of.
    pub(super) fn log_identity(&mut self, identity: &Identity, head: &Parts) {
        let tenants = self.tenants;
        let tenant_name = || tenants.name_of(identity.instance.as_deref()?);
        self.log_entry.set_identity(identity, head, tenant_name);
    }

    /// Applies the access rules for the instance, before the request takes a bucket
    /// token or joins a batch. Returns the metrics of the tenant.
    ///
    /// # Errors
    /// A rule forbids the request.
    pub(super) fn admit(&self, identity: &Identity) -> Result<Arc<TenantSeries>, Denied> {
        let instance = identity.instance.as_deref();
        let is_ambiguous = identity.certainty == Certainty::Ambiguous;
        let series = self.tenants.may_use(self.client, instance, is_ambiguous)?;
        // Refused requests are not counted for the tenant: any client can name its instances.
        series.requests(self.route).inc();
        Ok(Arc::clone(series))
    }
}
