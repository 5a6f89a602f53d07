//! The story of one call: note it, read it, let a fault strike, answer.
//!
//! Owns the order of these steps and what a fault does to the connection.
//! Invariant: every call but those to `/sandbox/calls` is noted once, before a byte of its body is read.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answers::{self, Body, Failure, Shape};
use super::call::Noted;
use super::credentials::{Asked, Bad, Ids};
use super::faults::{FaultKind, Subject};
use super::line::Cut;
use super::{Shared, cors, endpoints, tools};

/// How much of an answer's head a [`FaultKind::ResetMidHead`] lets pass: the status line and two letters.
const HALF_A_HEAD: usize = "HTTP/1.1 200 OK\r\nco".len();

/// What the calls of one connection share.
#[derive(Clone)]
pub(super) struct Conn {
    pub(super) shared: Arc<Shared>,
    cut: Cut,
    /// Cancelled when the server stops; upgrades end with it.
    pub(super) stop: CancellationToken,
    /// The tasks of upgrades, which outlive their call.
    pub(super) upgrades: TaskTracker,
}

/// The call gets no answer: its connection ends (HTTP/1.1) or its stream is reset (HTTP/2).
#[derive(Debug)]
pub(super) struct HungUp;

impl Conn {
    pub(super) fn new(
        shared: Arc<Shared>,
        cut: Cut,
        stop: CancellationToken,
        upgrades: TaskTracker,
    ) -> Self {
        Self {
            shared,
            cut,
            stop,
            upgrades,
        }
    }

    /// Does what a fault says; `None` lets the call go on.
    async fn strike(&self, kind: FaultKind) -> Result<Option<Response<Body>>, HungUp> {
        match kind {
            FaultKind::Status {
                code,
                headers,
                body,
            } => {
                let mut response = answers::full(code, "application/json", body);
                // The default only stands where the test says nothing.
                for name in headers.keys() {
                    response.headers_mut().remove(name);
                }
                response.headers_mut().extend(headers);
                Ok(Some(response))
            }
            FaultKind::ResetBeforeHead => {
                self.cut.after(0);
                Err(HungUp)
            }
            FaultKind::ResetMidHead => {
                self.cut.after(HALF_A_HEAD);
                Ok(Some(answers::full(
                    StatusCode::OK,
                    "text/plain",
                    "never read",
                )))
            }
            FaultKind::CutBody { promised, sent } => Ok(Some(Response::new(
                Torn {
                    promised,
                    sent: Some(sent),
                    flushed: false,
                }
                .boxed_unsync(),
            ))),
            FaultKind::NeverAnswer => std::future::pending().await,
            FaultKind::Delay(time) => {
                tokio::time::sleep(time).await;
                Ok(None)
            }
        }
    }
}

/// Answers one call.
pub(super) async fn answer(
    conn: Conn,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, HungUp> {
    if request.uri().path() == "/sandbox/calls" {
        return Ok(tools::calls(&conn.shared, request.method()));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let number = conn.shared.log.begin(&parts);
    let body = Noted::new(body, Arc::clone(&conn.shared), number);
    let mut response = if let Some(response) = cors::preflight(&parts) {
        response
    } else if is_v2(parts.uri.path()) {
        v2(&conn, &parts, body, number).await?
    } else {
        let asked = Asked::head(&parts);
        conn.shared
            .log
            .identify(number, asked.instance.as_deref(), &[]);
        let subject = Subject {
            path: parts.uri.path(),
            instance: asked.instance.as_deref(),
            ids: &[],
        };
        match strike(&conn, subject).await? {
            Some(response) => response,
            None => match parts.uri.path().strip_prefix("/sandbox/") {
                Some(tool) => tools::answer(&conn, tool, &parts, body, upgrade).await?,
                None if parts.method == Method::CONNECT => {
                    answers::html(StatusCode::METHOD_NOT_ALLOWED)
                }
                None => answers::html(StatusCode::NOT_FOUND),
            },
        }
    };
    cors::allow(&parts.headers, response.headers_mut());
    conn.shared
        .log
        .note(number, |call| call.status = response.status().as_u16());
    Ok(response)
}

async fn v2(
    conn: &Conn,
    parts: &Parts,
    mut body: Noted,
    number: u64,
) -> Result<Response<Body>, HungUp> {
    let shared = &conn.shared;
    let mut asked = Asked::head(parts);
    let read = asked.read_body(&parts.headers, &mut body).await;
    let ids = match asked.ids() {
        Ids::Listed(ids) => ids,
        Ids::Whole | Ids::NotAList => Vec::new(),
    };
    let instance = asked.instance.as_deref();
    shared.log.identify(number, instance, &ids);
    if read == Err(Bad::Broken) {
        return Err(HungUp);
    }
    if let Some(response) = strike(
        conn,
        Subject {
            path: parts.uri.path(),
            instance,
            ids: &ids,
        },
    )
    .await?
    {
        return Ok(response);
    }
    let response = match read {
        Ok(()) => endpoints::answer(shared, parts, &asked),
        // What clients report of big bodies: a page of the front proxy.
        Err(Bad::TooLarge | Bad::Broken) => answers::html(StatusCode::BAD_GATEWAY),
        Err(Bad::Malformed(text)) => {
            let failure = Failure::new(
                StatusCode::BAD_REQUEST,
                "invalid_param",
                format!("Invalid parameter format: {text}"),
            );
            failure.answer(Shape::of(&parts.headers))
        }
    };
    // After the work, not before: the upstream has the call, whether its client waits or not.
    if !shared.settings.latency.is_zero() {
        tokio::time::sleep(shared.settings.latency).await;
    }
    Ok(response)
}

async fn strike(conn: &Conn, subject: Subject<'_>) -> Result<Option<Response<Body>>, HungUp> {
    match conn.shared.faults.take(subject) {
        Some(kind) => conn.strike(kind).await,
        None => Ok(None),
    }
}

fn is_v2(path: &str) -> bool {
    path.split('/').find(|segment| !segment.is_empty()) == Some("v2")
}

impl fmt::Display for HungUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the sandbox hung up on purpose or was hung up on")
    }
}

impl std::error::Error for HungUp {}

/// A body that breaks off before its promised end.
struct Torn {
    promised: u64,
    sent: Option<Bytes>,
    flushed: bool,
}

impl http_body::Body for Torn {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(sent) = self.sent.take() {
            return Poll::Ready(Some(Ok(Frame::data(sent))));
        }
        // hyper flushes when a body has nothing ready; an error at once would discard what is still buffered.
        if !self.flushed {
            self.flushed = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.promised)
    }
}
