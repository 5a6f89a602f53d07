//! CORS headers for the gateway's own responses (rule: preflights).
//!
//! A browser hides a response from its page if no headers allow the page's origin.
//! Then the page could not read a 429 of the gateway. Owns what the upstream
//! recently allowed. Invariants: an origin gets only what the upstream returned to
//! a request of that origin; memory is bounded.

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
/// Bytes remembered of an origin and its headers. Origins are shorter than
/// 300 bytes (RFC 1035 §2.3.4).
const MAX_BYTES: usize = 2048;
/// Older headers are not used: the upstream may allow less now.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// The CORS headers of a response that is not for a preflight (Fetch §3.2.3).
static HEADERS: [HeaderName; 4] = [
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    VARY,
];

/// What the upstream allows, by origin.
#[derive(Debug, Default)]
pub(super) struct Cors {
    /// Locked only for requests with `Origin`, which browsers send.
    origins: Mutex<HashMap<HeaderValue, Learned>>,
}

/// What the upstream returned for an origin.
#[derive(Debug)]
struct Learned {
    at: Instant,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Cors {
    /// Learns from the upstream's response to a request of this origin.
    pub(super) fn learn(&self, origin: &HeaderValue, head: &ResponseHead) {
        // An error page of a proxy in front of the API has no such header: it does not
        // take back what the API allowed.
        if head.get(&ACCESS_CONTROL_ALLOW_ORIGIN).is_none() {
            return;
        }
        let size: usize = headers(head).map(|(_, value)| value.len()).sum();
        if size + origin.len() > MAX_BYTES {
            return;
        }
        let at = Instant::now();
        let mut origins = self.lock();
        // Mostly the headers are known already. Then nothing is allocated.
        if let Some(learned) = origins.get_mut(origin) {
            learned.at = at;
            let known = learned
                .headers
                .iter()
                .map(|(name, value)| (name, value.as_bytes()));
            if !known.eq(headers(head)) {
                learned.headers = owned(head);
            }
            return;
        }
        if origins.len() >= MAX_ORIGINS {
            // A scan of 512 entries, only for an origin that is new to a full table.
            let oldest = origins.iter().min_by_key(|(_, learned)| learned.at);
            let oldest = oldest.map(|(origin, _)| origin.clone());
            oldest.map(|origin| origins.remove(&origin));
        }
        let headers = owned(head);
        if let Some(origin) = copy(origin.as_bytes()) {
            origins.insert(origin, Learned { at, headers });
        }
    }

    /// Adds the headers for this origin to a response of the gateway.
    pub(super) fn add(&self, origin: &HeaderValue, head: &mut ResponseHead) {
        let headers = {
            let origins = self.lock();
            match origins.get(origin) {
                Some(learned) if learned.at.elapsed() < MAX_AGE => learned.headers.clone(),
                _ => return,
            }
        };
        for (name, value) in headers {
            head.append(name, value);
        }
        // A page may read only the headers that are exposed, and the upstream does not
        // expose those of the gateway.
        if head.get(&RETRY_AFTER).is_some() {
            let name = HeaderValue::from_static("Retry-After");
            head.append(ACCESS_CONTROL_EXPOSE_HEADERS, name);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<HeaderValue, Learned>> {
        self.origins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn headers(head: &ResponseHead) -> impl Iterator<Item = (&HeaderName, &[u8])> {
    let values = |name| head.get_all(name).map(move |value| (name, value));
    HEADERS.iter().flat_map(values)
}

/// Copies the CORS headers: values of the response are slices that would keep its
/// whole head in memory.
fn owned(head: &ResponseHead) -> Vec<(HeaderName, HeaderValue)> {
    let value = |(name, value): (&HeaderName, _)| Some((name.clone(), copy(value)?));
    headers(head).filter_map(value).collect()
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
        let mut headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        headers.sort();
        headers
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
        // A response without the headers, such as a page of a front proxy, changes nothing.
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
            // An origin in use stays.
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
