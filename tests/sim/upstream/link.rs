//! The bytes of one connection, at the upstream's end.
//!
//! Owns what a server of hyper cannot do: from some time on, nothing arrives any more; a GOAWAY
//! names any stream as the last one; a response is written by hand. Invariant: what was lost
//! never arrives later.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::response::LateBody;
use crate::plan::Http2Behaviour;

/// The gateway's own times (rule: pass-through): a ping after 3 s without a frame, and no new
/// stream if it is not acknowledged within 1 s.
const PING_UNANSWERED: Duration = Duration::from_secs(4);

/// Bytes before the first frame of a client (RFC 9113 §3.4).
const PREFACE: usize = 24;

/// Frames of HTTP/2 (RFC 9113 §6).
const HEADERS: u8 = 1;
const GOAWAY: u8 = 7;

/// What the stream and the requests of one connection share.
#[derive(Debug)]
pub(super) struct Link {
    /// The number of the connection.
    pub(super) number: usize,
    /// When bytes begin to be lost.
    lost_from: Option<Instant>,
    http2: Option<Http2Behaviour>,
    state: Mutex<LinkState>,
    /// Notified when the connection has something to do besides requests.
    woken: Notify,
}

#[derive(Debug, Default)]
struct LinkState {
    /// The streams that have begun and whose requests were not seen yet.
    begun: VecDeque<u32>,
    /// The number of requests seen.
    requests: usize,
    /// The last stream of a GOAWAY that is to be written.
    last: Option<u32>,
    /// When the GOAWAY was written.
    went_away: Option<Instant>,
    /// Streams that began although the connection takes none.
    late_streams: usize,
    late_body: Option<LateBody>,
}

/// What becomes of a request on a connection.
pub(super) enum Admission {
    Served,
    /// Served as the last one; its stream.
    Last(u32),
    /// Behind the last one: not processed, and no response.
    Ignored,
}

impl Link {
    pub(super) fn new(
        number: usize,
        http2: Option<Http2Behaviour>,
        lost_from: Option<Instant>,
    ) -> Arc<Self> {
        Arc::new(Self {
            number,
            lost_from,
            http2,
            state: Mutex::default(),
            woken: Notify::new(),
        })
    }

    /// Whether nothing arrives any more.
    pub(super) fn is_lost(&self) -> bool {
        self.lost_from.is_some_and(|from| from <= Instant::now())
    }

    /// When the last byte arrived.
    pub(super) fn lost_from(&self) -> Option<Instant> {
        self.lost_from
    }

    pub(super) fn late_streams(&self) -> usize {
        self.state.lock().unwrap().late_streams
    }

    /// Decides about the next request, in the order in which the requests began.
    pub(super) fn admit(&self) -> Admission {
        let mut state = self.state.lock().unwrap();
        let stream = state.begun.pop_front();
        state.requests += 1;
        let most = self.http2.map_or(0, |http2| http2.streams);
        match stream {
            Some(_) if most > 0 && state.requests > most => Admission::Ignored,
            Some(stream) if state.requests == most => Admission::Last(stream),
            _ => Admission::Served,
        }
    }

    /// Sends a GOAWAY with this stream as the last one.
    pub(super) fn go_away(&self, last: u32) {
        self.state.lock().unwrap().last = Some(last);
        self.woken.notify_one();
    }

    /// Ends the current request with a response that hyper cannot send.
    pub(super) fn respond_by_hand(&self, response: LateBody) {
        self.state.lock().unwrap().late_body = Some(response);
        self.woken.notify_one();
    }

    /// Waits for [`go_away`](Self::go_away) or [`respond_by_hand`](Self::respond_by_hand).
    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }

    pub(super) fn take_late_body(&self) -> Option<LateBody> {
        self.state.lock().unwrap().late_body.take()
    }

    fn begins(&self, stream: u32) {
        let mut state = self.state.lock().unwrap();
        state.begun.push_back(stream);
        let unanswered = self.lost_from.map(|from| from + PING_UNANSWERED);
        let mut ends = [unanswered, state.went_away].into_iter().flatten();
        // Both ends of the connection act within one millisecond.
        let grace = Duration::from_millis(1);
        if ends.any(|end| end + grace < Instant::now()) {
            state.late_streams += 1;
        }
    }
}

/// The stream of a connection.
pub(super) struct LinkIo {
    io: DuplexStream,
    link: Arc<Link>,
    reads: Frames,
    writes: Frames,
    /// The rest of a GOAWAY.
    goaway: Bytes,
}

impl LinkIo {
    pub(super) fn new(io: DuplexStream, link: &Arc<Link>) -> Self {
        let is_http2 = link.http2.is_some();
        Self {
            io,
            link: Arc::clone(link),
            reads: Frames::behind(if is_http2 { PREFACE } else { usize::MAX }),
            writes: Frames::behind(if is_http2 { 0 } else { usize::MAX }),
            goaway: Bytes::new(),
        }
    }

    /// Writes the GOAWAY that is due, unless a frame is half written.
    fn poll_goaway(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(last) = self.link.state.lock().unwrap().last.take() {
            let head = [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0];
            self.goaway = [&head[..], &last.to_be_bytes(), &[0; 4]].concat().into();
        }
        while !self.goaway.is_empty() && self.writes.rest() == 0 {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.goaway))?;
            self.goaway.advance(written);
            if self.goaway.is_empty() {
                self.link.state.lock().unwrap().went_away = Some(Instant::now());
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for LinkIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            let read = &buf.filled()[before..];
            let is_end = read.is_empty();
            this.reads.read(read, |kind, stream| {
                if kind == HEADERS {
                    this.link.begins(stream);
                }
            });
            if is_end || !this.link.is_lost() {
                return Poll::Ready(Ok(()));
            }
            buf.set_filled(before);
        }
    }
}

impl AsyncWrite for LinkIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.link.is_lost() {
            return Poll::Ready(Ok(bytes.len()));
        }
        ready!(self.poll_goaway(cx))?;
        let length = match self.goaway.is_empty() {
            true => bytes.len(),
            false => bytes.len().min(self.writes.rest()),
        };
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, &bytes[..length]))?;
        self.writes.read(&bytes[..written], |_, _| {});
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.link.is_lost() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_goaway(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.link.is_lost() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Finds the heads of frames in a stream of bytes (RFC 9113 §4.1).
#[derive(Debug)]
struct Frames {
    head: [u8; 9],
    filled: usize,
    /// Bytes before the next head.
    payload: usize,
}

impl Frames {
    /// Frames that begin after this many bytes.
    fn behind(payload: usize) -> Self {
        Self {
            head: [0; 9],
            filled: 0,
            payload,
        }
    }

    /// Bytes to the end of the payload, or else of the head; 0 between two frames.
    fn rest(&self) -> usize {
        match (self.payload, self.filled) {
            (0, 0) => 0,
            (0, filled) => self.head.len() - filled,
            (payload, _) => payload,
        }
    }

    /// Passes type and stream of each frame that begins to `on_head`.
    fn read(&mut self, mut bytes: &[u8], mut on_head: impl FnMut(u8, u32)) {
        while !bytes.is_empty() {
            let skipped = self.payload.min(bytes.len());
            self.payload -= skipped;
            bytes = &bytes[skipped..];
            let part = bytes.len().min(self.head.len() - self.filled);
            self.head[self.filled..self.filled + part].copy_from_slice(&bytes[..part]);
            self.filled += part;
            bytes = &bytes[part..];
            if self.filled == self.head.len() {
                let [length @ .., kind, _, a, b, c, d] = self.head;
                self.filled = 0;
                self.payload = length
                    .iter()
                    .fold(0, |sum, &byte| sum << 8 | usize::from(byte));
                on_head(kind, u32::from_be_bytes([a, b, c, d]) & (u32::MAX >> 1));
            }
        }
    }
}
