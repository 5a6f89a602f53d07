//! The apps: they send, wait, leave, and record what they received.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, Sleep};

use crate::gateways::Gateways;
use crate::plan::{Client, Manner, Step};
use crate::wire::{At, RESPONSE};
use crate::writing;

/// Longer than any response may take: a request without one by then is lost.
const TIMEOUT: Duration = Duration::from_secs(1000);
/// Between the pieces of a slow client's body.
const PAUSE: Duration = Duration::from_millis(30);

/// What the apps share.
#[derive(Debug)]
pub(crate) struct Apps {
    pub(crate) began: Instant,
    /// Each app has one of them, and another one after its crash.
    pub(crate) gateways: Arc<Gateways>,
    /// New connections are refused: the listener is closed.
    pub(crate) closed: AtomicBool,
    pub(crate) outcomes: Mutex<Vec<Outcome>>,
    /// Bytes from the gateway that belong to no response.
    pub(crate) unexpected: Mutex<Vec<String>>,
}

/// How a request ended for its client.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) step: Step,
    pub(crate) sent: At,
    pub(crate) ended: At,
    pub(crate) ending: Ending,
    /// The number of its gateway; `None` if it was not sent.
    pub(crate) gateway: Option<usize>,
}

#[derive(Clone, Debug)]
pub(crate) enum Ending {
    Response(ReceivedResponse),
    /// The connection ended before a response began.
    Cut,
    /// The client left.
    Left,
    /// It was never sent: no connection was accepted any more.
    Unsent,
    /// Nothing was received.
    Silence,
}

#[derive(Clone, Debug)]
pub(crate) struct ReceivedResponse {
    pub(crate) status: u16,
    /// The number that the upstream gave it.
    pub(crate) call: Option<usize>,
    /// `Proxy-Status`: the gateway's own response.
    pub(crate) own: Option<String>,
    pub(crate) body: Bytes,
    /// The body was complete.
    pub(crate) whole: bool,
}

enum Sender {
    H1(http1::SendRequest<Pieces>),
    H2(http2::SendRequest<Pieces>),
}

struct Connection {
    sender: Sender,
    gateway: usize,
    task: JoinHandle<()>,
}

/// Runs one app.
pub(crate) async fn live(apps: Arc<Apps>, number: usize, client: Client) {
    let mut connection: Option<Connection> = None;
    let mut streams = JoinSet::new();
    for step in client.steps {
        tokio::time::sleep(step.think).await;
        if let Some(Connection {
            sender: Sender::H1(sender),
            ..
        }) = &mut connection
            && sender.ready().await.is_err()
        {
            connection = None;
        }
        if connection.as_ref().is_none_or(Connection::is_closed) {
            connection = apps.connect(number, client.http2, client.buffer).await;
        }
        let Some(open) = &mut connection else {
            let now = apps.now();
            apps.record(step, None, now, Ending::Unsent);
            continue;
        };
        let gateway = Some(open.gateway);
        match &mut open.sender {
            Sender::H1(sender) => {
                let sent = apps.now();
                let response = sender.send_request(request(&step));
                let ending = apps.wait(&step, response).await;
                if matches!(ending, Ending::Left) {
                    open.task.abort();
                    connection = None;
                }
                apps.record(step, gateway, sent, ending);
            }
            Sender::H2(sender) => {
                let (mut sender, apps) = (sender.clone(), Arc::clone(&apps));
                streams.spawn(async move {
                    let sent = apps.now();
                    let response = sender.send_request(request(&step));
                    let ending = apps.wait(&step, response).await;
                    apps.record(step, gateway, sent, ending);
                });
            }
        }
    }
    while let Some(ended) = streams.join_next().await {
        ended.unwrap();
    }
}

impl Apps {
    fn now(&self) -> At {
        self.began.elapsed()
    }

    fn record(&self, step: Step, gateway: Option<usize>, sent: At, ending: Ending) {
        let ended = self.now();
        self.outcomes.lock().unwrap().push(Outcome {
            step,
            sent,
            ended,
            ending,
            gateway,
        });
    }

    async fn connect(self: &Arc<Self>, app: usize, h2: bool, buffer: usize) -> Option<Connection> {
        if self.closed.load(Ordering::Relaxed) {
            return None;
        }
        let (near, far) = tokio::io::duplex(buffer);
        let gateway = self.gateways.serve(app, far)?;
        let io = TokioIo::new(near);
        let apps = Arc::clone(self);
        let (sender, task) = if h2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.ok()?;
            let task = tokio::spawn(async move { apps.ended(connection.await) });
            (Sender::H2(sender), task)
        } else {
            let (sender, connection) = http1::handshake(io).await.ok()?;
            let task = tokio::spawn(async move { apps.ended(connection.await) });
            (Sender::H1(sender), task)
        };
        Some(Connection {
            sender,
            gateway,
            task,
        })
    }

    /// A connection has ended; records bytes that belong to no response.
    fn ended(&self, result: hyper::Result<()>) {
        if let Err(error) = result {
            let text = format!("{error:?}");
            if error.is_parse() || text.contains("UnexpectedMessage") {
                self.unexpected.lock().unwrap().push(text);
            }
        }
    }

    async fn wait(
        &self,
        step: &Step,
        response: impl Future<Output = hyper::Result<Response<Incoming>>>,
    ) -> Ending {
        let leave = async {
            match step.manner {
                Manner::HangsUp(after) if after.is_zero() => {
                    for _ in 0..20 {
                        tokio::task::yield_now().await;
                    }
                }
                Manner::HangsUp(after) => tokio::time::sleep(after).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            response = tokio::time::timeout(TIMEOUT, read(response)) => response.unwrap_or(Ending::Silence),
            () = leave => Ending::Left,
        }
    }
}

impl Connection {
    fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::H1(sender) => sender.is_closed(),
            Sender::H2(sender) => sender.is_closed(),
        }
    }
}

async fn read(response: impl Future<Output = hyper::Result<Response<Incoming>>>) -> Ending {
    let Ok(response) = response.await else {
        return Ending::Cut;
    };
    let (head, mut incoming) = response.into_parts();
    let text = |name| {
        head.headers
            .get(name)
            .map(|value: &http::HeaderValue| value.to_str().unwrap().to_owned())
    };
    let mut body = Vec::new();
    let mut whole = true;
    while let Some(frame) = incoming.frame().await {
        match frame {
            Ok(frame) => body.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    Ending::Response(ReceivedResponse {
        status: head.status.as_u16(),
        call: text(RESPONSE).map(|number| number.parse().unwrap()),
        own: text("proxy-status"),
        body: Bytes::from(body),
        whole,
    })
}

fn request(step: &Step) -> Request<Pieces> {
    let (mut head, body) = writing::request(step);
    if !body.is_empty() && !step.tag.is_multiple_of(4) {
        head.headers_mut()
            .insert("content-length", body.len().into());
    }
    // HTTP/2 needs a scheme and an authority, HTTP/1.1 a host: any will do.
    head.headers_mut()
        .insert("host", http::HeaderValue::from_static("upstream.test"));
    let third = body.len() / 3;
    let pieces = match step.manner {
        Manner::Slow => vec![
            body.slice(..third),
            body.slice(third..2 * third),
            body.slice(2 * third..),
        ],
        Manner::BreaksOff => vec![body.slice(..third), body.slice(third..2 * third)],
        _ => vec![body],
    };
    head.map(|()| Pieces {
        pieces: pieces
            .into_iter()
            .filter(|piece| !piece.is_empty())
            .collect(),
        pause: None,
        slow: matches!(step.manner, Manner::Slow | Manner::BreaksOff),
        breaks_off: step.manner == Manner::BreaksOff,
    })
}

/// A request body: sent at once, slowly, or in part.
struct Pieces {
    pieces: VecDeque<Bytes>,
    pause: Option<Pin<Box<Sleep>>>,
    slow: bool,
    breaks_off: bool,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.slow {
            let pause = self
                .pause
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(PAUSE)));
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        Poll::Ready(match self.pieces.pop_front() {
            Some(piece) => Some(Ok(Frame::data(piece))),
            None if self.breaks_off => Some(Err(io::ErrorKind::BrokenPipe.into())),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && !self.breaks_off
    }
}
