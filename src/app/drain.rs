//! The end of a gateway, step by step (rule: drain).

use std::pin::pin;

use tokio::time::{Instant, sleep, sleep_until};

use super::Ended;
use super::worker::Workers;
use crate::config;
use crate::gateway::Gateway;
use crate::observe::admin::Ready;

/// Drains until everything accepted was answered, until `server.drain_timeout` is
/// over, or until a second signal resolves `abort`.
pub(super) async fn drain(
    gateway: &Gateway,
    ready: &Ready,
    workers: &Workers,
    settings: &config::Server,
    abort: impl Future<Output = ()>,
) -> Ended {
    let deadline = Instant::now() + settings.drain_timeout;
    let mut abort = pin!(abort);
    // 1. `/readyz` returns 503: load balancers send no more.
    ready.set(false);
    // They learn of it by their next probe, and connect until then.
    let mut is_aborted = false;
    if !settings.drain_delay.is_zero() {
        tokio::select! {
            () = sleep(settings.drain_delay) => {}
            () = &mut abort => is_aborted = true,
        }
    }
    // 2. No new connections.
    workers.stop_accepting.cancel();
    // 3. Open windows end at once; connections are asked to end.
    gateway.drain();
    // 4. Everything accepted is answered, queued requests included.
    let in_time = !is_aborted
        && tokio::select! {
            () = gateway.drained() => true,
            () = sleep_until(deadline) => false,
            () = &mut abort => false,
        };
    let (requests, connections) = gateway.unfinished();
    if in_time && connections == 0 {
        tracing::info!("drained: everything accepted was answered");
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
