//! Upgraded connections: bytes in both directions until one side ends.
//!
//! Invariants: the bytes are not inspected; a drain ends the connection, because a
//! WebSocket may have no end by itself. There is no timeout, because both sides may be
//! silent for long; TCP keep-alive finds those that have vanished.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio_util::task::TaskTracker;

use crate::conn::drain_signal::Drain;

/// Connects both sides once both have switched protocols.
pub(crate) fn bridge(client: OnUpgrade, upstream: OnUpgrade, tasks: &TaskTracker, drain: &Drain) {
    let drain = drain.clone();
    // A separate task: the request itself ends with its 101.
    tasks.spawn(async move {
        let (Ok(client), Ok(upstream)) = tokio::join!(client, upstream) else {
            return;
        };
        let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        tokio::select! {
            // An error here is the end of one side, which ends the other too.
            _ = tokio::io::copy_bidirectional(&mut client, &mut upstream) => {}
            () = drain.begun() => {
                drop(client.shutdown().await);
                drop(upstream.shutdown().await);
            }
        }
    });
}
