//! Who may use the gateway, and for which instances.
//!
//! Owns the rules of design §3.7: which tenant an instance belongs to, from
//! where calls are taken, and which instances are served. It reads no request:
//! `http::forwarded_for` says who speaks, others say for which instance; what a tenant's
//! key opens is for [`key`]. Invariants: an instance belongs to one tenant at
//! most; addresses are compared as what they mean, so an IPv4 address is the
//! same written as IPv6 (RFC 4291 §2.5.5.2).

pub(crate) mod key;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use ipnet::IpNet;

use crate::http::forwarded_for::{Client, contain};

use crate::config::{self, Instances};
use crate::observe::metrics::{Metrics, TenantSeries};

/// All tenants and the rules of access; replaced whole on reload.
#[derive(Debug)]
pub(crate) struct Tenants {
    by_instance: HashMap<Box<str>, Arc<Tenant>>,
    /// From where calls are taken; empty means from everywhere.
    networks: Vec<IpNet>,
    /// Whose word on a client's address is believed.
    trusted_proxies: Vec<IpNet>,
    /// Only instances of a tenant are served.
    listed: bool,
    /// Some rule goes by instance, so none may be hidden behind another.
    strict: bool,
    /// The figures of calls for an instance of no tenant.
    other: Arc<TenantSeries>,
}

/// A tenant, as far as access goes. Its weight and budget are for
/// [`limit`](crate::limit), its key for [`key`].
#[derive(Debug)]
struct Tenant {
    /// What it is called in the access log and on the admin pages.
    name: Arc<str>,
    /// From where its instances may be used; empty means from everywhere.
    networks: Vec<IpNet>,
    /// Its figures.
    series: Arc<TenantSeries>,
}

/// The rule by which a call is refused.
///
/// Neither the networks nor the client's address are told: they are nobody's
/// business but the operator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// `access.networks`.
    #[error("calls from this address are not taken (access.networks)")]
    Networks,
    /// A tenant's `networks`.
    #[error("this instance cannot be used from this address (tenant.networks)")]
    TenantNetworks,
    /// `access.instances = "listed"`, and it is not.
    #[error("this instance is not served here (access.instances)")]
    Unlisted,
    /// `access.instances = "listed"`, and none is named.
    #[error("the call names no instance, and only certain ones are served (access.instances)")]
    NoInstance,
    /// A rule goes by instance, and several are named: nobody knows which of
    /// them the upstream would take.
    #[error("the call names more than one instance (access.instances, tenant.networks)")]
    Ambiguous,
}

impl Tenants {
    /// Puts tenants and rules in force, with a figure for each tenant.
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
            strict: listed || tenants.iter().any(|tenant| !tenant.networks.is_empty()),
            networks: access.networks.clone(),
            trusted_proxies: access.trusted_proxies.clone(),
            other: metrics.other_tenants(),
        }
    }

    /// The tenant an instance belongs to.
    fn of(&self, instance: &str) -> Option<&Arc<Tenant>> {
        self.by_instance.get(instance)
    }

    /// What the tenant is called that an instance belongs to.
    pub(crate) fn name_of(&self, instance: &str) -> Option<Arc<str>> {
        self.of(instance).map(|tenant| Arc::clone(&tenant.name))
    }

    /// Whether this address may say for whom it speaks: `access.trusted_proxies`.
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        contain(&self.trusted_proxies, peer)
    }

    /// Who speaks on a connection of `peer`.
    pub(crate) fn client(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Client {
        Client::of(peer, headers, |proxy| self.trusts(proxy))
    }

    /// Whether anybody at all comes in from there: `access.networks`.
    ///
    /// # Errors
    /// Nobody does.
    pub(crate) fn may_connect(&self, client: Client) -> Result<(), Denied> {
        if client.is_within(&self.networks) {
            Ok(())
        } else {
            Err(Denied::Networks)
        }
    }

    /// Whether a rule goes by instance: then a call has to be looked through
    /// for all that it names.
    pub(crate) fn is_strict(&self) -> bool {
        self.strict
    }

    /// Whether a call from there for this instance is taken, and in whose
    /// figures it counts. `ambiguous`: it names others besides.
    ///
    /// # Errors
    /// The instance is not served, or not from there.
    pub(crate) fn may_use(
        &self,
        client: Client,
        instance: Option<&str>,
        ambiguous: bool,
    ) -> Result<&Arc<TenantSeries>, Denied> {
        if ambiguous && self.strict {
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
