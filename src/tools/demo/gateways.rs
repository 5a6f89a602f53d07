//! What a demo needs of its gateways, whether there is one or several.
//!
//! Invariant: final figures are read when no request is in flight and no batch is open.

use std::net::SocketAddr;
use std::time::Duration;

use super::Error;
use super::audit::Check;
use super::audit::replicas::Replicas;
use super::figures::Figures;
use super::plan::Plan;

/// Batches whose callers have disconnected may still be open when the apps have ended; their
/// window and wait end within `limit.max_wait` (4 s).
const SETTLE_PAUSE: Duration = Duration::from_millis(250);
const SETTLE_ROUNDS: u32 = 40;

/// The time limit of the drain. No request of a demo takes longer than
/// `limit.max_wait` (4 s).
pub(super) const DRAIN: Duration = Duration::from_secs(10);

/// The gateways of a demo. They end when this is dropped, at the latest.
pub(super) trait Gateways {
    /// The first sentences of the demo.
    fn introduction(&self, plan: &Plan) -> String;

    /// Where they accept requests.
    fn addresses(&self) -> Vec<SocketAddr>;

    /// An admin page.
    fn admin(&self) -> SocketAddr;

    /// What they have counted so far, together.
    async fn figures(&self) -> Figures;

    /// Ends one of several as a crash does, this long after the start of the traffic.
    fn crash_one(&self, after: Duration);

    /// What they have counted when all requests have ended; they go on.
    async fn settle(&self) -> Counted;

    /// Ends them, after all responses are complete.
    async fn end(self) -> Result<Counted, Error>;
}

/// What gateways have counted.
#[derive(Debug)]
pub(super) struct Counted {
    /// Without those of a gateway that was killed.
    pub(super) figures: Figures,
    /// How they ended.
    pub(super) ended: Check,
    /// `None` for a single gateway.
    pub(super) replicas: Option<Replicas>,
}

/// The figures once no request is in flight and no batch is open, or after some seconds.
pub(super) async fn settled(figures: impl AsyncFn() -> Figures) -> Figures {
    let mut last = figures().await;
    for _ in 0..SETTLE_ROUNDS {
        tokio::time::sleep(SETTLE_PAUSE).await;
        let current = figures().await;
        if current == last && current.in_flight == 0 {
            break;
        }
        last = current;
    }
    last
}
