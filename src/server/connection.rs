//! One connection, from its first byte to its end.
//!
//! Owns the order of idle wait, fast path and hyper. Invariants: HTTP state exists
//! only while a request is served, and about a second longer; an error on a
//! connection ends that connection and nothing else.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;

use super::Server;
use super::detect::Protocol;
use super::fast::{self, Next};
use super::idle::{self, Wait};
use crate::conn::connection_permit::ConnectionPermit;
use crate::conn::lifecycle::Lifecycle;
use crate::conn::rewind::Rewind;
use crate::conn::state::{ConnCtx, ConnState};
use crate::conn::timer::{self, ConnTimer};

impl Server {
    /// Serves one connection over any byte stream. If `peer` is a trusted proxy,
    /// the stream may begin with a PROXY header.
    pub(crate) async fn serve<IO>(&self, io: IO, peer: Option<SocketAddr>)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if let Some((io, peer)) = self.client_address(io, peer).await {
            self.serve_client(io, peer, None).await;
        }
    }

    /// Serves one connection of the client at `peer`. Without a `permit` it does
    /// not count against `server.max_connections`.
    pub(super) async fn serve_client<IO>(
        &self,
        mut io: Rewind<IO>,
        peer: Option<IpAddr>,
        permit: Option<OwnedSemaphorePermit>,
    ) where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let shared = &*self.shared;
        io.hold(ConnectionPermit::new(&shared.metrics, permit));
        let state = Arc::new(ConnState::new(&shared.settings));
        let conn = ConnCtx { peer, state };
        // Pinned in this future: a timer on the heap would be one more allocation
        // for each connection.
        let sleep = pin!(timer::sleep());
        let drain_begun = pin!(shared.drain.begun());
        let timer = ConnTimer::new(sleep, &shared.drain, drain_begun);
        let mut lifecycle = Lifecycle::new(Arc::clone(&conn.state), timer);
        let mut is_first = true;
        loop {
            let wait = idle::wait(&mut io, is_first, &mut lifecycle).await;
            is_first = false;
            // The futures that serve a request are boxed. This future exists for
            // each connection, also while it is idle, and would be as large as
            // the largest of them.
            match wait {
                Wait::Request(Protocol::Http1) => {
                    let max_headers = shared.settings.max_headers;
                    let request = fast::take_request(&mut io, max_headers, &mut lifecycle);
                    if let Some(request) = request.await {
                        let served = self.serve_fast(&mut io, request, &conn, &mut lifecycle);
                        match Box::pin(served).await {
                            Next::Wait => continue,
                            Next::Close => return idle::close(&mut io, &mut lifecycle).await,
                            Next::Cut => return,
                        }
                    }
                    // hyper keeps the connection for the requests that follow, too,
                    // until it has been idle for a second.
                    let served = Box::pin(self.serve_http1(io, &conn, &mut lifecycle));
                    let Some(parked) = served.await else { return };
                    io = parked;
                }
                Wait::Request(Protocol::Http2) => {
                    return Box::pin(self.serve_http2(io, &conn, &mut lifecycle)).await;
                }
                Wait::Close => return idle::close(&mut io, &mut lifecycle).await,
                Wait::Cut => return,
            }
        }
    }
}
