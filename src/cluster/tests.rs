//! Every state and every failure, over a server that the tests make, in paused time.

use tokio::time::{advance, sleep, timeout};

use super::fake::{Fake, Manner};
use super::health::{FALLBACK_AFTER, RECOVERY};
use super::*;
use crate::config::ClusterUrl;

/// The longest time from the return of the server until it is used by all (rule: cluster).
const RETURN: Duration = Duration::from_secs(3);

fn settings(replicas: u32) -> config::Cluster {
    config::Cluster {
        url: ClusterUrl::try_from("redis://unused".to_owned()).unwrap(),
        ca: None,
        name: "wawp".to_owned(),
        replicas: NonZeroU32::new(replicas).unwrap(),
        timeout: Duration::from_millis(100),
        merge: true,
    }
}

struct Stage {
    server: Fake,
    cluster: Arc<Cluster>,
    metrics: Metrics,
    events: broadcast::Receiver<Event>,
}

impl Stage {
    /// A gateway that has run for a moment.
    async fn with(server: Fake, replicas: u32) -> Self {
        let metrics = Metrics::new(1);
        let transport = Box::new(server.clone());
        let cluster = Cluster::over(transport, &settings(replicas), &metrics);
        let events = cluster.subscribe();
        tokio::spawn(Arc::clone(&cluster).run());
        let stage = Self {
            server,
            cluster,
            metrics,
            events,
        };
        millis(10).await;
        stage
    }

    async fn new() -> Self {
        let mut stage = Self::with(Fake::default(), 1).await;
        assert!(stage.cluster.is_shared());
        stage.events();
        stage
    }

    /// The server is gone, and requests needed it for longer than they wait.
    async fn in_fallback() -> Self {
        let mut stage = Self::new().await;
        stage.server.stop();
        millis(10).await;
        stage.call().await.unwrap_err();
        sleep(FALLBACK_AFTER).await;
        assert!(!stage.cluster.is_shared());
        stage.events();
        stage
    }

    async fn call(&self) -> Result<Reply, Unavailable> {
        self.cluster.call(call()).await
    }

    fn phase(&self) -> Phase {
        self.cluster.snapshot().phase
    }

    /// The events since the last time.
    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }

    /// How long it takes until the server is used.
    async fn until_shared(&self) -> Duration {
        let begun = Instant::now();
        while !self.cluster.is_shared() {
            millis(10).await;
            assert!(begun.elapsed() < RETURN, "{:?}", self.phase());
        }
        begun.elapsed()
    }

    /// A line of the exposition.
    fn metric(&self, series: &str) -> f64 {
        self.cluster.report();
        let text = self.metrics.exposition();
        let prefix = format!("wawp_gateway_cluster_{series} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
        line.unwrap_or_else(|| panic!("{series}: {text}"))
            .parse()
            .unwrap()
    }
}

fn call() -> Call {
    Call {
        script: Script::Reserve,
        keys: Vec::new(),
        arguments: vec![1],
        texts: Vec::new(),
        generation: None,
    }
}

async fn millis(count: u64) {
    sleep(Duration::from_millis(count)).await;
}

#[tokio::test(start_paused = true)]
async fn the_server_is_used_from_the_first_connection_on() {
    let mut stage = Stage::with(Fake::default(), 1).await;
    assert_eq!(stage.phase(), Phase::Shared);
    assert_eq!(stage.cluster.generation(), 1);
    assert_eq!(stage.events(), [Event::Connected, Event::Shared]);
    stage.server.state().script = Box::new(|call| Ok(call.arguments.repeat(12).into()));
    assert_eq!(stage.call().await, Ok(vec![1; 12].into()));
    assert_eq!(stage.metric("state{state=\"shared\"}"), 1.0);
    assert_eq!(
        stage.metric("operation_seconds_count{operation=\"reserve\"}"),
        1.0
    );
}

#[tokio::test(start_paused = true)]
async fn a_start_without_the_server_goes_on_without_it_and_joins_it_later() {
    let server = Fake::default();
    server.stop();
    let mut stage = Stage::with(server, 3).await;
    assert_eq!(stage.call().await, Err(Unavailable::NotSent));
    assert_eq!(stage.cluster.share().get(), 3);
    assert_eq!(stage.cluster.digest(&["a"]), None);
    sleep(Duration::from_secs(60)).await;
    assert_eq!((stage.phase(), stage.events().len()), (Phase::Fallback, 0));
    stage.server.start();
    stage.until_shared().await;
    assert_eq!(stage.events().last(), Some(&Event::Shared));
}

#[tokio::test(start_paused = true)]
async fn a_blip_changes_nothing() {
    let mut stage = Stage::new().await;
    for manner in [Manner::Hangs, Manner::Fails(Failure::Busy)] {
        stage.server.state().operate = manner;
        for _ in 0..4 {
            assert_eq!(stage.call().await, Err(Unavailable::Unknown));
            millis(100).await;
        }
        assert_eq!(stage.phase(), Phase::Suspect);
        stage.server.state().operate = Manner::Works;
        millis(300).await;
        assert_eq!((stage.phase(), stage.events()), (Phase::Shared, vec![]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_replaced_at_once() {
    let mut stage = Stage::new().await;
    sleep(Duration::from_secs(1)).await;
    stage.server.reset();
    millis(10).await;
    assert_eq!(
        (stage.phase(), stage.cluster.generation()),
        (Phase::Shared, 2)
    );
    assert_eq!(stage.events(), [Event::Connected]);
    assert!(stage.call().await.is_ok());
    assert_eq!(stage.metric("errors_total{reason=\"reset\"}"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn requests_go_on_without_the_server_after_a_second_however_it_fails() {
    for (connect, operate) in [
        (Manner::Fails(Failure::Refused), Manner::Works),
        (Manner::Hangs, Manner::Hangs),
        (Manner::Works, Manner::Hangs),
        (Manner::Works, Manner::Fails(Failure::OutOfMemory)),
        (
            Manner::Fails(Failure::Demoted),
            Manner::Fails(Failure::ReadOnly),
        ),
    ] {
        let mut stage = Stage::new().await;
        sleep(Duration::from_secs(60)).await;
        stage.call().await.unwrap();
        let begun = Instant::now();
        stage.server.state().connect = connect;
        stage.server.state().operate = operate;
        if operate == Manner::Works {
            stage.server.reset();
            millis(1).await;
        }
        // One request, which does not ask again.
        stage.call().await.unwrap_err();
        while stage.cluster.is_shared() {
            millis(1).await;
            assert!(begun.elapsed() <= FALLBACK_AFTER + Duration::from_millis(2));
        }
        assert!(begun.elapsed() >= FALLBACK_AFTER, "{:?}", begun.elapsed());
        assert_eq!(stage.events(), [Event::Fallback]);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_request_an_outage_is_noticed_by_the_next_one() {
    let mut stage = Stage::new().await;
    stage.server.stop();
    sleep(Duration::from_secs(60)).await;
    assert_eq!((stage.phase(), stage.events()), (Phase::Suspect, vec![]));
    assert_eq!(stage.call().await, Err(Unavailable::NotSent));
    assert_eq!(stage.events(), [Event::Fallback]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_costs_an_operation_its_timeout_and_is_left() {
    let stage = Stage::new().await;
    stage.server.state().operate = Manner::Hangs;
    let begun = Instant::now();
    assert_eq!(stage.call().await, Err(Unavailable::Unknown));
    assert_eq!(begun.elapsed(), Duration::from_millis(100));
    sleep(Duration::from_secs(2)).await;
    // Nothing is sent on the old connection any more.
    let begun = Instant::now();
    assert_eq!(stage.call().await, Err(Unavailable::NotSent));
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert!(stage.server.state().attempts > 1);
}

#[tokio::test(start_paused = true)]
async fn after_its_return_the_server_is_used_when_it_has_worked_for_a_second() {
    let mut took = Vec::new();
    for _ in 0..20 {
        let mut stage = Stage::in_fallback().await;
        sleep(Duration::from_secs(30)).await;
        stage.server.start();
        took.push(stage.until_shared().await);
        assert_eq!(stage.events(), [Event::Connected, Event::Shared]);
        assert_eq!(stage.cluster.generation(), 2);
        let without = stage.metric("fallback_seconds_total");
        assert!((30.0..34.0).contains(&without), "{without}");
    }
    assert!(took.iter().all(|took| *took >= RECOVERY), "{took:?}");
    // Not all gateways at the same time.
    took.sort();
    assert!(took[19] - took[0] > Duration::from_millis(100), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_granted_can_be_asserted_again_before_the_server_is_used() {
    let stage = Stage::in_fallback().await;
    stage.server.start();
    millis(600).await;
    assert_eq!(stage.phase(), Phase::Recovering);
    assert!(stage.call().await.is_ok() && !stage.cluster.is_shared());
}

#[tokio::test(start_paused = true)]
async fn a_failure_during_recovery_begins_it_again() {
    let stage = Stage::in_fallback().await;
    stage.server.start();
    for _ in 0..3 {
        millis(900).await;
        stage.server.state().operate = Manner::Fails(Failure::Loading);
        millis(300).await;
        assert_eq!(stage.phase(), Phase::Fallback);
        stage.server.state().operate = Manner::Works;
    }
    assert!(stage.until_shared().await >= Duration::from_millis(900));
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_reported_at_its_start_and_at_its_end_however_often_its_reason_changes() {
    let mut stage = Stage::new().await;
    stage.server.stop();
    for _ in 0..600 {
        millis(100).await;
        stage.call().await.unwrap_err();
    }
    // The reason changes, and the connection is made and lost.
    stage.server.start();
    stage.server.state().operate = Manner::Fails(Failure::ReadOnly);
    sleep(Duration::from_secs(10)).await;
    stage.server.state().operate = Manner::Works;
    stage.until_shared().await;
    // With each of these the log has its one line.
    let mut events = stage.events();
    events.retain(|event| matches!(event, Event::Fallback | Event::Shared));
    assert_eq!(events, [Event::Fallback, Event::Shared]);
}

#[tokio::test(start_paused = true)]
async fn every_failure_is_counted_and_no_connection_is_tried_in_a_tight_loop() {
    for failure in Failure::ALL {
        for at_connect in [true, false] {
            let server = Fake::default();
            let fails = Manner::Fails(failure);
            match at_connect {
                true => server.state().connect = fails,
                false => server.state().operate = fails,
            }
            let stage = Stage::with(server, 1).await;
            sleep(Duration::from_secs(10)).await;
            let count = stage.metric(&format!("errors_total{{reason=\"{}\"}}", failure.name()));
            assert!((20.0..=41.0).contains(&count), "{failure:?}: {count}");
            assert_eq!(stage.cluster.snapshot().last_failure, Some(failure));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_no_longer_a_primary_is_left_for_another() {
    for failure in Failure::ALL.into_iter().filter(|it| it.ends_connection()) {
        let stage = Stage::new().await;
        sleep(Duration::from_secs(1)).await;
        stage.server.state().operate = Manner::Fails(failure);
        stage.call().await.unwrap_err();
        millis(150).await;
        assert!(stage.server.state().attempts > 1, "{failure:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_says_what_is_wrong_and_each_reason_has_its_own() {
    let mut names: Vec<_> = Failure::ALL.iter().map(|it| it.name()).collect();
    let mut texts: Vec<_> = Failure::ALL.iter().map(ToString::to_string).collect();
    for all in [&mut texts.iter_mut().map(|it| &**it).collect(), &mut names] {
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), Failure::ALL.len());
    }
}

#[tokio::test(start_paused = true)]
async fn announcements_arrive_and_their_connection_is_replaced() {
    let mut stage = Stage::new().await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.server.announce(b"a"), 1);
    millis(1).await;
    assert_eq!(stage.events(), [Event::Announced((*b"a").into())]);
    stage.server.reset();
    sleep(Duration::from_secs(2)).await;
    stage.events();
    assert_eq!(stage.server.announce(b"b"), 1);
    millis(1).await;
    assert_eq!(stage.events(), [Event::Announced((*b"b").into())]);
}

#[tokio::test(start_paused = true)]
async fn announcements_come_from_the_server_of_the_scripts() {
    let mut stage = Stage::new().await;
    assert_eq!(stage.cluster.subscriptions(), 1);
    for failover in 1..=3 {
        sleep(Duration::from_secs(1)).await;
        stage.server.fail_over();
        millis(10).await;
        stage.events();
        let made = stage.cluster.generation();
        // Those of the time between may have been missed.
        let subscribed = stage.cluster.subscriptions();
        assert_eq!((made, subscribed), (failover + 1, failover + 1));
        assert_eq!(stage.server.isolated(), 0);
        assert_eq!(stage.server.announce(b"a"), 1);
        millis(1).await;
        assert_eq!(stage.events(), [Event::Announced((*b"a").into())]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_asserts_nothing_is_not_sent_on_another_connection() {
    let stage = Stage::new().await;
    stage.server.state().script = Box::new(|call| Ok(call.arguments.repeat(12).into()));
    let made_for = |generation| Call {
        generation: Some(generation),
        ..call()
    };
    let before = stage.cluster.generation();
    stage.cluster.call(made_for(before)).await.unwrap();
    stage.server.fail_over();
    sleep(Duration::from_secs(1)).await;
    assert!(stage.cluster.generation() > before);
    let sent = stage.cluster.call(made_for(before)).await;
    assert_eq!(sent, Err(Unavailable::NotSent));
    let now = stage.cluster.generation();
    stage.cluster.call(made_for(now)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn hashes_are_equal_on_all_gateways_and_only_for_equal_parts() {
    let stage = Stage::new().await;
    let other = Stage::with(stage.server.clone(), 1).await;
    let hash = stage.cluster.digest(&["a", "bc"]).unwrap();
    assert_eq!(other.cluster.digest(&["a", "bc"]).as_ref(), Some(&hash));
    assert!(hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
    for parts in [&["ab", "c"][..], &["abc"], &["a", "bc", ""]] {
        assert_ne!(stage.cluster.digest(parts).unwrap(), hash);
    }
    let elsewhere = Stage::new().await;
    assert_ne!(elsewhere.cluster.digest(&["a", "bc"]).unwrap(), hash);
    // An emptied data set gets the key back.
    stage.server.state().hash_key = None;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(other.cluster.digest(&["a", "bc"]).unwrap(), hash);
    // And the one that the server has counts.
    stage.server.state().hash_key = Some("k".to_owned());
    sleep(Duration::from_secs(5)).await;
    let new = stage.cluster.digest(&["a"]);
    assert_eq!(new, other.cluster.digest(&["a"]));
    assert_ne!(new.unwrap(), hash);
}

#[test]
fn a_digest_is_hmac_sha256_of_lengths_and_parts() {
    let metrics = Metrics::new(1);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let _guard = runtime.as_ref().unwrap().enter();
    let cluster = Cluster::over(Box::new(Fake::default()), &settings(1), &metrics);
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"k");
    let expected = hmac::sign(&key, b"\0\0\0\0\0\0\0\x02ab");
    let (text, birth) = ("k".to_owned(), "1".to_owned());
    let hash_key = HashKey { text, key, birth };
    cluster.hash_key.store(Some(Arc::new(hash_key)));
    assert_eq!(cluster.digest(&["ab"]), Some(hex(&expected.as_ref()[..16])));
    assert_eq!(cluster.key(&["bucket", "7"]), b"{wawp}:bucket:7");
    assert_eq!(hex(&[0x0f, 0xa0]), "0fa0");
}

fn seen(id: &str, seconds: u64) -> Seen {
    Seen {
        id: id.to_owned(),
        version: "1".to_owned(),
        settings: "-".to_owned(),
        shares: true,
        ago: Duration::from_secs(seconds),
    }
}

#[tokio::test(start_paused = true)]
async fn the_share_counts_the_gateways_that_were_seen_in_the_last_ten_minutes() {
    let mut stage = Stage::with(Fake::default(), 2).await;
    let counts = |stage: &Stage| {
        let cluster = &stage.cluster;
        [cluster.live(), cluster.known(), cluster.share()].map(NonZeroU32::get)
    };
    assert_eq!(counts(&stage), [1, 1, 2]);
    stage.events();
    // Two are live, one has vanished, one is forgotten.
    stage.server.state().others = vec![seen("a", 1), seen("b", 6), seen("c", 7), seen("d", 37)];
    sleep(Duration::from_secs(3)).await;
    assert_eq!(
        (counts(&stage), stage.events()),
        ([3, 4, 3], vec![Event::Live])
    );
    assert_eq!(stage.metric("replicas"), 3.0);
    stage.server.state().others = vec![];
    sleep(Duration::from_secs(9 * 60)).await;
    assert_eq!(counts(&stage), [1, 1, 3]);
    // During an outage the time does not count: gateways cannot be seen.
    stage.server.stop();
    sleep(Duration::from_secs(60 * 60)).await;
    stage.call().await.unwrap_err();
    assert_eq!(
        (stage.phase(), stage.cluster.share().get()),
        (Phase::Fallback, 3)
    );
    stage.server.start();
    stage.until_shared().await;
    assert_eq!(stage.cluster.share().get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_reports_itself_every_two_seconds_until_it_leaves() {
    let stage = Stage::new().await;
    stage.cluster.show_settings("x".to_owned());
    sleep(Duration::from_secs(10)).await;
    let heartbeats = std::mem::take(&mut stage.server.state().heartbeats);
    assert_eq!(heartbeats.len(), 6);
    let last = &heartbeats[5];
    assert_eq!((&*last.settings, last.leaves), ("x", false));
    assert_eq!(
        last.keys,
        [&b"{wawp}:gateways"[..], b"{wawp}:hash_key", b"{wawp}:birth"]
    );
    assert!(
        heartbeats
            .iter()
            .all(|heartbeat| heartbeat.id == last.id && heartbeat.id.len() == 16)
    );
    timeout(Duration::from_millis(1), stage.cluster.leave())
        .await
        .unwrap();
    sleep(Duration::from_secs(10)).await;
    let heartbeats = std::mem::take(&mut stage.server.state().heartbeats);
    assert!(!heartbeats.is_empty() && heartbeats.iter().all(|heartbeat| heartbeat.leaves));
    // Its end does not wait for a server that hangs.
    stage.server.state().operate = Manner::Hangs;
    timeout(Duration::from_millis(101), stage.cluster.leave())
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_page_shows_this_gateway_first_and_how_long_ago_the_others_were_seen() {
    let stage = Stage::new().await;
    stage.server.state().others = vec![seen("-", 1)];
    sleep(Duration::from_millis(2500)).await;
    let snapshot = stage.cluster.snapshot();
    let ids: Vec<_> = snapshot.gateways.iter().map(|seen| &*seen.id).collect();
    assert_eq!(ids, [&*snapshot.id, "-"]);
    assert!(snapshot.gateways[1].ago >= Duration::from_millis(1400));
    assert_eq!((snapshot.fallback, snapshot.last_failure), (None, None));
    let stage = Stage::in_fallback().await;
    advance(Duration::from_secs(5)).await;
    let fallback = stage.cluster.snapshot().fallback.unwrap();
    assert!(fallback >= Duration::from_secs(5), "{fallback:?}");
}
