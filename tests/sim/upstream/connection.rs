//! Where the upstream is, and how its connections begin, serve and end.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;
use tokio::time::Instant;
use wawp_gateway::{Dial, Io};

use super::link::{Link, LinkIo};
use super::record::{Attempt, AttemptEnd, ConnectionRecord};
use super::{Refused, Upstream};
use crate::plan::{AddressState, LOST_AFTER};
use crate::upstream::link::Admission;

impl Upstream {
    /// Connects a gateway.
    pub(crate) fn dial(self: &Arc<Self>, gateway: usize) -> Dial {
        let (names, addresses) = (Arc::clone(self), Arc::clone(self));
        Dial::Named {
            lookup: Arc::new(move |_, port| {
                names.state.lock().unwrap().was_looked_up = true;
                let now = names.began.elapsed();
                let addresses = names.behaviour.names.at(now).iter();
                Ok(addresses.map(|it| SocketAddr::new(it.ip, port)).collect())
            }),
            connect: Arc::new(move |address| {
                // Not in the future: the first attempt after a lookup belongs to it.
                let attempt = Attempting::new(&addresses, address.ip(), gateway);
                Box::pin(attempt.connect())
            }),
        }
    }

    /// Serves requests on a new connection of a gateway, from `dialled` on.
    fn open(self: &Arc<Self>, gateway: usize, dialled: Duration) -> Box<dyn Io> {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap();
        let buffer = state.rng.pick(&[64, 1024, 64 * 1024]);
        let life = (self.behaviour.life > 0).then(|| state.rng.millis(self.behaviour.life));
        let is_lost = state.rng.percent(self.behaviour.losses);
        let lost_from = is_lost.then(|| now + state.rng.millis(3000));
        let window = state.rng.pick(&[1024, 65_535, 1024 * 1024]);
        let number = state.record.connections.len();
        state.record.connections.push(ConnectionRecord {
            gateway,
            dialled,
            opened: now - self.began,
            lost_from: lost_from.map(|from| from - self.began),
            closed: None,
            late_streams: 0,
        });
        drop(state);
        let (near, far) = tokio::io::duplex(buffer);
        let link = Link::new(number, self.behaviour.http2, lost_from);
        let io = LinkIo::new(far, &link);
        let upstream = Arc::clone(self);
        let mut restarts = self.restarts.subscribe();
        tokio::spawn(async move {
            let open = Open(&upstream, &link);
            let serves = async {
                match upstream.behaviour.http2 {
                    Some(_) => upstream.serve_http2(io, &link, window).await,
                    None => upstream.serve_http1(io, &link).await,
                }
            };
            let end = async {
                let life = life.map(|life| now + life);
                let lost = lost_from.map(|from| from + LOST_AFTER);
                match life.into_iter().chain(lost).min() {
                    Some(end) => tokio::time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = serves => {}
                _ = restarts.changed() => {}
                () = end => upstream.kill(),
            }
            drop(open);
        });
        Box::new(near)
    }

    async fn serve_http1(self: &Arc<Self>, mut io: LinkIo, link: &Arc<Link>) {
        loop {
            let service = service_fn(|request| self.serve(request, link, None));
            let mut connection = http1::Builder::new().serve_connection(TokioIo::new(io), service);
            tokio::select! {
                _ = &mut connection => return,
                () = link.woken() => {}
            }
            io = connection.into_parts().io.into_inner();
            let response = link.take_late_body().expect("only this wakes it");
            if !response.write(&mut io).await {
                return;
            }
        }
    }

    async fn serve_http2(self: &Arc<Self>, io: LinkIo, link: &Arc<Link>, window: u32) {
        let streams = Streams::default();
        let _ended = EndStreams(&streams);
        let service = service_fn(|request| {
            let (upstream, link) = (Arc::clone(self), Arc::clone(link));
            let refused = match link.admit() {
                Admission::Served => Refused::drawn(self),
                Admission::Ignored => Some(Refused::Ignored),
                Admission::Last(stream) => {
                    tokio::spawn(upstream.go_away(&link, stream));
                    None
                }
            };
            async move { upstream.serve(request, &link, refused).await }
        });
        let connection = http2::Builder::new(streams.clone())
            .initial_stream_window_size(window)
            .serve_connection(TokioIo::new(io), service);
        let mut connection = pin!(connection);
        loop {
            tokio::select! {
                _ = &mut connection => return,
                // The connection is polled again, which writes the GOAWAY.
                () = link.woken() => {}
            }
        }
    }

    /// Sends a GOAWAY on a connection, after the planned time.
    fn go_away(
        &self,
        link: &Arc<Link>,
        last: u32,
    ) -> impl Future<Output = ()> + Send + 'static + use<> {
        let delay = self.behaviour.http2.map_or(0, |http2| http2.goaway_delay);
        let link = Arc::clone(link);
        async move {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            link.go_away(last);
        }
    }
}

/// Runs the streams of one connection.
#[derive(Clone, Default)]
struct Streams(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        self.0.lock().unwrap().spawn(stream);
    }
}

/// Ends the streams with their connection.
struct EndStreams<'s>(&'s Streams);

impl Drop for EndStreams<'_> {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().abort_all();
    }
}

/// Records the end of a connection.
struct Open<'u>(&'u Upstream, &'u Link);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let Self(upstream, link) = self;
        let now = upstream.began.elapsed();
        let record = &mut upstream.state.lock().unwrap().record;
        let connection = &mut record.connections[link.number];
        connection.closed = Some(now);
        connection.late_streams = link.late_streams();
    }
}

/// An attempt to connect to one address.
struct Attempting {
    upstream: Arc<Upstream>,
    ip: IpAddr,
    gateway: usize,
    number: usize,
    end: AttemptEnd,
}

impl Attempting {
    fn new(upstream: &Arc<Upstream>, ip: IpAddr, gateway: usize) -> Self {
        let mut state = upstream.state.lock().unwrap();
        let number = state.record.attempts.len();
        let attempt = Attempt {
            at: upstream.began.elapsed(),
            ip,
            is_first: std::mem::take(&mut state.was_looked_up),
            ended: None,
        };
        state.record.attempts.push(attempt);
        Self {
            upstream: Arc::clone(upstream),
            ip,
            gateway,
            number,
            end: AttemptEnd::Abandoned,
        }
    }

    async fn connect(mut self) -> io::Result<Box<dyn Io>> {
        let upstream = Arc::clone(&self.upstream);
        let dialled = upstream.began.elapsed();
        match upstream.behaviour.names.state_of(self.ip) {
            AddressState::Alive => {}
            AddressState::Dead => std::future::pending().await,
            AddressState::Refuses => return self.refused(),
        }
        let wait = {
            let mut state = upstream.state.lock().unwrap();
            state.rng.millis(upstream.behaviour.dial)
        };
        tokio::time::sleep(wait).await;
        let away = upstream.state.lock().unwrap().away;
        if let Some((until, hangs)) = away
            && upstream.began.elapsed() < until
        {
            if hangs {
                std::future::pending::<()>().await;
            }
            return self.refused();
        }
        self.end = AttemptEnd::Connected;
        Ok(upstream.open(self.gateway, dialled))
    }

    fn refused(&mut self) -> io::Result<Box<dyn Io>> {
        self.end = AttemptEnd::Failed;
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

impl Drop for Attempting {
    fn drop(&mut self) {
        let now = self.upstream.began.elapsed();
        let attempts = &mut self.upstream.state.lock().unwrap().record.attempts;
        attempts[self.number].ended = Some((now, self.end));
    }
}
