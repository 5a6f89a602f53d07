//! The load generator: connections that send requests.
//!
//! One thread for all of it, beside the upstream. Invariant: in an open loop a
//! call's latency runs from the moment it was due, so that a stall is charged
//! to every call it delays (no coordinated omission).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Result;
use crate::upstream::SEEN;
use crate::wire::Connection;

/// A turn that takes this much longer than asked is given up.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Requests written beforehand, made in turn.
#[derive(Clone, Debug)]
pub(crate) struct Requests(Arc<List>);

#[derive(Debug)]
struct List {
    bytes: Vec<Box<[u8]>>,
    next: AtomicUsize,
}

impl Requests {
    pub(crate) fn new(requests: impl Iterator<Item = String>) -> Self {
        let bytes = requests
            .map(|request| request.into_bytes().into())
            .collect();
        let next = AtomicUsize::new(0);
        Self(Arc::new(List { bytes, next }))
    }

    /// Messages of 200 bytes to be sent, by this many instances in turn.
    pub(crate) fn messages(instances: usize) -> Self {
        Self::messages_to("/v2/send/text", instances)
    }

    /// The same to another path.
    pub(crate) fn messages_to(path: &str, instances: usize) -> Self {
        // An order that jumps about: no cache is favoured by neighbours.
        const STEP: usize = 7_919;
        Self::new((0..instances).map(|number| {
            let instance = number * STEP % instances;
            post(path, instance, &format!("\"{}\"", "x".repeat(198)))
        }))
    }

    /// Receipts, this many callers for each of so many chats.
    pub(crate) fn receipts(chats: usize, callers: usize, instances: usize) -> Self {
        Self::new((0..chats * callers).map(|call| {
            let chat = format!("{}@c.us", 201_000_000_000 + call / callers);
            let body =
                format!(r#"{{"chatId":"{chat}","messageIds":["false_{chat}_{call:020X}"]}}"#);
            post(SEEN, call / callers % instances, &body)
        }))
    }

    /// One of them alone.
    pub(crate) fn only(&self, number: usize) -> Self {
        let bytes = vec![self.0.bytes[number].clone()];
        let next = AtomicUsize::new(0);
        Self(Arc::new(List { bytes, next }))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.bytes.len()
    }

    pub(crate) fn next(&self) -> &[u8] {
        let list = &self.0;
        &list.bytes[list.next.fetch_add(1, Relaxed) % list.bytes.len()]
    }
}

/// A call as the vendor's clients spell it: credentials in the query.
pub(crate) fn post(path: &str, instance: usize, body: &str) -> String {
    format!(
        "POST {path}?instance_id=bench{instance}&access_token=0123456789ab HTTP/1.1\r\n\
         Host: 127.0.0.1\r\nUser-Agent: GuzzleHttp/7\r\nAccept: application/json\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Keep-alive connections to one address.
#[derive(Debug)]
pub(crate) struct Connections {
    pub(crate) connections: Vec<Connection>,
}

impl Connections {
    pub(crate) async fn open(address: SocketAddr, count: usize) -> Result<Self> {
        let mut connections = Vec::with_capacity(count);
        for _ in 0..count {
            connections.push(Connection::open(address).await?);
        }
        Ok(Self { connections })
    }

    /// Every connection makes this many calls, all at the same time.
    pub(crate) async fn each(&mut self, requests: &Requests, calls: usize) -> Result<()> {
        let mut tasks = JoinSet::new();
        let count = self.connections.len();
        for mut connection in self.connections.drain(..) {
            let requests = requests.clone();
            tasks.spawn(async move {
                for _ in 0..calls {
                    connection.call(requests.next()).await?;
                }
                Ok(connection)
            });
        }
        // Proxies pass on far more than a thousand calls a second.
        let most = Duration::from_millis((count * calls) as u64);
        self.gather(tasks, TIMEOUT + most).await
    }

    /// Every connection sends the next of its requests as soon as it has the response to
    /// the last one; returns the number of responses.
    pub(crate) async fn closed_loop(
        &mut self,
        requests: impl Fn(usize) -> Requests,
        length: Duration,
    ) -> Result<usize> {
        let made = Arc::new(AtomicUsize::new(0));
        let end = Instant::now() + length;
        let mut tasks = JoinSet::new();
        for (number, mut connection) in self.connections.drain(..).enumerate() {
            let (requests, made) = (requests(number), Arc::clone(&made));
            tasks.spawn(async move {
                while Instant::now() < end {
                    connection.call(requests.next()).await?;
                    made.fetch_add(1, Relaxed);
                }
                Ok(connection)
            });
        }
        self.gather(tasks, length + TIMEOUT).await?;
        Ok(made.load(Relaxed))
    }

    /// Calls fall due at a fixed rate, `group` of them at one moment; returns
    /// their latencies, sorted.
    pub(crate) async fn open_loop(
        &mut self,
        requests: &Requests,
        rate: usize,
        group: usize,
        length: Duration,
    ) -> Result<Vec<Duration>> {
        let (due_calls, due) = mpsc::unbounded_channel();
        let due = Arc::new(Mutex::new(due));
        let mut tasks = JoinSet::new();
        let latencies = Arc::new(Mutex::new(Vec::new()));
        for mut connection in self.connections.drain(..) {
            let (requests, due) = (requests.clone(), Arc::clone(&due));
            let latencies = Arc::clone(&latencies);
            tasks.spawn(async move {
                let mut own = Vec::new();
                loop {
                    let Some(moment) = due.lock().await.recv().await else {
                        break;
                    };
                    let moment: Instant = moment;
                    connection.call(requests.next()).await?;
                    own.push(moment.elapsed());
                }
                latencies.lock().await.extend(own);
                Ok(connection)
            });
        }
        let began = Instant::now();
        let groups = length.as_secs_f64() * rate as f64 / group as f64;
        for number in 0..groups as usize {
            let moment = began + Duration::from_secs_f64((number * group) as f64 / rate as f64);
            // The runtime's timer knows whole milliseconds only; this core is the bench's own.
            while Instant::now() < moment {
                tokio::task::yield_now().await;
            }
            for _ in 0..group {
                due_calls.send(moment)?;
            }
        }
        drop(due_calls);
        self.gather(tasks, TIMEOUT).await?;
        let mut latencies = std::mem::take(&mut *latencies.lock().await);
        latencies.sort_unstable();
        Ok(latencies)
    }

    async fn gather(
        &mut self,
        mut tasks: JoinSet<Result<Connection>>,
        timeout: Duration,
    ) -> Result<()> {
        let all = async {
            while let Some(connection) = tasks.join_next().await {
                self.connections.push(connection??);
            }
            Ok(())
        };
        match tokio::time::timeout(timeout, all).await {
            Ok(result) => result,
            Err(_) => Err("responses did not arrive in time".into()),
        }
    }
}

/// The latency below which so many percent are, in microseconds.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted
        .get(rank - 1)
        .map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
}
