//! One budget over all upstream calls, shared by weight (design §3.6).
//!
//! Start-time fair queueing (P. Goyal, H. Vin, H. Cheng: "Start-time Fair
//! Queuing", SIGCOMM 1996): each call of a tenant is tagged with the virtual
//! time at which it would start if every tenant had its share, and the
//! smallest tag goes first. It is work-conserving, and a tenant that was quiet
//! has saved nothing up and owes nothing. Within a tenant its instances take
//! turns, those with calls before those with receipts alone. [`turn`] foretells
//! when somebody will have a share.
//!
//! Invariants: tokens are taken at the moment a call goes, never before, so none
//! is lost or saved between the levels; while lines are served nobody else takes
//! any; the lock of this room is never held while a bucket is asked for a call.

mod tenant;
mod turn;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::gcra::Gcra;
use super::share::Membership;
use crate::config::Quota;

pub(super) use tenant::Claim;
use tenant::{Claimed, Tenant, tenant};

/// Tenants remembered at least before the idle ones are looked for.
const TENANTS_KEPT: usize = 1024;

/// Somebody with calls that wait for nothing but the egress.
pub(super) trait Claimant: Send + Sync {
    /// Lets the call go for which the claim of this ticket was made; `None` if
    /// that claim holds no longer.
    fn release(&self, ticket: u64, now: Instant) -> Option<Released>;
}

/// A call was let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Released {
    /// What the claimant asks for next, with the same ticket.
    pub(super) next: Option<Claim>,
}

/// The budget of all upstream calls together.
pub(super) struct Egress {
    state: Mutex<State>,
    /// Wakes the serving task when its plan has changed.
    changed: Notify,
}

struct State {
    /// Where it is unlimited, tenants may still have budgets of their own.
    budget: Gcra,
    /// The start tag of the call served last.
    virtual_time: u128,
    tenants: HashMap<Arc<str>, Tenant>,
    /// Tenants with claims, by start tag; the number tells equals apart.
    ready: BTreeMap<(u128, u64), Arc<str>>,
    /// Tenants with claims whose own budget is used up, by when it is not.
    parked: BTreeMap<(Instant, u64), Arc<str>>,
    /// With more tenants than this the idle ones are looked for: twice what the
    /// last search left.
    forget_at: usize,
    tickets: u64,
    serving: bool,
}

/// What the serving task does next.
enum Next {
    /// Nobody claims anything.
    Idle,
    /// Look again then, or when something changes.
    Wait(Instant),
    /// Let a call of this claimant go.
    Serve {
        name: Arc<str>,
        tag: u128,
        claimed: Claimed,
    },
}

// === impl Egress ===

impl Egress {
    /// Opens the budget; without a quota only tenants' own budgets bind.
    pub(super) fn new(quota: Option<Quota>) -> Self {
        Self {
            state: Mutex::new(State {
                budget: Gcra::new(quota, Instant::now()),
                virtual_time: 0,
                tenants: HashMap::new(),
                ready: BTreeMap::new(),
                parked: BTreeMap::new(),
                forget_at: TENANTS_KEPT,
                tickets: 0,
                serving: false,
            }),
            changed: Notify::new(),
        }
    }

    /// Puts other quotas and weights in force; what is owed stays owed.
    pub(super) fn renew<'m>(
        &self,
        quota: Option<Quota>,
        members: impl Iterator<Item = &'m Membership>,
    ) {
        let now = Instant::now();
        let mut state = self.lock();
        state.budget.requote(quota, now);
        for member in members {
            if let Some(tenant) = state.tenants.get_mut(&member.name) {
                tenant.weight = member.weight;
                tenant.budget.requote(member.quota, now);
            }
        }
        // Whoever was put off may have a token sooner.
        while let Some((_, name)) = state.parked.pop_first() {
            state.relist(&name);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Takes a token for a call that need not wait: none is waiting, and both
    /// the egress and the tenant have one.
    pub(super) fn pass(&self, member: &Membership, now: Instant) -> bool {
        let mut state = self.lock();
        if state.serving {
            return false;
        }
        let State {
            budget,
            tenants,
            virtual_time,
            ..
        } = &mut *state;
        let tenant = tenant(tenants, member, now);
        if budget.due(now, 0) > now || tenant.budget.due(now, 0) > now {
            return false;
        }
        spend(budget, now);
        spend(&mut tenant.budget, now);
        // Nobody waits: the busy period ends with this call, and virtual time
        // with its finish (the paper's rule 2).
        tenant.finish = tenant.start(*virtual_time) + tenant.length();
        *virtual_time = tenant.finish;
        state.forget_idle();
        true
    }

    /// Puts a claimant in its tenant's line: its ticket.
    pub(super) fn claim(
        self: &Arc<Self>,
        member: &Membership,
        claimant: Arc<dyn Claimant>,
        claim: Claim,
    ) -> u64 {
        let mut state = self.lock();
        let ticket = state.ticket();
        let tenant = tenant(&mut state.tenants, member, Instant::now());
        tenant.waiting = Arc::clone(&member.waiting);
        tenant.push(Claimed {
            claimant,
            claim,
            ticket,
        });
        state.list(&member.name);
        if !std::mem::replace(&mut state.serving, true) {
            tokio::spawn(serve(Arc::clone(self)));
        }
        self.changed.notify_one();
        ticket
    }

    fn next(&self, now: Instant) -> Next {
        let mut state = self.lock();
        loop {
            state.unpark(now);
            let Some((&(tag, _), _)) = state.ready.first_key_value() else {
                let parked = state.parked.first_key_value().map(|(&(until, _), _)| until);
                state.serving = parked.is_some();
                return parked.map_or(Next::Idle, Next::Wait);
            };
            let until = state.budget.due(now, 0);
            if until > now {
                return Next::Wait(until);
            }
            let (_, name) = state.ready.pop_first().expect("looked at above");
            let tenant = state
                .tenants
                .get_mut(&name)
                .expect("a listed tenant is kept");
            let until = tenant.budget.due(now, 0);
            if until > now {
                let ticket = state.ticket();
                state.parked.insert((until, ticket), name);
                continue;
            }
            match tenant.pop(now) {
                Some(claimed) => return Next::Serve { name, tag, claimed },
                None => tenant.listed = None,
            }
        }
    }

    fn served(
        &self,
        name: &Arc<str>,
        tag: u128,
        claimed: Claimed,
        released: Option<Released>,
        now: Instant,
    ) {
        let mut state = self.lock();
        let State {
            budget,
            tenants,
            virtual_time,
            ..
        } = &mut *state;
        let tenant = tenants.get_mut(name).expect("a listed tenant is kept");
        tenant.listed = None;
        if released.is_some() {
            spend(budget, now);
            spend(&mut tenant.budget, now);
            *virtual_time = tag;
            tenant.finish = tag + tenant.length();
        }
        if let Some(Released { next: Some(claim) }) = released {
            tenant.push(Claimed { claim, ..claimed });
        }
        if tenant.has_claims() {
            state.list(name);
        } else {
            state.forget_idle();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves the tenants until nobody claims anything.
async fn serve(egress: Arc<Egress>) {
    loop {
        let now = Instant::now();
        match egress.next(now) {
            Next::Idle => return,
            Next::Serve { name, tag, claimed } => {
                let released = claimed.claimant.release(claimed.ticket, now);
                egress.served(&name, tag, claimed, released, now);
            }
            Next::Wait(until) => tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = egress.changed.notified() => {}
            },
        }
    }
}

// === impl State ===

impl State {
    /// Puts a tenant with claims among the ready, if it is not listed already.
    fn list(&mut self, name: &Arc<str>) {
        let ticket = self.ticket();
        let tenant = self
            .tenants
            .get_mut(name)
            .expect("a tenant with claims is kept");
        if tenant.listed.is_none() {
            let tag = tenant.start(self.virtual_time);
            tenant.listed = Some(tag);
            self.ready.insert((tag, ticket), Arc::clone(name));
        }
    }

    /// Brings back the tenants whose own budget has a token again.
    fn unpark(&mut self, now: Instant) {
        while let Some(entry) = self.parked.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let name = entry.remove();
            self.relist(&name);
        }
    }

    /// Puts a tenant among the ready that was parked.
    fn relist(&mut self, name: &Arc<str>) {
        if let Some(tenant) = self.tenants.get_mut(name) {
            tenant.listed = None;
        }
        self.list(name);
    }

    /// Drops tenants of which nothing is left to know.
    fn forget_idle(&mut self) {
        if self.tenants.len() > self.forget_at {
            let now = self.virtual_time;
            self.tenants.retain(|_, tenant| {
                tenant.listed.is_some() || tenant.budget.quota().is_some() || tenant.finish > now
            });
            self.forget_at = (2 * self.tenants.len()).max(TENANTS_KEPT);
        }
    }

    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }
}

// === budgets ===

/// Takes the token of a call that goes now.
fn spend(budget: &mut Gcra, now: Instant) {
    // It was there a moment ago. Only a reload can have put another quota in
    // force meanwhile, and then the call was the last of the old one.
    budget.take(now).ok();
}

impl std::fmt::Debug for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Egress").finish_non_exhaustive()
    }
}
