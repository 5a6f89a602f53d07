//! A request body as it goes upstream.
//!
//! Invariant: with `Expect: 100-continue` not a byte is asked of the client
//! before the upstream has asked for it (or said nothing for a second). A body
//! that was declined breaks off once the answer has been read, and not before:
//! hyper ends the connection with it.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::{Notify, SetOnce};
use tokio::time::Instant;

use super::{ClientBody, Error};
use crate::http::header_case::HeaderCase;

/// How long a `100 Continue` is waited for: as curl does. RFC 9110 §10.1.1
/// forbids waiting for ever.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// A request body as it goes upstream.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// Held in full.
    Whole {
        /// `None` once handed over, or where there is none.
        bytes: Option<Bytes>,
        /// How the names of its head are to be spelt. Known, the request came
        /// whole with a length told, and may leave so.
        header_case: Option<HeaderCase>,
    },
    /// Streamed from the client. Boxed: a request is moved a dozen times on its
    /// way to the wire.
    Streamed(Box<Streamed>),
}

/// A body on its way from a client to the upstream.
pub(crate) struct Streamed {
    body: ClientBody,
    gate: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
    progress: Progress,
}

/// Knows when the last piece went upstream, so that a slow upload is not taken
/// for a silent upstream; and why none came after it, which hyper forgets when
/// it speaks HTTP/2.
#[derive(Clone, Debug)]
pub(crate) struct Progress(Arc<Steps>);

#[derive(Debug)]
struct Steps {
    began: Instant,
    /// Microseconds after `began`.
    last: AtomicU64,
    failed: OnceLock<Error>,
    /// Nothing of an answer is to be read any more.
    answered: SetOnce<()>,
}

/// An answer is awaited, or being read; dropped when that is over.
#[derive(Debug)]
pub(crate) struct Answering(Progress);

impl Drop for Answering {
    fn drop(&mut self) {
        // Somebody may have said so before.
        drop(self.0.0.answered.set(()));
    }
}

impl Progress {
    fn new() -> Self {
        Self(Arc::new(Steps {
            began: Instant::now(),
            last: AtomicU64::new(0),
            failed: OnceLock::new(),
            answered: SetOnce::new(),
        }))
    }

    /// Why the body ended early, if it did.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.0.failed.get().copied()
    }

    /// When the last piece was sent, or the body made ready.
    pub(crate) fn last_piece(&self) -> Instant {
        self.0.began + Duration::from_micros(self.0.last.load(Ordering::Relaxed))
    }

    /// Tells the body when its answer is over.
    pub(crate) fn until_answered(&self) -> Answering {
        Answering(self.clone())
    }

    /// Waits until its answer is over.
    fn answered(&self) -> impl Future<Output = ()> + Send + Sync + use<> {
        let steps = Arc::clone(&self.0);
        async move {
            steps.answered.wait().await;
        }
    }

    fn sent_a_piece(&self) {
        let micros = u64::try_from(self.0.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.0.last.store(micros, Ordering::Relaxed);
    }
}

impl RequestBody {
    /// A body held in full.
    pub(crate) fn whole(bytes: Bytes, header_case: Option<HeaderCase>) -> Self {
        Self::Whole {
            bytes: (!bytes.is_empty()).then_some(bytes),
            header_case,
        }
    }

    /// A body to be streamed, unless it came whole.
    pub(crate) fn streamed(mut body: ClientBody) -> Self {
        if body.is_empty() || body.came().is_some() {
            let header_case = body.take_header_case();
            return Self::whole(body.into_bytes(), header_case);
        }
        Self::Streamed(Box::new(Streamed {
            body,
            gate: None,
            progress: Progress::new(),
        }))
    }

    /// The body, if it is held in full and there is one.
    pub(crate) fn held(&self) -> Option<Bytes> {
        match self {
            Self::Whole { bytes, .. } => bytes.clone(),
            Self::Streamed(_) => None,
        }
    }

    /// How the names of its head are to be spelt, if that is known.
    pub(crate) fn header_case(&self) -> Option<&HeaderCase> {
        match self {
            Self::Whole { header_case, .. } => header_case.as_ref(),
            Self::Streamed(_) => None,
        }
    }

    /// How far the sending is, for a body that is streamed.
    pub(crate) fn progress(&self) -> Option<Progress> {
        match self {
            Self::Whole { .. } => None,
            Self::Streamed(streamed) => Some(streamed.progress.clone()),
        }
    }

    /// Holds the body back until told to go on, if it has not begun.
    pub(crate) fn hold_until(&mut self, go_on: Arc<Notify>) {
        if let Self::Streamed(streamed) = self {
            let answered = streamed.progress.answered();
            streamed.gate = Some(Box::pin(async move {
                // Elapsed or told: either way the body may go. Or it never will.
                tokio::select! {
                    _ = tokio::time::timeout(CONTINUE_WAIT, go_on.notified()) => {}
                    () = answered => {}
                }
            }));
        }
    }
}

/// None.
impl Default for RequestBody {
    fn default() -> Self {
        Self::whole(Bytes::new(), None)
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
            Self::Whole { bytes, .. } => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            Self::Streamed(streamed) => loop {
                if let Some(gate) = &mut streamed.gate {
                    ready!(gate.as_mut().poll(cx));
                    streamed.gate = None;
                }
                let frame = ready!(Pin::new(&mut streamed.body).poll_frame(cx));
                let steps = &streamed.progress.0;
                if let Some(Err(error)) = &frame {
                    if *error == Error::Declined && !steps.answered.initialized() {
                        streamed.gate = Some(Box::pin(streamed.progress.answered()));
                        continue;
                    }
                    steps.failed.get_or_init(|| *error);
                }
                streamed.progress.sent_a_piece();
                return Poll::Ready(frame);
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole { bytes, .. } => bytes.is_none(),
            Self::Streamed(streamed) => streamed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole { bytes, .. } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Streamed(_) => SizeHint::default(),
        }
    }
}

impl std::fmt::Debug for Streamed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streamed")
            .field("gated", &self.gate.is_some())
            .finish_non_exhaustive()
    }
}
