//! The upstream: it responds late, wrongly, in part or not at all, and records
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

use crate::plan::UpstreamBehaviour;
use crate::rng::Rng;
use crate::wire::{self, At, Parsed, RESPONSE, TAG};

/// More calls than any run should cause. From then on a response takes a second,
/// so that virtual time goes on and the run ends.
pub(crate) const STORM: usize = 2000;

/// A call that reached the upstream.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) at: At,
    pub(crate) tag: usize,
    /// `None` if its body was not complete.
    pub(crate) parsed: Option<Parsed>,
    pub(crate) response: Option<SentResponse>,
    /// When the response began, or the connection was gone.
    pub(crate) ended: Option<At>,
}

/// The response to it.
#[derive(Clone, Debug)]
pub(crate) struct SentResponse {
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
    behaviour: UpstreamBehaviour,
    state: Mutex<State>,
    pub(crate) open: AtomicUsize,
    /// Counts restarts; connections end when it changes.
    restarts: watch::Sender<usize>,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    arrivals: Vec<Arrival>,
    /// Instances, or one of their credentials, that are throttled, until when, and
    /// whether the response names that time.
    throttled: HashMap<(String, Option<String>), (At, bool)>,
    /// Until when the upstream is unreachable, and whether connecting then hangs.
    away: Option<(At, bool)>,
    kills: Vec<At>,
}

/// What happens to a request.
enum Fate {
    Respond(StatusCode),
    Throttle,
    Reset,
    Cut,
}

impl Upstream {
    pub(crate) fn new(behaviour: UpstreamBehaviour, rng: Rng) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            behaviour,
            state: Mutex::new(State {
                rng,
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

    /// Restarts as planned.
    pub(crate) async fn restart(self: Arc<Self>) {
        for (after, away) in self.behaviour.restarts.clone() {
            tokio::time::sleep(after).await;
            {
                let mut state = self.state.lock().unwrap();
                let hangs = state.rng.percent(20);
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

    /// When connections were cut that may have had a response on the way.
    pub(crate) fn kills(&self) -> Vec<At> {
        self.state.lock().unwrap().kills.clone()
    }

    async fn connect(self: &Arc<Self>) -> io::Result<Box<dyn Io>> {
        let (wait, buffer, life) = {
            let mut state = self.state.lock().unwrap();
            let wait = state.rng.millis(self.behaviour.dial);
            let buffer = state.rng.pick(&[64, 1024, 64 * 1024]);
            let life = (self.behaviour.life > 0).then(|| state.rng.millis(self.behaviour.life));
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

    async fn serve(
        self: &Arc<Self>,
        request: Request<Incoming>,
    ) -> io::Result<Response<ResponseBody>> {
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
                parsed: None,
                response: None,
                ended: None,
            });
            state.arrivals.len() - 1
        };
        // Dropped after the lock on the state is given back, however this ends.
        let _ended = Ended(self, number);
        let Ok(body) = body.collect().await else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let parsed = wire::parsed(&head.method, &head.uri, &head.headers, &body.to_bytes());
        let (latency, fate) = {
            let mut state = self.state.lock().unwrap();
            state.arrivals[number].parsed = Some(parsed.clone());
            let storm = Duration::from_secs(u64::from(number >= STORM));
            let latency = storm
                + match state.rng.percent(self.behaviour.very_slow) {
                    true => Duration::from_secs(1) + state.rng.millis(10_000),
                    false => state.rng.millis(self.behaviour.latency),
                };
            let fate = self.fate(&mut state, &parsed);
            (latency, fate)
        };
        tokio::time::sleep(latency).await;
        let mut state = self.state.lock().unwrap();
        let now = self.began.elapsed();
        let (status, cut) = match fate {
            Fate::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
            Fate::Throttle => (StatusCode::TOO_MANY_REQUESTS, false),
            Fate::Respond(status) => (status, false),
            Fate::Cut => (StatusCode::CREATED, true),
        };
        let padding = state.rng.pick(&[0, 100, 5000]);
        let body = Bytes::from(format!(
            "{{\"call\":{number},\"pad\":\"{}\"}}",
            "p".repeat(padding)
        ));
        let mut response = Response::builder().status(status).header(RESPONSE, number);
        let mut retry_after = None;
        if status == StatusCode::TOO_MANY_REQUESTS {
            let (until, is_named) = state.throttled(&parsed).unwrap_or_default();
            let seconds = until.saturating_sub(now).as_secs() + 1;
            if is_named {
                retry_after = Some(Duration::from_secs(seconds));
                response = response.header("retry-after", seconds);
            }
        }
        let in_pieces = state.rng.percent(30);
        state.arrivals[number].response = Some(SentResponse {
            at: now,
            status: status.as_u16(),
            retry_after,
            body: body.clone(),
            cut,
        });
        if !in_pieces {
            response = response.header("content-length", body.len());
        }
        Ok(response
            .body(ResponseBody::new(body, cut, in_pieces))
            .unwrap())
    }

    fn fate(&self, state: &mut State, parsed: &Parsed) -> Fate {
        let now = self.began.elapsed();
        let behaviour = &self.behaviour;
        if state.rng.percent(behaviour.resets) {
            return Fate::Reset;
        }
        if state
            .throttled(parsed)
            .is_some_and(|(until, _)| now < until)
        {
            return Fate::Throttle;
        }
        if state.rng.percent(behaviour.throttles) {
            let until = now + state.rng.millis(3000);
            let is_named = state.rng.percent(60);
            let credential = state.rng.percent(50).then(|| parsed.credential.clone());
            let whom = (parsed.instance.clone(), credential);
            state.throttled.insert(whom, (until, is_named));
            return Fate::Throttle;
        }
        if parsed.credential.contains("bad") {
            return Fate::Respond(StatusCode::UNAUTHORIZED);
        }
        for (mark, status) in [("_P400", 400), ("_P422", 422), ("_P500", 500)] {
            if parsed.ids.iter().any(|id| id.contains(mark)) {
                return Fate::Respond(StatusCode::from_u16(status).unwrap());
            }
        }
        if state.rng.percent(behaviour.fails) {
            let status = state.rng.pick(&[400, 404, 413, 422, 500]);
            return Fate::Respond(StatusCode::from_u16(status).unwrap());
        }
        if state.rng.percent(behaviour.unavailable) {
            let status = state.rng.pick(&[502, 503, 504]);
            return Fate::Respond(StatusCode::from_u16(status).unwrap());
        }
        if state.rng.percent(behaviour.cuts) {
            return Fate::Cut;
        }
        Fate::Respond(state.rng.pick(&[StatusCode::OK, StatusCode::CREATED]))
    }
}

impl State {
    /// Until when a caller is throttled, and whether the response names that time.
    fn throttled(&self, parsed: &Parsed) -> Option<(At, bool)> {
        let whole = (parsed.instance.clone(), None);
        let own = (parsed.instance.clone(), Some(parsed.credential.clone()));
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

/// Records the end of a call.
struct Ended<'u>(&'u Upstream, usize);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let now = self.0.began.elapsed();
        self.0.state.lock().unwrap().arrivals[self.1].ended = Some(now);
    }
}

/// A response body: its pieces, then its end or an error.
pub(crate) struct ResponseBody {
    pieces: Vec<Bytes>,
    cut: bool,
}

impl ResponseBody {
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

impl Body for ResponseBody {
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
