//! The streams of one gateway, which end together when it crashes.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use wawp_gateway::{Dial, Io};

type Shared = Mutex<Option<Box<dyn Io>>>;

/// Holds the streams of one gateway until it crashes.
#[derive(Clone)]
pub(super) struct Streams {
    /// `None` after the crash.
    open: Arc<Mutex<Option<Vec<Weak<Shared>>>>>,
    aborted: watch::Sender<bool>,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            open: Arc::new(Mutex::new(Some(Vec::new()))),
            aborted: watch::channel(false).0,
        }
    }
}

impl Streams {
    /// Ends all streams. What was written before is still read at the other end.
    pub(super) fn abort(&self) {
        let open = self.open.lock().unwrap().take().unwrap_or_default();
        for stream in open.iter().filter_map(Weak::upgrade) {
            stream.lock().unwrap().take();
        }
        self.aborted.send_replace(true);
    }

    pub(super) async fn aborted(&self) {
        let mut aborted = self.aborted.subscribe();
        // The sender is part of this.
        aborted.wait_for(|it| *it).await.ok();
    }

    /// A stream that ends with the gateway.
    pub(super) fn wrap(&self, io: Box<dyn Io>) -> io::Result<AbortableStream> {
        let io = Arc::new(Mutex::new(Some(io)));
        match &mut *self.open.lock().unwrap() {
            Some(open) => open.push(Arc::downgrade(&io)),
            None => return Err(io::ErrorKind::NetworkDown.into()),
        }
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
                if *names.aborted.borrow() {
                    return Err(io::ErrorKind::NetworkDown.into());
                }
                lookup(host, port)
            }),
            connect: Arc::new(move |address| {
                if *streams.aborted.borrow() {
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
