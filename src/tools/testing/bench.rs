//! Parts of the gateway as the benches measure them.
//!
//! Each function uses one part as the gateway does, and returns a number so that
//! nothing is optimised away. Only `Buckets`, `Joins` and `Scrapes` hold state, which
//! is made before the measurement starts.

use std::collections::hash_map::RandomState;
use std::convert::Infallible;
use std::fmt;
use std::hash::BuildHasher as _;
use std::io;
use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use indexmap::IndexSet;
use tokio::runtime::Runtime;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::batch::{BatchResponse, Batcher};
use crate::config::{self, Config, Quota};
use crate::gateway::Gateway;
use crate::http::hop_by_hop;
use crate::identity::{Findings, Identity, json};
use crate::limit::{Admission, Kind, Limiter};
use crate::observe::metrics::{Metrics, Route};
use crate::receipt::parse::{Parsed, parse};
use crate::receipt::{MergeKey, Receipt};
use crate::upstream::{Dial, Io, Upstream};

/// Removes hop-by-hop headers; returns how many headers are left.
#[must_use]
pub fn strip(mut headers: HeaderMap) -> usize {
    hop_by_hop::strip(&mut headers, false);
    headers.len()
}

/// The settings of merging, which are read once.
static SETTINGS: LazyLock<config::Batch> = LazyLock::new(|| Config::default().batch);

/// A quota that no bench can exhaust: a token every nanosecond, more than the settings
/// allow.
const QUOTA: Quota = Quota {
    rate: 1e9,
    burst: NonZeroU32::new(100_000).expect("not zero"),
};

/// Reads the identity from query and headers; returns 1 if there is an instance.
#[must_use]
pub fn identify(head: &Parts) -> usize {
    let identity = Findings::of_head(head).identity();
    usize::from(identity.instance.is_some())
}

/// Searches instance and token in a JSON body that arrives in pieces, as far as the
/// gateway would; returns how many of the two were found.
#[must_use]
pub fn scan_json(pieces: &[Bytes]) -> usize {
    let mut scanner = json::Scanner::new();
    let mut found = 0;
    for piece in pieces {
        scanner.push(piece, |_, _| found += 1);
        // As the gateway does, which stops the search as early as possible.
        if found == 2 || scanner.is_done() {
            break;
        }
    }
    found
}

/// Parses a receipt with its key and identity; returns the number of its ids.
#[must_use]
pub fn read_receipt(head: Parts, body: Bytes) -> usize {
    Receipt::read(&SETTINGS, &mut head.into(), body).map_or(0, |receipt| receipt.id_count())
}

/// Receipts of one chat, ready to be merged.
#[derive(Debug)]
pub struct Receipts(Vec<Receipt>);

impl Receipts {
    /// Reads them.
    ///
    /// # Panics
    /// If one is not understood.
    #[must_use]
    pub fn read(requests: Vec<(Parts, Bytes)>) -> Self {
        let read = |(head, body): (Parts, Bytes)| {
            *Receipt::read(&SETTINGS, &mut head.into(), body).expect("a receipt")
        };
        Self(requests.into_iter().map(read).collect())
    }

    /// Writes the one request for all of them; returns how many ids are in it.
    #[must_use]
    pub fn merge(&self) -> usize {
        let lists: Vec<_> = self.0.iter().map(Receipt::ids).collect();
        let ids: IndexSet<_> = lists.iter().flat_map(|ids| ids.iter()).collect();
        // Receipts of one chat have one form, so the first can write the ids of all.
        let request = self.0[0].merged_request(ids.iter().map(|id| &**id));
        // The request itself is not returned; without this the compiler could leave out its making.
        std::hint::black_box(request);
        ids.len()
    }
}

/// A parsed receipt without its merge key.
pub struct Keyless {
    parsed: Parsed<'static>,
    hasher: RandomState,
}

impl fmt::Debug for Keyless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyless").finish_non_exhaustive()
    }
}

impl Keyless {
    /// Parses it.
    ///
    /// # Panics
    /// If it is no receipt.
    #[must_use]
    pub fn read(head: Parts, body: Bytes) -> Self {
        // Leaked: what is parsed borrows from the request, and a bench ends soon.
        let (head, body) = (Box::leak(Box::new(head)), Box::leak(Box::new(body)));
        Self {
            parsed: parse(&SETTINGS, head, body).expect("a receipt"),
            hasher: RandomState::new(),
        }
    }

    /// Makes the merge key and hashes it, as the table of batches does.
    #[must_use]
    pub fn key(&self) -> u64 {
        let key = MergeKey::new(|writer| self.parsed.key_parts(writer));
        self.hasher.hash_one(key)
    }
}

/// Buckets of many instances, none of them ever empty.
#[derive(Debug)]
pub struct Buckets {
    limiter: Limiter,
    callers: Vec<Identity>,
    next: usize,
}

impl Buckets {
    /// Opens a bucket for each of `instances`.
    #[must_use]
    pub fn new(instances: usize) -> Self {
        let config = config();
        let metrics = Arc::new(Metrics::new(0));
        let mut buckets = Self {
            limiter: Limiter::new(&config, metrics),
            callers: (0..instances).map(caller).collect(),
            next: 0,
        };
        for _ in 0..instances {
            // Accounts are made by the first request; the bench measures the later ones.
            std::hint::black_box(buckets.admit());
        }
        buckets
    }

    /// Takes a token from the bucket of the next instance. The order is scattered, so
    /// that neither table nor bucket is likely to be in a cache.
    #[must_use]
    pub fn admit(&mut self) -> bool {
        /// A prime, so that every instance is used.
        const STEP: usize = 7_919;
        // A counter in place of random numbers, whose cost would be measured too.
        self.next = (self.next + STEP) % self.callers.len();
        let lane = self.limiter.lane(
            &self.limiter.rules(),
            &self.callers[self.next],
            |_, _| None,
            true,
        );
        let deadline = Instant::now() + lane.rules().max_wait;
        let admitted = self.limiter.admit(&lane, Kind::Request, deadline);
        matches!(admitted, Ok(Admission::Now(_)))
    }
}

/// The identity of a request for one of many instances.
fn caller(number: usize) -> Identity {
    let target = format!("/v2/chats?instance_id=instance{number}&access_token=t");
    let request = Request::get(target).body(()).expect("a valid target");
    Findings::of_head(&request.into_parts().0).identity()
}

/// A gateway with every series that its labels allow.
#[derive(Debug)]
pub struct Scrapes(Gateway);

impl Scrapes {
    /// Fills the labels: this many instances, every code on every route.
    ///
    /// # Panics
    /// If the gateway cannot be made.
    #[must_use]
    pub fn full(instances: usize) -> Self {
        let mut config = config();
        config.metrics.max_instances = instances;
        let gateway = Gateway::new(&config, Dial::Tcp).expect("no file is named");
        for number in 0..instances {
            gateway.metrics().instance(&format!("{number:012}"));
        }
        for code in (100..1000).flat_map(StatusCode::from_u16) {
            for route in [Route::ReceiptPath, Route::Other] {
                gateway.metrics().requests[route as usize].code(code).inc();
                gateway.metrics().upstream[route as usize].code(code).inc();
            }
        }
        Self(gateway)
    }

    /// Writes the exposition; returns its length in bytes.
    #[must_use]
    pub fn scrape(&self) -> usize {
        self.0.exposition().len()
    }
}

/// Batches with an upstream in this process that responds at once.
pub struct Joins {
    runtime: Runtime,
    batcher: Arc<Batcher>,
    limiter: Arc<Limiter>,
    upstream: Arc<Upstream>,
    settings: config::Batch,
}

impl fmt::Debug for Joins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joins").finish_non_exhaustive()
    }
}

impl Joins {
    /// Prepares batches that are full with this many callers, so that no window has to
    /// end.
    ///
    /// # Panics
    /// If the runtime cannot be made.
    #[must_use]
    pub fn of(callers: usize) -> Self {
        let mut config = config();
        config.batch.max_callers = callers;
        // Never reached: the last caller fills the batch. Zero would turn merging off.
        config.batch.window = Duration::from_secs(1);
        // One thread, as each worker of the gateway has.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let metrics = Arc::new(Metrics::new(0));
        let limiter = Limiter::new(&config, Arc::clone(&metrics));
        let limiter = Arc::new(limiter);
        let batcher = Batcher::new(
            Arc::clone(&limiter),
            Arc::clone(&metrics),
            TaskTracker::new(),
        );
        // In memory: the kernel's sockets would dominate the figures.
        let dial = Dial::With(Arc::new(|| {
            Box::pin(async { Ok::<Box<dyn Io>, io::Error>(Box::new(instant_upstream())) })
        }));
        let upstream = Upstream::new(config.upstream, dial, metrics).expect("no CA file is named");
        Self {
            runtime,
            batcher: Arc::new(batcher),
            limiter,
            upstream: Arc::new(upstream),
            settings: config.batch,
        }
    }

    /// Lets every receipt join and waits for all verdicts; returns how many callers got the
    /// response of the upstream.
    #[must_use]
    pub fn settle(&self, receipts: Receipts) -> usize {
        self.runtime.block_on(async {
            let mut verdicts = Vec::with_capacity(receipts.0.len());
            for receipt in receipts.0 {
                let lane =
                    self.limiter
                        .lane(&self.limiter.rules(), &receipt.identity, |_, _| None, true);
                let (receipt, now) = (Box::new(receipt), Instant::now());
                verdicts.extend(self.batcher.join(
                    &self.settings,
                    receipt,
                    now,
                    &lane,
                    &self.upstream,
                ));
            }
            let mut responses = 0;
            for verdict in verdicts {
                let response = verdict.await.map(|verdict| verdict.response);
                responses += usize::from(matches!(response, Ok(Ok(BatchResponse::Shared(_)))));
            }
            responses
        })
    }
}

/// One end of a connection whose other end responds with 201 to every request.
fn instant_upstream() -> tokio::io::DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let service = service_fn(|request: Request<Incoming>| async {
        // Read to the end, or the connection could not be used for the next request.
        let read = request.into_body().collect().await;
        drop(read);
        let mut response = Response::new(Empty::<Bytes>::new());
        *response.status_mut() = StatusCode::CREATED;
        Ok::<_, Infallible>(response)
    });
    tokio::spawn(async move {
        let served = http1::Builder::new().serve_connection(TokioIo::new(theirs), service);
        drop(served.await);
    });
    ours
}

/// The default settings with [`QUOTA`].
fn config() -> Config {
    let mut config = Config::default();
    config.limit.quota = Some(QUOTA);
    // Never connected to: the benches dial themselves or send nothing.
    config.upstream.url = "http://127.0.0.1:1".parse().expect("a base URL");
    config
}
