//! The end of a gateway, step by step (rule: drain).
//!
//! Invariant: `/readyz` reports the drain before the first connection is refused.

use std::pin::pin;

use tokio::time::{Instant, sleep, sleep_until};

use super::Ended;
use super::worker::Workers;
use crate::config;
use crate::gateway::Gateway;
use crate::observe::admin::Ready;

/// Drains until every accepted request has its response, `server.drain_timeout` is over,
/// or a second signal resolves `abort`.
pub(super) async fn drain(
    gateway: &Gateway,
    ready: &Ready,
    workers: &Workers,
    settings: &config::Server,
    abort: impl Future<Output = ()>,
) -> Ended {
    let deadline = Instant::now() + settings.drain_timeout;
    let mut abort = pin!(abort);
    // 1. `/readyz` returns 503. Load balancers see that with their next health check and go on
    //    connecting until then, so the listener stays open for `server.drain_delay`.
    ready.set(false);
    let mut is_aborted = false;
    if !settings.drain_delay.is_zero() {
        tokio::select! {
            () = sleep(settings.drain_delay) => {}
            () = &mut abort => is_aborted = true,
        }
    }
    // 2. No new connections.
    workers.stop_accepting.cancel();
    // 3. Open windows end at once, HTTP/2 gets GOAWAY, and idle HTTP/1 connections are
    //    closed after `DRAIN_GRACE`.
    gateway.drain();
    // 4. Every accepted request gets its response, also those that wait in a queue.
    let in_time = !is_aborted
        && tokio::select! {
            () = gateway.drained() => true,
            () = sleep_until(deadline) => false,
            () = &mut abort => false,
        };
    // A connection that was cut before its client read the response counts as unfinished,
    // although the drain did not have to wait for it.
    let (requests, connections) = gateway.unfinished();
    if in_time && connections == 0 {
        tracing::info!("drained: every accepted request has its response");
        return Ended::Drained;
    }
    tracing::error!(
        calls = requests,
        connections,
        "drain cut short: what had not ended is lost"
    );
    Ended::Cut {
        requests,
        connections,
    }
}
