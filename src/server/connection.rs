//! One connection, from its first byte to its polite end.
//!
//! Owns when it is at rest and when HTTP is spoken on it, by us or by hyper.
//! Invariants: what is there for HTTP is there only while it is spoken; errors
//! of a connection end that connection and nothing else.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;

use super::Front;
use super::fast::{self, After};
use super::idle::{self, Woken};
use crate::conn::permit::Place;
use crate::conn::rewind::Rewound;
use crate::conn::state::Activity;
use crate::conn::timer::{self, Bell};

impl Front {
    /// Serves one connection over any stream of bytes, which begins with what
    /// a trusted proxy may say of its client.
    pub(crate) async fn serve<IO>(&self, io: IO, peer: Option<SocketAddr>)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if let Some((io, peer)) = self.introduce(io, peer).await {
            self.serve_introduced(io, peer, None).await;
        }
    }

    /// Serves one connection of which it is known who is on it.
    /// It has a `permit` unless it needs none.
    pub(super) async fn serve_introduced<IO>(
        &self,
        mut io: Rewound<IO>,
        peer: Option<IpAddr>,
        permit: Option<OwnedSemaphorePermit>,
    ) where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        io.takes(Place::new(&self.common.metrics, permit));
        let activity = Arc::new(Activity::new(&self.common.settings));
        let timer = pin!(timer::timer());
        let begun = pin!(self.common.drain.begun());
        let mut bell = Bell::new(timer, &self.common.drain, begun);
        let mut is_fresh = true;
        loop {
            let woken = idle::rest(&mut io, is_fresh, &activity, &mut bell).await;
            is_fresh = false;
            // What is spoken is boxed, or a connection at rest would carry the
            // room for it.
            match woken {
                Woken::Http1 => {
                    let max_fields = self.common.settings.max_headers;
                    let request = fast::take(&mut io, &activity, max_fields, &mut bell);
                    if let Some(request) = request.await {
                        let answered =
                            self.answer_plain(&mut io, request, peer, &activity, &mut bell);
                        match Box::pin(answered).await {
                            After::Rest => continue,
                            After::Close => return idle::close(&mut io, &mut bell).await,
                            After::Cut => return,
                        }
                    }
                    let spoken = Box::pin(self.speak_http1(io, peer, &activity, &mut bell));
                    let Some(rested) = spoken.await else { return };
                    io = rested;
                }
                Woken::Http2 => {
                    let spoken = Box::pin(self.speak_http2(io, peer, &activity, &mut bell));
                    return spoken.await;
                }
                Woken::Ended => return idle::close(&mut io, &mut bell).await,
                Woken::Cut => return,
            }
        }
    }
}
