//! The accept loop.
//!
//! Invariants: nothing that takes time happens in the loop itself (a TLS
//! handshake runs in the connection's own task), and an accept that fails does
//! not spin.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::Front;
use super::tls::Acceptor;
use crate::conn::rewind::Rewound;

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
    // A drain waits for what this loop may still accept, not only for what it
    // has accepted.
    let _accepting = front.common.connections.token();
    let permits = &front.common.permits;
    loop {
        let permit = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            permit = Arc::clone(permits).acquire_owned() => permit.expect("the semaphore is never closed"),
        };
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => spawn(front, stream, peer, permit),
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, pause_ms = ACCEPT_PAUSE.as_millis(), "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    if !kept {
        empty_backlog(front, listener);
    }
}

/// Takes what waits in the backlog, which closing the socket would reset.
///
/// It asks the kernel itself: tokio knows of a connection only after its next
/// turn, and by then the socket is closed.
fn empty_backlog(front: &Front, listener: TcpListener) {
    let listener = match listener.into_std() {
        Ok(listener) => listener,
        Err(error) => {
            return tracing::warn!(%error, "connections that waited to be accepted are lost");
        }
    };
    for _ in 0..LAST_ACCEPTS {
        let Ok(permit) = Arc::clone(&front.common.permits).try_acquire_owned() else {
            return;
        };
        let (stream, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if concerns_one_connection(&error) => continue,
            Err(_) => return,
        };
        let stream = stream
            .set_nonblocking(true)
            .and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            spawn(front, stream, peer, permit);
        }
    }
}

/// Serves a connection in a task of its own.
fn spawn(front: &Front, stream: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit) {
    let front = front.clone();
    let connections = front.common.connections.clone();
    connections.spawn(async move {
        greet(&front, stream, peer, permit).await;
    });
}

async fn greet(front: &Front, stream: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit) {
    // Without it small answers wait for an acknowledgement; nothing is lost
    // if the option cannot be set.
    drop(stream.set_nodelay(true));
    let Some((stream, peer)) = front.introduce(stream, Some(peer)).await else {
        return;
    };
    match front.common.tls.load_full() {
        // Boxed, or a connection without TLS would carry the room for it, too.
        Some(tls) => Box::pin(greet_over_tls(front, stream, peer, &tls, permit)).await,
        None => front.serve_introduced(stream, peer, Some(permit)).await,
    }
}

async fn greet_over_tls(
    front: &Front,
    stream: Rewound<TcpStream>,
    peer: Option<IpAddr>,
    tls: &Acceptor,
    permit: OwnedSemaphorePermit,
) {
    let patience = front.common.settings.header_timeout;
    match tokio::time::timeout(patience, Box::pin(tls.accept(stream))).await {
        Ok(Ok(stream)) => {
            // Boxed, as it is large and goes from hand to hand.
            let stream = Rewound::new(Box::new(stream));
            front.serve_introduced(stream, peer, Some(permit)).await;
        }
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::config::Config;
    use crate::gateway::Gateway;
    use crate::upstream::Dial;

    #[tokio::test]
    async fn what_waits_in_the_backlog_when_a_drain_begins_is_answered() {
        let gateway = Gateway::new(&Config::default(), Dial::Tcp).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients = Vec::new();
        for _ in 0..20 {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        let stop = CancellationToken::new();
        stop.cancel();
        accept(gateway.front(), listener, false, &stop).await;
        for mut client in clients {
            // A target that is refused needs no upstream.
            let request = b"GET http://elsewhere.test/ HTTP/1.1\r\nhost: elsewhere.test\r\n\r\n";
            client.write_all(request).await.unwrap();
            let mut answer = [0; 12];
            client.read_exact(&mut answer).await.unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 "), "{answer:?}");
        }
    }
}
