//! The upstream: answers late, wrongly, in part or not at all, and writes down
//! everything that reaches it.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio::time::Instant;
use wawp_gateway::{Dial, Io};

use crate::dice::Dice;
use crate::plan::Temper;
use crate::wire::{self, ANSWER, At, Said, TAG};

/// More calls than any run has reason for. From then on answers take a second,
/// so that virtual time goes on and the run can be judged.
pub(crate) const STORM: usize = 2000;

/// A call that reached the upstream.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) at: At,
    pub(crate) tag: usize,
    /// `None`: its body never came whole.
    pub(crate) said: Option<Said>,
    pub(crate) answer: Option<Answered>,
}

/// What became of it.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    pub(crate) at: At,
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Bytes,
    /// Only part of the body was sent.
    pub(crate) cut: bool,
}

#[derive(Debug)]
pub(crate) struct Upstream {
    began: Instant,
    temper: Temper,
    state: Mutex<State>,
    pub(crate) open: AtomicUsize,
    /// Counts restarts; connections end when it changes.
    restarts: watch::Sender<usize>,
}

#[derive(Debug)]
struct State {
    dice: Dice,
    arrivals: Vec<Arrival>,
    /// Instances, or one credential of theirs, that are throttled, until when,
    /// and whether they are told.
    throttled: HashMap<(String, Option<String>), (At, bool)>,
    /// Until when nobody is there, and whether connecting then hangs.
    away: Option<(At, bool)>,
    kills: Vec<At>,
}

/// What to do with a call.
enum Fate {
    Answer(StatusCode),
    Throttle,
    Reset,
    Cut,
}

impl Upstream {
    pub(crate) fn new(temper: Temper, dice: Dice) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            temper,
            state: Mutex::new(State {
                dice,
                arrivals: Vec::new(),
                throttled: HashMap::new(),
                away: None,
                kills: Vec::new(),
            }),
            open: AtomicUsize::new(0),
            restarts: watch::channel(0).0,
        })
    }

    pub(crate) fn dial(self: &Arc<Self>) -> Dial {
        let upstream = Arc::clone(self);
        Dial::With(Arc::new(move || {
            let upstream = Arc::clone(&upstream);
            Box::pin(async move { upstream.connect().await })
        }))
    }

    /// Restarts as planned, for ever.
    pub(crate) async fn restart(self: Arc<Self>) {
        for (after, away) in self.temper.restarts.clone() {
            tokio::time::sleep(after).await;
            {
                let mut state = self.state.lock().unwrap();
                let hangs = state.dice.percent(20);
                let now = self.began.elapsed();
                state.kills.push(now);
                state.away = Some((now + away, hangs));
            }
            self.restarts.send_modify(|count| *count += 1);
        }
    }

    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.state.lock().unwrap().arrivals.clone()
    }

    /// When connections were cut that may have had an answer on the way.
    pub(crate) fn kills(&self) -> Vec<At> {
        self.state.lock().unwrap().kills.clone()
    }

    async fn connect(self: &Arc<Self>) -> io::Result<Box<dyn Io>> {
        let (wait, buffer, life) = {
            let mut state = self.state.lock().unwrap();
            let wait = state.dice.millis(self.temper.dial);
            let buffer = state.dice.pick(&[64, 1024, 64 * 1024]);
            let life = (self.temper.life > 0).then(|| state.dice.millis(self.temper.life));
            (wait, buffer, life)
        };
        tokio::time::sleep(wait).await;
        let away = self.state.lock().unwrap().away;
        match away {
            Some((until, hangs)) if self.began.elapsed() < until => {
                if hangs {
                    std::future::pending::<()>().await;
                }
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            _ => {}
        }
        let (near, far) = tokio::io::duplex(buffer);
        let upstream = Arc::clone(self);
        let mut restarts = self.restarts.subscribe();
        self.open.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            let open = Open(&upstream);
            let service = service_fn(|request| upstream.serve(request));
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(far), service);
            let end = async {
                match life {
                    Some(life) => tokio::time::sleep(life).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = connection => {}
                _ = restarts.changed() => {}
                () = end => {
                    let now = upstream.began.elapsed();
                    upstream.state.lock().unwrap().kills.push(now);
                }
            }
            drop(open);
        });
        Ok(Box::new(near))
    }

    async fn serve(self: &Arc<Self>, request: Request<Incoming>) -> io::Result<Response<Script>> {
        let (head, body) = request.into_parts();
        let number = {
            let mut state = self.state.lock().unwrap();
            let tag = head
                .headers
                .get(TAG)
                .map_or(0, |tag| tag.to_str().unwrap().parse().unwrap());
            state.arrivals.push(Arrival {
                at: self.began.elapsed(),
                tag,
                said: None,
                answer: None,
            });
            state.arrivals.len() - 1
        };
        let Ok(body) = body.collect().await else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let said = wire::said(&head.method, &head.uri, &head.headers, &body.to_bytes());
        let (latency, fate) = {
            let mut state = self.state.lock().unwrap();
            state.arrivals[number].said = Some(said.clone());
            let storm = Duration::from_secs(u64::from(number >= STORM));
            let latency = storm
                + match state.dice.percent(self.temper.very_slow) {
                    true => Duration::from_secs(1) + state.dice.millis(10_000),
                    false => state.dice.millis(self.temper.latency),
                };
            let fate = self.fate(&mut state, &said);
            (latency, fate)
        };
        tokio::time::sleep(latency).await;
        let mut state = self.state.lock().unwrap();
        let now = self.began.elapsed();
        let (status, cut) = match fate {
            Fate::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
            Fate::Throttle => (StatusCode::TOO_MANY_REQUESTS, false),
            Fate::Answer(status) => (status, false),
            Fate::Cut => (StatusCode::CREATED, true),
        };
        let padding = state.dice.pick(&[0, 100, 5000]);
        let body = Bytes::from(format!(
            "{{\"call\":{number},\"pad\":\"{}\"}}",
            "p".repeat(padding)
        ));
        let mut response = Response::builder().status(status).header(ANSWER, number);
        let mut retry_after = None;
        if status == StatusCode::TOO_MANY_REQUESTS {
            let (until, told) = state.throttled(&said).unwrap_or_default();
            let seconds = until.saturating_sub(now).as_secs() + 1;
            if told {
                retry_after = Some(Duration::from_secs(seconds));
                response = response.header("retry-after", seconds);
            }
        }
        let in_pieces = state.dice.percent(30);
        state.arrivals[number].answer = Some(Answered {
            at: now,
            status: status.as_u16(),
            retry_after,
            body: body.clone(),
            cut,
        });
        if !in_pieces {
            response = response.header("content-length", body.len());
        }
        Ok(response.body(Script::new(body, cut, in_pieces)).unwrap())
    }

    fn fate(&self, state: &mut State, said: &Said) -> Fate {
        let now = self.began.elapsed();
        let temper = &self.temper;
        if state.dice.percent(temper.resets) {
            return Fate::Reset;
        }
        if state.throttled(said).is_some_and(|(until, _)| now < until) {
            return Fate::Throttle;
        }
        if state.dice.percent(temper.throttles) {
            let until = now + state.dice.millis(3000);
            let told = state.dice.percent(60);
            let credential = state.dice.percent(50).then(|| said.credential.clone());
            let whom = (said.instance.clone(), credential);
            state.throttled.insert(whom, (until, told));
            return Fate::Throttle;
        }
        if said.credential.contains("bad") {
            return Fate::Answer(StatusCode::UNAUTHORIZED);
        }
        for (mark, status) in [("_P400", 400), ("_P422", 422), ("_P500", 500)] {
            if said.ids.iter().any(|id| id.contains(mark)) {
                return Fate::Answer(StatusCode::from_u16(status).unwrap());
            }
        }
        if state.dice.percent(temper.fails) {
            let status = state.dice.pick(&[400, 404, 413, 422, 500]);
            return Fate::Answer(StatusCode::from_u16(status).unwrap());
        }
        if state.dice.percent(temper.unavailable) {
            let status = state.dice.pick(&[502, 503, 504]);
            return Fate::Answer(StatusCode::from_u16(status).unwrap());
        }
        if state.dice.percent(temper.cuts) {
            return Fate::Cut;
        }
        Fate::Answer(state.dice.pick(&[StatusCode::OK, StatusCode::CREATED]))
    }
}

impl State {
    /// Until when a caller is throttled, and whether it is told.
    fn throttled(&self, said: &Said) -> Option<(At, bool)> {
        let whole = (said.instance.clone(), None);
        let own = (said.instance.clone(), Some(said.credential.clone()));
        let until = [whole, own].map(|whom| self.throttled.get(&whom).copied());
        until.into_iter().flatten().max()
    }
}

/// Counts a connection out.
struct Open<'u>(&'u Upstream);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer's body: its pieces, then its end or a break.
pub(crate) struct Script {
    pieces: Vec<Bytes>,
    cut: bool,
}

impl Script {
    fn new(body: Bytes, cut: bool, in_pieces: bool) -> Self {
        let middle = body.len() / 2;
        let mut pieces = vec![body.slice(..middle)];
        if !cut {
            match in_pieces {
                true => pieces.insert(0, body.slice(middle..)),
                false => pieces = vec![body],
            }
        }
        Self { pieces, cut }
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(match self.pieces.pop() {
            Some(piece) => Some(Ok(Frame::data(piece))),
            None if self.cut => Some(Err(io::ErrorKind::ConnectionReset.into())),
            None => None,
        })
    }
}
