//! What an account learns of its credentials from the other gateways of a cluster, and what it
//! tells them (rules: verification, cluster).
//!
//! Invariants: no request waits for it. A question is asked again only when its reply may be
//! incomplete by now, and a credential in use is reported again only after [`REPORT_AGAIN`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Account;
use crate::cluster::Unavailable;
use crate::identity::{Fingerprint, InstanceId, MAX_CREDENTIALS};
use crate::limit::credentials::{Change, SharedCredentials};
use crate::limit::policy::Policy;

/// A credential in use is reported again after this time, long before the server forgets it.
const REPORT_AGAIN: Duration = Duration::from_secs(15 * 60);

/// What an account belongs to.
#[derive(Debug)]
pub(super) enum Owner {
    /// A credential, or all requests that name neither.
    NoInstance,
    Instance(InstanceId),
    /// An instance that has accounts on other gateways too. Boxed, so that without a cluster an
    /// account is no larger.
    SharedInstance(Box<Exchange>),
}

/// What an account knows of its exchange with those of other gateways.
#[derive(Debug)]
pub(super) struct Exchange {
    instance: InstanceId,
    shared: Arc<SharedCredentials>,
    /// The [`epoch`](SharedCredentials::epoch) in which was last asked.
    asked: AtomicU64,
    reports: Mutex<Reports>,
}

/// Which credentials were reported in an epoch, and when.
#[derive(Debug, Default)]
struct Reports {
    epoch: u64,
    /// In the order in which they were reported.
    reported: Vec<(Fingerprint, Instant)>,
}

impl Owner {
    pub(super) fn new(
        instance: Option<InstanceId>,
        shared: Option<&Arc<SharedCredentials>>,
    ) -> Self {
        match (instance, shared) {
            (None, _) => Self::NoInstance,
            (Some(instance), None) => Self::Instance(instance),
            (Some(instance), Some(shared)) => Self::SharedInstance(Box::new(Exchange {
                instance,
                shared: Arc::clone(shared),
                asked: AtomicU64::new(0),
                reports: Mutex::default(),
            })),
        }
    }

    pub(super) fn instance(&self) -> Option<&InstanceId> {
        match self {
            Self::NoInstance => None,
            Self::Instance(instance) => Some(instance),
            Self::SharedInstance(exchange) => Some(&exchange.instance),
        }
    }

    fn exchange(&self) -> Option<&Exchange> {
        match self {
            Self::SharedInstance(exchange) => Some(exchange),
            Self::NoInstance | Self::Instance(_) => None,
        }
    }
}

impl Exchange {
    /// Whether something may have been missed. After this the caller asks.
    fn must_ask(&self) -> bool {
        let (epoch, asked) = (self.shared.epoch(), self.asked.load(Ordering::Acquire));
        // Of two requests at the same time, one asks.
        asked != epoch
            && self
                .asked
                .compare_exchange(asked, epoch, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// Whether the server may not know that a credential is verified and in use. After this the
    /// caller reports it.
    fn must_report(&self, credential: Fingerprint, is_new: bool) -> bool {
        let (epoch, now) = (self.shared.epoch(), Instant::now());
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        // The server may have lost what was reported to it.
        if reports.epoch != epoch {
            *reports = Reports {
                epoch,
                reported: Vec::new(),
            };
        }
        let known = reports.reported.iter().find(|(it, _)| *it == credential);
        let is_due = is_new || known.is_none_or(|(_, at)| now >= *at + REPORT_AGAIN);
        if is_due {
            reports.remove(credential);
            // One that is forgotten here is only reported once more.
            if reports.reported.len() >= MAX_CREDENTIALS {
                reports.reported.remove(0);
            }
            reports.reported.push((credential, now));
        }
        is_due
    }

    /// Asks or reports again, with the next request or response.
    fn on_no_reply(&self, change: Option<Change>) {
        match change {
            // No epoch after the first connection is 0, so the next request asks again.
            None => self.asked.store(0, Ordering::Release),
            Some(change) => {
                let reports = self.reports.lock();
                let mut reports = reports.unwrap_or_else(PoisonError::into_inner);
                reports.remove(change.credential);
            }
        }
    }
}

impl Reports {
    fn remove(&mut self, credential: Fingerprint) {
        self.reported.retain(|(it, _)| *it != credential);
    }
}

impl Account {
    /// Whether other gateways may have an account of the same instance.
    pub(in crate::limit) fn is_shared(&self) -> bool {
        self.owner.exchange().is_some()
    }

    /// Asks what other gateways have verified, unless that is known. `policy` reads the present
    /// policy.
    pub(in crate::limit) fn ask_cluster<P>(self: &Arc<Self>, policy: P)
    where
        P: FnOnce() -> Arc<Policy> + Send + 'static,
    {
        if self.owner.exchange().is_some_and(Exchange::must_ask) {
            // Otherwise a flood of made-up credentials could reserve the slots of a verified one
            // until the reply is there.
            self.set_one_at_a_time(true);
            tokio::spawn(Arc::clone(self).exchange(None, policy));
        }
    }

    /// Tells the other gateways whether the upstream accepts a credential. `is_new`: it was not
    /// known here.
    pub(in crate::limit) fn report_to_cluster<P>(
        self: &Arc<Self>,
        change: Change,
        is_new: bool,
        policy: P,
    ) where
        P: FnOnce() -> Arc<Policy> + Send + 'static,
    {
        let Some(exchange) = self.owner.exchange() else {
            return;
        };
        let Change {
            credential,
            is_accepted,
        } = change;
        let is_due = match is_accepted {
            // One for which there is no room here is not reported either.
            true => self.is_verified(credential) && exchange.must_report(credential, is_new),
            // A 401 to a credential that was not verified changes nothing for others.
            false => is_new,
        };
        if is_due {
            tokio::spawn(Arc::clone(self).exchange(Some(change), policy));
        }
    }

    async fn exchange<P>(self: Arc<Self>, change: Option<Change>, policy: P)
    where
        P: FnOnce() -> Arc<Policy>,
    {
        let Some(exchange) = self.owner.exchange() else {
            return;
        };
        let exchanged = exchange.shared.exchange(&exchange.instance, change);
        match exchanged.await {
            Ok(known) => self.adopt(known, policy),
            // There will be another connection, and so another epoch.
            Err(Unavailable::NotSent) => {}
            Err(Unavailable::Unknown) => exchange.on_no_reply(change),
        }
        // Also without a reply: otherwise the bucket would reserve one slot at a time for ever.
        if change.is_none() {
            self.set_one_at_a_time(false);
        }
    }

    fn is_verified(&self, credential: Fingerprint) -> bool {
        self.lock().verified.contains(Some(credential))
    }

    fn set_one_at_a_time(&self, one_at_a_time: bool) {
        let mut state = self.lock();
        state
            .main
            .with(|bucket| bucket.set_one_at_a_time(one_at_a_time));
    }
}
