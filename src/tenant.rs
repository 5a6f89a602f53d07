//! Which clients may use the gateway, and which instances.
//!
//! Owns which tenant an instance belongs to, which clients are admitted, and
//! which instances are served (rules: tenants, access). It reads no request:
//! client and instance are parameters. [`key`] owns what a tenant's key opens.
//! Invariant: an instance belongs to one tenant at most.

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

/// All tenants and the rules of access; replaced whole on reload.
#[derive(Debug)]
pub(crate) struct Tenants {
    by_instance: HashMap<Box<str>, Arc<Tenant>>,
    /// The clients that may use the gateway; empty means all.
    networks: Vec<IpNet>,
    /// The proxies whose statement of a client's address is believed.
    trusted_proxies: Vec<IpNet>,
    /// Only instances of a tenant are served.
    listed: bool,
    /// Some rule depends on the instance, so no second one may be hidden.
    depends_on_instance: bool,
    /// Counts requests for instances without a tenant.
    other: Arc<TenantSeries>,
}

/// A tenant's part of the rules of access. [`limit`](crate::limit) owns its
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
/// Messages contain neither the networks nor the client's address: only the
/// operator may know them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// `access.networks`.
    #[error("requests from this address are not accepted (access.networks)")]
    Networks,
    /// A tenant's `networks`.
    #[error("this instance cannot be used from this address (tenant.networks)")]
    TenantNetworks,
    /// `access.instances = "listed"`, and it is not.
    #[error("this instance is not served here (access.instances)")]
    Unlisted,
    /// `access.instances = "listed"`, and none is named.
    #[error("the request names no instance, and only certain ones are served (access.instances)")]
    NoInstance,
    /// A rule depends on the instance, and the upstream may take any of several
    /// that are named.
    #[error(
        "the request names more than one instance or credential (access.instances, tenant.networks)"
    )]
    Ambiguous,
}

impl Tenants {
    /// Puts tenants and rules in force, with metrics for each tenant.
    pub(crate) fn new(
        tenants: &[config::Tenant],
        access: &config::Access,
        metrics: &Metrics,
    ) -> Self {
        metrics.renew_tenants(tenants.iter().map(|tenant| (&*tenant.name, tenant.weight)));
        let mut by_instance = HashMap::new();
        for settings in tenants {
            let tenant = Arc::new(Tenant {
                name: Arc::from(settings.name.as_str()),
                networks: settings.networks.clone(),
                series: metrics.tenant(&settings.name),
            });
            for instance in &settings.instances {
                by_instance.insert(Box::from(instance.as_str()), Arc::clone(&tenant));
            }
        }
        let listed = access.instances == Instances::Listed;
        Self {
            by_instance,
            listed,
            depends_on_instance: listed || tenants.iter().any(|tenant| !tenant.networks.is_empty()),
            networks: access.networks.clone(),
            trusted_proxies: access.trusted_proxies.clone(),
            other: metrics.other_tenants(),
        }
    }

    /// The tenant an instance belongs to.
    fn of(&self, instance: &str) -> Option<&Arc<Tenant>> {
        self.by_instance.get(instance)
    }

    /// The name of the tenant that an instance belongs to.
    pub(crate) fn name_of(&self, instance: &str) -> Option<Arc<str>> {
        self.of(instance).map(|tenant| Arc::clone(&tenant.name))
    }

    /// Whether this address may state another client's: `access.trusted_proxies`.
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

    /// Whether a rule depends on the instance: then a request is read as far as
    /// possible before it is admitted.
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
        match instance.and_then(|instance| self.of(instance)) {
            Some(tenant) if !client.is_within(&tenant.networks) => Err(Denied::TenantNetworks),
            _ => Ok(()),
        }
    }

    /// Whether this client may use this instance; returns the metrics that
    /// count the request. `is_ambiguous`: the request names others besides.
    ///
    /// # Errors
    /// The instance is not served, or not to this client.
    pub(crate) fn may_use(
        &self,
        client: Client,
        instance: Option<&str>,
        is_ambiguous: bool,
    ) -> Result<&Arc<TenantSeries>, Denied> {
        if is_ambiguous && self.depends_on_instance {
            return Err(Denied::Ambiguous);
        }
        match instance.and_then(|instance| self.of(instance)) {
            Some(tenant) if client.is_within(&tenant.networks) => Ok(&tenant.series),
            Some(_) => Err(Denied::TenantNetworks),
            None if !self.listed => Ok(&self.other),
            None if instance.is_some() => Err(Denied::Unlisted),
            None => Err(Denied::NoInstance),
        }
    }
}
