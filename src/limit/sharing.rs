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

#[derive(Debug)]
struct Member {
    membership: Arc<Membership>,
    /// The tenant has a budget of its own.
    bound: bool,
}

impl Sharing {
    /// Opens the shares of these settings; the egress keeps what it owes.
    pub(super) fn new(
        egress: &config::Egress,
        tenants: &[config::Tenant],
        existing: Option<&Self>,
    ) -> Self {
        let budget = match existing {
            Some(existing) => {
                existing.egress.requote(egress.quota);
                Arc::clone(&existing.egress)
            }
            None => Arc::new(Egress::new(egress.quota)),
        };
        let mut members = HashMap::new();
        for tenant in tenants {
            let membership = Arc::new(Membership::new(&tenant.name, tenant.weight, tenant.quota));
            for instance in &tenant.instances {
                let membership = Arc::clone(&membership);
                members.insert(
                    Box::from(&**instance),
                    Member {
                        membership,
                        bound: tenant.quota.is_some(),
                    },
                );
            }
        }
        Self {
            egress: budget,
            scarce: egress.quota.is_some(),
            tenants: members,
            strangers: Arc::new(Membership::new(STRANGERS, NonZeroU32::MIN, None)),
        }
    }

    /// The share of an instance: of its tenant, else of its own once it has
    /// been accepted.
    pub(super) fn of(&self, instance: Option<&str>, accepted: bool) -> Option<Arc<Share>> {
        let Some(instance) = instance else {
            return self.strangers();
        };
        match self.tenants.get(instance) {
            Some(member) if self.scarce || member.bound => {
                self.share(Arc::clone(&member.membership))
            }
            Some(_) => None,
            None if !self.scarce => None,
            None if accepted => {
                // No tenant's name holds a slash.
                let name = format!("instance/{instance}");
                self.share(Arc::new(Membership::new(&name, NonZeroU32::MIN, None)))
            }
            None => self.strangers(),
        }
    }

    /// The share of credentials that have not been accepted.
    pub(super) fn strangers(&self) -> Option<Arc<Share>> {
        if self.scarce {
            self.share(Arc::clone(&self.strangers))
        } else {
            None
        }
    }

    fn share(&self, member: Arc<Membership>) -> Option<Arc<Share>> {
        Some(Arc::new(Share {
            egress: Arc::clone(&self.egress),
            member,
        }))
    }
}
