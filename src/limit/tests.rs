//! The rules of buckets, queues, pauses and shares, in simulated time.

mod classes;
mod cluster;
mod division;
mod flows;
mod forecasts;
mod in_flight;
mod laws;
mod lent;
mod overload;
mod pauses;
mod queue;
mod shares;
mod status;
mod verification;

use std::num::NonZeroU32;
use std::pin::Pin;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use tokio::time::Instant;

use super::*;
use crate::config::{Config, Quota};
use crate::identity::Findings;
use crate::queue::request::BucketRole;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn quota(rate: f64, burst: u32) -> Option<Quota> {
    let burst = NonZeroU32::new(burst)?;
    Some(Quota::new(rate, burst).unwrap())
}

/// Settings with this quota and waits long enough not to matter.
fn settings(quota: Option<Quota>) -> Config {
    let mut config = Config::default();
    config.limit.quota = quota;
    config.limit.max_wait = ms(3_600_000);
    config
}

fn limiter(config: &Config) -> Limiter {
    Limiter::new(config, Arc::new(Metrics::new(config.metrics.max_instances)))
}

/// A limiter of one quota.
fn of(rate: f64, burst: u32) -> Limiter {
    limiter(&settings(quota(rate, burst)))
}

fn who(instance: &str, token: &str) -> Identity {
    let target = format!("/?instance_id={instance}&access_token={token}");
    let (head, ()) = Request::get(target).body(()).unwrap().into_parts();
    Findings::of_head(&head).identity()
}

fn lane_of(limiter: &Limiter, instance: &str, token: &str) -> Lane {
    limiter.lane(&limiter.rules(), &who(instance, token), |_, _| None, true)
}

fn later(wait: u64) -> Instant {
    Instant::now() + ms(wait)
}

/// A token that must be there at once.
fn now(limiter: &Limiter, lane: &Lane) -> Permit {
    match limiter.admit(lane, Kind::Request, Instant::now()) {
        Ok(Admission::Now(permit)) => permit,
        other => panic!("no token at once: {other:?}"),
    }
}

/// A ticket that must be granted some day.
type PendingPermit = Pin<Box<dyn Future<Output = Permit> + Send>>;

/// Joins the queue, which must have room.
fn queued(limiter: &Limiter, lane: &Lane, kind: Kind) -> PendingPermit {
    const DAY: Duration = Duration::from_secs(86_400);
    let ticket = match limiter.admit(lane, kind, later(3_600_000)) {
        Ok(Admission::Queued(ticket)) => ticket,
        other => panic!("not queued: {other:?}"),
    };
    let granted = tokio::time::timeout(DAY, ticket);
    Box::pin(async { granted.await.expect("forgotten in the queue").unwrap() })
}

/// Takes every token that is there, and says how many there were.
fn drain(limiter: &Limiter, lane: &Lane) -> usize {
    let mut taken = 0;
    while let Ok(Admission::Now(_)) = limiter.admit(lane, Kind::Request, Instant::now()) {
        taken += 1;
        assert!(taken < 100_000, "unlimited");
    }
    taken
}
