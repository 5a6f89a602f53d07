//! Batches that several gateways share.

use std::num::NonZeroU32;
use std::time::Duration;

use http::HeaderValue;
use http::header::RETRY_AFTER;

use super::*;
use crate::tools::sandbox::Fault;
use crate::tools::testing::server::{ModelServer, Path};

const ALWAYS: usize = usize::MAX;

/// Gateways over one server of a cluster, in front of one sandbox. A single one has no cluster.
pub(super) struct Gateways {
    pub(super) worlds: Vec<World>,
    pub(super) links: Vec<Link>,
    server: Arc<ModelServer>,
}

impl std::ops::Index<usize> for Gateways {
    type Output = World;

    fn index(&self, index: usize) -> &World {
        &self.worlds[index]
    }
}

impl Gateways {
    pub(super) async fn start(count: u32, config: Config, settings: sandbox::Settings) -> Self {
        let (server, mut config) = (ModelServer::new(), config);
        config.cluster = (count > 1).then(|| config::Cluster {
            url: config::ClusterUrl::try_from("redis://a".to_owned()).unwrap(),
            ca: None,
            name: "wawp".to_owned(),
            replicas: NonZeroU32::new(count).unwrap(),
            timeout: ms(100),
            merge: true,
        });
        let sandbox = Sandbox::new(settings);
        let links: Vec<_> = (0..count).map(|_| Link::new(&server, ms(2))).collect();
        let over = |link| World::over(&config, sandbox.clone(), Some(link));
        let worlds = links.iter().map(over).collect();
        // Until they have found each other, and buckets are full.
        tokio::time::sleep(Duration::from_secs(30)).await;
        Self {
            worlds,
            links,
            server,
        }
    }

    async fn without_limit(count: u32, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.limit.quota = None;
        change(&mut config);
        Self::start(count, config, sandbox::Settings::default()).await
    }

    /// Sends receipts to the gateways in turn, and waits for all verdicts.
    async fn send_all(&self, all: &[TestReceipt]) -> Vec<Settled> {
        let gateways = self.worlds.iter().cycle();
        let sent: Vec<_> = all
            .iter()
            .zip(gateways)
            .map(|(it, at)| at.send(it))
            .collect();
        let mut settled = Vec::new();
        for verdict in sent {
            settled.push(verdict.await);
        }
        settled
    }
}

fn receipts(count: usize) -> Vec<TestReceipt> {
    (0..count)
        .map(|n| receipt_of(&[&format!("m{n}")]))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn receipts_of_three_gateways_leave_as_one_call() {
    let all = Gateways::without_limit(3, |_| ()).await;
    let operations = all.server.calls();
    for settled in all.send_all(&receipts(12)).await {
        assert_eq!((settled.status, settled.callers), (Ok(201), 12));
    }
    let sent = all[0].sent();
    assert_eq!(sent.len(), 1);
    let mut sent = sent[0].clone();
    sent.sort();
    let mut expected: Vec<_> = receipts(12).into_iter().flat_map(|it| it.ids).collect();
    expected.sort();
    assert_eq!(sent, expected);
    let saved: u64 = all
        .worlds
        .iter()
        .map(|it| it.metrics.saved_by_instances())
        .sum();
    assert_eq!(saved, 11);
    // Three join, two follow, one closes and concludes, two ask for the verdict. With the first request,
    // each asks for verified credentials, and one reports its own.
    assert_eq!(all.server.calls() - operations, 9 + 4);
}

#[tokio::test(start_paused = true)]
async fn the_window_counts_from_the_first_caller_of_all_gateways() {
    let all = Gateways::without_limit(2, |_| ()).await;
    let start = Instant::now();
    let first = all[0].send(&receipt_of(&["a"]));
    tokio::time::sleep(ms(30)).await;
    let second = all[1].send(&receipt_of(&["b"]));
    let (first, second) = tokio::join!(first, second);
    assert_eq!((first.callers, second.callers), (2, 2));
    let took = start.elapsed();
    assert!((ms(50)..ms(60)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn receipts_with_other_credentials_share_nothing() {
    let all = Gateways::without_limit(2, |_| ()).await;
    let mut other = receipt_of(&["b"]);
    other.token = "u".to_owned();
    for settled in all.send_all(&[receipt_of(&["a"]), other]).await {
        assert_eq!((settled.status, settled.callers), (Ok(201), 1));
    }
    assert_eq!(all[0].sent(), [ids(&["a"]), ids(&["b"])]);
}

#[tokio::test(start_paused = true)]
async fn only_the_caller_of_a_bad_id_gets_its_error_at_any_gateway() {
    for status in [400, 413, 414, 422, 500] {
        let all = Gateways::without_limit(3, |_| ()).await;
        let bad = Fault::status(status).id(id_of("1@c.us", "m4"));
        all[0].sandbox.script(bad.times(ALWAYS));
        for (n, settled) in all.send_all(&receipts(12)).await.iter().enumerate() {
            let expected = if n == 4 { status } else { 201 };
            assert_eq!(settled.status, Ok(expected), "caller {n} of {status}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_too_long_to_share_is_got_by_each_gateway() {
    let all = Gateways::without_limit(2, |_| ()).await;
    let long = Fault::status(201).body("x".repeat(70_000));
    all[0].sandbox.script(long.times(ALWAYS));
    for settled in all.send_all(&receipts(4)).await {
        assert_eq!(settled.status, Ok(201));
    }
    // The one for all, then the follower's own.
    assert_eq!(all[0].sent().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_does_not_fit_has_a_call_of_its_own() {
    let all = Gateways::without_limit(2, |config| config.batch.max_ids = 3).await;
    let settled = all
        .send_all(&[receipt_of(&["a", "b"]), receipt_of(&["c", "d"])])
        .await;
    assert!(
        settled
            .iter()
            .all(|it| (it.status, it.callers) == (Ok(201), 1))
    );
    let mut sent = all[0].sent();
    sent.sort();
    assert_eq!(sent, [ids(&["a", "b"]), ids(&["c", "d"])]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_follows_one_that_waits_for_its_token() {
    let all = Gateways::without_limit(2, |config| config.limit.quota = quota(0.5, 1)).await;
    // The one token.
    all[0].send(&receipt_of(&["z"])).await;
    for settled in all.send_all(&receipts(2)).await {
        assert_eq!((settled.status, settled.callers), (Ok(201), 2));
    }
    assert_eq!(all[0].sent().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn when_the_leader_ends_the_others_send_their_own_call_in_time() {
    let all = Gateways::without_limit(3, |config| {
        config.limit.quota = quota(1.0, 1);
    })
    .await;
    // The one token.
    all[0].send(&receipt_of(&["z"])).await;
    let leads = all[0].send(&receipt_of(&["a"]));
    tokio::time::sleep(ms(10)).await;
    let start = Instant::now();
    let follow = [
        all[1].send(&receipt_of(&["b"])),
        all[2].send(&receipt_of(&["c"])),
    ];
    tokio::time::sleep(ms(100)).await;
    all.links[0].set(Path::Lost);
    for settled in follow {
        assert_eq!(settled.await.status, Ok(201));
        let took = start.elapsed();
        assert!(took <= ms(4_500), "{took:?}");
    }
    drop(leads);
}

#[tokio::test(start_paused = true)]
async fn without_the_server_each_gateway_merges_its_own_receipts() {
    for path in [Path::Lost, Path::RepliesLost, Path::Refused] {
        let all = Gateways::without_limit(2, |_| ()).await;
        all.links.iter().for_each(|link| link.set(path));
        let start = Instant::now();
        for settled in all.send_all(&receipts(8)).await {
            assert_eq!((settled.status, settled.callers), (Ok(201), 4), "{path:?}");
        }
        // No longer than the window and one operation on the server, for closing.
        let took = start.elapsed();
        assert!(took <= ms(50 + 100), "{path:?}: {took:?}");
        assert_eq!(all[0].calls().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn the_call_after_a_common_failure_does_not_wait_until_its_followers_are_returned() {
    let all = Gateways::without_limit(2, |_| ()).await;
    for link in &all.links {
        link.set(Path::Open(ms(30)));
    }
    // Until the gateways have measured it.
    tokio::time::sleep(Duration::from_secs(30)).await;
    all[0].sandbox.script(Fault::status(500).times(ALWAYS));
    // The leader remembers the common failure.
    all[0].send_all(&receipts(2)).await;
    let before = all[0].sent().len();
    let start = Instant::now();
    let leads = all[0].send(&receipt_of(&["a"]));
    tokio::time::sleep(ms(2)).await;
    let follows = all[1].send(&receipt_of(&["b"]));
    tokio::join!(leads, follows);
    let call = &all[0].calls()[before];
    assert_eq!(call.ids, ids(&["a"]));
    let took = call.at - start;
    // Its window, then one operation on the server, which closes the batch.
    assert!(took <= ms(50 + 30 + 5), "{took:?}");
    assert_eq!(all[0].sent().len(), before + 2);
}

fn retry_after(status: u16, seconds: &'static str) -> Fault {
    Fault::status(status).header(RETRY_AFTER, HeaderValue::from_static(seconds))
}

/// One receipt at each of two gateways: the first one leads.
async fn lead_and_follow(all: &Gateways) -> (Settled, Settled) {
    let leads = all[0].send(&receipt_of(&["a"]));
    tokio::time::sleep(ms(30)).await;
    tokio::join!(leads, all[1].send(&receipt_of(&["b"])))
}

#[tokio::test(start_paused = true)]
async fn a_429_of_the_api_reaches_the_callers_of_all_gateways_as_received() {
    for observes in [false, true] {
        let all = Gateways::without_limit(2, |config| {
            config.limit.quota = quota(10.0, 20);
            if observes {
                config.limit.mode = config::LimitMode::Observe;
            }
        })
        .await;
        all[0].sandbox.script(retry_after(429, "10").times(ALWAYS));
        let (first, second) = lead_and_follow(&all).await;
        assert_eq!((first.status, second.status), (Ok(429), Ok(429)));
        assert_eq!(all[0].calls().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn callers_that_have_time_are_sent_again_after_the_pause_at_any_gateway() {
    let all = Gateways::without_limit(2, |config| config.limit.quota = quota(10.0, 20)).await;
    // The pause ends after the deadline of the first caller, and before that of the second.
    all[0].sandbox.script(retry_after(429, "3.95").times(1));
    let (first, second) = lead_and_follow(&all).await;
    assert_eq!((first.status, second.status), (Ok(429), Ok(201)));
    assert_eq!(all[0].sent()[1..], [ids(&["b"])]);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_does_not_refuse_callers_whose_ids_the_leader_has_sent() {
    let all = Gateways::without_limit(2, |config| {
        (config.limit.quota, config.limit.max_queue) = (quota(1.0, 1), 1);
    })
    .await;
    // Too long to share, so the follower needs a call of its own.
    let long = Fault::status(201).body("x".repeat(70_000));
    all[0].sandbox.script(long.times(1));
    let sent = lead_and_follow(&all);
    let waits = async {
        while all[0].calls().is_empty() {
            tokio::time::sleep(ms(1)).await;
        }
        let deadline = Instant::now() + Duration::from_secs(4);
        let lane = all[1].lane();
        let waits = all[1].limiter.admit(&lane, Kind::Request, deadline);
        tokio::time::sleep(ms(500)).await;
        drop(waits);
    };
    let ((first, second), ()) = tokio::join!(sent, waits);
    assert_eq!((first.status, second.status), (Ok(201), Ok(201)));
}

#[tokio::test(start_paused = true)]
async fn a_leader_keeps_its_followers_in_windows_of_any_length() {
    for window in [800, 2_000] {
        let all = Gateways::without_limit(2, |config| {
            config.batch.window = ms(window);
            config.limit.quota = quota(0.5, 1);
        })
        .await;
        // The one token: the batch waits for the next after a short window.
        all[0].send(&receipt_of(&["z"])).await;
        let leads = all[0].send(&receipt_of(&["a"]));
        tokio::time::sleep(ms(window - 100)).await;
        let follows = all[1].send(&receipt_of(&["b"]));
        for settled in [leads.await, follows.await] {
            assert_eq!((settled.status, settled.callers), (Ok(201), 2), "{window}");
        }
        assert_eq!(all[0].sent().len(), 2);
    }
}
