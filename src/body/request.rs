//! A request body, sent to the upstream.
//!
//! Invariants: with `Expect: 100-continue`, the client is asked for the body only
//! when the upstream asks for it, or after one second without a response. A body
//! that the client was never asked for fails only after the response was read:
//! hyper closes the connection when a body fails.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::{Notify, SetOnce, oneshot};
use tokio::time::Instant;

use super::kept::KeptPieces;
use super::{ClientBody, Error, SCAN_LIMIT};
use crate::http::request_head::RequestHead;

/// How long the body waits for a `100 Continue`; curl has the same default. The
/// wait must be limited (RFC 9110 §10.1.1).
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// How long hyper may take to drop the body of a refused request.
const RECOVERY_WAIT: Duration = Duration::from_secs(1);

/// A request, sent to the upstream.
#[derive(Debug, Default)]
pub(crate) struct UpstreamRequest {
    /// Boxed, because it has more than 200 bytes and is moved often.
    pub(crate) head: Box<RequestHead>,
    pub(crate) body: RequestBody,
}

/// A request body, sent to the upstream.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// Held in full; `None` once it was handed over, or where there is no body.
    Whole(Option<Bytes>),
    /// Streamed from the client. Boxed, because a request is moved about a dozen
    /// times.
    Streamed(Box<Streamed>),
}

/// A body that is streamed from a client to the upstream.
pub(crate) struct Streamed {
    body: ClientBody,
    /// While it is pending, no byte of the body is read.
    gate: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
    progress: Progress,
    /// Present while the body can still be recovered.
    kept: Option<Kept>,
}

/// The pieces of a streamed body that were sent.
struct Kept {
    pieces: KeptPieces,
    recover: oneshot::Sender<Box<Streamed>>,
}

/// A request body that can be sent again if the upstream did not process it.
#[derive(Debug)]
pub(crate) enum KeptBody {
    Whole(Option<Bytes>),
    /// Received when hyper drops the body.
    Streamed(oneshot::Receiver<Box<Streamed>>),
}

impl KeptBody {
    /// The body from its beginning; `None` if it was too long to be kept.
    pub(crate) async fn recover(self) -> Option<RequestBody> {
        match self {
            Self::Whole(bytes) => Some(RequestBody::Whole(bytes)),
            Self::Streamed(body) => {
                // hyper drops the body in its own task, possibly after it has reported
                // the error.
                let body = tokio::time::timeout(RECOVERY_WAIT, body).await;
                Some(RequestBody::Streamed(body.ok()?.ok()?))
            }
        }
    }
}

/// How much of a streamed body was sent. The response timeout starts at the last
/// piece, so a slow upload is not taken for a silent upstream. Also keeps the error
/// that ended the body, which hyper does not report over HTTP/2.
#[derive(Clone, Debug)]
pub(crate) struct Progress(Arc<ProgressState>);

#[derive(Debug)]
struct ProgressState {
    started: Instant,
    /// Microseconds after `started`.
    last_piece: AtomicU64,
    failure: OnceLock<Error>,
    /// The response was read to its end, or will not be read.
    response_over: SetOnce<()>,
}

/// The response is awaited or being read. Dropped when that is over.
#[derive(Debug)]
pub(crate) struct ResponsePending(Progress);

impl Drop for ResponsePending {
    fn drop(&mut self) {
        // It fails only if the value is set already.
        drop(self.0.0.response_over.set(()));
    }
}

impl Progress {
    fn new() -> Self {
        Self(Arc::new(ProgressState {
            started: Instant::now(),
            last_piece: AtomicU64::new(0),
            failure: OnceLock::new(),
            response_over: SetOnce::new(),
        }))
    }

    /// Why the body ended early, if it did.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.0.failure.get().copied()
    }

    /// When the last piece was sent, or the body was created.
    pub(crate) fn last_piece(&self) -> Instant {
        self.0.started + Duration::from_micros(self.0.last_piece.load(Ordering::Relaxed))
    }

    /// A guard. Its drop notifies the body that the response is over.
    pub(crate) fn response_pending(&self) -> ResponsePending {
        ResponsePending(self.clone())
    }

    /// Waits until the response is over.
    fn response_over(&self) -> impl Future<Output = ()> + Send + Sync + use<> {
        let state = Arc::clone(&self.0);
        async move {
            state.response_over.wait().await;
        }
    }

    fn record_piece(&self) {
        let micros = u64::try_from(self.0.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.0.last_piece.store(micros, Ordering::Relaxed);
    }
}

impl RequestBody {
    /// A body held in full.
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self::Whole((!bytes.is_empty()).then_some(bytes))
    }

    /// Takes a body, to be streamed unless it is held in full already.
    pub(crate) fn take(body: &mut ClientBody) -> Self {
        if body.is_empty() || body.arrived_at().is_some() {
            return Self::whole(body.take_bytes());
        }
        Self::Streamed(Box::new(Streamed {
            body: body.take(),
            gate: None,
            progress: Progress::new(),
            kept: None,
        }))
    }

    /// From now on, keeps what is sent, so that a body of at most [`SCAN_LIMIT`] bytes can
    /// be recovered.
    pub(crate) fn keep_copy(&mut self) -> KeptBody {
        match self {
            Self::Whole(bytes) => KeptBody::Whole(bytes.clone()),
            Self::Streamed(streamed) => {
                let (recover, body) = oneshot::channel();
                streamed.kept = Some(Kept {
                    pieces: KeptPieces::default(),
                    recover,
                });
                KeptBody::Streamed(body)
            }
        }
    }

    /// The body, if it is held in full and there is one.
    pub(crate) fn held(&self) -> Option<Bytes> {
        match self {
            Self::Whole(bytes) => bytes.clone(),
            Self::Streamed(_) => None,
        }
    }

    /// The progress of a streamed body.
    pub(crate) fn progress(&self) -> Option<Progress> {
        match self {
            Self::Whole(_) => None,
            Self::Streamed(streamed) => Some(streamed.progress.clone()),
        }
    }

    /// Holds a streamed body back until `go_on` is notified or [`CONTINUE_WAIT`] has
    /// passed.
    pub(crate) fn hold_until(&mut self, go_on: Arc<Notify>) {
        if let Self::Streamed(streamed) = self {
            let response_over = streamed.progress.response_over();
            streamed.gate = Some(Box::pin(async move {
                // After a final response the upstream does not want the body: it must
                // fail without waiting for the timeout.
                tokio::select! {
                    _ = tokio::time::timeout(CONTINUE_WAIT, go_on.notified()) => {}
                    () = response_over => {}
                }
            }));
        }
    }
}

/// No body.
impl Default for RequestBody {
    fn default() -> Self {
        Self::Whole(None)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Streamed(streamed) => loop {
                // Before the first read, which makes hyper send `100 Continue` to the
                // client.
                if let Some(gate) = &mut streamed.gate {
                    ready!(gate.as_mut().poll(cx));
                    streamed.gate = None;
                }
                let frame = ready!(Pin::new(&mut streamed.body).poll_frame(cx));
                let state = &streamed.progress.0;
                if let Some(Err(error)) = &frame {
                    // On an error of the body hyper closes the connection, even while it
                    // reads the response. So this error waits until that is read.
                    if *error == Error::Declined && !state.response_over.initialized() {
                        streamed.gate = Some(Box::pin(streamed.progress.response_over()));
                        continue;
                    }
                    state.failure.get_or_init(|| *error);
                }
                // Also at the end of the body: from then on a response is due.
                streamed.progress.record_piece();
                streamed.keep_frame(frame.as_ref());
                return Poll::Ready(frame);
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Streamed(streamed) => streamed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Streamed(_) => SizeHint::default(),
        }
    }
}

impl Streamed {
    /// Keeps a frame that is being sent, while the body can still be recovered.
    fn keep_frame(&mut self, frame: Option<&Result<Frame<Bytes>, Error>>) {
        let Some((kept, frame)) = self.kept.as_mut().zip(frame) else {
            return;
        };
        let data = frame.as_ref().ok().and_then(Frame::data_ref);
        let fits = |data: &Bytes| kept.pieces.length + data.len() <= SCAN_LIMIT;
        match data {
            Some(data) if fits(data) && !kept.recover.is_closed() => kept.pieces.push(data),
            // Too long, failed, with trailers, or no longer wanted: the receiver is
            // dropped when the response arrives.
            _ => self.kept = None,
        }
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        let Some(Kept { pieces, recover }) = self.kept.take() else {
            return;
        };
        let mut body = self.body.take();
        body.prepend(pieces.into_pieces());
        // An error means that the receiver is gone, because the response has arrived:
        // the body is not needed again.
        drop(recover.send(Box::new(Self {
            body,
            gate: None,
            progress: self.progress.clone(),
            kept: None,
        })));
    }
}

impl std::fmt::Debug for Streamed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streamed")
            .field("is_held_back", &self.gate.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::super::held::tests::pieces;
    use super::*;

    #[tokio::test]
    async fn a_copy_of_single_bytes_is_recovered_and_keeps_no_buffer() {
        let alive = Arc::new(());
        let mut body = ClientBody::none(Duration::ZERO);
        body.prepend(pieces(1000, 1, &alive).collect());
        let mut body = RequestBody::Streamed(Box::new(Streamed {
            body,
            gate: None,
            progress: Progress::new(),
            kept: None,
        }));
        let copy = body.keep_copy();
        while !body.is_end_stream() {
            poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        }
        assert_eq!(Arc::strong_count(&alive), 1, "buffers are kept");
        drop(body);
        let Some(RequestBody::Streamed(mut recovered)) = copy.recover().await else {
            panic!("not recovered");
        };
        let whole = recovered.body.whole().await.unwrap().unwrap();
        assert_eq!(whole, pieces(1000, 1, &alive).collect::<Vec<_>>().concat());
    }
}
