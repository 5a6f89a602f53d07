//! Who is on a connection, told before anything else is.
//!
//! Owns reading the PROXY protocol off a connection of a trusted proxy.
//! Invariants: nobody else's first bytes are looked at; nothing but a header is
//! taken away.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::AsyncRead;

use super::Front;
use crate::conn::LINGER;
use crate::conn::rewind::Rewound;
use crate::http::proxy_protocol::{self, Begin};

impl Front {
    /// Finds out who is on a connection; `None` if it ended over that.
    pub(super) async fn introduce<IO>(
        &self,
        io: IO,
        peer: Option<SocketAddr>,
    ) -> Option<(Rewound<IO>, Option<IpAddr>)>
    where
        IO: AsyncRead + Unpin,
    {
        let io = Rewound::new(io);
        let peer = peer.map(|peer| peer.ip());
        let may_introduce = |peer| self.proxy.shared.tenants.load().trusts(peer);
        match peer.filter(|&peer| may_introduce(peer)) {
            // Boxed, or every connection would carry the room for it.
            Some(proxy) => Box::pin(self.introduced(io, proxy)).await,
            None => Some((io, peer)),
        }
    }

    /// Reads for whom a trusted proxy speaks.
    async fn introduced<IO>(
        &self,
        mut io: Rewound<IO>,
        proxy: IpAddr,
    ) -> Option<(Rewound<IO>, Option<IpAddr>)>
    where
        IO: AsyncRead + Unpin,
    {
        let patience = self.common.settings.header_timeout;
        let over = async {
            // A drain does not wait for who has said nothing yet.
            tokio::select! {
                () = tokio::time::sleep(patience) => {}
                () = async {
                    self.common.drain.begun().await;
                    tokio::time::sleep(LINGER).await;
                } => {}
            }
        };
        let source = tokio::select! {
            biased;
            source = introduction(&mut io) => source,
            () = over => {
                tracing::debug!(%proxy, "a trusted proxy did not say for whom it speaks");
                return None;
            }
        };
        match source {
            Ok(source) => Some((io, Some(source.unwrap_or(proxy)))),
            Err(error) => {
                tracing::debug!(%proxy, %error, "a trusted proxy's connection was closed");
                None
            }
        }
    }
}

/// Takes a header of the PROXY protocol off a stream, if there is one: for
/// whom it speaks.
async fn introduction<IO>(io: &mut Rewound<IO>) -> io::Result<Option<IpAddr>>
where
    IO: AsyncRead + Unpin,
{
    // What is unfinished is shorter than the longest header.
    loop {
        let begin = proxy_protocol::read(io.ahead())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        match begin {
            Begin::Header { length, source } => {
                io.skip(length);
                return Ok(source);
            }
            Begin::Other => return Ok(None),
            Begin::Unfinished => {}
        }
        if poll_fn(|cx| io.poll_ahead(cx)).await? == 0 {
            // It ended; what there was is told whoever comes next.
            return Ok(None);
        }
    }
}
