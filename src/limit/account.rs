//! The budget of one instance (or credential) in one class of requests.
//!
//! Owns which bucket a credential draws on (rule: verification). Verified
//! credentials draw on the main bucket, all others on a second one of the same
//! size; while no credential is verified there is only the main bucket. When
//! that changes, waiting requests move to the bucket that is now theirs and
//! keep the order in which they joined.
//!
//! - [`reroute`]: what changes when a credential is verified or refused;
//! - [`exchange`]: what the gateways of a cluster tell each other of that.
//!
//! Invariant: one lock covers the verified credentials and both buckets, so
//! that no request can be queued at a bucket that is not its own any more. A
//! bucket that waits for shared budgets is held by the egress.

mod exchange;
mod reroute;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::policy::{BucketHandle, BucketLocation, Policy};
use crate::queue::bucket::{Bucket, next_ticket};
use crate::queue::egress::{BucketOwner, Joined, QueueLimits, Sender, Share};
use crate::queue::request::{BucketRole, Newcomer, Permit, RateLimited};
use crate::queue::shared_queue::EntryId;
use exchange::Owner;

use crate::identity::{Fingerprint, InstanceId, Verified};
use crate::observe::metrics::InstanceSeries;

/// An account with a verified credential is remembered this long without a
/// request.
const REMEMBER: Duration = Duration::from_secs(3600);

/// The budget of one instance (or credential) in one class of requests. There
/// may be a hundred thousand: rarely used fields are boxed.
#[derive(Debug)]
pub(super) struct Account {
    owner: Owner,
    state: Mutex<State>,
    /// Set when a credential is verified, so that made-up names never take up
    /// a label.
    pub(super) series: OnceLock<Arc<InstanceSeries>>,
}

#[derive(Debug)]
struct State {
    verified: Verified,
    main: BucketHandle,
    /// For other credentials, once one is verified.
    unverified: Option<Box<BucketHandle>>,
}

impl Account {
    pub(super) fn new(instance: Option<InstanceId>, policy: &Policy) -> Self {
        let share = policy.sharing.of_unverified(instance.as_deref());
        let main = BucketHandle::new(policy, instance.as_deref(), share, BucketRole::Main);
        Self {
            owner: Owner::new(instance, policy.credentials.as_ref()),
            state: Mutex::new(State {
                verified: Verified::default(),
                main,
                unverified: None,
            }),
            series: OnceLock::new(),
        }
    }

    /// The instance as metrics may name it; `None` where requests name none.
    pub(super) fn instance(&self) -> Option<&InstanceId> {
        self.owner.instance()
    }

    /// Takes a token or a queue position.
    ///
    /// # Errors
    /// The queue is full, or the token would come after the deadline.
    pub(super) fn admit(
        self: &Arc<Self>,
        newcomer: &Newcomer,
        policy: impl FnOnce() -> Arc<Policy>,
        limits: QueueLimits,
    ) -> Result<Joined, RateLimited> {
        let mut state = self.lock();
        let role = self.role(&mut state, newcomer, policy);
        let handle = state.handle(role);
        if let Some(permit) = handle.try_acquire(newcomer) {
            return Ok(Joined::Now(permit));
        }
        // Under one lock with `join`: what is forecast here holds when the newcomer joins.
        handle.check(newcomer, limits)?;
        Ok(self.join(handle, role, newcomer, limits.max_delay))
    }

    /// Whether a request could be admitted now; takes nothing.
    ///
    /// # Errors
    /// The request would be refused.
    pub(super) fn check(
        &self,
        newcomer: &Newcomer,
        policy: impl FnOnce() -> Arc<Policy>,
        limits: QueueLimits,
    ) -> Result<(), RateLimited> {
        let mut state = self.lock();
        let role = self.role(&mut state, newcomer, policy);
        state.handle(role).check(newcomer, limits)
    }

    /// Reads the bucket that a credential draws on.
    pub(super) fn inspect<R>(
        &self,
        credential: Option<Fingerprint>,
        inspect: impl FnOnce(&Bucket<Sender>) -> R,
    ) -> Option<R> {
        self.lock().known(credential).inspect(inspect)
    }

    /// The refusal of a request of this credential whose deadline came while it
    /// waited.
    pub(super) fn too_late(&self, credential: Option<Fingerprint>) -> Option<RateLimited> {
        let state = self.lock();
        state.known(credential).too_late(Instant::now())
    }

    /// Which bucket a request without a token is counted at.
    pub(super) fn role_of(&self, credential: Option<Fingerprint>) -> BucketRole {
        let state = self.lock();
        let is_main = state.verified.is_empty() || state.verified.contains(credential);
        match &state.unverified {
            Some(_) if !is_main => BucketRole::Unverified,
            _ => BucketRole::Main,
        }
    }

    /// Which bucket a credential draws on; opens that bucket if it is missing.
    fn role(
        &self,
        state: &mut State,
        newcomer: &Newcomer,
        policy: impl FnOnce() -> Arc<Policy>,
    ) -> BucketRole {
        if state.verified.is_empty() || state.verified.uses(newcomer.credential, newcomer.now) {
            return BucketRole::Main;
        }
        if state.unverified.is_none() {
            // Read under the lock that a reload's `reconfigure` takes.
            state.unverified = Some(Box::new(self.open_unverified(&policy())));
        }
        BucketRole::Unverified
    }

    fn open_unverified(&self, policy: &Policy) -> BucketHandle {
        let instance = self.instance().map(|it| &**it);
        let share = policy.sharing.of_unverified(instance);
        BucketHandle::new(policy, instance, share, BucketRole::Unverified)
    }

    /// Puts an admitted newcomer into the queue.
    fn join(
        self: &Arc<Self>,
        handle: &mut BucketHandle,
        role: BucketRole,
        newcomer: &Newcomer,
        max_delay: Duration,
    ) -> Joined {
        self.register_if_shared(handle, role);
        match &mut handle.location {
            BucketLocation::InEgress(egress, id) => egress.join(*id, newcomer, max_delay),
            BucketLocation::InAccount(bucket) => {
                let (completion, mut verdict) = oneshot::channel();
                let ticket = next_ticket();
                if bucket.push(newcomer, max_delay, ticket, completion) {
                    tokio::spawn(serve(Arc::clone(self), role));
                    return Joined::Waits { ticket, verdict };
                }
                // All that waited may have left since the task last ran.
                bucket.serve(newcomer.now);
                match verdict.try_recv() {
                    Ok(Ok(permit)) => Joined::Now(permit),
                    _ => Joined::Waits { ticket, verdict },
                }
            }
        }
    }

    /// Hands a bucket that draws on shared budgets to the egress.
    fn register_if_shared(self: &Arc<Self>, handle: &mut BucketHandle, role: BucketRole) {
        let Some(share) = &handle.share else { return };
        if let BucketLocation::InAccount(bucket) = &mut handle.location {
            let nothing = Bucket::unlimited(role, Instant::now());
            let bucket = std::mem::replace(bucket, nothing);
            let owner = Arc::clone(self) as Arc<dyn BucketOwner>;
            let id = share.egress.register(&share.flow, bucket, (owner, role));
            handle.location = BucketLocation::InEgress(Arc::clone(&share.egress), id);
        }
    }

    /// Removes a waiter that has left from its queue.
    pub(super) fn leave(&self, ticket: u64) {
        let mut state = self.lock();
        // It may have moved to the other bucket since it joined, so both are searched.
        let left = state.main.with(|bucket| bucket.remove(ticket));
        if let (false, Some(unverified)) = (left, &mut state.unverified) {
            unverified.with(|bucket| bucket.remove(ticket));
        }
    }

    /// Updates the pause after an upstream 429 to a request sent with this permit.
    pub(super) fn on_429(&self, permit: &Permit, now: Instant, retry_after: Option<Duration>) {
        let mut state = self.lock();
        let sent = permit.granted;
        let handle = state.handle(permit.bucket);
        handle.with(|bucket| bucket.on_429(now, sent, retry_after));
    }

    /// Updates the pause after any other response to such a request, or none.
    pub(super) fn on_other_result(&self, permit: &Permit, is_accepted: bool) {
        let mut state = self.lock();
        let handle = state.handle(permit.bucket);
        // Nearly no bucket recovers: then no clock is read, and no task wakes.
        if handle.inspect(|bucket| bucket.is_recovering()) == Some(true) {
            let now = Instant::now();
            handle.with(|bucket| bucket.on_other_result(now, permit.granted, is_accepted));
        }
    }

    /// Applies another policy; debt is kept.
    pub(super) fn reconfigure(self: &Arc<Self>, policy: &Policy) {
        let now = Instant::now();
        let mut state = self.lock();
        let instance = self.instance().map(|it| &**it);
        let limit = policy.limit_of(instance);
        let set_limit = |handle: &mut BucketHandle, role| {
            let name = || policy.name_of(instance, role);
            handle.with(|bucket| bucket.set_limit(limit, name, now));
        };
        set_limit(&mut state.main, BucketRole::Main);
        if let Some(other) = &mut state.unverified {
            set_limit(other, BucketRole::Unverified);
        }
        self.reshare(&mut state, policy);
    }

    /// Gives both buckets the shares that are theirs now.
    fn reshare(self: &Arc<Self>, state: &mut State, policy: &Policy) {
        let instance = self.instance().map(|it| &**it);
        let of_unverified = policy.sharing.of_unverified(instance);
        // Requests of unverified credentials never draw on the
        // tenant's own budget (rule: tenants).
        let of_main = if state.verified.is_empty() {
            of_unverified.clone()
        } else {
            policy.sharing.of_verified(instance)
        };
        self.move_to(&mut state.main, BucketRole::Main, of_main);
        if let Some(other) = &mut state.unverified {
            self.move_to(other, BucketRole::Unverified, of_unverified);
        }
    }

    fn move_to(
        self: &Arc<Self>,
        handle: &mut BucketHandle,
        role: BucketRole,
        share: Option<Arc<Share>>,
    ) {
        let name = |share: &Option<Arc<Share>>| share.as_ref().map(|it| Arc::clone(&it.flow.name));
        let stays = name(&handle.share) == name(&share);
        // Also if the flow stays: its quota and weight may be others.
        handle.share = share;
        if stays {
            return;
        }
        handle.unregister();
        if handle.inspect(|bucket| bucket.waiting().is_some()) == Some(true) {
            self.register_if_shared(handle, role);
            // The task of the egress served it until now.
            if matches!(handle.location, BucketLocation::InAccount(_)) {
                tokio::spawn(serve(Arc::clone(self), role));
            }
        }
    }

    /// Hands out the tokens of a bucket in the account.
    fn advance(&self, role: BucketRole) -> Option<(Instant, Arc<Notify>)> {
        let mut state = self.lock();
        let handle = match role {
            BucketRole::Main => &mut state.main,
            BucketRole::Unverified => state.unverified.as_deref_mut()?,
        };
        match &mut handle.location {
            BucketLocation::InAccount(bucket) => bucket.advance(Instant::now()),
            // The task of the egress serves it from now on.
            BucketLocation::InEgress(..) => None,
        }
    }

    /// What an operator sees: the bucket of verified credentials.
    pub(super) fn with_main<R>(&self, inspect: impl FnOnce(&Bucket<Sender>) -> R) -> Option<R> {
        self.lock().main.inspect(inspect)
    }

    /// Whether the account may be dropped. One with a verified credential is kept
    /// for an hour, so that a flood of names does not make it unverified again; in
    /// a full table (`is_table_full`) only debt, a pause and waiters keep it.
    pub(super) fn is_idle(&self, now: Instant, is_table_full: bool) -> bool {
        let state = self.lock();
        let idle = |now| {
            let other = state.unverified.as_ref();
            state.main.is_idle(now) && other.is_none_or(|other| other.is_idle(now))
        };
        match now.checked_sub(REMEMBER) {
            _ if is_table_full || state.verified.is_empty() => idle(now),
            // The time of the last request is not kept: a bucket
            // that was full then has given no token since.
            Some(then) => idle(then),
            None => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BucketOwner for Account {
    fn take_back(&self, role: BucketRole, entry: EntryId) {
        let mut state = self.lock();
        let handle = state.handle(role);
        // Since the egress released its lock, the bucket may have
        // moved, or a request may have joined.
        let is_its = matches!(handle.location, BucketLocation::InEgress(_, id) if id == entry);
        if is_its && handle.inspect(|bucket| bucket.waiting().is_none()) == Some(true) {
            handle.unregister();
        }
    }
}

impl State {
    /// The bucket that a credential draws on, as far as it is there.
    fn known(&self, credential: Option<Fingerprint>) -> &BucketHandle {
        let is_main = self.verified.is_empty() || self.verified.contains(credential);
        let other = self.unverified.as_deref().filter(|_| !is_main);
        other.unwrap_or(&self.main)
    }

    fn handle(&mut self, role: BucketRole) -> &mut BucketHandle {
        match (role, &mut self.unverified) {
            (BucketRole::Unverified, Some(unverified)) => unverified,
            // Also for a permit of an unverified bucket that is gone: then all draw on this one.
            _ => &mut self.main,
        }
    }
}

#[cfg(test)]
impl Account {
    /// When a newcomer would be served.
    pub(super) fn forecast(
        &self,
        newcomer: &Newcomer,
        policy: impl FnOnce() -> Arc<Policy>,
        max_delay: Duration,
    ) -> Instant {
        let mut state = self.lock();
        let role = self.role(&mut state, newcomer, policy);
        state.handle(role).forecast(newcomer, max_delay)
    }
}

/// Serves the queue of a bucket until nothing waits there: the one task of a
/// bucket under pressure.
async fn serve(account: Arc<Account>, role: BucketRole) {
    loop {
        let Some((next, changed)) = account.advance(role) else {
            return;
        };
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = changed.notified() => {}
        }
    }
}
