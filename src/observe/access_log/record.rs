//! The fields of a line, and how they are collected.
//!
//! Invariant: text chosen by a client has passed [`sanitize`].

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::request::Parts;

use super::AccessLog;
use super::sanitize::{self, SecretFilter};
use crate::batch::Timing;
use crate::body::ByteCounter;
use crate::identity::Identity;
use crate::observe::metrics::Route;
use crate::receipt::{NotMerged, Receipt};

/// The key of the hash that is written for a merge key. It is random: without it, a merge key, which
/// contains the credential, could be guessed and confirmed by its hash.
static MERGE_KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The fields of a request.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) log: Arc<AccessLog>,
    pub(super) arrived: SystemTime,
    pub(super) duration: Duration,
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) route: Route,
    pub(super) request_id: String,
    pub(super) instance: Option<Box<str>>,
    pub(super) tenant: Option<Arc<str>>,
    pub(super) client: Option<IpAddr>,
    pub(super) status: Option<StatusCode>,
    pub(super) error: Option<&'static str>,
    pub(super) budget: Option<&'static str>,
    pub(super) request_bytes: Option<ByteCounter>,
    pub(super) bytes: u64,
    pub(super) is_complete: bool,
    pub(super) receipt: Option<ReceiptFields>,
    pub(super) not_merged: Option<NotMerged>,
    pub(super) batch: Timing,
    pub(super) queue_wait: Duration,
    pub(super) upstream_time: Duration,
    /// The number of requests that this line represents.
    pub(super) sampled: u32,
}

/// The fields of a receipt that was understood.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReceiptFields {
    pub(super) ids: usize,
    pub(super) merge_key: u64,
}

impl Record {
    pub(super) fn new(log: Arc<AccessLog>, head: &Parts, route: Route) -> Self {
        let secrets = log.secrets.load();
        let filter = SecretFilter::new(secrets.as_deref(), head);
        // Words first, then secrets: a secret can look like a word.
        let path = sanitize::path(head.uri.path());
        let path = if filter.allows(&path) {
            path
        } else {
            sanitize::WITHHELD.to_owned()
        };
        // The id of the client links this line with its own log, but it may contain a token.
        let request_id = match sanitize::request_id(head) {
            Some(id) if filter.allows(id) => id.to_owned(),
            Some(_) => sanitize::WITHHELD.to_owned(),
            None => format!("{:016x}", random()),
        };
        // Ends the borrow of `log`, which moves into the record.
        drop(secrets);
        Self {
            log,
            arrived: SystemTime::now(),
            duration: Duration::ZERO,
            method: sanitize::method(&head.method),
            path,
            route,
            request_id,
            instance: None,
            tenant: None,
            client: None,
            status: None,
            error: None,
            budget: None,
            request_bytes: None,
            bytes: 0,
            is_complete: false,
            receipt: None,
            not_merged: None,
            batch: Timing::default(),
            queue_wait: Duration::ZERO,
            upstream_time: Duration::ZERO,
            sampled: 1,
        }
    }

    pub(super) fn request_bytes(&mut self) -> ByteCounter {
        self.request_bytes.get_or_insert_default().clone()
    }

    pub(super) fn set_instance(&mut self, identity: &Identity, head: &Parts) {
        let secrets = self.log.secrets.load();
        // The instance is known only after the body was searched, so it is filtered separately.
        let filter = SecretFilter::new(secrets.as_deref(), head);
        self.instance = identity.instance.as_deref().map(|instance| {
            // A client that mixes up its fields sends the token as the instance.
            let allowed = filter.allows(instance) && !identity.shows_its_credential();
            Box::from(if allowed {
                instance
            } else {
                sanitize::WITHHELD
            })
        });
    }

    pub(super) fn set_receipt(&mut self, receipt: &Receipt) {
        self.receipt = Some(ReceiptFields {
            ids: receipt.id_count(),
            merge_key: MERGE_KEY.hash_one(&receipt.key),
        });
    }

    pub(super) fn set_timing(&mut self, timing: &Timing) {
        self.batch = *timing;
        self.queue_wait = timing.queue;
        self.upstream_time = timing.upstream;
    }

    /// Records the end; returns whether the line is to be written.
    pub(super) fn finish(&mut self, bytes: u64, is_complete: bool, duration: Duration) -> bool {
        self.bytes = bytes;
        self.is_complete = is_complete;
        self.duration = duration;
        // Failures are rare and needed, so sampling never drops them.
        let failed = self.status.is_none_or(|status| status.is_server_error());
        let sample = self.log.sample.load(Ordering::Relaxed);
        if sample <= 1 || failed || self.error.is_some() {
            return true;
        }
        // Readers of the log multiply by this number.
        self.sampled = sample;
        random().is_multiple_of(u64::from(sample))
    }
}

/// An unpredictable number, without a lock.
fn random() -> u64 {
    // std seeds a thread once and then counts up; the hash spreads consecutive seeds.
    RandomState::new().build_hasher().finish()
}
