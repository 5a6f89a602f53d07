//! One end of a connection in memory: what is said on it, and what is heard.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::timeout;

use super::message::{Kind, Message, find, latin};

/// Longer than any timeout of the gateway's; costs nothing, since time is simulated.
const LONG: Duration = Duration::from_secs(3600);

/// Bytes that fit into a connection before its other end reads.
pub(super) const BUFFER: usize = 64 * 1024;

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct ClientConn {
    io: DuplexStream,
    heard: Vec<u8>,
    ended: bool,
}

impl ClientConn {
    pub(crate) fn new(io: DuplexStream) -> Self {
        Self {
            io,
            heard: Vec::new(),
            ended: false,
        }
    }

    /// Writes.
    pub(crate) async fn says(&mut self, bytes: impl AsRef<[u8]>) {
        self.tries_to_say(bytes)
            .await
            .expect("the other end listens");
    }

    /// Writes to a peer that may have closed the connection.
    pub(crate) async fn tries_to_say(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        timeout(LONG, self.io.write_all(bytes.as_ref()))
            .await
            .expect("the other end reads")
    }

    /// Says a request, whole or so that it is not plain and hyper has to read it: its
    /// first bytes come long before the rest.
    pub(crate) async fn says_as(&mut self, is_plain: bool, request: &str) {
        if is_plain {
            return self.says(request).await;
        }
        self.says(&request[..3]).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        self.says(&request[3..]).await;
    }

    /// Closes its own direction only.
    pub(crate) async fn says_no_more(&mut self) {
        self.io.shutdown().await.unwrap();
    }

    /// Hangs up.
    pub(crate) fn hangs_up(self) {}

    /// Reads exactly these bytes next.
    #[track_caller]
    pub(crate) fn hears(&mut self, expected: impl AsRef<[u8]>) -> impl Future<Output = ()> {
        let expected = expected.as_ref().to_vec();
        async move {
            while self.heard.len() < expected.len() && self.more().await {}
            let length = expected.len().min(self.heard.len());
            assert_eq!(latin(&self.heard[..length]), latin(&expected));
            self.heard.drain(..length);
        }
    }

    /// Reads up to and including these bytes, and returns all of it.
    pub(crate) async fn hears_until(&mut self, wanted: &str) -> String {
        loop {
            if let Some(at) = find(&self.heard, wanted.as_bytes()) {
                return latin(&self.heard.drain(..at + wanted.len()).collect::<Vec<_>>());
            }
            assert!(
                self.more().await,
                "no {wanted:?} in {:?}",
                latin(&self.heard)
            );
        }
    }

    /// Reads the rest, up to the end.
    pub(crate) async fn hears_rest(&mut self) -> String {
        while self.more().await {}
        assert!(self.ended, "no end after {:?}", latin(&self.heard));
        latin(&std::mem::take(&mut self.heard))
    }

    /// Finds the end, and nothing before it.
    pub(crate) async fn hears_end(&mut self) {
        assert_eq!(self.hears_rest().await, "");
    }

    /// Finds nothing, when everything that could happen now has happened.
    pub(crate) async fn hears_nothing(&mut self) {
        let mut piece = [0; 1024];
        if let Ok(read) = timeout(Duration::from_micros(1), self.io.read(&mut piece)).await {
            self.heard.extend_from_slice(&piece[..read.unwrap()]);
            assert!(!self.heard.is_empty(), "the line ended");
        }
        assert_eq!(latin(&self.heard), "");
    }

    /// Reads a request.
    pub(crate) async fn request(&mut self) -> Message {
        self.message(Kind::Request).await
    }

    /// Reads a response.
    pub(crate) async fn response(&mut self) -> Message {
        self.message(Kind::Response).await
    }

    /// Reads a response to a request with this method.
    pub(crate) async fn response_to(&mut self, method: &str) -> Message {
        let kind = match method {
            "HEAD" => Kind::AnswerToHead,
            _ => Kind::Response,
        };
        self.message(kind).await
    }

    /// Asks and reads the response.
    pub(crate) async fn asks(&mut self, request: impl AsRef<[u8]>) -> Message {
        self.says(request).await;
        self.response().await
    }

    async fn message(&mut self, kind: Kind) -> Message {
        let mut ended = false;
        loop {
            if let Some((message, length)) = Message::parse(&self.heard, kind, self.ended) {
                self.heard.drain(..length);
                return message;
            }
            assert!(
                // The end may be what was missing.
                !std::mem::replace(&mut ended, self.ended) && (self.more().await || self.ended),
                "{kind:?} not complete: {:?}",
                latin(&self.heard[..self.heard.len().min(500)])
            );
        }
    }

    /// Reads some more; false at the end, or if nothing ever comes.
    async fn more(&mut self) -> bool {
        if self.ended {
            return false;
        }
        let mut piece = vec![0; BUFFER];
        match timeout(LONG, self.io.read(&mut piece)).await {
            Err(_) => false,
            Ok(Ok(0) | Err(_)) => {
                self.ended = true;
                false
            }
            Ok(Ok(length)) => {
                self.heard.extend_from_slice(&piece[..length]);
                true
            }
        }
    }
}
