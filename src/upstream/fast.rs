//! A connection on which plain calls are made (see [`plain`](crate::http::h1)).
//!
//! It has no task of its own: whoever has taken it reads and writes. Invariant:
//! a call for which it was dead already was not written, not a byte of it.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::Request;
use http_body::Frame;
use tokio::io::ReadBuf;
use tokio::task::coop::unconstrained;
use tokio_util::io::poll_read_buf;

use super::connect::Io;
use super::connection::Unsent;
use super::error::Failure;
use crate::body::RequestBody;
use crate::http::h1::{
    BodyDecoder, Decoded, FinalResponse, Malformed, ResponseRead, WriteBuf, read_response,
    write_request,
};

/// Bytes of a usual answer, read at a time. They lie on the stack, so that a
/// call that waits for its answer holds no room for it.
const PIECE: usize = 2048;

/// The room for pieces of long bodies: at first, and once it was filled. A
/// client that does not read its answer has us hold no more than this.
const ROOM: usize = 16 * 1024;
const MAX_ROOM: usize = super::connect::READ_BUFFER;

/// Informational heads before an answer: one that never comes to its end would
/// keep its caller beyond all patience.
const MAX_INFORMATIONAL: usize = 100;

/// A connection on which plain calls are made, one after another.
pub(super) struct Wire {
    io: Box<dyn Io>,
    /// What is left to be written of the last call.
    out: WriteBuf,
    /// Nothing is, and the stream has passed it on.
    is_written: bool,
    /// The last call's answer lets another follow.
    keeps_alive: bool,
    /// Heads before that of the answer.
    informational: usize,
    /// Read, and made no use of yet.
    read: Bytes,
    /// Where long bodies are read to, and how much at a time.
    room: BytesMut,
    room_size: usize,
}

impl Wire {
    pub(super) fn new(io: Box<dyn Io>) -> Self {
        Self {
            io,
            out: WriteBuf::default(),
            is_written: true,
            keeps_alive: true,
            informational: 0,
            read: Bytes::new(),
            room: BytesMut::new(),
            room_size: ROOM,
        }
    }

    /// Sends a request whose body is at hand, and waits for the head of its
    /// answer. That may come before the whole request is written.
    pub(super) async fn call(
        &mut self,
        request: &Request<RequestBody>,
    ) -> Result<FinalResponse, Unsent> {
        if !poll_fn(|cx| Poll::Ready(self.may_be_used(cx))).await {
            return Err(Unsent::Untouched);
        }
        let body = request.body().held().unwrap_or_default();
        let header_case = request.body().header_case();
        write_request(&mut self.out, request, header_case, body);
        self.is_written = false;
        self.keeps_alive = false;
        self.informational = 0;
        poll_fn(|cx| self.poll_answer(cx))
            .await
            .map_err(Unsent::Failed)
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<FinalResponse, Failure>> {
        // What cannot be written may have been answered all the same. A stream
        // that takes no more has an end, which is read then.
        drop(self.poll_write(cx));
        loop {
            match read_response(&mut self.read) {
                Ok(Some(ResponseRead::Final(answer))) => {
                    self.keeps_alive = answer.keeps_alive;
                    return Poll::Ready(Ok(answer));
                }
                Ok(Some(ResponseRead::Informational)) if self.informational < MAX_INFORMATIONAL => {
                    self.informational += 1;
                    continue;
                }
                Ok(Some(ResponseRead::Informational)) | Err(Malformed) => {
                    return Poll::Ready(Err(Failure::Malformed));
                }
                Ok(None) => {}
            }
            match ready!(self.poll_piece(cx)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(Err(Failure::BrokeOff)),
            }
        }
    }

    /// Writes what is left of the request.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            ready!(self.out.poll_write(&mut *self.io, cx))?;
        }
        if !self.is_written {
            ready!(Pin::new(&mut *self.io).poll_flush(cx))?;
            self.is_written = true;
        }
        Poll::Ready(Ok(()))
    }

    /// The next piece of an answer's body; an error where that broke off.
    pub(super) fn poll_body(
        &mut self,
        decoder: &mut BodyDecoder,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
        // An answer may begin while the request is still being read. Should
        // that fail, the answer may come all the same.
        drop(self.poll_write(cx));
        loop {
            match decoder.decode(&mut self.read) {
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Decoded::Trailers(trailers)) => {
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::NeedMore) => {}
                Err(Malformed) => return Poll::Ready(Some(Err(()))),
            }
            let is_short = matches!(decoder, BodyDecoder::Length(left) if *left <= PIECE as u64);
            let read = if is_short || !self.read.is_empty() {
                self.poll_piece(cx)
            } else {
                self.poll_long(cx)
            };
            match ready!(read) {
                Ok(1..) => {}
                Ok(0) if *decoder == BodyDecoder::UntilClose => *decoder = BodyDecoder::ENDED,
                Ok(0) | Err(_) => return Poll::Ready(Some(Err(()))),
            }
        }
    }

    /// Whether another call may be made on it, once an answer has been read to
    /// its end. If so, whoever waits in `cx` is woken when it ends.
    pub(super) fn may_be_used(&mut self, cx: &mut Context<'_>) -> bool {
        self.room = BytesMut::new();
        self.keeps_alive && self.is_written && self.read.is_empty() && self.is_silent(cx)
    }

    /// Whether nothing has come on it: it is alive then, for all one can know.
    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        // A task that has used up its turn would be told of nothing.
        let read = unconstrained(poll_fn(|cx| {
            Pin::new(&mut *self.io).poll_read(cx, &mut byte)
        }));
        pin!(read).poll(cx).is_pending()
    }

    /// Reads behind what was read: how much. None is the stream's end.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut piece = [const { MaybeUninit::uninit() }; PIECE];
        let mut piece = ReadBuf::uninit(&mut piece);
        ready!(Pin::new(&mut *self.io).poll_read(cx, &mut piece))?;
        let piece = piece.filled();
        self.read = if self.read.is_empty() {
            Bytes::copy_from_slice(piece)
        } else {
            Bytes::from([&*self.read, piece].concat())
        };
        Poll::Ready(Ok(piece.len()))
    }

    /// The same where nothing is left of what was read, in long pieces.
    fn poll_long(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.room.capacity() < PIECE {
            self.room = BytesMut::with_capacity(self.room_size);
        }
        let room = self.room.capacity();
        let length = ready!(poll_read_buf(Pin::new(&mut *self.io), cx, &mut self.room))?;
        if length == room {
            self.room_size = (2 * self.room_size).min(MAX_ROOM);
        }
        self.read = self.room.split().freeze();
        Poll::Ready(Ok(length))
    }
}

/// Without what was read: it may be anything.
impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    fn wire(narrow: usize) -> (Wire, DuplexStream) {
        let (near, far) = tokio::io::duplex(narrow);
        (Wire::new(Box::new(near)), far)
    }

    fn request(body: &str) -> Request<RequestBody> {
        let request = Request::post("/x").header("host", "h");
        request
            .body(RequestBody::whole(Bytes::from(body.to_owned()), None))
            .unwrap()
    }

    async fn rest(wire: &mut Wire, answer: &mut FinalResponse) -> Result<Vec<u8>, ()> {
        let mut body = Vec::new();
        while let Some(frame) = poll_fn(|cx| wire.poll_body(&mut answer.decoder, cx)).await {
            body.extend_from_slice(&frame?.into_data().map_err(drop)?);
        }
        Ok(body)
    }

    async fn may_be_used(wire: &mut Wire) -> bool {
        poll_fn(|cx| Poll::Ready(wire.may_be_used(cx))).await
    }

    #[tokio::test]
    async fn an_answer_may_begin_while_the_request_is_being_read() {
        let (mut wire, mut far) = wire(100);
        let body = "x".repeat(9000);
        let echoes = async {
            let mut head = [0; 30];
            far.read_exact(&mut head).await.unwrap();
            far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n")
                .await
                .unwrap();
            let mut read = head.to_vec();
            while !read.ends_with(body.as_bytes()) {
                read.push(far.read_u8().await.unwrap());
            }
            far.write_all(body.as_bytes()).await.unwrap();
            far
        };
        let calls = async {
            let mut answer = wire.call(&request(&body)).await.unwrap();
            rest(&mut wire, &mut answer).await.unwrap()
        };
        let (far, heard) = tokio::join!(echoes, calls);
        assert_eq!(heard, body.as_bytes());
        assert!(may_be_used(&mut wire).await);
        drop(far);
    }

    #[tokio::test]
    async fn a_connection_is_not_used_again_before_its_request_is_written() {
        let (mut wire, mut far) = wire(100);
        let declines = async {
            far.read_u8().await.unwrap();
            far.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
                .await
                .unwrap();
        };
        let request = request(&"x".repeat(9000));
        let (answer, ()) = tokio::join!(wire.call(&request), declines);
        assert!(answer.unwrap().keeps_alive);
        assert!(!may_be_used(&mut wire).await);
    }

    #[tokio::test]
    async fn more_than_the_answer_spoils_the_connection() {
        for (said, is_fine) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!", false),
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 204 No Content\r\n\r\nok", false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", false),
            (
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
                false,
            ),
        ] {
            let (mut wire, mut far) = wire(1000);
            let says = async {
                far.read_u8().await.unwrap();
                far.write_all(said.as_bytes()).await.unwrap();
            };
            let request = request("");
            let (answer, ()) = tokio::join!(wire.call(&request), says);
            rest(&mut wire, &mut answer.unwrap()).await.unwrap();
            assert_eq!(may_be_used(&mut wire).await, is_fine, "{said:?}");
        }
    }

    #[tokio::test]
    async fn on_a_dead_connection_nothing_is_written() {
        let (mut wire, far) = wire(1000);
        drop(far);
        assert_eq!(
            wire.call(&request("")).await.unwrap_err(),
            Unsent::Untouched
        );
        let (mut wire, mut far) = self::wire(1000);
        far.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(
            wire.call(&request("")).await.unwrap_err(),
            Unsent::Untouched
        );
        drop(wire);
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).await.unwrap();
        assert!(heard.is_empty());
    }

    #[tokio::test]
    async fn long_bodies_come_in_longer_pieces() {
        let (mut wire, mut far) = wire(1 << 20);
        let length = 900_000;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        let says = async {
            far.read_u8().await.unwrap();
            far.write_all(head.as_bytes()).await.unwrap();
            far.write_all(&vec![b'x'; length]).await.unwrap();
        };
        let request = request("");
        let (answer, ()) = tokio::join!(wire.call(&request), says);
        let mut decoder = answer.unwrap().decoder;
        let (mut whole, mut longest) = (0, 0);
        while let Some(frame) = poll_fn(|cx| wire.poll_body(&mut decoder, cx)).await {
            let piece = frame.unwrap().into_data().unwrap().len();
            whole += piece;
            longest = longest.max(piece);
        }
        assert_eq!((whole, longest), (length, MAX_ROOM));
    }
}
