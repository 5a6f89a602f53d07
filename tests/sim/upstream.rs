//! The upstream: it responds late, wrongly, in part or not at all, and records
//! everything that reaches it.
//!
//! - [`connection`]: its addresses and connections; [`link`]: the bytes of a connection;
//! - [`response`]: how a response is written;
//! - [`record`]: what it saw.

mod connection;
mod link;
mod record;
mod response;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::time::Instant;

use self::link::Link;
pub(crate) use self::record::{
    Arrival, Attempt, AttemptEnd, ConnectionRecord, Record, Refusal, SentResponse,
};
use self::response::{Cut, LateBody, ResponseBody};
use crate::plan::UpstreamBehaviour;
use crate::rng::Rng;
use crate::wire::{self, At, Parsed, RESPONSE, TAG};

/// More calls than any run should cause. From then on a response takes a second,
/// so that virtual time goes on and the run ends.
pub(crate) const STORM: usize = 2000;

#[derive(Debug)]
pub(crate) struct Upstream {
    began: Instant,
    behaviour: UpstreamBehaviour,
    state: Mutex<State>,
    /// Counts restarts; connections end when it changes.
    restarts: watch::Sender<usize>,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    record: Record,
    /// Instances, or one of their credentials, that are throttled, until when, and
    /// whether the response names that time.
    throttled: HashMap<(String, Option<String>), (At, bool)>,
    /// Until when the upstream is unreachable, and whether connecting then hangs.
    away: Option<(At, bool)>,
    /// The name was looked up, and no attempt to connect has followed.
    was_looked_up: bool,
}

/// What happens to a request.
enum Fate {
    Respond(StatusCode),
    Throttle,
    Reset,
    Cut,
    /// A response with this status, which has no body, and a body.
    LateBody(StatusCode),
}

/// How a stream of HTTP/2 is refused.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// By REFUSED_STREAM.
    AtOnce,
    AfterItsBody,
    /// It lies behind the last one of a GOAWAY.
    Ignored,
}

impl Refused {
    fn drawn(upstream: &Upstream) -> Option<Self> {
        let rng = &mut upstream.state.lock().unwrap().rng;
        let share = upstream.behaviour.http2.map_or(0, |http2| http2.refusals);
        let is_refused = rng.percent(share);
        is_refused.then(|| rng.pick(&[Self::AtOnce, Self::AfterItsBody]))
    }
}

impl Upstream {
    /// Its clock begins at `began`; until then it is 0.
    pub(crate) fn new(behaviour: UpstreamBehaviour, rng: Rng, began: Instant) -> Arc<Self> {
        Arc::new(Self {
            began,
            behaviour,
            state: Mutex::new(State {
                rng,
                record: Record::default(),
                throttled: HashMap::new(),
                away: None,
                was_looked_up: false,
            }),
            restarts: watch::channel(0).0,
        })
    }

    /// Restarts as planned.
    pub(crate) async fn restart(self: Arc<Self>) {
        for (after, away) in self.behaviour.restarts.clone() {
            tokio::time::sleep(after).await;
            {
                let mut state = self.state.lock().unwrap();
                let hangs = state.rng.percent(20);
                let now = self.began.elapsed();
                state.record.kills.push(now);
                state.record.absences.push((now, now + away));
                state.away = Some((now + away, hangs));
            }
            self.restarts.send_modify(|count| *count += 1);
        }
    }

    pub(crate) fn record(&self) -> Record {
        let mut record = self.state.lock().unwrap().record.clone();
        let losses = record.connections.iter().filter_map(ConnectionRecord::loss);
        record.kills.extend(losses);
        record
    }

    /// Records that a connection is cut.
    fn kill(&self) {
        let now = self.began.elapsed();
        self.state.lock().unwrap().record.kills.push(now);
    }

    async fn serve(
        self: &Arc<Self>,
        request: Request<Incoming>,
        link: &Link,
        refused: Option<Refused>,
    ) -> Result<Response<ResponseBody>, h2::Error> {
        let (head, body) = request.into_parts();
        let tag = head.headers.get(TAG);
        let tag = tag.map_or(0, |tag| tag.to_str().unwrap().parse().unwrap());
        if let Some(refused) = refused {
            return self.refuse(tag, body, link, refused).await;
        }
        let number = {
            let arrivals = &mut self.state.lock().unwrap().record.arrivals;
            arrivals.push(Arrival {
                at: self.began.elapsed(),
                tag,
                connection: link.number,
                parsed: None,
                response: None,
                ended: None,
            });
            arrivals.len() - 1
        };
        // Dropped after the lock on the state is given back, however this ends.
        let _ended = Ended(self, link, number);
        let Ok(body) = body.collect().await else {
            return Err(h2::Reason::CANCEL.into());
        };
        let body = body.to_bytes();
        let parsed = wire::parsed(&head.method, &head.uri, &head.headers, &body);
        let (latency, fate) = {
            let mut state = self.state.lock().unwrap();
            state.record.arrivals[number].parsed = Some(parsed.clone());
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
        match fate {
            // Over HTTP/1.1 any error ends the connection.
            Fate::Reset => Err(h2::Reason::INTERNAL_ERROR.into()),
            Fate::LateBody(status) => {
                self.respond_by_hand(number, link, status);
                // The connection drops this.
                std::future::pending().await
            }
            Fate::Throttle => {
                Ok(self.response(number, &parsed, link, StatusCode::TOO_MANY_REQUESTS, false))
            }
            Fate::Respond(status) => Ok(self.response(number, &parsed, link, status, false)),
            Fate::Cut => Ok(self.response(number, &parsed, link, StatusCode::CREATED, true)),
        }
    }

    /// Refuses a stream.
    async fn refuse(
        &self,
        tag: usize,
        body: Incoming,
        link: &Link,
        refused: Refused,
    ) -> Result<Response<ResponseBody>, h2::Error> {
        match refused {
            Refused::AtOnce => drop(body),
            Refused::AfterItsBody => {
                if body.collect().await.is_err() {
                    return Err(h2::Reason::CANCEL.into());
                }
            }
            // Its body still takes room on the connection.
            Refused::Ignored => drop(tokio::spawn(body.collect())),
        }
        self.record_refusal(tag, link);
        if refused == Refused::Ignored {
            return std::future::pending().await;
        }
        Err(h2::Reason::REFUSED_STREAM.into())
    }

    fn record_refusal(&self, tag: usize, link: &Link) {
        let record = &mut self.state.lock().unwrap().record;
        record.refusals.push(Refusal {
            at: self.began.elapsed(),
            arrivals: record.arrivals.len(),
            tag,
            connection: link.number,
        });
    }

    fn respond_by_hand(&self, number: usize, link: &Link, status: StatusCode) {
        let mut state = self.state.lock().unwrap();
        state.record.arrivals[number].response = Some(self.sent(link, status));
        link.respond_by_hand(LateBody::drawn(&mut state.rng, number, status));
    }

    /// The record of a response without a body.
    fn sent(&self, link: &Link, status: StatusCode) -> SentResponse {
        SentResponse {
            at: self.began.elapsed(),
            status: status.as_u16(),
            retry_after: None,
            body: Bytes::new(),
            cut: false,
            lost: link.is_lost(),
        }
    }

    fn response(
        &self,
        number: usize,
        parsed: &Parsed,
        link: &Link,
        status: StatusCode,
        is_cut: bool,
    ) -> Response<ResponseBody> {
        let mut state = self.state.lock().unwrap();
        let padding = state.rng.pick(&[0, 100, 5000]);
        let body = Bytes::from(format!(
            "{{\"call\":{number},\"pad\":\"{}\"}}",
            "p".repeat(padding)
        ));
        let retry_after = self.retry_after(&mut state, parsed, status);
        let in_pieces = state.rng.percent(30);
        let cut = is_cut.then(|| Cut::drawn(&mut state.rng));
        state.record.arrivals[number].response = Some(SentResponse {
            retry_after,
            body: body.clone(),
            cut: is_cut,
            ..self.sent(link, status)
        });
        let mut response = Response::builder().status(status).header(RESPONSE, number);
        if let Some(pause) = retry_after {
            response = response.header("retry-after", pause.as_secs());
        }
        if !in_pieces {
            response = response.header("content-length", body.len());
        }
        response
            .body(ResponseBody::new(body, cut, in_pieces))
            .unwrap()
    }

    /// The `Retry-After` of a response.
    fn retry_after(
        &self,
        state: &mut State,
        parsed: &Parsed,
        status: StatusCode,
    ) -> Option<Duration> {
        let seconds = match status.as_u16() {
            429 => {
                let (until, is_named) = state.throttled(parsed).unwrap_or_default();
                let left = until.saturating_sub(self.began.elapsed());
                is_named.then(|| left.as_secs() + 1)
            }
            // Within the deadline of a receipt, or far beyond it.
            502..=504 => state.rng.percent(40).then(|| state.rng.pick(&[1, 2, 30])),
            _ => None,
        };
        seconds.map(Duration::from_secs)
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
        if behaviour.http2.is_none() && state.rng.percent(behaviour.late_bodies) {
            let statuses = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
            return Fate::LateBody(state.rng.pick(&statuses));
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

/// Records the end of a call.
struct Ended<'u>(&'u Upstream, &'u Link, usize);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let Self(upstream, link, number) = self;
        // Where nothing arrives any more, the upstream does not learn that a call is over.
        let now = Instant::now();
        let end = link.lost_from().map_or(now, |from| from.min(now)) - upstream.began;
        let record = &mut upstream.state.lock().unwrap().record;
        record.arrivals[*number].ended = Some(end.max(record.arrivals[*number].at));
    }
}
