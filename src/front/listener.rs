//! The accept loop.
//!
//! Invariants: nothing that takes time happens in the loop itself (a TLS
//! handshake runs in the connection's own task), and an accept that fails does
//! not spin.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::Front;

/// A pause after an accept error such as "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Connections taken from the kernel's backlog after accepting has been told
/// to stop: their clients believe they are connected.
const LAST_ACCEPTS: usize = 1024;

/// Accepts connections until told to stop. `kept`: somebody else holds the
/// socket too, and will take what waits in its backlog.
pub(crate) async fn accept(
    front: &Front,
    listener: TcpListener,
    kept: bool,
    stop: &CancellationToken,
) {
    let mut last_accepts = if kept { 1 } else { LAST_ACCEPTS };
    loop {
        let permits = Arc::clone(&front.common.permits);
        let permit = tokio::select! {
            permit = permits.acquire_owned() => permit.expect("the semaphore is never closed"),
            () = stop.cancelled() => return,
        };
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        if stop.is_cancelled() {
            last_accepts -= 1;
            if last_accepts == 0 {
                return;
            }
        }
        match accepted {
            Ok((stream, peer)) => {
                let front = front.clone();
                let connections = front.common.connections.clone();
                connections.spawn(async move {
                    greet(&front, stream, peer).await;
                    drop(permit);
                });
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, pause_ms = ACCEPT_PAUSE.as_millis(), "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn greet(front: &Front, stream: TcpStream, peer: SocketAddr) {
    // Without it small answers wait for an acknowledgement; nothing is lost
    // if the option cannot be set.
    drop(stream.set_nodelay(true));
    let Some((stream, peer)) = front.introduce(stream, Some(peer)).await else {
        return;
    };
    let Some(tls) = front.common.tls.load_full() else {
        return front.serve_introduced(stream, peer).await;
    };
    let patience = front.common.settings.header_timeout;
    match tokio::time::timeout(patience, tls.accept(stream)).await {
        Ok(Ok(stream)) => front.serve_introduced(stream, peer).await,
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake took too long"),
    }
}

fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}
