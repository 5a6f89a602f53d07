//! Whose share of the egress a call counts for (design §3.6, §3.7).
//!
//! Invariant: where neither the egress nor the tenant has a budget nothing is
//! shared, and a bucket knows of no egress at all.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::egress::Egress;
use super::share::{Membership, Share};
use crate::config::{self, Quota};

/// The tenant of all who have not been accepted: no settings can name it.
const STRANGERS: &str = "?";

/// What the accounts of a class are opened under; replaced whole on reload.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) quota: Option<Quota>,
    pub(super) sharing: Arc<Sharing>,
    /// Whether `RateLimit` fields go with every answer.
    pub(super) headers: bool,
}

/// The shares in force; replaced whole on reload.
#[derive(Debug)]
pub(super) struct Sharing {
    egress: Arc<Egress>,
    /// The egress itself has a budget: then every call counts.
    scarce: bool,
    /// The configured tenants, by instance.
    tenants: HashMap<Box<str>, Member>,
    strangers: Arc<Membership>,
}

/// A configured tenant.
#[derive(Clone, Debug)]
struct Member {
    membership: Arc<Membership>,
    /// For credentials that have not been accepted for its instances: nobody
    /// gets around a tenant's own budget with a made-up token. There only if
    /// it has one.
    strangers: Option<Arc<Membership>>,
}

impl Sharing {
    /// Opens the shares of these settings; the egress keeps what it owes.
    pub(super) fn new(
        egress: &config::Egress,
        tenants: &[config::Tenant],
        existing: Option<&Self>,
    ) -> Self {
        let former: HashMap<&str, &Membership> = existing
            .into_iter()
            .flat_map(Self::memberships)
            .map(|member| (&*member.name, member))
            .collect();
        let membership = |name: &str, weight, quota| {
            let membership = Membership::new(name, weight, quota);
            Arc::new(membership.succeeding(former.get(name).copied()))
        };
        let mut members = HashMap::new();
        for tenant in tenants {
            let strangers = || {
                let name = format!("{STRANGERS}/{}", tenant.name);
                membership(&name, NonZeroU32::MIN, tenant.quota)
            };
            let member = Member {
                membership: membership(&tenant.name, tenant.weight, tenant.quota),
                strangers: tenant.quota.is_some().then(strangers),
            };
            for instance in &tenant.instances {
                members.insert(Box::from(&**instance), member.clone());
            }
        }
        let opened = || Arc::new(Egress::new(egress.quota));
        Self {
            egress: existing.map_or_else(opened, |existing| Arc::clone(&existing.egress)),
            scarce: egress.quota.is_some(),
            tenants: members,
            strangers: membership(STRANGERS, NonZeroU32::MIN, None),
        }
    }

    /// Puts quotas and weights in force, once no account goes by others.
    pub(super) fn renew(&self, egress: &config::Egress) {
        self.egress.renew(egress.quota, self.memberships());
    }

    /// All but those of instances without a tenant; one may come several times.
    fn memberships(&self) -> impl Iterator<Item = &Membership> {
        let of_tenants = self.tenants.values().flat_map(|member| {
            let strangers = member.strangers.as_deref();
            std::iter::once(&*member.membership).chain(strangers)
        });
        of_tenants.chain(std::iter::once(&*self.strangers))
    }

    /// The share of an instance: of its tenant, else of its own once it has
    /// been accepted.
    pub(super) fn of(&self, instance: Option<&str>, accepted: bool) -> Option<Arc<Share>> {
        let tenant = instance.and_then(|instance| self.tenants.get(instance));
        match (instance, tenant) {
            (_, Some(member)) if self.scarce || member.strangers.is_some() => {
                self.share(&member.membership)
            }
            (Some(instance), None) if self.scarce && accepted => {
                // No tenant's name holds a slash.
                let name = format!("instance/{instance}");
                self.share(&Arc::new(Membership::new(&name, NonZeroU32::MIN, None)))
            }
            (_, Some(_)) => None,
            (_, None) => self.strangers(instance),
        }
    }

    /// The share of credentials that have not been accepted for an instance.
    pub(super) fn strangers(&self, instance: Option<&str>) -> Option<Arc<Share>> {
        let tenant = instance.and_then(|instance| self.tenants.get(instance));
        match tenant.and_then(|member| member.strangers.as_ref()) {
            Some(of_tenant) => self.share(of_tenant),
            None if self.scarce => self.share(&self.strangers),
            None => None,
        }
    }

    fn share(&self, member: &Arc<Membership>) -> Option<Arc<Share>> {
        Some(Arc::new(Share {
            egress: Arc::clone(&self.egress),
            member: Arc::clone(member),
        }))
    }
}
