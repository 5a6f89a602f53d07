//! Callers of several gateways, and what each of them got.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{self, Instant};

/// No caller waits longer.
const GIVEN_UP: Duration = Duration::from_secs(20);

/// Unique for each request of the test.
static NEXT_ID: AtomicU32 = AtomicU32::new(0);

/// What a caller got.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) id: String,
    pub(super) begun: Instant,
    pub(super) took: Duration,
    /// 0: no response, or not a complete one.
    pub(super) status: u16,
}

/// Sends requests for an instance to a port, so many per second, for this time.
pub(super) fn send(
    port: u16,
    instance: &str,
    per_second: u32,
    length: Duration,
) -> JoinHandle<Vec<Outcome>> {
    let instance = instance.to_owned();
    tokio::spawn(async move {
        let mut ticks = time::interval(Duration::from_secs(1) / per_second);
        let end = Instant::now() + length;
        let mut callers = JoinSet::new();
        while Instant::now() < end {
            ticks.tick().await;
            callers.spawn(call(port, instance.clone()));
        }
        callers.join_all().await
    })
}

/// One request on a connection of its own.
pub(super) async fn call(port: u16, instance: String) -> Outcome {
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed).to_string();
    outcome(id.clone(), exchange(port, &instance, &id)).await
}

/// What the caller of this id gets.
pub(super) async fn outcome(
    id: String,
    exchange: impl Future<Output = std::io::Result<String>>,
) -> Outcome {
    let begun = Instant::now();
    let response = time::timeout(GIVEN_UP, exchange).await;
    let response = response.ok().and_then(Result::ok).unwrap_or_default();
    let status = response.get(9..12).and_then(|status| status.parse().ok());
    Outcome {
        id,
        begun,
        took: begun.elapsed(),
        status: status.unwrap_or(0),
    }
}

async fn exchange(port: u16, instance: &str, id: &str) -> std::io::Result<String> {
    let token = token(instance);
    let target = format!("/v2/send/text?instance_id={instance}&access_token={token}&id={id}");
    send_raw(
        port,
        &format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
    )
    .await
}

/// Sends a request that closes its connection, and returns the response.
pub(super) async fn send_raw(port: u16, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    Ok(response)
}

/// The credential of an instance.
pub(super) fn token(instance: &str) -> String {
    format!("s3cret-token-of-{instance}")
}
