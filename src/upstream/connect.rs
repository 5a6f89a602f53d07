//! Makes connections: name lookup, TCP, proxy, TLS, HTTP handshake.
//!
//! Invariants: a connection is made within `upstream.connect_timeout` or not at
//! all; nothing of a request is written here.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::oneshot;

use super::age::{Ages, Begun};
use super::connection::{Connection, Http1Codec, MAX_STREAMS};
use super::dial::{self, Dial, Io};
use super::error::{ProxyError, Unreachable, UpstreamError};
use super::fast::FastConnection;
use super::liveness::{LiveIo, Liveness, PING_INTERVAL, PING_TIMEOUT};
use super::outage_log::OutageLog;
use super::pool::Pool;
use super::request::RequestKind;
use super::tls::{Tls, TlsError, explain_handshake, is_protocol_refused};
use super::tunnel;
use crate::address_race::{ATTEMPT_DELAY, AddressRace};
use crate::body::RequestBody;
use crate::config::{self, HttpVersion, ProxyUrl};
use crate::http::h1::{MAX_RESPONSE_HEAD, MAX_RESPONSE_HEADERS};

/// Bytes of an HTTP/2 response that may wait for a slow client.
const STREAM_WINDOW: u32 = 128 * 1024;
/// Enough for all streams at once, so that a client that does not read cannot block
/// the others (RFC 9113 §5.2). hyper's adaptive window starts too small for that.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS as u32;

type Http2 = (http2::SendRequest<RequestBody>, Arc<Liveness>);

/// Makes connections to one upstream.
pub(super) struct Connector {
    dial: Dial,
    addresses: AddressRace,
    host: String,
    port: u16,
    /// Both, as `CONNECT` names them.
    authority: String,
    timeout: Duration,
    ages: Ages,
    /// Replaced by a reload.
    proxy: ArcSwapOption<ProxyUrl>,
    http: HttpVersion,
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
            Some(Tls::new(&url.host, settings.ca.as_deref(), settings.http)?)
        } else {
            None
        };
        Ok(Self {
            dial,
            addresses: AddressRace::new(ATTEMPT_DELAY),
            host: url.host.clone(),
            port: url.port,
            authority: url.host_and_port(),
            timeout: settings.connect_timeout,
            ages,
            proxy: ArcSwapOption::from_pointee(settings.proxy.clone()),
            http: settings.http,
            tls,
            http1_only: AtomicBool::new(false),
            outage_log: OutageLog::default(),
        })
    }

    /// Whether the next connection may be HTTP/2 and serve several requests at
    /// once.
    pub(super) fn may_share(&self) -> bool {
        match self.http {
            HttpVersion::Auto => self.tls.is_some() && !self.http1_only.load(Ordering::Relaxed),
            HttpVersion::Http1 => false,
            HttpVersion::Http2 => true,
        }
    }

    /// Uses this proxy for connections from now on, or none.
    pub(super) fn set_proxy(&self, proxy: Option<ProxyUrl>) {
        self.proxy.store(proxy.map(Arc::new));
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
        let mut at_proxy = false;
        let opened = tokio::time::timeout(self.timeout, self.open(pool, kind, &mut at_proxy)).await;
        let opened = opened.unwrap_or(match at_proxy {
            true => Err(ProxyError::Timeout.into()),
            false => Err(Unreachable::Timeout),
        });
        opened.map_err(UpstreamError::from)
    }

    /// `at_proxy` is true while this waits for the proxy.
    async fn open(
        &self,
        pool: &Pool,
        kind: RequestKind,
        at_proxy: &mut bool,
    ) -> Result<Connection, Unreachable> {
        let begun = self.ages.begin();
        let stream = match self.proxy.load_full() {
            Some(proxy) => {
                *at_proxy = true;
                let stream = self.tunnel(&proxy).await?;
                *at_proxy = false;
                stream
            }
            None => self.dial(&self.host, self.port).await?,
        };
        let Some(tls) = &self.tls else {
            return match self.http {
                HttpVersion::Http2 => {
                    let (sender, liveness) = http2_by_prior_knowledge(stream).await?;
                    Ok(pool.add_http2(sender, begun, liveness))
                }
                HttpVersion::Auto | HttpVersion::Http1 => http1(stream, pool, begun, kind).await,
            };
        };
        // HTTP/2 has no `Upgrade` header (RFC 9113 §8.2.2).
        let connector = match (kind, self.http) {
            (RequestKind::Upgrade, HttpVersion::Auto) => &tls.http1,
            _ => &tls.any,
        };
        let handshake = connector.connect(tls.name.clone(), stream).await;
        let stream = handshake.map_err(|error| {
            if self.http == HttpVersion::Http2 && is_protocol_refused(&error) {
                return Unreachable::NoHttp2;
            }
            self.keep_detail(Unreachable::Tls, explain_handshake(&error))
        })?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if kind != RequestKind::Upgrade {
            // Follows the latest connection: the upstream may change its choice, as after
            // an update.
            self.http1_only.store(!is_http2, Ordering::Relaxed);
        }
        match (is_http2, self.http) {
            (true, _) => {
                let (sender, liveness) = http2(stream, None).await?;
                Ok(pool.add_http2(sender, begun, liveness))
            }
            (false, HttpVersion::Http2) => Err(Unreachable::NoHttp2),
            (false, _) => http1(stream, pool, begun, kind).await,
        }
    }

    /// A stream to this address, or the one of a test.
    async fn dial(&self, host: &str, port: u16) -> Result<Box<dyn Io>, Unreachable> {
        let looked_up = match &self.dial {
            Dial::Tcp => {
                let addresses = tokio::net::lookup_host((host, port)).await;
                addresses.map(Iterator::collect)
            }
            Dial::Named { lookup, .. } => lookup(host, port),
            Dial::With(dial) => return Ok(dial().await?),
        };
        let addresses: Vec<_> =
            looked_up.map_err(|error| self.keep_detail(Unreachable::Resolve, error))?;
        match &self.dial {
            Dial::Named { connect, .. } => {
                let connect = |address| connect(address);
                {
                    let stream = self.addresses.connect(&addresses, connect).await;
                    stream.map_err(dial::unreachable)
                }
            }
            _ => Ok(Box::new(dial::tcp(&self.addresses, &addresses).await?)),
        }
    }

    /// A stream to the upstream through a proxy.
    async fn tunnel(&self, proxy: &ProxyUrl) -> Result<Box<dyn Io>, Unreachable> {
        let dialled = self.dial(&proxy.host, proxy.port).await;
        let mut stream = dialled.map_err(|error| match error {
            Unreachable::Resolve => ProxyError::Resolve,
            Unreachable::Refused => ProxyError::Refused,
            Unreachable::Timeout => ProxyError::Timeout,
            Unreachable::Network(kind) => ProxyError::Network(kind),
            // No stream is open yet.
            Unreachable::Tls
            | Unreachable::ClosedAtOnce
            | Unreachable::NoHttp2
            | Unreachable::Proxy(_) => ProxyError::Closed,
        })?;
        let opened = tunnel::open(&mut stream, &self.authority, proxy).await;
        opened.map_err(|(error, status)| match status {
            Some(status) => self.keep_detail(error.into(), format_args!("status {status}")),
            None => Unreachable::from(error),
        })?;
        Ok(stream)
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
    begun: Begun,
    kind: RequestKind,
) -> Result<Connection, Unreachable> {
    if kind == RequestKind::Fast {
        // No handshake and no task: the request's own task reads and writes.
        let connection = FastConnection::new(Box::new(stream));
        return Ok(pool.add_http1(Http1Codec::Fast(Box::new(connection)), begun));
    }
    let (sender, connection) = http1::Builder::new()
        .preserve_header_case(true)
        // A proxy replaces line folding in responses with spaces (RFC 9112 §5.2).
        .allow_obsolete_multiline_headers_in_responses(true)
        .max_headers(MAX_RESPONSE_HEADERS)
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
    Ok(pool.add_http1(Http1Codec::Hyper(sender), begun))
}

/// HTTP/2 over a stream on which the upstream must speak it without having been asked.
async fn http2_by_prior_knowledge(stream: Box<dyn Io>) -> Result<Http2, Unreachable> {
    let (first_byte, arrived) = oneshot::channel();
    let http2 = http2(stream, Some(first_byte)).await?;
    // An upstream that speaks HTTP/2 sends its preface unasked, and it begins with the
    // length of a SETTINGS frame, less than 2^16 (RFC 9113 §3.4). Another one would
    // only break off, and what has become of the request would be unknown.
    match arrived.await {
        Ok(0) => Ok(http2),
        Ok(_) => Err(Unreachable::NoHttp2),
        Err(_closed) => Err(Unreachable::ClosedAtOnce),
    }
}

async fn http2(
    stream: impl Io + 'static,
    first_byte: Option<oneshot::Sender<u8>>,
) -> Result<Http2, Unreachable> {
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
        .handshake(TokioIo::new(LiveIo::new(stream, &liveness, first_byte)))
        .await
        .map_err(|_| Unreachable::ClosedAtOnce)?;
    tokio::spawn(async move {
        // As above: each stream reports the error.
        drop(connection.await);
    });
    Ok((sender, liveness))
}
