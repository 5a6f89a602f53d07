//! One run: apps, gateway and upstream in one thread and in virtual time.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{self, Apps, Outcome};
use crate::gateways::Gateways;
use crate::plan::{Cluster, Plan};
use crate::rng::Rng;
use crate::upstream::{Record, Upstream};
use crate::wire::At;

/// Longer than any drain may take: more than the longest response.
const DRAIN: Duration = Duration::from_secs(400);
/// Until the gateways of a cluster have found each other and all buckets are full.
const WARM_UP: Duration = Duration::from_secs(60);
/// For upstream connections to notice that the gateway is gone.
const AFTERMATH: Duration = Duration::from_secs(60);

/// Everything that was observed in a run.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) upstream: Record,
    /// When gateways crashed, and their numbers.
    pub(crate) crashes: Vec<(At, usize)>,
    pub(crate) unexpected: Vec<String>,
    pub(crate) panics: Vec<String>,
    pub(crate) drain: At,
    pub(crate) drained: bool,
    /// The metrics after the drain.
    pub(crate) metrics: String,
}

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static RUNNING: RefCell<bool> = const { RefCell::new(false) };
}

/// Records panics of a run instead of printing them: tokio swallows those of tasks.
pub(crate) fn note_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if RUNNING.with_borrow(|running| *running) {
            PANICS.with_borrow_mut(|panics| panics.push(panic.to_string()));
        } else {
            print(panic);
        }
    }));
}

/// Runs a plan from beginning to end.
pub(crate) fn run(seed: u64, plan: Plan) -> Seen {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    RUNNING.set(true);
    let mut seen = runtime.block_on(live(seed, plan));
    drop(runtime);
    RUNNING.set(false);
    seen.panics = PANICS.take();
    seen
}

async fn live(seed: u64, plan: Plan) -> Seen {
    // Gateways of a cluster have to find each other, and the buckets of a new data set are empty.
    let warm_up = plan.cluster.as_ref().map_or(Duration::ZERO, |_| WARM_UP);
    let began = Instant::now() + warm_up;
    // Independent of the plan's generator, so that each can change alone.
    let upstream = Upstream::new(plan.behaviour, Rng::new(!seed).fork(), began);
    let gateways = Gateways::start(plan.config, plan.cluster.as_ref(), &upstream);
    tokio::time::sleep_until(began).await;
    let apps = Arc::new(Apps {
        began,
        gateways: Arc::clone(&gateways),
        closed: AtomicBool::new(false),
        outcomes: Mutex::default(),
        unexpected: Mutex::default(),
    });
    let restarts = tokio::spawn(Arc::clone(&upstream).restart());
    if let Some((after, config)) = plan.reload {
        let gateways = Arc::clone(&gateways);
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            gateways.reload(&config);
        });
    }
    let crashes = plan
        .cluster
        .map(|cluster| disturb(cluster, &gateways, began));
    let mut clients = JoinSet::new();
    for (index, client) in plan.clients.into_iter().enumerate() {
        clients.spawn(client::live(Arc::clone(&apps), index, client));
    }
    let all = async {
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
    };
    let drain = async {
        match plan.drain {
            Some(after) => tokio::time::sleep(after).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = all => {}
        () = drain => {}
    }
    apps.closed.store(true, Ordering::Relaxed);
    let drain = began.elapsed();
    // Those that drain do not crash.
    drop(crashes);
    let drained = gateways.drain(DRAIN).await;
    let metrics = gateways.metrics();
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    gateways.end();
    let apps = Arc::into_inner(apps).expect("the apps have ended");
    restarts.abort();
    tokio::time::sleep(AFTERMATH).await;
    Seen {
        outcomes: apps.outcomes.into_inner().unwrap(),
        upstream: upstream.record(),
        crashes: gateways.crashes(),
        unexpected: apps.unexpected.into_inner().unwrap(),
        panics: Vec::new(),
        drain,
        drained,
        metrics,
    }
}

/// Disturbs the server of a cluster and crashes its gateways, at times that count from `began`. Returns
/// the tasks of the crashes.
fn disturb(cluster: Cluster, gateways: &Arc<Gateways>, began: Instant) -> JoinSet<()> {
    for (at, fault) in cluster.faults {
        let gateways = Arc::clone(gateways);
        tokio::spawn(async move {
            tokio::time::sleep_until(began + at).await;
            gateways.disturb(fault);
        });
    }
    let crashes = cluster.crashes.into_iter();
    crashes
        .map(|crash| Arc::clone(gateways).crash(began, crash))
        .collect()
}
