//! Making connections: resolve, connect, TLS, HTTP handshake.
//!
//! Invariant: nothing here outlasts `upstream.connect_timeout`, and nothing of
//! a request has been written when it fails.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::connection::{Connection, MAX_STREAMS, Need, Speaker};
use super::error::{Failure, Unreachable};
use super::fast::Wire;
use super::outage_log::Reach;
use super::pool::Pool;
use crate::config::{self, pem};
use crate::http::h1::{MAX_RESPONSE_FIELDS, MAX_RESPONSE_HEAD};

/// An idle HTTP/2 connection is pinged this often, so that a dead one is
/// noticed before a call is lost on it.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Bytes of an answer that may wait for its client, and of all answers on a
/// connection: enough for every stream, so that a client that does not read
/// holds up no other (hyper's adaptive window would begin with one window for
/// all).
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS as u32;

/// The same over HTTP/1.1, where it is also the longest head of an answer. At
/// hyper's own 400 KiB a thousand clients that do not read hold half a
/// gigabyte.
pub(super) const READ_BUFFER: usize = MAX_RESPONSE_HEAD;

/// An upstream that has silently gone is noticed by the operating system.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// The least time an address gets to answer before the next is tried.
const ADDRESS_SHARE: Duration = Duration::from_millis(250);

/// A stream of bytes to the upstream.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + Sync {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Io for T {}

type Dialled = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// How the upstream is reached.
#[derive(Clone)]
pub enum Dial {
    /// Over TCP, by name.
    Tcp,
    /// Over streams made by this function: an upstream in the same process.
    With(Arc<dyn Fn() -> Dialled + Send + Sync>),
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "Tcp",
            Self::With(_) => "With(..)",
        })
    }
}

/// Why TLS to the upstream could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The CA file cannot be read or parsed.
    #[error("upstream.ca: {}: {reason}", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl TlsError {
    /// Which setting names the file, and what is wrong with it.
    pub(crate) fn cause(&self) -> (&'static str, String) {
        let Self::Ca { reason, .. } = self;
        ("upstream.ca", reason.clone())
    }
}

/// Makes connections to one upstream.
pub(super) struct Connector {
    dial: Dial,
    host: String,
    port: u16,
    timeout: Duration,
    tls: Option<Tls>,
    /// The upstream did not choose HTTP/2 the last time it could.
    http1_only: AtomicBool,
    reach: Reach,
}

struct Tls {
    name: ServerName<'static>,
    /// Offers HTTP/2 and HTTP/1.1.
    any: TlsConnector,
    /// Offers HTTP/1.1 alone: upgrades need it.
    http1: TlsConnector,
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
    pub(super) fn new(settings: &config::Upstream, dial: Dial) -> Result<Self, TlsError> {
        let url = &settings.url;
        let tls = if url.tls {
            Some(Tls::new(&url.host, settings.ca.as_deref())?)
        } else {
            None
        };
        Ok(Self {
            dial,
            host: url.host.clone(),
            port: url.port,
            timeout: settings.connect_timeout,
            tls,
            http1_only: AtomicBool::new(false),
            reach: Reach::default(),
        })
    }

    /// Whether a connection made now may serve several calls at once.
    pub(super) fn may_share(&self) -> bool {
        self.tls.is_some() && !self.http1_only.load(Ordering::Relaxed)
    }

    /// What the log says of the upstream, whichever worker calls it.
    pub(super) fn reach(&self) -> &Reach {
        &self.reach
    }

    fn because(&self, kind: Unreachable, error: impl std::fmt::Display) -> Unreachable {
        self.reach.note(kind, error);
        kind
    }

    /// Makes one connection.
    pub(super) async fn connect(&self, pool: &Pool, need: Need) -> Result<Connection, Failure> {
        tokio::time::timeout(self.timeout, self.open(pool, need))
            .await
            .unwrap_or(Err(Unreachable::Timeout))
            .map_err(Failure::from)
    }

    async fn open(&self, pool: &Pool, need: Need) -> Result<Connection, Unreachable> {
        let stream = match &self.dial {
            Dial::Tcp => Box::new(self.tcp().await?) as Box<dyn Io>,
            Dial::With(dial) => dial().await?,
        };
        let Some(tls) = &self.tls else {
            return http1(stream, pool, need).await;
        };
        let connector = if need == Need::Upgrade {
            &tls.http1
        } else {
            &tls.any
        };
        let stream = connector
            .connect(tls.name.clone(), stream)
            .await
            .map_err(|error| self.because(Unreachable::Tls, explained(&error)))?;
        let http2_chosen = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if need != Need::Upgrade {
            self.http1_only.store(!http2_chosen, Ordering::Relaxed);
        }
        if http2_chosen {
            http2(stream, pool).await
        } else {
            http1(stream, pool, need).await
        }
    }

    /// Tries every address of the name in turn.
    async fn tcp(&self) -> Result<TcpStream, Unreachable> {
        let addresses = tokio::net::lookup_host((&*self.host, self.port))
            .await
            .map_err(|error| self.because(Unreachable::Resolve, error))?;
        let addresses: Vec<_> = addresses.collect();
        // One address that swallows packets must not use up everybody's time.
        let share = self.timeout / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut last = Unreachable::Resolve;
        for (index, address) in addresses.iter().enumerate() {
            let is_last = index + 1 == addresses.len();
            let patience = if is_last {
                self.timeout
            } else {
                share.max(ADDRESS_SHARE)
            };
            match tokio::time::timeout(patience, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true)?;
                    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
                    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => last = error.into(),
                Err(_) => last = Unreachable::Timeout,
            }
        }
        Err(last)
    }
}

async fn http1(
    stream: impl Io + 'static,
    pool: &Pool,
    need: Need,
) -> Result<Connection, Unreachable> {
    if need == Need::Plain {
        return Ok(pool.own(Speaker::Plain(Box::new(Wire::new(Box::new(stream))))));
    }
    let (sender, connection) = http1::Builder::new()
        .preserve_header_case(true)
        // A proxy replaces line folding in answers with spaces (RFC 9112 §5.2).
        .allow_obsolete_multiline_headers_in_responses(true)
        .max_headers(MAX_RESPONSE_FIELDS)
        .max_buf_size(READ_BUFFER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Unreachable::ClosedAtOnce)?;
    tokio::spawn(async move {
        // Its end is told to whoever waits on the sender.
        drop(connection.with_upgrades().await);
    });
    Ok(pool.own(Speaker::Hyper(sender)))
}

async fn http2(stream: impl Io + 'static, pool: &Pool) -> Result<Connection, Unreachable> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // As over HTTP/1.1; hyper's own bound is a quarter of it.
        .max_header_list_size(MAX_RESPONSE_HEAD as u32)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Unreachable::ClosedAtOnce)?;
    tokio::spawn(async move {
        drop(connection.await);
    });
    Ok(pool.share(sender))
}

/// Adds to a failed handshake what an operator can do.
fn explained(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    let hint = match cause {
        Some(rustls::Error::InvalidCertificate(wrong)) => match wrong {
            rustls::CertificateError::UnknownIssuer => {
                ": no trusted authority has signed the upstream's certificate; if it is yours, \
                 name the certificate of its authority in upstream.ca"
            }
            // webpki's error is not part of rustls' interface; its name is.
            other if format!("{other:?}").contains("CaUsedAsEndEntity") => {
                ": the upstream shows the certificate of an authority (CA:TRUE) as its own; give it \
                 one that the authority has signed, or a self-signed one with \
                 basicConstraints=CA:FALSE, and name that in upstream.ca"
            }
            _ => "",
        },
        _ => "",
    };
    format!("{error}{hint}")
}

impl Tls {
    fn new(host: &str, ca: Option<&Path>) -> Result<Self, TlsError> {
        let mut roots = rustls::RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        if let Some(path) = ca {
            add_roots(&mut roots, path)?;
        }
        let config = |protocols: &[&[u8]]| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("ring supports TLS 1.2 and 1.3")
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            TlsConnector::from(Arc::new(config))
        };
        Ok(Self {
            name: ServerName::try_from(host.to_owned())
                .expect("a URL's host is a name or an address"),
            any: config(&[b"h2", b"http/1.1"]),
            http1: config(&[b"http/1.1"]),
        })
    }
}

fn add_roots(roots: &mut rustls::RootCertStore, path: &Path) -> Result<(), TlsError> {
    let wrong = |reason: String| TlsError::Ca {
        path: path.to_owned(),
        reason,
    };
    for certificate in pem::certificates(path).map_err(wrong)? {
        roots
            .add(certificate)
            .map_err(|error| wrong(error.to_string()))?;
    }
    Ok(())
}
