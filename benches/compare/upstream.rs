//! The upstream of the benches: responds at once or after a delay, and counts requests.
//!
//! Shares the load generator's thread, so that a proxy has its core alone.
//! Invariant: it never closes a connection, so a proxy's pool is used as far
//! as that proxy knows how.

use std::net::SocketAddr;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::Result;
use crate::head::Head;
use crate::tls::Tls;

/// The path of receipts; the response is 201.
pub(crate) const SEEN: &str = "/v2/send/seen";
/// The path with a response of [`BODY`] bytes.
pub(crate) const DOWNLOAD: &str = "/v2/media/download";
/// Bytes of a large body, there or back.
pub(crate) const BODY: usize = 20 * 1024 * 1024;
/// The path with a response of 3 KB, as the samples that the vendor shows.
pub(crate) const SAMPLE: &str = "/v2/chats/sample";
/// Bytes of a small response.
const SMALL: usize = 200;
/// Bytes of a response of 3 KB, without its head.
const SAMPLE_BODY: usize = 3050;
/// Bytes written or read at once.
const PIECE: usize = 64 * 1024;

/// A running stand-in; it ends with the runtime.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    /// Where it speaks TLS, with HTTP/2 or HTTP/1.1.
    pub(crate) tls_address: SocketAddr,
    /// Its certificate.
    pub(crate) ca: PathBuf,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    calls: AtomicU64,
    connections: AtomicU64,
    delay_ms: AtomicU64,
    /// Whether responses are held back for now.
    held: watch::Sender<bool>,
}

impl Upstream {
    /// Listens on two free ports; puts its certificate into `directory`.
    pub(crate) async fn start(directory: &FilePath) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let tls_listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, tls_address) = (listener.local_addr()?, tls_listener.local_addr()?);
        let tls = Tls::new()?;
        let ca = directory.join("upstream.pem");
        std::fs::write(&ca, &tls.pem)?;
        let state = Arc::new(State {
            calls: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            delay_ms: AtomicU64::new(0),
            held: watch::Sender::new(false),
        });
        let serving = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok(stream) = accept(&listener, &serving).await {
                let state = Arc::clone(&serving);
                // A proxy may close its end whenever it likes.
                tokio::spawn(async move { drop(serve(stream, &state).await) });
            }
        });
        let serving = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok(stream) = accept(&tls_listener, &serving).await {
                let (state, acceptor) = (Arc::clone(&serving), tls.acceptor.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    match stream.get_ref().1.alpn_protocol() {
                        Some(b"h2") => drop(serve_http2(stream, state).await),
                        _ => drop(serve(stream, &state).await),
                    }
                });
            }
        });
        Ok(Self {
            address,
            tls_address,
            ca,
            state,
        })
    }

    /// Connections that were opened so far.
    pub(crate) fn connections(&self) -> u64 {
        self.state.connections.load(Relaxed)
    }

    /// Calls that have arrived so far.
    pub(crate) fn calls(&self) -> u64 {
        self.state.calls.load(Relaxed)
    }

    /// Whether responses are held back from now on.
    pub(crate) fn hold(&self, held: bool) {
        self.state.held.send_replace(held);
    }

    /// From now on every response takes this long.
    pub(crate) fn delay(&self, delay: Duration) {
        let milliseconds = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.state.delay_ms.store(milliseconds, Relaxed);
    }
}

impl State {
    /// Counts a call, and waits until its response is due.
    async fn arrived(&self) {
        self.calls.fetch_add(1, Relaxed);
        let delay = self.delay_ms.load(Relaxed);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        if *self.held.borrow() {
            // It fails only if the sender is gone, and that is in `self`.
            self.held.subscribe().wait_for(|held| !held).await.ok();
        }
    }
}

async fn accept(listener: &TcpListener, state: &State) -> Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    // A connection that is gone already shows when it is read.
    stream.set_nodelay(true).ok();
    state.connections.fetch_add(1, Relaxed);
    Ok(stream)
}

fn json(length: usize) -> String {
    format!("\"{}\"", "a".repeat(length - 2))
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, state: &State) -> Result<()> {
    let response = |status: &str, length: usize| {
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
             date: Sun, 22 Nov 2026 10:00:00 GMT\r\nserver: stand-in\r\n\r\n{}",
            json(length)
        )
    };
    let ok = response("200 OK", SMALL);
    let created = response("201 Created", SMALL);
    let sample = response("200 OK", SAMPLE_BODY);
    let mut buffer = vec![0; 4096];
    let mut read = 0;
    loop {
        let (length, content_length, start) = loop {
            if let Some(head) = Head::of(&buffer[..read])? {
                let path = head.start.split(|&byte| byte == b' ').nth(1);
                let path = path.unwrap_or_default();
                break (head.length, head.content_length, Path::of(path));
            }
            if read == buffer.len() {
                return Err("a request's head is too long".into());
            }
            match stream.read(&mut buffer[read..]).await? {
                0 => return Ok(()),
                more => read += more,
            }
        };
        let mut left = (length + content_length).saturating_sub(read);
        if left > PIECE {
            buffer.resize(PIECE, 0);
        }
        // What is beyond this request would be a pipelined one; no scenario does that.
        read = 0;
        while left > 0 {
            match stream.read(&mut buffer).await? {
                0 => return Ok(()),
                more => left = left.saturating_sub(more),
            }
        }
        state.arrived().await;
        match start {
            Path::Seen => stream.write_all(created.as_bytes()).await?,
            Path::Other => stream.write_all(ok.as_bytes()).await?,
            Path::Sample => stream.write_all(sample.as_bytes()).await?,
            Path::Download => download(&mut stream).await?,
        }
        stream.flush().await?;
    }
}

/// Serves small responses.
async fn serve_http2<S>(stream: S, state: Arc<State>) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let body = Bytes::from(json(SMALL));
    let service = service_fn(move |request: Request<Incoming>| {
        let (state, body) = (Arc::clone(&state), body.clone());
        async move {
            // A request that broke off shows at the client.
            request.into_body().collect().await.ok();
            state.arrived().await;
            Response::builder()
                .header("content-type", "application/json")
                .body(Full::new(body))
        }
    });
    let served = http2::Builder::new(TokioExecutor::new());
    Ok(served
        .serve_connection(TokioIo::new(stream), service)
        .await?)
}

async fn download<S: AsyncWrite + Unpin>(stream: &mut S) -> Result<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {BODY}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let piece = vec![b'a'; PIECE];
    for _ in 0..BODY / PIECE {
        stream.write_all(&piece).await?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Path {
    Seen,
    Sample,
    Download,
    Other,
}

impl Path {
    fn of(target: &[u8]) -> Self {
        if target.starts_with(SEEN.as_bytes()) {
            Self::Seen
        } else if target.starts_with(SAMPLE.as_bytes()) {
            Self::Sample
        } else if target.starts_with(DOWNLOAD.as_bytes()) {
            Self::Download
        } else {
            Self::Other
        }
    }
}
