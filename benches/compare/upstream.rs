//! The upstream of the benches: responds at once or after a delay, and counts requests.
//!
//! Shares the load generator's thread, so that a proxy has its core alone.
//! Invariant: it never closes a connection, so a proxy's pool is used as far
//! as that proxy knows how.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::Result;
use crate::head::Head;

/// The path of receipts; the response is 201.
pub(crate) const SEEN: &str = "/v2/send/seen";
/// The path with a response of [`BODY`] bytes.
pub(crate) const DOWNLOAD: &str = "/v2/media/download";
/// Bytes of a large body, there or back.
pub(crate) const BODY: usize = 20 * 1024 * 1024;
/// Bytes of a small response.
const SMALL: usize = 200;
/// Bytes written or read at once.
const PIECE: usize = 64 * 1024;

/// A running stand-in; it ends with the runtime.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    calls: AtomicU64,
    delay_ms: AtomicU64,
    /// Whether responses are held back for now.
    held: watch::Sender<bool>,
}

impl Upstream {
    /// Listens on a free port.
    pub(crate) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            calls: AtomicU64::new(0),
            delay_ms: AtomicU64::new(0),
            held: watch::Sender::new(false),
        });
        let serving = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&serving);
                // A proxy may close its end whenever it likes.
                tokio::spawn(async move { drop(serve(stream, &state).await) });
            }
        });
        Ok(Self { address, state })
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

async fn serve(mut stream: TcpStream, state: &State) -> Result<()> {
    stream.set_nodelay(true)?;
    let response = |status: &str| {
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {SMALL}\r\n\
             date: Sun, 22 Nov 2026 10:00:00 GMT\r\nserver: stand-in\r\n\r\n\"{}\"",
            "a".repeat(SMALL - 2)
        )
    };
    let (ok, created) = (response("200 OK"), response("201 Created"));
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
        state.calls.fetch_add(1, Relaxed);
        let delay = state.delay_ms.load(Relaxed);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        if *state.held.borrow() {
            state.held.subscribe().wait_for(|held| !held).await?;
        }
        match start {
            Path::Seen => stream.write_all(created.as_bytes()).await?,
            Path::Other => stream.write_all(ok.as_bytes()).await?,
            Path::Download => download(&mut stream).await?,
        }
    }
}

async fn download(stream: &mut TcpStream) -> Result<()> {
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
    Download,
    Other,
}

impl Path {
    fn of(target: &[u8]) -> Self {
        if target.starts_with(SEEN.as_bytes()) {
            Self::Seen
        } else if target.starts_with(DOWNLOAD.as_bytes()) {
            Self::Download
        } else {
            Self::Other
        }
    }
}
