//! The address of a client that connects through a trusted proxy.
//!
//! Reads the PROXY header off the stream (rule: access). Invariants: only
//! connections of trusted proxies are read; only a PROXY header is consumed.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::AsyncRead;

use super::Server;
use crate::conn::DRAIN_GRACE;
use crate::conn::rewind::Rewind;
use crate::http::proxy_protocol::{self, Begin};
use crate::observe::metrics::Unreadable;

impl Server {
    /// Returns the stream and the address of its client; `None` if the connection
    /// must end, because a trusted proxy sent a malformed header, or no bytes in time.
    pub(super) async fn client_address<IO>(
        &self,
        io: IO,
        peer: Option<SocketAddr>,
    ) -> Option<(Rewind<IO>, Option<IpAddr>)>
    where
        IO: AsyncRead + Unpin,
    {
        let io = Rewind::new(io);
        let peer = peer.map(|peer| peer.ip());
        let is_trusted = |peer| self.proxy.shared.reloadable.load().tenants.trusts(peer);
        match peer.filter(|&peer| is_trusted(peer)) {
            // Boxed: otherwise the future of every connection has room for it.
            Some(proxy) => Box::pin(self.forwarded_address(io, proxy)).await,
            None => Some((io, peer)),
        }
    }

    /// The address that a trusted proxy names, otherwise the address of the proxy.
    async fn forwarded_address<IO>(
        &self,
        mut io: Rewind<IO>,
        proxy: IpAddr,
    ) -> Option<(Rewind<IO>, Option<IpAddr>)>
    where
        IO: AsyncRead + Unpin,
    {
        let timeout = async {
            // As for an idle connection, a drain shortens the wait: load balancers
            // open connections in advance, and a drain would wait for all of them.
            tokio::select! {
                () = tokio::time::sleep(self.shared.settings.header_timeout) => {}
                () = async {
                    self.shared.drain.begun().await;
                    tokio::time::sleep(DRAIN_GRACE).await;
                } => {}
            }
        };
        let source = tokio::select! {
            // A header that has arrived counts, although the time is over.
            biased;
            source = read_header(&mut io) => source,
            () = timeout => {
                tracing::debug!(%proxy, "a trusted proxy sent nothing in time");
                return None;
            }
        };
        match source {
            Ok(source) => Some((io, Some(source.unwrap_or(proxy)))),
            Err(error) => {
                tracing::debug!(%proxy, %error, "a trusted proxy's connection was closed");
                if error.kind() == io::ErrorKind::InvalidData {
                    let shared = &self.shared;
                    shared.record_unreadable(Unreadable::ProxyHeader, Some(proxy));
                }
                None
            }
        }
    }
}

/// Consumes a PROXY header, if the stream begins with one, and returns the address
/// in it.
async fn read_header<IO>(io: &mut Rewind<IO>) -> io::Result<Option<IpAddr>>
where
    IO: AsyncRead + Unpin,
{
    // The parser bounds the loop: it reports `Unfinished` only for bytes shorter than
    // the longest header.
    loop {
        let begin = proxy_protocol::read(io.prefix())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        match begin {
            Begin::Header { length, source } => {
                io.skip(length);
                return Ok(source);
            }
            Begin::Other => return Ok(None),
            Begin::Unfinished => {}
        }
        if poll_fn(|cx| io.poll_fill(cx)).await? == 0 {
            // The stream has ended. HTTP decides what to do with its bytes.
            return Ok(None);
        }
    }
}
