//! The life of batches, against the sandbox, in simulated time.

mod cluster;
mod common;
mod edge;
mod failing;
mod laws;
mod merging;
mod retrying;
mod shadows;
mod waiting;

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use tokio::sync::oneshot;

use super::*;
use crate::config::{self, Config, Quota};
use crate::limit::Kind;
use crate::tools::sandbox::{self, Call, Sandbox};
use crate::tools::testing::server::Link;
use crate::upstream::{Dial, Io};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A batcher with everything below it, down to the sandbox.
struct World {
    settings: config::Batch,
    batcher: Arc<Batcher>,
    limiter: Arc<Limiter>,
    metrics: Arc<Metrics>,
    upstream: Arc<Upstream>,
    sandbox: Sandbox,
    tasks: TaskTracker,
    start: Instant,
}

/// A receipt to be sent.
#[derive(Clone, Debug)]
struct TestReceipt {
    chat: String,
    ids: Vec<String>,
    token: String,
    participant: Option<String>,
    accept: Option<String>,
    /// White space in the body: it shows from which request a call was made.
    mark: usize,
}

/// What a caller got.
#[derive(Clone, Debug, PartialEq)]
struct Settled {
    /// The status, or why there is none.
    status: Result<u16, NoResponse>,
    /// Callers that shared the call.
    callers: usize,
    /// When, in ms since the start.
    at: u128,
}

fn quota(rate: f64, burst: u32) -> Option<Quota> {
    let burst = std::num::NonZeroU32::new(burst)?;
    Some(Quota::new(rate, burst).unwrap())
}

impl World {
    fn new(config: &Config, settings: sandbox::Settings) -> Self {
        Self::over(config, Sandbox::new(settings), None)
    }

    /// One of several gateways in front of this sandbox.
    fn over(config: &Config, sandbox: Sandbox, link: Option<&Link>) -> Self {
        let far_end = sandbox.clone();
        let dial = Dial::With(Arc::new(move || {
            let (near, far) = tokio::io::duplex(64 << 10);
            let sandbox = far_end.clone();
            tokio::spawn(async move { sandbox.serve_io(far).await });
            Box::pin(async move { Ok(Box::new(near) as Box<dyn Io>) })
        }));
        let metrics = Arc::new(Metrics::new(100));
        let cluster = config
            .cluster
            .as_ref()
            .zip(link)
            .map(|(settings, link)| Cluster::over(Box::new(link.clone()), settings, &metrics));
        let limiter = Limiter::in_cluster(config, cluster.as_ref(), Arc::clone(&metrics));
        let limiter = Arc::new(limiter);
        let mut upstream = config.upstream.clone();
        upstream.url = "http://sandbox".parse().unwrap();
        let tasks = TaskTracker::new();
        let batcher = Arc::new(Batcher::in_cluster(
            cluster.as_ref(),
            Arc::clone(&limiter),
            Arc::clone(&metrics),
            tasks.clone(),
        ));
        if let Some(cluster) = cluster {
            let (limiter, batcher) = (Arc::clone(&limiter), Arc::clone(&batcher));
            tokio::spawn(async move {
                tokio::join!(
                    cluster.run(),
                    limiter.follow_cluster(),
                    batcher.follow_cluster()
                )
            });
        }
        Self {
            settings: config.batch.clone(),
            batcher,
            upstream: Arc::new(Upstream::new(upstream, dial, Arc::clone(&metrics)).unwrap()),
            limiter,
            metrics,
            sandbox,
            tasks,
            start: Instant::now(),
        }
    }

    /// The defaults, with changes, and no limit on calls.
    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.limit.quota = None;
        change(&mut config);
        Self::new(&config, sandbox::Settings::default())
    }

    fn join(&self, receipt: &TestReceipt) -> Result<oneshot::Receiver<Verdict>, RateLimited> {
        self.join_as(receipt.receipt())
    }

    fn join_as(&self, receipt: Receipt) -> Result<oneshot::Receiver<Verdict>, RateLimited> {
        let lane = self.lane_of(&receipt);
        let (receipt, now) = (Box::new(receipt), Instant::now());
        self.batcher
            .join(&self.settings, receipt, now, &lane, &self.upstream)
    }

    /// Sends a receipt, and waits for the verdict from now on.
    fn send(&self, receipt: &TestReceipt) -> impl Future<Output = Settled> + Send + use<> {
        let listening = tokio::spawn(self.await_verdict(receipt));
        async move { listening.await.expect("a caller never got a verdict") }
    }

    /// Sends a receipt; dropping the future disconnects.
    fn await_verdict(&self, receipt: &TestReceipt) -> impl Future<Output = Settled> + Send + use<> {
        let verdict = self.join(receipt);
        let start = self.start;
        async move {
            let (status, callers) = match verdict {
                Err(refused) => (Err(NoResponse::RateLimited(refused)), 0),
                Ok(verdict) => {
                    let verdict = verdict.await.expect("a caller never got a verdict");
                    (status(&verdict.response), verdict.timing.callers)
                }
            };
            Settled {
                status,
                callers,
                at: start.elapsed().as_millis(),
            }
        }
    }

    /// Sends receipts at the same time, and waits for all verdicts.
    async fn send_all(&self, all: &[TestReceipt]) -> Vec<Settled> {
        let sent: Vec<_> = all.iter().map(|it| self.send(it)).collect();
        let mut settled = Vec::new();
        for verdict in sent {
            settled.push(verdict.await);
        }
        settled
    }

    fn calls(&self) -> Vec<Call> {
        self.sandbox.calls()
    }

    /// The ids of each call, in order.
    fn sent(&self) -> Vec<Vec<String>> {
        self.calls().into_iter().map(|call| call.ids).collect()
    }

    /// When each call reached the sandbox, in ms since the start.
    fn times(&self) -> Vec<u128> {
        let since = |call: &Call| (call.at - self.start).as_millis();
        self.calls().iter().map(since).collect()
    }

    /// The lane of the instance's receipts.
    fn lane(&self) -> Lane {
        self.lane_of(&receipt_of(&["x"]).receipt())
    }

    fn lane_of(&self, receipt: &Receipt) -> Lane {
        self.limiter
            .lane(&self.limiter.rules(), &receipt.identity, |_, _| None, true)
    }

    /// Takes every token of the instance that is there.
    fn drain_tokens(&self) {
        let lane = self.lane();
        let now = || self.limiter.admit(&lane, Kind::Request, Instant::now());
        while let Ok(crate::limit::Admission::Now(_)) = now() {}
    }
}

fn status(verdict: &Result<BatchResponse, NoResponse>) -> Result<u16, NoResponse> {
    match verdict {
        Ok(BatchResponse::Shared(shared)) => Ok(shared.head.status().as_u16()),
        Ok(BatchResponse::Streamed(response)) => Ok(response.status().as_u16()),
        Err(why) => Err(*why),
    }
}

/// A receipt for messages of one chat, by their short names.
fn receipt_of(ids: &[&str]) -> TestReceipt {
    TestReceipt {
        chat: "1@c.us".to_owned(),
        ids: ids.iter().map(|id| id_of("1@c.us", id)).collect(),
        token: "t".to_owned(),
        participant: None,
        accept: None,
        mark: 1,
    }
}

fn id_of(chat: &str, name: &str) -> String {
    format!("false_{chat}_{name}")
}

fn ids(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| id_of("1@c.us", name)).collect()
}

impl TestReceipt {
    fn body(&self) -> String {
        let participant = self
            .participant
            .as_ref()
            .map(|text| format!(",\"participant\":\"{text}\""))
            .unwrap_or_default();
        let ids = if self.ids.is_empty() {
            String::new()
        } else {
            // Not as the gateway would write it: unchanged means unchanged.
            let quoted: Vec<_> = self.ids.iter().map(|id| format!("\"{id}\"")).collect();
            format!(",\"messageIds\":[ {} ]", quoted.join(" ,"))
        };
        let mark = " ".repeat(self.mark);
        format!("{{{mark}\"chatId\":\"{}\"{participant}{ids}}}", self.chat)
    }

    fn receipt(&self) -> Receipt {
        let body = self.body();
        let mut request = Request::post(format!(
            "/v2/send/seen?instance_id=1&access_token={}",
            self.token
        ))
        .header("content-type", "application/json")
        .header("content-length", body.len());
        if let Some(accept) = &self.accept {
            request = request.header("accept", accept);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        Receipt::by_default(head, Bytes::from(body)).expect("a receipt")
    }
}
