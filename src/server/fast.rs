//! A connection on which a plain call is answered (see [`plain`](crate::http::h1)).
//!
//! Owns reading one request that lies before us whole, and writing its answer.
//! Invariants: a request that is not plain is left on the stream as it came;
//! nothing is kept from one call to the next; while an answer is awaited the
//! connection is not read, as hyper would not.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Body as _, Frame};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::Front;
use crate::body::{ClientBody, ClientResponse, ResponseBody};
use crate::conn::rewind::Rewound;
use crate::conn::state::Activity;
use crate::conn::timer::{Bell, Ring};
use crate::conn::{FAREWELL, LINGER};
use crate::http::h1::{
    BodyEncoder, FastRequest, Malformed, RequestRead, WriteBuf, read_request, write_response,
};
use crate::http::response_head::has_no_body;
use crate::yield_now;

/// How long a request may take to come: one longer than a packet comes in
/// several, and many clients write head and body one after the other. What
/// takes longer is hyper's, which streams the body.
const TOGETHER: Duration = Duration::from_millis(5);

/// How a connection goes on after an answer.
pub(super) enum After {
    Rest,
    /// It is to be closed politely: the answer said so.
    Close,
    /// It is to be cut: the client cannot have the whole answer.
    Cut,
}

/// What became of an answer.
enum Step {
    /// It is written.
    Written,
    /// It cannot be.
    Broken,
    Rang(Ring),
}

/// An answer on its way out.
struct Writing {
    out: WriteBuf,
    encoder: BodyEncoder,
    /// `None` once its body has been read to its end, or broke off: the call
    /// has ended then, before anybody can know of it and make another.
    body: Option<ResponseBody>,
    broke_off: bool,
}

/// Takes a plain request off the stream, if one lies there whole or is about
/// to.
pub(super) async fn take<IO>(
    io: &mut Rewound<IO>,
    activity: &Activity,
    max_fields: usize,
    bell: &mut Bell<'_>,
) -> Option<FastRequest>
where
    IO: AsyncRead + Unpin,
{
    let mut until = None;
    loop {
        match read_request(io.take_ahead(), max_fields) {
            RequestRead::Complete(request, rest) => {
                io.put_back(rest);
                return Some(request);
            }
            RequestRead::ForHyper(said) => {
                io.put_back(said);
                return None;
            }
            RequestRead::Incomplete(said) => io.put_back(said),
        }
        activity.received();
        let until = *until.get_or_insert_with(|| Instant::now() + TOGETHER);
        let more = poll_fn(|cx| match io.poll_ahead(cx) {
            Poll::Ready(more) => Poll::Ready(matches!(more, Ok(1..))),
            // Should a drain begin, the answer will say so.
            Poll::Pending => bell.poll(cx, Some(until)).map(|_| Instant::now() < until),
        });
        if !more.await {
            return None;
        }
    }
}

impl Front {
    /// Answers a plain request: how the connection goes on.
    pub(super) async fn answer_plain<IO>(
        &self,
        io: &mut Rewound<IO>,
        request: FastRequest,
        peer: Option<IpAddr>,
        activity: &Arc<Activity>,
        bell: &mut Bell<'_>,
    ) -> After
    where
        IO: AsyncWrite + Unpin,
    {
        let now = Instant::now();
        activity.began(now);
        let proxy = self.proxy.clone();
        let FastRequest {
            head,
            header_case,
            body,
        } = request;
        let body = ClientBody::plain(body, header_case, self.common.settings.body_timeout, now);
        let Ok(answer) = proxy
            .handle(head, body, peer, Arc::clone(activity), now)
            .await;
        let is_last = answer.head.closes_connection();
        let mut writing = Writing::new(*answer);
        yield_now::after_others(self.proxy.shared.metrics.calls()).await;
        // When the connection was asked to end.
        let mut ending = bell.is_draining().then(Instant::now);
        loop {
            // After each turn it may be closer.
            let deadline = || match ending {
                Some(asked) => activity.farewell(asked, FAREWELL),
                None => activity.deadline(),
            };
            let step = poll_fn(|cx| match writing.poll(io, activity, cx) {
                Poll::Ready(step) => Poll::Ready(step),
                Poll::Pending => bell.poll(cx, deadline()).map(Step::Rang),
            });
            match step.await {
                Step::Written if is_last => return After::Close,
                Step::Written => {
                    if bell.is_draining() {
                        bell.set(Instant::now() + LINGER);
                    }
                    return After::Rest;
                }
                Step::Broken => return After::Cut,
                Step::Rang(Ring::Drain) => ending = Some(Instant::now()),
                Step::Rang(Ring::Timer) => {
                    if deadline().is_some_and(|deadline| deadline <= Instant::now()) {
                        bell.cuts(activity);
                        return After::Cut;
                    }
                }
            }
        }
    }
}

impl Writing {
    fn new(response: ClientResponse) -> Self {
        let ClientResponse { mut head, body } = response;
        let mut out = WriteBuf::default();
        let length = body.size_hint().exact();
        let encoder = write_response(out.text(), &mut head, length);
        Self {
            out,
            encoder,
            body: (!has_no_body(head.status())).then_some(body),
            broke_off: false,
        }
    }

    /// Writes what there is, as it comes.
    fn poll<IO>(
        &mut self,
        io: &mut Rewound<IO>,
        activity: &Activity,
        cx: &mut Context<'_>,
    ) -> Poll<Step>
    where
        IO: AsyncWrite + Unpin,
    {
        loop {
            let is_read = self.poll_body(cx);
            let written = loop {
                if self.out.is_empty() {
                    break Pin::new(&mut *io).poll_flush(cx);
                }
                match self.out.poll_write(io, cx) {
                    Poll::Ready(Ok(_)) => activity.sent(true),
                    Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                    Poll::Pending => break Poll::Pending,
                }
            };
            activity.sent(written.is_ready());
            match written {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(Step::Broken),
                Poll::Ready(Ok(())) => {}
            }
            if self.body.is_none() {
                return Poll::Ready(match self.broke_off {
                    true => Step::Broken,
                    false => Step::Written,
                });
            }
            if is_read.is_pending() && !self.encoder.pause(&mut self.out) {
                return Poll::Pending;
            }
        }
    }

    /// Reads the body, until there is enough to be written.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.out.has_room()
            && let Some(body) = &mut self.body
        {
            let frame = match body.is_end_stream() {
                true => None,
                false => ready!(Pin::new(body).poll_frame(cx)),
            };
            let put = match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.encoder.put(&mut self.out, data),
                // Nobody has said that they are wanted (RFC 9110 §6.5.1).
                Some(Ok(Err(_trailers))) => Ok(()),
                Some(Err(_)) => Err(Malformed),
                None => {
                    self.body = None;
                    self.encoder.end(&mut self.out)
                }
            };
            if put.is_err() {
                self.body = None;
                self.broke_off = true;
            }
        }
        Poll::Ready(())
    }
}
