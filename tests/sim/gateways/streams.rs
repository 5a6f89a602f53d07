//! The streams of one gateway, which end together when it crashes.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;
use wawp_gateway::{Dial, Io};

type Shared = Mutex<Option<Box<dyn Io>>>;

/// Holds the streams of one gateway until it crashes.
#[derive(Clone, Default)]
pub(super) struct Streams {
    open: Arc<Mutex<Vec<Weak<Shared>>>>,
    aborted: CancellationToken,
}

impl Streams {
    /// Ends all streams. What was written before is still read at the other end.
    pub(super) fn abort(&self) {
        self.aborted.cancel();
        let open = std::mem::take(&mut *self.open.lock().unwrap());
        for stream in open.iter().filter_map(Weak::upgrade) {
            stream.lock().unwrap().take();
        }
    }

    pub(super) async fn aborted(&self) {
        self.aborted.cancelled().await;
    }

    /// A stream that ends with the gateway.
    pub(super) fn wrap(&self, io: Box<dyn Io>) -> io::Result<AbortableStream> {
        if self.aborted.is_cancelled() {
            return Err(io::ErrorKind::NetworkDown.into());
        }
        let io = Arc::new(Mutex::new(Some(io)));
        self.open.lock().unwrap().push(Arc::downgrade(&io));
        Ok(AbortableStream(io))
    }

    /// Connects only until the crash.
    pub(super) fn dial(&self, dial: Dial) -> Dial {
        let Dial::Named { lookup, connect } = dial else {
            unreachable!("the upstream has a name");
        };
        let (names, streams) = (self.clone(), self.clone());
        Dial::Named {
            lookup: Arc::new(move |host, port| {
                if names.aborted.is_cancelled() {
                    return Err(io::ErrorKind::NetworkDown.into());
                }
                lookup(host, port)
            }),
            connect: Arc::new(move |address| {
                if streams.aborted.is_cancelled() {
                    return Box::pin(async { Err(io::ErrorKind::NetworkDown.into()) });
                }
                let (attempt, streams) = (connect(address), streams.clone());
                Box::pin(async move {
                    tokio::select! {
                        io = attempt => Ok(Box::new(streams.wrap(io?)?) as Box<dyn Io>),
                        () = streams.aborted() => Err(io::ErrorKind::NetworkDown.into()),
                    }
                })
            }),
        }
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").finish_non_exhaustive()
    }
}

/// A stream of a gateway.
pub(super) struct AbortableStream(Arc<Shared>);

impl AbortableStream {
    fn poll<T>(
        &self,
        act: impl FnOnce(Pin<&mut Box<dyn Io>>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut *self.0.lock().unwrap() {
            Some(io) => act(Pin::new(io)),
            None => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

impl AsyncRead for AbortableStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll(|io| io.poll_read(cx, buf))
    }
}

impl AsyncWrite for AbortableStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll(|io| io.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|io| io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|io| io.poll_shutdown(cx))
    }
}
