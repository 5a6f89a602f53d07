//! The accept loop.
//!
//! Invariants: the loop waits only for connections, permits and free descriptors (a
//! TLS handshake runs in the connection's task), and a failing accept does not spin.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::Server;
use super::tls::Acceptor;
use crate::conn::rewind::Rewind;
use crate::observe::metrics::Unreadable;
use crate::{descriptors, keepalive};

/// The pause after an accept error such as "too many open files": the next
/// accept would fail immediately, too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// The most connections taken from the kernel's backlog when accepting stops.
/// Their clients consider them established, and may have sent requests.
const LAST_ACCEPTS: usize = 1024;

/// Accepts connections until `stop`. With `is_inherited` the service manager
/// holds the socket, too, and the next process takes what is in the backlog.
pub(crate) async fn accept(
    server: &Server,
    listener: TcpListener,
    is_inherited: bool,
    stop: &CancellationToken,
) {
    // A drain waits until there are no connections. The token counts as one until this
    // loop ends, because it may still accept some.
    let _accepting = server.shared.connections.token();
    let permits = &server.shared.permits;
    // Otherwise an upgraded connection, on which both sides may be silent, would keep its permit
    // for ever when its client vanishes. If this fails, only that is lost.
    drop(keepalive::enable(&listener));
    loop {
        // The permit comes before the connection: above `server.max_connections`
        // connections wait in the backlog, where they take no descriptor.
        // Biased: under a flood of connections `stop` must still be seen.
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
            Ok((stream, peer)) => {
                // Served nevertheless, but the next connection would take one descriptor
                // more from the reserve.
                let took_reserved = descriptors::is_reserved(&stream);
                spawn(server, stream, peer, permit);
                if took_reserved {
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = free_descriptor(&listener) => {}
                    }
                }
            }
            // The client disconnected while it was in the backlog.
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, pause_ms = ACCEPT_PAUSE.as_millis(), "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    if !is_inherited {
        empty_backlog(server, listener);
    }
}

/// Waits until a descriptor is free for the next connection (rule: bounds). Until
/// then connections wait in the backlog.
async fn free_descriptor(listener: &TcpListener) {
    tracing::warn!("cannot accept connections: open files are close to their limit");
    while !descriptors::has_free(listener) {
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// Accepts all connections in the backlog: closing the socket would reset them.
fn empty_backlog(server: &Server, listener: TcpListener) {
    // Through `std`, because tokio's listener learns of a connection only when the
    // runtime polls the sockets, and this function does not wait for that.
    let listener = match listener.into_std() {
        Ok(listener) => listener,
        Err(error) => {
            return tracing::warn!(%error, "connections in the backlog are lost");
        }
    };
    for _ in 0..LAST_ACCEPTS {
        let Ok(permit) = Arc::clone(&server.shared.permits).try_acquire_owned() else {
            return;
        };
        let (stream, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if concerns_one_connection(&error) => continue,
            // `WouldBlock`: the backlog is empty.
            Err(_) => return,
        };
        // Unlike tokio's `accept`, that of `std` returns blocking sockets.
        let stream = stream
            .set_nonblocking(true)
            .and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            spawn(server, stream, peer, permit);
        }
    }
}

/// Serves a connection in a separate task.
fn spawn(server: &Server, stream: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit) {
    let connections = &server.shared.connections;
    connections.spawn(serve(server.clone(), stream, peer, permit));
}

/// Owns what it needs: a future around it would hold all of it a second time, for each connection.
async fn serve(server: Server, stream: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit) {
    // Otherwise the end of a small response can wait for the acknowledgement of its
    // beginning (Nagle's algorithm). If this fails, only that is lost.
    drop(stream.set_nodelay(true));
    let Some((stream, peer)) = server.client_address(stream, Some(peer)).await else {
        return;
    };
    match server.shared.tls.load_full() {
        // Boxed: otherwise the future of a connection without TLS has room for it, too.
        Some(tls) => Box::pin(serve_tls(&server, stream, peer, &tls, permit)).await,
        None => server.serve_client(stream, peer, Some(permit)).await,
    }
}

async fn serve_tls(
    server: &Server,
    stream: Rewind<TcpStream>,
    peer: Option<IpAddr>,
    tls: &Acceptor,
    permit: OwnedSemaphorePermit,
) {
    let timeout = server.shared.settings.header_timeout;
    match tokio::time::timeout(timeout, Box::pin(tls.acceptor.accept(stream))).await {
        Ok(Ok(stream)) => {
            // Boxed: a TLS stream is large, and so would be each future that holds it.
            let stream = Rewind::new(Box::new(stream));
            server.serve_client(stream, peer, Some(permit)).await;
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            // Not a connection that only ends: so do health checks.
            if error.kind() == io::ErrorKind::InvalidData {
                let shared = &server.shared;
                shared.record_unreadable(Unreadable::Handshake, peer);
            }
        }
        Err(_) => tracing::debug!("TLS handshake took too long"),
    }
}

/// Whether an accept failed because of the accepted connection, not of the listener.
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

    #[test]
    fn the_task_of_an_idle_connection_is_small() {
        fn future<F>(
            _: impl Fn(Server, TcpStream, SocketAddr, OwnedSemaphorePermit) -> F,
        ) -> usize {
            size_of::<F>()
        }
        // With what the runtime adds it takes 1,024 bytes. For more, the allocator has 1,280.
        let bytes = future(serve);
        assert!(bytes <= 900, "{bytes}");
    }

    #[tokio::test]
    async fn an_accepted_socket_detects_a_client_that_vanishes() {
        let gateway = Gateway::new(&Config::default(), Dial::Tcp).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let socket = listener.into_std().unwrap();
        let listener = TcpListener::from_std(socket.try_clone().unwrap()).unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        accept(gateway.server(), listener, true, &stop).await;
        let _client = TcpStream::connect(address).await.unwrap();
        // As the accept loop would have accepted it.
        let (accepted, _) = TcpListener::from_std(socket)
            .unwrap()
            .accept()
            .await
            .unwrap();
        let accepted = socket2::SockRef::from(&accepted);
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), keepalive::TIME);
    }

    #[tokio::test]
    async fn a_connection_in_the_backlog_is_served_when_a_drain_begins() {
        let gateway = Gateway::new(&Config::default(), Dial::Tcp).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients = Vec::new();
        for _ in 0..20 {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        let stop = CancellationToken::new();
        stop.cancel();
        accept(gateway.server(), listener, false, &stop).await;
        for mut client in clients {
            // A target that is refused needs no upstream.
            let request = b"GET http://elsewhere.test/ HTTP/1.1\r\nhost: elsewhere.test\r\n\r\n";
            client.write_all(request).await.unwrap();
            let mut response = [0; 12];
            client.read_exact(&mut response).await.unwrap();
            assert!(response.starts_with(b"HTTP/1.1 "), "{response:?}");
        }
    }
}
