//! The end of a gateway, step by step (rule: drain).

use tokio::time::Instant;

use super::Ended;
use super::worker::Workers;
use crate::gateway::Gateway;
use crate::observe::admin::Ready;

/// Drains until everything accepted was answered, until the deadline, or until a
/// second signal resolves `abort`.
pub(super) async fn drain(
    gateway: &Gateway,
    ready: &Ready,
    workers: &Workers,
    deadline: Instant,
    abort: impl Future<Output = ()>,
) -> Ended {
    // 1. `/readyz` returns 503: load balancers send no more.
    ready.set(false);
    // 2. No new connections.
    workers.stop_accepting.cancel();
    // 3. Open windows end at once; connections are asked to end.
    gateway.drain();
    // 4. Everything accepted is answered, queued requests included.
    let in_time = tokio::select! {
        () = gateway.drained() => true,
        () = tokio::time::sleep_until(deadline) => false,
        () = abort => false,
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
