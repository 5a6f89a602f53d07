//! The record of requests that reached the sandbox.
//!
//! Owns the ring of recorded requests. Invariant: the ring holds at most 10,000 requests and about 64 MiB; the oldest
//! are dropped first.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, Method, Version};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use tokio::time::Instant;

use super::paths;
use crate::tools::backends;

/// Maximum of recorded requests.
const MAX_CALLS: usize = 10_000;

/// Maximum of recorded bytes. Without it 10,000 full bodies would be 640 MB.
const MAX_BYTES: usize = 64 << 20;

/// Maximum of recorded bytes of one body.
const MAX_BODY: usize = 64 << 10;

/// Replaces a secret in output.
const MASK: &str = "***";

/// An upstream call: a request as it reached the sandbox.
#[derive(Clone)]
pub struct Call {
    /// When its head was read.
    pub at: Instant,
    /// The method.
    pub method: Method,
    /// Path and query, byte for byte.
    pub target: String,
    /// The headers, credentials included.
    pub headers: HeaderMap,
    /// The version of HTTP.
    pub version: Version,
    /// The first 64 KiB of its body.
    pub body: Bytes,
    /// The bytes of body read so far.
    pub body_bytes: u64,
    /// Whether the body was read to its end.
    pub body_complete: bool,
    /// The instance it names, wherever that is. Under `/sandbox/` only query and headers are searched.
    pub instance: Option<String>,
    /// The status of the response; 0 if there is none yet, or if a fault broke the connection first.
    pub status: u16,
    /// The message ids of a receipt, unchanged.
    pub ids: Vec<String>,
}

/// All recorded requests.
#[derive(Debug, Default)]
pub(super) struct CallLog(Mutex<Ring>);

/// The recorded requests, oldest first.
#[derive(Debug, Default)]
struct Ring {
    /// The number of the oldest call in `calls`. Numbers have no gaps, so a number also gives an index.
    first: u64,
    calls: VecDeque<Entry>,
    bytes: usize,
    /// Requests since the last clearing, dropped ones included.
    received: u64,
}

/// A recorded request, while its body may still grow.
#[derive(Debug)]
struct Entry {
    /// The request without its body, which grows in `body`.
    call: Call,
    body: BytesMut,
    bytes: usize,
}

impl Call {
    fn new(parts: &Parts) -> Self {
        Self {
            at: Instant::now(),
            method: parts.method.clone(),
            target: parts
                .uri
                // The target of HTTP/2 has an authority too; only path and query are comparable
                // between the versions.
                .path_and_query()
                .map_or_else(|| parts.uri.to_string(), ToString::to_string),
            headers: parts.headers.clone(),
            version: parts.version,
            body: Bytes::new(),
            body_bytes: 0,
            body_complete: false,
            instance: None,
            status: 0,
            ids: Vec::new(),
        }
    }

    /// Returns the path, byte for byte.
    pub fn path(&self) -> &str {
        self.target
            .split_once('?')
            .map_or(&self.target, |(path, _)| path)
    }

    /// Whether it is a read receipt.
    pub(super) fn is_receipt(&self) -> bool {
        self.method == Method::POST && paths::is_receipt(self.path())
    }

    /// Returns chat and message ids as a backend in PHP reads them.
    pub fn as_php(&self) -> Value {
        backends::as_php(self.query(), &self.headers, &self.body).of_receipt()
    }

    /// Returns chat and message ids as a backend in Node reads them, with Express and its parser `qs`.
    pub fn as_node(&self) -> Value {
        backends::as_node(self.query(), &self.headers, &self.body).of_receipt()
    }

    fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// Returns the query as it came, but with the values of credentials masked.
    pub fn masked_query(&self) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        // Split by hand: a parser would decode the query, and it must be shown as it arrived.
        let pairs = query.split('&').map(|pair| match pair.split_once('=') {
            Some((key, _)) if is_secret_key(key) => format!("{key}={MASK}"),
            _ => pair.to_owned(),
        });
        Some(pairs.collect::<Vec<_>>().join("&"))
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let query = self
            .masked_query()
            .map(|query| format!("?{query}"))
            .unwrap_or_default();
        let headers = self.headers.iter().map(|(name, value)| {
            let secret = [
                "authorization",
                "access-token",
                "cookie",
                "proxy-authorization",
            ]
            .contains(&name.as_str());
            (
                name.as_str(),
                if secret {
                    MASK.into()
                } else {
                    String::from_utf8_lossy(value.as_bytes())
                },
            )
        });
        f.debug_struct("Call")
            .field("method", &self.method)
            .field("target", &format_args!("{}{query}", self.path()))
            .field("version", &self.version)
            .field("headers", &headers.collect::<Vec<_>>())
            .field("body_bytes", &self.body_bytes)
            .field("body_complete", &self.body_complete)
            .field("instance", &self.instance)
            .field("status", &self.status)
            .field("ids", &self.ids)
            .finish_non_exhaustive()
    }
}

/// Whether a query key names a credential: `access_token`, also encoded, indexed or in another case.
fn is_secret_key(key: &str) -> bool {
    let key = percent_decode_str(key)
        .decode_utf8_lossy()
        .to_ascii_lowercase();
    let name = key.split('[').next().unwrap_or_default();
    ["access_token", "access-token", "token"].contains(&name)
}

impl CallLog {
    /// Records a request whose head was read; returns its number.
    pub(super) fn begin(&self, parts: &Parts) -> u64 {
        let call = Call::new(parts);
        let headers: usize = call
            .headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        // An estimate of the memory: the map of headers and the allocator add to it.
        let bytes = size_of::<Entry>() + call.target.len() + headers;
        let mut ring = self.lock();
        let number = ring.first + ring.calls.len() as u64;
        ring.calls.push_back(Entry {
            call,
            body: BytesMut::new(),
            bytes,
        });
        ring.bytes += bytes;
        // Counted even if `trim` drops the record, so that a test notices an incomplete log.
        ring.received += 1;
        ring.trim();
        number
    }

    /// Changes the record of a request; does nothing if the record has been dropped.
    pub(super) fn update(&self, number: u64, change: impl FnOnce(&mut Call)) {
        if let Some(entry) = self.lock().entry(number) {
            change(&mut entry.call);
        }
    }

    /// Records the instance and the message ids of a request.
    pub(super) fn identify(&self, number: u64, instance: Option<&str>, ids: &[String]) {
        let mut ring = self.lock();
        let Some(entry) = ring.entry(number) else {
            return;
        };
        entry.call.instance = instance.map(str::to_owned);
        entry.call.ids = ids.to_vec();
        let bytes = instance.map_or(0, str::len)
            + ids
                .iter()
                .map(|id| size_of::<String>() + id.len())
                .sum::<usize>();
        entry.bytes += bytes;
        ring.bytes += bytes;
        ring.trim();
    }

    /// Appends to the recorded body of a request.
    pub(super) fn record_body(&self, number: u64, data: &[u8], complete: bool) {
        let mut ring = self.lock();
        let Some(entry) = ring.entry(number) else {
            return;
        };
        // The length is counted in full, the bytes are kept only up to the limit.
        let kept = data.len().min(MAX_BODY - entry.body.len());
        entry.body.extend_from_slice(&data[..kept]);
        entry.bytes += kept;
        entry.call.body_bytes += data.len() as u64;
        entry.call.body_complete |= complete;
        ring.bytes += kept;
        ring.trim();
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        let ring = self.lock();
        // A copy, because the body may still be growing.
        let with_body = |entry: &Entry| Call {
            body: Bytes::copy_from_slice(&entry.body),
            ..entry.call.clone()
        };
        ring.calls.iter().map(with_body).collect()
    }

    /// Converts every record, oldest first. The bodies are copied one by one, and only those of receipts.
    pub(super) fn map<T>(&self, mut make: impl FnMut(&Call) -> T) -> Vec<T> {
        let ring = self.lock();
        let convert = |entry: &Entry| match entry.call.is_receipt() {
            true => make(&Call {
                body: Bytes::copy_from_slice(&entry.body),
                ..entry.call.clone()
            }),
            false => make(&entry.call),
        };
        ring.calls.iter().map(convert).collect()
    }

    pub(super) fn received(&self) -> u64 {
        self.lock().received
    }

    /// Forgets all requests, and counts from 0 again.
    pub(super) fn clear(&self) {
        let mut ring = self.lock();
        // Numbers go on, so a request that is still open cannot change the record of a later one.
        ring.first += ring.calls.len() as u64;
        ring.calls.clear();
        ring.bytes = 0;
        ring.received = 0;
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        // `None` for a record that was dropped or cleared while its request was open.
        let index = number.checked_sub(self.first)?;
        self.calls.get_mut(usize::try_from(index).ok()?)
    }

    /// Drops the oldest requests until the ring is within its bounds.
    fn trim(&mut self) {
        while self.calls.len() > MAX_CALLS || self.bytes > MAX_BYTES {
            let Some(oldest) = self.calls.pop_front() else {
                return;
            };
            self.first += 1;
            // `entry.bytes` holds every addition to `self.bytes`, so this cannot underflow.
            self.bytes -= oldest.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn parts(target: &str) -> Parts {
        let request = Request::post(target)
            .header("authorization", "Bearer s3cret")
            .header("access-token", "s3cret");
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_ring_keeps_the_last_requests_and_counts_them_all() {
        let log = CallLog::default();
        for n in 0..MAX_CALLS + 5 {
            assert_eq!(log.begin(&parts(&format!("/{n}"))), n as u64);
        }
        log.update(4, |_| panic!("a dropped record must not be changed"));
        log.update(5, |call| call.status = 201);
        let calls = log.calls();
        assert_eq!(
            (calls.len(), calls[0].target.as_str(), calls[0].status),
            (MAX_CALLS, "/5", 201)
        );
        assert_eq!(log.received(), MAX_CALLS as u64 + 5);
        log.clear();
        assert_eq!((log.calls().len(), log.received()), (0, 0));
        let number = log.begin(&parts("/again"));
        log.update(number, |call| call.status = 200);
        assert_eq!(log.calls()[0].status, 200);
    }

    #[test]
    fn bodies_are_recorded_to_64_kib_and_push_out_the_oldest_requests() {
        let log = CallLog::default();
        let chunk = vec![7; 100_000];
        for _ in 0..2_000 {
            let number = log.begin(&parts("/upload"));
            log.record_body(number, &chunk, false);
            log.record_body(number, &chunk, true);
        }
        let calls = log.calls();
        assert!((900..=1_024).contains(&calls.len()), "{}", calls.len());
        let last = &calls[calls.len() - 1];
        assert_eq!(
            (last.body.len(), last.body_bytes, last.body_complete),
            (MAX_BODY, 200_000, true)
        );
    }

    #[test]
    fn debug_output_of_a_call_shows_no_token() {
        let target = "/v2/a?access_token=s3cret&a=1&access%5Ftoken=s3cret&access_token%5B0%5D=s3cret&Access_Token=s3cret";
        let call = Call::new(&parts(target));
        let shown = format!("{call:?}");
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(shown.contains("a=1") && shown.contains(MASK), "{shown}");
        assert_eq!(call.target, target);
    }
}
