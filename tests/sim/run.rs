//! One run: apps, gateway and upstream in one thread and in virtual time.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use wawp_gateway::gateway::Gateway;

use crate::client::{self, Apps, Outcome};
use crate::plan::Plan;
use crate::rng::Rng;
use crate::upstream::{Record, Upstream};
use crate::wire::At;

/// Longer than any drain may take: more than the longest response.
const DRAIN: Duration = Duration::from_secs(400);
/// For upstream connections to notice that the gateway is gone.
const AFTERMATH: Duration = Duration::from_secs(60);

/// Everything that was observed in a run.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) upstream: Record,
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
    let began = Instant::now();
    // Independent of the plan's generator, so that each can change alone.
    let upstream = Upstream::new(plan.behaviour, Rng::new(!seed).fork());
    let gateway = Gateway::new(&plan.config, upstream.dial()).unwrap();
    let apps = Arc::new(Apps {
        began,
        gateway: gateway.clone(),
        closed: AtomicBool::new(false),
        outcomes: Mutex::default(),
        unexpected: Mutex::default(),
    });
    let restarts = tokio::spawn(Arc::clone(&upstream).restart());
    if let Some((after, config)) = plan.reload {
        let gateway = gateway.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            gateway.reload(&config);
        });
    }
    let mut clients = JoinSet::new();
    for client in plan.clients {
        clients.spawn(client::live(Arc::clone(&apps), client));
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
    gateway.drain();
    let drained = tokio::time::timeout(DRAIN, gateway.drained()).await.is_ok();
    let metrics = gateway.metrics().exposition();
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    drop(gateway);
    let apps = Arc::into_inner(apps).expect("the apps have ended");
    drop(apps.gateway);
    restarts.abort();
    tokio::time::sleep(AFTERMATH).await;
    Seen {
        outcomes: apps.outcomes.into_inner().unwrap(),
        upstream: upstream.record(),
        unexpected: apps.unexpected.into_inner().unwrap(),
        panics: Vec::new(),
        drain,
        drained,
        metrics,
    }
}
