//! Several gateways that share buckets through a server, in simulated time.

mod ahead;
mod credentials;
mod faults;
mod histories;
mod in_flight;
mod leases;
mod observing;
mod pauses;

use tokio::task::JoinHandle;

use super::*;
use crate::config::{self, Class};
use crate::tools::testing::server::{Link, ModelServer, Path};

/// How long after its end an interval still counts: slots may be used so late.
const SLACK: Duration = ms(100);

/// A request, and when it is sent or refused.
type Sending = JoinHandle<(Result<Acquired, RateLimited>, Instant)>;

/// One gateway, as far as it shares buckets.
struct Member {
    limiter: Arc<Limiter>,
    cluster: Arc<Cluster>,
    link: Link,
    tasks: Vec<JoinHandle<()>>,
}

/// Gateways over one server.
struct Members {
    server: Arc<ModelServer>,
    members: Vec<Member>,
    config: Config,
}

impl Members {
    /// This many gateways, when all have found each other.
    async fn start(count: u32, round_trip: Duration, config: Config) -> Self {
        let server = ModelServer::new();
        let mut config = config;
        let replicas = NonZeroU32::new(count).unwrap();
        config.cluster = Some(config::Cluster {
            replicas,
            ..cluster_settings()
        });
        let members = (0..count).map(|_| Member::start(&server, round_trip, &config));
        let members = members.collect();
        let all = Self {
            server,
            members,
            config,
        };
        // All buckets of a new data set are empty: wait until they are full.
        tokio::time::sleep(Duration::from_secs(30)).await;
        for member in &all.members {
            assert!(member.cluster.is_shared());
            assert_eq!(member.cluster.live(), replicas);
        }
        all
    }

    /// A gateway that joins later.
    fn join(&mut self, round_trip: Duration) {
        let member = Member::start(&self.server, round_trip, &self.config);
        self.members.push(member);
    }
}

impl std::ops::Index<usize> for Members {
    type Output = Member;

    fn index(&self, index: usize) -> &Member {
        &self.members[index]
    }
}

impl Member {
    fn start(server: &Arc<ModelServer>, round_trip: Duration, config: &Config) -> Self {
        let link = Link::new(server, round_trip);
        let metrics = Arc::new(Metrics::new(100));
        let settings = config.cluster.as_ref().unwrap();
        let cluster = Cluster::over(Box::new(link.clone()), settings, &metrics);
        let limiter = Arc::new(Limiter::in_cluster(config, Some(&cluster), metrics));
        let follow = Arc::clone(&limiter);
        let tasks = vec![
            tokio::spawn(Arc::clone(&cluster).run()),
            tokio::spawn(async move { follow.follow_cluster().await }),
        ];
        Self {
            limiter,
            cluster,
            link,
            tasks,
        }
    }

    /// A request of an instance, with the time at which it is sent or refused.
    fn send(&self, instance: &str) -> Sending {
        self.send_kind(instance, |_| Kind::Request)
    }

    /// As a batch does, a receipt watches its deadline itself.
    fn send_kind(&self, instance: &str, kind: impl FnOnce(Instant) -> Kind) -> Sending {
        let kind = kind(Instant::now());
        let (limiter, lane) = (
            Arc::clone(&self.limiter),
            lane_of(&self.limiter, instance, "t"),
        );
        tokio::spawn(async move {
            let now = Instant::now();
            let acquired = limiter.acquire(&lane, kind, now, Route::Other);
            let acquired = match kind {
                Kind::Request => acquired.await,
                _ => {
                    let deadline = now + lane.rules().max_wait;
                    let acquired = tokio::time::timeout_at(deadline, acquired).await;
                    acquired.unwrap_or_else(|_| Err(limiter.too_late(&lane)))
                }
            };
            (acquired, Instant::now())
        })
    }

    /// The upstream's response to a request of an instance.
    fn respond(
        &self,
        instance: &str,
        acquired: &Acquired,
        status: u16,
        retry_after: Option<Duration>,
    ) {
        let status = StatusCode::from_u16(status).unwrap();
        lane_of(&self.limiter, instance, "t").on_response(&acquired.permit, status, retry_after);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn cluster_settings() -> config::Cluster {
    config::Cluster {
        url: "redis://127.0.0.1:6379/0".to_owned().try_into().unwrap(),
        ca: None,
        name: "wawp".to_owned(),
        replicas: NonZeroU32::MIN,
        merge: true,
        timeout: ms(100),
    }
}

fn of_rate(rate: f64, burst: u32, max_wait: u64) -> Config {
    let mut config = settings(quota(rate, burst));
    config.limit.max_wait = ms(max_wait);
    config
}

/// The same limit, with a bound on the concurrent calls of instance 123.
fn with_cap(mut config: Config, max_in_flight: u32) -> Config {
    config.limit.classes = vec![Class {
        name: "capped".to_owned(),
        paths: Vec::new(),
        methods: Vec::new(),
        instances: vec!["123".to_owned()],
        tenants: Vec::new(),
        quota: config.limit.quota,
        max_in_flight: NonZeroU32::new(max_in_flight),
    }];
    config
}

/// In no interval more requests than burst + rate × (its length + the slack).
#[track_caller]
fn assert_conform(sent: &[Instant], rate: f64, burst: u32, extra: f64) {
    let mut sent = sent.to_vec();
    sent.sort_unstable();
    for (from, first) in sent.iter().enumerate() {
        for (to, last) in sent.iter().enumerate().skip(from) {
            let length = (*last - *first + SLACK).as_secs_f64();
            let allowed = f64::from(burst) + rate * length + extra;
            let count = (to - from + 1) as f64;
            assert!(count <= allowed + 1e-6, "{count} requests in {length} s");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn three_gateways_have_one_budget_and_refuse_at_once() {
    let alone = of_rate(10.0, 5, 2_000);
    let mut with_egress = alone.clone();
    with_egress.egress.quota = quota(3_000.0, 300);
    for config in [alone, with_egress] {
        let all = Members::start(3, ms(1), config).await;
        let began = Instant::now();
        let requests: Vec<_> = (0..60).map(|index| all[index % 3].send("123")).collect();
        let mut sent = Vec::new();
        for request in requests {
            match request.await.unwrap() {
                (Ok(_), at) => sent.push(at),
                (Err(refused), at) => {
                    assert_eq!(refused.refusal, Refusal::WaitTooLong);
                    assert!(at - began <= ms(10), "refused after {:?}", at - began);
                }
            }
        }
        // A full bucket, and what comes back in two seconds.
        assert!((24..=25).contains(&sent.len()), "{}", sent.len());
        assert_conform(&sent, 10.0, 5, 0.0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_on_other_gateways_is_refused_at_once_if_a_pause_makes_it_late() {
    let all = Members::start(2, ms(1), of_rate(1.0, 1, 3_000)).await;
    let acquired = all[0].send("123").await.unwrap().0.unwrap();
    let request = all[1].send("123");
    let receipt = all[1].send_kind("123", |opened| Kind::Receipt { opened });
    tokio::time::sleep(ms(10)).await;
    let began = Instant::now();
    all[0].respond("123", &acquired, 429, Some(ms(20_000)));
    for waiting in [request, receipt] {
        let (refused, at) = waiting.await.unwrap();
        assert_eq!(refused.unwrap_err().refusal, Refusal::Paused);
        assert!(at - began <= ms(10), "refused after {:?}", at - began);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_finds_a_token_costs_one_round_trip_and_one_script() {
    let all = Members::start(2, ms(4), of_rate(10.0, 5, 2_000)).await;
    // With the first, the gateway also asks which credentials are verified.
    for scripts in [2, 1, 1] {
        let began = Instant::now();
        let calls = all.server.calls();
        let (acquired, at) = all[0].send("123").await.unwrap();
        acquired.unwrap();
        assert!(at - began <= ms(5), "{:?}", at - began);
        tokio::time::sleep(ms(50)).await;
        assert_eq!(all.server.calls() - calls, scripts);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_leave_in_the_order_of_their_arrival_on_any_gateway() {
    let all = Members::start(3, ms(2), of_rate(5.0, 1, 8_000)).await;
    let mut requests = Vec::new();
    for index in [0, 2, 1, 1, 0, 2, 2, 0, 1, 0] {
        requests.push(all[index].send("123"));
        tokio::time::sleep(ms(3)).await;
    }
    let mut last = Instant::now() - ms(100);
    for request in requests {
        let (acquired, at) = request.await.unwrap();
        acquired.unwrap();
        assert!(at > last);
        last = at;
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_queue_is_known_to_be_full_refusals_cost_no_script() {
    let all = Members::start(2, ms(1), of_rate(1.0, 1, 2_500)).await;
    for _ in 0..4 {
        all[0].send("123");
    }
    tokio::time::sleep(ms(20)).await;
    let calls = all.server.calls();
    for _ in 0..50 {
        let (refused, _) = all[0].send("123").await.unwrap();
        refused.unwrap_err();
    }
    assert_eq!(all.server.calls(), calls);
}

#[tokio::test(start_paused = true)]
async fn the_slot_of_a_request_that_leaves_goes_to_the_next_or_back() {
    let all = Members::start(2, ms(1), of_rate(1.0, 1, 10_000)).await;
    let first = all[0].send("123").await.unwrap();
    first.0.unwrap();
    let waiting = all[0].send("123");
    tokio::time::sleep(ms(10)).await;
    waiting.abort();
    tokio::time::sleep(ms(10)).await;
    // The other gateway gets the slot that went back, a second after the first.
    let began = Instant::now();
    let (acquired, at) = all[1].send("123").await.unwrap();
    acquired.unwrap();
    assert!(at - began <= ms(1_000), "{:?}", at - began);
}

#[tokio::test(start_paused = true)]
async fn a_slot_on_its_way_back_is_not_used() {
    let all = Members::start(2, ms(20), of_rate(0.1, 1, 1_000)).await;
    let leaves = all[0].send("123");
    tokio::time::sleep(ms(5)).await;
    leaves.abort();
    // Its slot came after 20 ms and is back after 30 ms.
    tokio::time::sleep(ms(20)).await;
    let during = all[0].send("123");
    tokio::time::sleep(ms(10)).await;
    let after = all[1].send("123");
    let sent = [during.await, after.await].map(|it| it.unwrap().0.is_ok());
    assert_eq!(sent.into_iter().filter(|is_sent| *is_sent).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_429_pauses_all_gateways_and_one_request_of_the_cluster_ends_it() {
    let all = Members::start(3, ms(1), of_rate(10.0, 5, 8_000)).await;
    let (acquired, _) = all[0].send("123").await.unwrap();
    let acquired = acquired.unwrap();
    let waiting: Vec<_> = (0..15).map(|index| all[index % 3].send("123")).collect();
    tokio::time::sleep(ms(5)).await;
    let began = Instant::now();
    all[0].respond("123", &acquired, 429, Some(ms(2_000)));
    tokio::time::sleep(ms(2_500)).await;
    let finished = waiting.iter().filter(|it| it.is_finished()).count();
    // A full bucket had left before the pause; one probe after it.
    assert_eq!(finished, 4 + 1);
    let mut sent = Vec::new();
    for (index, request) in waiting.into_iter().enumerate() {
        let (acquired, at) = request.await.unwrap();
        let acquired = acquired.unwrap();
        if at > began {
            if sent.is_empty() {
                // The response to the probe comes late.
                tokio::time::sleep(ms(500)).await;
            }
            assert!(at >= began + ms(2_000), "{:?}", at - began);
            sent.push(at);
            all[index % 3].respond("123", &acquired, 200, None);
        }
    }
    sent.sort_unstable();
    assert_eq!(sent.len(), 11);
    assert!(sent[1] >= began + ms(2_500), "{:?}", sent[1] - began);
    // No burst after it.
    assert_conform(&sent[1..], 10.0, 1, 0.0);
}

/// How many requests leave at once, one after the other.
async fn burst(member: &Member, target: &str, most: u64) -> usize {
    let mut sent = 0;
    for _ in 0..most {
        let lane = member.limiter.lane(
            &member.limiter.rules(),
            &identity(target),
            |_, _| None,
            true,
        );
        let now = Instant::now();
        sent += usize::from(
            member
                .limiter
                .acquire(&lane, Kind::Request, now, Route::Other)
                .await
                .is_ok(),
        );
    }
    sent
}

fn identity(target: &str) -> Identity {
    let (head, ()) = Request::get(target).body(()).unwrap().into_parts();
    Findings::of_head(&head).identity()
}

#[tokio::test(start_paused = true)]
async fn buckets_without_an_instance_are_divided_among_the_gateways_that_are_there() {
    let config = of_rate(0.001, 12, 1);
    let mut all = Members::start(2, ms(1), config).await;
    assert_eq!(burst(&all[0], "/?access_token=t", 20).await, 6);
    assert_eq!(burst(&all[0], "/?access_token=other", 20).await, 6);
    all.join(ms(1));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(all[1].cluster.live().get(), 3);
    assert_eq!(burst(&all[1], "/?access_token=t", 20).await, 4);
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_receipts_yields_to_the_requests_of_other_gateways() {
    let all = Members::start(2, ms(1), of_rate(1.0, 1, 9_000)).await;
    all[0].send("123").await.unwrap().0.unwrap();
    let receipt = all[0].send_kind("123", |opened| Kind::Receipt { opened });
    tokio::time::sleep(ms(5)).await;
    let request = all[1].send("123");
    let (request, receipt) = (request.await.unwrap().1, receipt.await.unwrap().1);
    assert!(request < receipt, "{:?}", request - receipt);
    // When it is overdue, it waits for a slot like a request.
    let began = Instant::now();
    let receipt = all[0].send_kind("123", |now| Kind::Receipt {
        opened: now - ms(3_000),
    });
    tokio::time::sleep(ms(5)).await;
    let request = all[1].send("123");
    let (request, receipt) = (request.await.unwrap().1, receipt.await.unwrap().1);
    assert!(receipt < request && receipt - began <= ms(1_010));
}
