//! Which clients may use the gateway, and which instances.
//!
//! Owns which tenant an instance belongs to, which clients are admitted, and
//! which instances are served (rules: tenants, access). It reads no requests:
//! client and instance are parameters. [`key`] owns the tenants' keys.
//! Invariant: an instance belongs to at most one tenant.

pub(crate) mod key;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use ipnet::IpNet;

use crate::config::{self, Instances};
use crate::http::forwarded_for::{Client, contain};
use crate::observe::metrics::{Metrics, TenantSeries};

/// All tenants and the access rules; replaced as a whole on reload.
#[derive(Debug)]
pub(crate) struct Tenants {
    by_instance: HashMap<Box<[u8]>, Arc<Tenant>>,
    /// The clients that may use the gateway; empty means all.
    networks: Vec<IpNet>,
    /// The proxies that may state another address for the client.
    trusted_proxies: Vec<IpNet>,
    /// Only instances of a tenant are served.
    only_listed: bool,
    /// Some rule depends on the instance, so an ambiguous request is refused.
    depends_on_instance: bool,
    /// Counts requests for instances without a tenant.
    other: Arc<TenantSeries>,
}

/// What access rules and logs need of a tenant. [`limit`](crate::limit) owns its
/// weight and budget, [`key`] its key.
#[derive(Debug)]
struct Tenant {
    /// Its name in the access log and on the admin pages.
    name: Arc<str>,
    /// The clients that may use its instances; empty means all.
    networks: Vec<IpNet>,
    /// Its metrics.
    series: Arc<TenantSeries>,
}

/// The rule by which a request is refused.
///
/// Messages contain neither the networks nor the address of the client: a client must
/// not learn how the operator's network is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// `access.networks`.
    #[error("requests from this address are not accepted (access.networks)")]
    Networks,
    /// A tenant's `networks`.
    #[error("this instance cannot be used from this address (tenant.networks)")]
    TenantNetworks,
    /// `access.instances = "listed"`, and the instance has no tenant.
    #[error("this instance is not served here (access.instances)")]
    Unlisted,
    /// `access.instances = "listed"`, and the request names no instance.
    #[error("the request names no instance, and only certain ones are served (access.instances)")]
    NoInstance,
    /// A rule depends on the instance, and the request names several: the upstream may
    /// use any of them.
    #[error(
        "the request names more than one instance or credential (access.instances, tenant.networks)"
    )]
    Ambiguous,
}

impl Tenants {
    /// Builds the rules, and registers the metrics of each tenant.
    pub(crate) fn new(
        tenants: &[config::Tenant],
        access: &config::Access,
        metrics: &Metrics,
    ) -> Self {
        // First, because `metrics.tenant` below finds only registered tenants.
        metrics.renew_tenants(tenants.iter().map(|tenant| (&*tenant.name, tenant.weight)));
        let mut by_instance = HashMap::new();
        for settings in tenants {
            let tenant = Arc::new(Tenant {
                name: Arc::from(settings.name.as_str()),
                networks: settings.networks.clone(),
                series: metrics.tenant(&settings.name),
            });
            for instance in &settings.instances {
                by_instance.insert(Box::from(instance.as_bytes()), Arc::clone(&tenant));
            }
        }
        let only_listed = access.instances == Instances::Listed;
        Self {
            by_instance,
            only_listed,
            depends_on_instance: only_listed
                || tenants.iter().any(|tenant| !tenant.networks.is_empty()),
            networks: access.networks.clone(),
            trusted_proxies: access.trusted_proxies.clone(),
            other: metrics.other_tenants(),
        }
    }

    /// The tenant an instance belongs to.
    fn of(&self, instance: impl AsRef<[u8]>) -> Option<&Arc<Tenant>> {
        self.by_instance.get(instance.as_ref())
    }

    /// The name of the tenant that an instance belongs to.
    pub(crate) fn name_of(&self, instance: &str) -> Option<Arc<str>> {
        self.of(instance).map(|tenant| Arc::clone(&tenant.name))
    }

    /// Whether a peer with this address may state the client's address:
    /// `access.trusted_proxies`.
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        contain(&self.trusted_proxies, peer)
    }

    /// The client of a request on a connection of `peer`.
    pub(crate) fn client(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Client {
        Client::of(peer, headers, |proxy| self.trusts(proxy))
    }

    /// Whether this client may use the gateway: `access.networks`.
    ///
    /// # Errors
    /// It may not.
    pub(crate) fn may_connect(&self, client: Client) -> Result<(), Denied> {
        if client.is_within(&self.networks) {
            Ok(())
        } else {
            Err(Denied::Networks)
        }
    }

    /// Whether a rule depends on the instance. Then the beginning of each body must be
    /// searched before the request is admitted (rule: access).
    pub(crate) fn depends_on_instance(&self) -> bool {
        self.depends_on_instance
    }

    /// Whether the networks allow a preflight. It names no credential, so no
    /// other rule applies to it (rule: preflights).
    ///
    /// # Errors
    /// The instance is not served to this client.
    pub(crate) fn may_preflight(
        &self,
        client: Client,
        instance: Option<&str>,
    ) -> Result<(), Denied> {
        // Not `access.instances`: a preflight often names no instance, which the request
        // after it does in its body.
        match instance.and_then(|instance| self.of(instance)) {
            Some(tenant) if !client.is_within(&tenant.networks) => Err(Denied::TenantNetworks),
            _ => Ok(()),
        }
    }

    /// Whether this client may use this instance; returns the metrics that count the
    /// request. `is_ambiguous`: the request also names other instances.
    ///
    /// # Errors
    /// The instance is not served, or not to this client.
    pub(crate) fn may_use(
        &self,
        client: Client,
        instance: Option<impl AsRef<[u8]> + Copy>,
        is_ambiguous: bool,
    ) -> Result<&Arc<TenantSeries>, Denied> {
        // First, because otherwise the allowed instance would hide the other one.
        if is_ambiguous && self.depends_on_instance {
            return Err(Denied::Ambiguous);
        }
        match instance.and_then(|instance| self.of(instance)) {
            Some(tenant) if client.is_within(&tenant.networks) => Ok(&tenant.series),
            Some(_) => Err(Denied::TenantNetworks),
            None if !self.only_listed => Ok(&self.other),
            None if instance.is_some() => Err(Denied::Unlisted),
            None => Err(Denied::NoInstance),
        }
    }
}
