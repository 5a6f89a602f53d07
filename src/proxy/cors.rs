//! CORS fields for the gateway's own responses (rule: preflights).
//!
//! A browser hides a response from its page unless it carries the fields that
//! allow the page's origin, so a page could not read our 429. Owns what the
//! upstream recently allowed. Invariants: an origin gets only what the upstream
//! returned to a request of that origin; memory is bounded.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
    RETRY_AFTER, VARY,
};
use http::{HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::http::response_head::ResponseHead;

/// Origins remembered: with [`MAX_BYTES`] each, 1 MiB at most.
const MAX_ORIGINS: usize = 512;
/// Bytes remembered of an origin and its fields. Origins are shorter than
/// 300 bytes (RFC 1035 §2.3.4).
const MAX_BYTES: usize = 2048;
/// Fields older than this are not used: the upstream may have changed its mind.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// The fields that a response to an actual request carries (Fetch §3.2.3).
static FIELDS: [HeaderName; 4] = [
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    VARY,
];

/// What the upstream allows, by origin.
#[derive(Debug, Default)]
pub(super) struct Cors {
    /// Locked only for requests with `Origin`: those of browsers.
    origins: Mutex<HashMap<HeaderValue, Seen>>,
}

/// What the upstream returned for an origin.
#[derive(Debug)]
struct Seen {
    at: Instant,
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Cors {
    /// Learns from the upstream's response to a request of this origin.
    pub(super) fn learn(&self, origin: &HeaderValue, head: &ResponseHead) {
        if head.get(&ACCESS_CONTROL_ALLOW_ORIGIN).is_none() {
            return;
        }
        let size: usize = fields(head).map(|(_, value)| value.len()).sum();
        if size + origin.len() > MAX_BYTES {
            return;
        }
        let at = Instant::now();
        let mut origins = self.lock();
        if let Some(seen) = origins.get_mut(origin) {
            seen.at = at;
            let known = seen
                .fields
                .iter()
                .map(|(name, value)| (name, value.as_bytes()));
            if !known.eq(fields(head)) {
                seen.fields = owned(head);
            }
            return;
        }
        if origins.len() >= MAX_ORIGINS {
            let oldest = origins.iter().min_by_key(|(_, seen)| seen.at);
            let oldest = oldest.map(|(origin, _)| origin.clone());
            oldest.map(|origin| origins.remove(&origin));
        }
        let fields = owned(head);
        if let Some(origin) = copy(origin.as_bytes()) {
            origins.insert(origin, Seen { at, fields });
        }
    }

    /// Adds the fields for this origin to a response of our own.
    pub(super) fn add(&self, origin: &HeaderValue, head: &mut ResponseHead) {
        let fields = {
            let origins = self.lock();
            match origins.get(origin) {
                Some(seen) if seen.at.elapsed() < MAX_AGE => seen.fields.clone(),
                _ => return,
            }
        };
        for (name, value) in fields {
            head.append(name, value);
        }
        // The upstream cannot know of our fields, and a page may read only
        // those that are exposed.
        if head.get(&RETRY_AFTER).is_some() {
            let name = HeaderValue::from_static("Retry-After");
            head.append(ACCESS_CONTROL_EXPOSE_HEADERS, name);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<HeaderValue, Seen>> {
        self.origins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fields(head: &ResponseHead) -> impl Iterator<Item = (&HeaderName, &[u8])> {
    let values = |name| head.get_all(name).map(move |value| (name, value));
    FIELDS.iter().flat_map(values)
}

/// The fields with memory of their own: the response's would keep its whole
/// head in memory.
fn owned(head: &ResponseHead) -> Vec<(HeaderName, HeaderValue)> {
    let value = |(name, value): (&HeaderName, _)| Some((name.clone(), copy(value)?));
    fields(head).filter_map(value).collect()
}

fn copy(value: &[u8]) -> Option<HeaderValue> {
    HeaderValue::from_bytes(value).ok()
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn empty() -> ResponseHead {
        ResponseHead::new(StatusCode::OK)
    }

    fn allowing(origin: &str) -> ResponseHead {
        let mut head = empty();
        for (name, value) in [
            (ACCESS_CONTROL_ALLOW_ORIGIN, origin),
            (ACCESS_CONTROL_EXPOSE_HEADERS, "X-Total"),
            (VARY, "Origin"),
            (HeaderName::from_static("x-other"), "1"),
        ] {
            head.append(name, value.parse().unwrap());
        }
        head
    }

    fn added(cors: &Cors, origin: &str) -> Vec<String> {
        let mut head = empty();
        head.append(RETRY_AFTER, "1".parse().unwrap());
        cors.add(&origin.parse().unwrap(), &mut head);
        let headers = head.headers_mut();
        headers.remove(RETRY_AFTER);
        let mut fields: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        fields.sort();
        fields
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_gets_what_the_upstream_returned_to_it() {
        let cors = Cors::default();
        let learn = |origin: &str, head: &ResponseHead| cors.learn(&origin.parse().unwrap(), head);
        learn("https://a.test", &allowing("https://a.test"));
        learn("https://b.test", &empty());
        assert_eq!(
            added(&cors, "https://a.test"),
            [
                "access-control-allow-origin: https://a.test",
                "access-control-expose-headers: Retry-After",
                "access-control-expose-headers: X-Total",
                "vary: Origin",
            ]
        );
        assert!(added(&cors, "https://b.test").is_empty());
        learn("https://a.test", &allowing("*"));
        assert_eq!(
            added(&cors, "https://a.test")[0],
            "access-control-allow-origin: *"
        );
        // A response without the fields, such as a page of a front proxy, says nothing.
        learn("https://a.test", &empty());
        assert!(!added(&cors, "https://a.test").is_empty());
        tokio::time::advance(MAX_AGE).await;
        assert!(added(&cors, "https://a.test").is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_origins_takes_bounded_memory() {
        let cors = Cors::default();
        for number in 0..MAX_ORIGINS + 10 {
            let origin = format!("https://{number}.test");
            cors.learn(&origin.parse().unwrap(), &allowing(&origin));
            // One in use stays.
            cors.learn(
                &"https://0.test".parse().unwrap(),
                &allowing("https://0.test"),
            );
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(cors.lock().len(), MAX_ORIGINS);
        assert!(!added(&cors, "https://0.test").is_empty());
        assert!(added(&cors, "https://1.test").is_empty());
        let long = "x".repeat(MAX_BYTES);
        cors.learn(&long.parse().unwrap(), &allowing(&long));
        assert!(added(&cors, &long).is_empty());
    }
}
