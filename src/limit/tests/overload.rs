//! What a steady overload does to promises, and to those within their share.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::shares::tenant;
use super::*;

/// What became of the requests of one source.
#[derive(Debug, Default)]
struct Tally {
    served: AtomicUsize,
    /// Refused when they came.
    refused: AtomicUsize,
    /// Refused after they had been admitted.
    broken: AtomicUsize,
}

impl Tally {
    fn of(&self) -> (usize, usize, usize) {
        let read = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        (read(&self.served), read(&self.refused), read(&self.broken))
    }

    /// The broken promises among all, in per cent.
    fn broken_share(all: &[Arc<Self>]) -> f64 {
        let all = all.iter().map(|tally| tally.of());
        let (promised, broken) = all.fold((0, 0), |sum, (served, _, broken)| {
            (sum.0 + served + broken, sum.1 + broken)
        });
        100.0 * broken as f64 / promised as f64
    }
}

/// A source of requests at random times.
#[derive(Clone, Copy)]
struct Sender {
    instance: &'static str,
    token: &'static str,
    per_second: f64,
    /// In per cent.
    receipts: u64,
}

fn sends(instance: &'static str, per_second: f64) -> Sender {
    Sender {
        instance,
        token: "t",
        per_second,
        receipts: 0,
    }
}

/// A small generator (xorshift): a run is the same each time.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// The time to the next arrival of a Poisson process.
    fn gap(&mut self, per_second: f64) -> Duration {
        let uniform = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        Duration::from_secs_f64(-(1.0 - uniform).ln() / per_second)
    }
}

/// Runs sources side by side for a minute once the overload is steady.
async fn steady(limiter: &Arc<Limiter>, sources: &[Sender]) -> Vec<Arc<Tally>> {
    let began = run(limiter, sources, 10);
    let steady = async {
        tokio::time::sleep(ms(9_900)).await;
        run(limiter, sources, 60).await
    };
    tokio::join!(began, steady).1
}

/// Runs sources side by side, and waits for all that they began.
async fn run(limiter: &Arc<Limiter>, sources: &[Sender], seconds: u64) -> Vec<Arc<Tally>> {
    let mut tallies = Vec::new();
    let mut running = tokio::task::JoinSet::new();
    for (number, &source) in (1..).zip(sources) {
        let (limiter, tally) = (Arc::clone(limiter), Arc::new(Tally::default()));
        tallies.push(Arc::clone(&tally));
        running.spawn(async move {
            let mut rng = Rng(0x9e37_79b9_7f4a_7c15 ^ number);
            let end = later(seconds * 1000);
            let mut requests = tokio::task::JoinSet::new();
            loop {
                tokio::time::sleep(rng.gap(source.per_second)).await;
                if Instant::now() > end {
                    break;
                }
                let (limiter, tally) = (Arc::clone(&limiter), Arc::clone(&tally));
                let is_receipt = rng.next() % 100 < source.receipts;
                requests.spawn(async move { ask(&limiter, source, is_receipt, &tally).await });
            }
            while requests.join_next().await.is_some() {}
        });
    }
    while running.join_next().await.is_some() {}
    tallies
}

async fn ask(limiter: &Limiter, source: Sender, is_receipt: bool, tally: &Tally) {
    let lane = lane_of(limiter, source.instance, source.token);
    let arrived = Instant::now();
    let kind = match is_receipt {
        true => Kind::Receipt { opened: arrived },
        false => Kind::Request,
    };
    let passed = limiter.acquire(&lane, kind, arrived, Route::Other).await;
    let count = match passed {
        Ok(_) => &tally.served,
        Err(_) if Instant::now() > arrived => &tally.broken,
        Err(_) => &tally.refused,
    };
    count.fetch_add(1, Ordering::Relaxed);
}

/// A shared egress of so many calls a second, and waits of four seconds.
async fn shared(
    rate: f64,
    tenants: Vec<crate::config::Tenant>,
    instances: &[&str],
) -> Arc<Limiter> {
    let mut config = settings(None);
    config.egress.quota = quota(rate, 1);
    config.tenants = tenants;
    config.limit.max_wait = ms(4_000);
    let limiter = Arc::new(limiter(&config));
    for instance in instances {
        lane_of(&limiter, instance, "t").verify();
    }
    limiter
}

#[tokio::test(start_paused = true)]
async fn an_overloaded_bucket_breaks_no_promise() {
    for receipts in [0, 10, 50, 90, 100] {
        let mut config = settings(quota(10.0, 20));
        config.limit.max_wait = ms(4_000);
        let limiter = Arc::new(limiter(&config));
        let source = Sender {
            receipts,
            ..sends("1", 20.0)
        };
        let tallies = run(&limiter, &[source], 60).await;
        let (served, refused, broken) = tallies[0].of();
        assert_eq!(broken, 0, "{receipts} %: {tallies:?}");
        assert!(served > 600 && refused > 400, "{receipts} %: {tallies:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn tenants_that_all_send_twice_their_share_see_few_broken_promises() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    for (count, receipts) in [(2, 0), (5, 0), (10, 0), (2, 30), (5, 30), (10, 30)] {
        let limiter = shared(10.0, Vec::new(), &names).await;
        let sources: Vec<_> = names[..count]
            .iter()
            .map(|name| Sender {
                receipts,
                ..sends(name, 20.0 / count as f64)
            })
            .collect();
        let tallies = steady(&limiter, &sources).await;
        let broken = Tally::broken_share(&tallies);
        println!("{count} tenants, {receipts} % receipts: {broken:.2} % broken {tallies:?}");
        assert!(
            broken <= 2.0,
            "{count}, {receipts} %: {broken} %, {tallies:?}"
        );
        let served: usize = tallies.iter().map(|tally| tally.of().0).sum();
        assert!(served >= 575, "few tokens lie idle: {served}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenant_within_its_share_is_neither_refused_nor_broken_beside_a_flood() {
    for (quiet, flood) in [(4.0, 16.0), (2.0, 18.0), (1.0, 40.0)] {
        let limiter = shared(10.0, Vec::new(), &["quiet", "flood"]).await;
        let sources = [sends("quiet", quiet), sends("flood", flood)];
        let tallies = steady(&limiter, &sources).await;
        println!("{quiet}/s beside {flood}/s: {tallies:?}");
        let (served, refused, broken) = tallies[0].of();
        assert!(served > 0 && refused + broken == 0, "{quiet}: {tallies:?}");
        let broken = Tally::broken_share(&tallies);
        assert!(
            broken <= 2.0,
            "{quiet}/s beside {flood}/s: {broken} %, {tallies:?}"
        );
        let served: usize = tallies.iter().map(|tally| tally.of().0).sum();
        assert!(served >= 590, "no token lies idle: {served}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_within_its_turn_is_not_refused_beside_a_flood_of_its_tenant() {
    for own in [None, quota(10.0, 1)] {
        let tenants = vec![tenant("t", 1, own, &["quiet", "flood"])];
        let limiter = shared(10.0, tenants, &["quiet", "flood"]).await;
        let sources = [sends("quiet", 3.0), sends("flood", 17.0)];
        let tallies = steady(&limiter, &sources).await;
        println!("{own:?}: {tallies:?}");
        let (_, refused, broken) = tallies[0].of();
        assert_eq!(refused + broken, 0, "{tallies:?}");
        let broken = Tally::broken_share(&tallies);
        assert!(broken <= 2.0, "{broken} %, {tallies:?}");
    }
}

/// After a restart no credential is verified: everything is one tenant, in
/// which instances take turns.
#[tokio::test(start_paused = true)]
async fn a_flood_under_one_made_up_instance_does_not_refuse_new_instances() {
    let limiter = shared(10.0, Vec::new(), &[]).await;
    let mut flood = Vec::new();
    while let Ok(admission) = limiter.admit(
        &lane_of(&limiter, "made-up", "x"),
        Kind::Request,
        later(4_000),
    ) {
        flood.push(admission);
    }
    assert_eq!(flood.len(), 41);
    let mut passes = tokio::task::JoinSet::new();
    for number in 0..34 {
        let limiter = Arc::clone(&limiter);
        passes.spawn(async move {
            let lane = lane_of(&limiter, &format!("new{number}"), "t");
            let pass = limiter.acquire(&lane, Kind::Request, Instant::now(), Route::Other);
            pass.await.map(|_| ())
        });
    }
    let refused = passes
        .join_all()
        .await
        .into_iter()
        .filter(|it| it.is_err())
        .count();
    assert_eq!(refused, 0);
}

#[tokio::test(start_paused = true)]
async fn waiting_receipts_of_a_tenant_refuse_no_sends() {
    let tenants = vec![tenant("t", 1, None, &["a", "b"])];
    let limiter = shared(5.0, tenants, &["a", "b"]).await;
    let receipts: Vec<_> = (0..18)
        .filter_map(|_| {
            let kind = Kind::Receipt {
                opened: Instant::now(),
            };
            limiter
                .admit(&lane_of(&limiter, "a", "t"), kind, later(4_000))
                .ok()
        })
        .collect();
    assert!(receipts.len() >= 16, "{}", receipts.len());
    let sends: Vec<_> = (0..16)
        .map(|_| limiter.admit(&lane_of(&limiter, "b", "t"), Kind::Request, later(4_000)))
        .collect();
    let refused = sends.iter().filter(|sent| sent.is_err()).count();
    assert!(refused <= 2, "{refused}");
}

/// A process that was stopped for seconds forgets no request.
#[tokio::test(start_paused = true)]
async fn after_a_stall_every_instance_is_served_again() {
    let limiter = shared(100.0, Vec::new(), &[]).await;
    let names: Vec<_> = (0..700).map(|number| format!("i{number}")).collect();
    for name in &names {
        lane_of(&limiter, name, "t").verify();
    }
    let pass = |name: &str| {
        let (limiter, name) = (Arc::clone(&limiter), name.to_owned());
        async move {
            let lane = lane_of(&limiter, &name, "t");
            let pass = limiter.acquire(&lane, Kind::Request, Instant::now(), Route::Other);
            pass.await.map(|_| ())
        }
    };
    let mut waiting = tokio::task::JoinSet::new();
    names
        .iter()
        .for_each(|name| drop(waiting.spawn(pass(name))));
    tokio::time::sleep(ms(100)).await;
    // No task runs meanwhile.
    tokio::time::advance(ms(4_300)).await;
    waiting.abort_all();
    while waiting.join_next().await.is_some() {}
    for name in &names {
        tokio::time::sleep(ms(11)).await;
        assert!(pass(name).await.is_ok(), "{name}");
    }
}
