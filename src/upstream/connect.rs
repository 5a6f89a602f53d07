//! Makes connections: name lookup, TCP, TLS, HTTP handshake.
//!
//! Invariants: a connection is made within `upstream.connect_timeout` or not at
//! all; nothing of a request is written here.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::age::{Age, Ages};
use super::connection::{Connection, Http1Codec, MAX_STREAMS};
use super::dial::{AddressRace, Dial, Io};
use super::error::{Unreachable, UpstreamError};
use super::fast::FastConnection;
use super::liveness::{LiveIo, Liveness, PING_INTERVAL, PING_TIMEOUT};
use super::outage_log::OutageLog;
use super::pool::Pool;
use super::request::RequestKind;
use super::tls::{Tls, TlsError, explain_handshake};
use crate::config;
use crate::http::h1::{MAX_RESPONSE_FIELDS, MAX_RESPONSE_HEAD};

/// Bytes of an HTTP/2 response that may wait for a slow client.
const STREAM_WINDOW: u32 = 128 * 1024;
/// Enough for all streams at once, so that a client that does not read cannot block
/// the others (RFC 9113 §5.2). hyper's adaptive window starts too small for that.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS as u32;

/// Makes connections to one upstream.
pub(super) struct Connector {
    dial: Dial,
    addresses: AddressRace,
    host: String,
    port: u16,
    timeout: Duration,
    ages: Ages,
    tls: Option<Tls>,
    /// The upstream chose HTTP/1.1 the last time it could choose.
    http1_only: AtomicBool,
    outage_log: OutageLog,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Connector {
    pub(super) fn new(
        settings: &config::Upstream,
        dial: Dial,
        ages: Ages,
    ) -> Result<Self, TlsError> {
        let url = &settings.url;
        let tls = if url.tls {
            Some(Tls::new(&url.host, settings.ca.as_deref())?)
        } else {
            None
        };
        Ok(Self {
            dial,
            addresses: AddressRace::default(),
            host: url.host.clone(),
            port: url.port,
            timeout: settings.connect_timeout,
            ages,
            tls,
            http1_only: AtomicBool::new(false),
            outage_log: OutageLog::default(),
        })
    }

    /// Whether the next connection may be HTTP/2 and serve several requests at
    /// once.
    pub(super) fn may_share(&self) -> bool {
        self.tls.is_some() && !self.http1_only.load(Ordering::Relaxed)
    }

    /// Shared by all workers.
    pub(super) fn outage_log(&self) -> &OutageLog {
        &self.outage_log
    }

    /// Makes one connection for a request of this kind.
    pub(super) async fn connect(
        &self,
        pool: &Pool,
        kind: RequestKind,
    ) -> Result<Connection, UpstreamError> {
        // One timeout for all steps: each step alone may take nearly as long.
        tokio::time::timeout(self.timeout, self.open(pool, kind))
            .await
            .unwrap_or(Err(Unreachable::Timeout))
            .map_err(UpstreamError::from)
    }

    async fn open(&self, pool: &Pool, kind: RequestKind) -> Result<Connection, Unreachable> {
        let age = self.ages.begin();
        let stream = match &self.dial {
            Dial::Tcp => {
                let addresses = tokio::net::lookup_host((&*self.host, self.port)).await;
                let addresses =
                    addresses.map_err(|error| self.keep_detail(Unreachable::Resolve, error))?;
                let addresses: Vec<_> = addresses.collect();
                Box::new(self.addresses.tcp(&addresses).await?) as Box<dyn Io>
            }
            Dial::With(dial) => dial().await?,
        };
        let Some(tls) = &self.tls else {
            return http1(stream, pool, age, kind).await;
        };
        // HTTP/2 has no `Upgrade` header (RFC 9113 §8.2.2).
        let connector = if kind == RequestKind::Upgrade {
            &tls.http1
        } else {
            &tls.any
        };
        let stream = connector
            .connect(tls.name.clone(), stream)
            .await
            .map_err(|error| self.keep_detail(Unreachable::Tls, explain_handshake(&error)))?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if kind != RequestKind::Upgrade {
            // Follows the latest connection: the upstream may change its choice, as after
            // an update.
            self.http1_only.store(!is_http2, Ordering::Relaxed);
        }
        if is_http2 {
            http2(stream, pool, age).await
        } else {
            http1(stream, pool, age, kind).await
        }
    }

    /// Keeps the error text for the outage log.
    fn keep_detail(&self, kind: Unreachable, error: impl fmt::Display) -> Unreachable {
        self.outage_log.note_detail(kind, error);
        kind
    }
}

async fn http1(
    stream: impl Io + 'static,
    pool: &Pool,
    age: Age,
    kind: RequestKind,
) -> Result<Connection, Unreachable> {
    if kind == RequestKind::Fast {
        // No handshake and no task: the request's own task reads and writes.
        let connection = FastConnection::new(Box::new(stream));
        return Ok(pool.add_http1(Http1Codec::Fast(Box::new(connection)), age));
    }
    let (sender, connection) = http1::Builder::new()
        .preserve_header_case(true)
        // A proxy replaces line folding in responses with spaces (RFC 9112 §5.2).
        .allow_obsolete_multiline_headers_in_responses(true)
        .max_headers(MAX_RESPONSE_FIELDS)
        // hyper's default of 400 KiB would let a thousand clients that do not
        // read hold half a gigabyte.
        .max_buf_size(MAX_RESPONSE_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Unreachable::ClosedAtOnce)?;
    tokio::spawn(async move {
        // The error is not lost: the sender reports it to the request.
        drop(connection.with_upgrades().await);
    });
    Ok(pool.add_http1(Http1Codec::Hyper(sender), age))
}

async fn http2(
    stream: impl Io + 'static,
    pool: &Pool,
    age: Age,
) -> Result<Connection, Unreachable> {
    let liveness = Liveness::new();
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // As over HTTP/1.1; hyper's default is a quarter of it.
        .max_header_list_size(MAX_RESPONSE_HEAD as u32)
        .handshake(TokioIo::new(LiveIo::new(stream, &liveness)))
        .await
        .map_err(|_| Unreachable::ClosedAtOnce)?;
    tokio::spawn(async move {
        // As above: each stream reports the error.
        drop(connection.await);
    });
    Ok(pool.add_http2(sender, age, liveness))
}
