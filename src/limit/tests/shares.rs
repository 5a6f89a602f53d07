//! Tenants and instances that share a scarce egress, through whole lanes.

mod forecast;

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::config::Tenant;

pub(super) fn tenant(name: &str, weight: u32, own: Option<Quota>, instances: &[&str]) -> Tenant {
    Tenant {
        name: name.to_owned(),
        instances: instances.iter().map(|name| (*name).to_owned()).collect(),
        weight: NonZeroU32::new(weight).unwrap(),
        quota: own,
        networks: Vec::new(),
        key: None,
        keys: vec![],
        tokens: std::collections::BTreeMap::new(),
    }
}

/// A limiter whose egress has this rate; instances have none.
fn scarce(rate: f64, tenants: Vec<Tenant>) -> Arc<Limiter> {
    let mut config = settings(None);
    config.egress.quota = quota(rate, 1);
    config.tenants = tenants;
    config.limit.max_queue = 1_000_000;
    Arc::new(limiter(&config))
}

/// An instance that the upstream has accepted.
async fn accepted(limiter: &Limiter, instance: &str) {
    let lane = lane_of(limiter, instance, "t");
    let pass = limiter
        .acquire(&lane, Kind::Request, Instant::now(), Route::Other)
        .await
        .unwrap();
    lane.on_response(&pass.permit, StatusCode::CREATED, None);
}

/// Keeps so many calls of an instance waiting, and counts those that went.
async fn saturate(
    limiter: &Arc<Limiter>,
    instance: &'static str,
    calls: usize,
) -> Arc<AtomicUsize> {
    accepted(limiter, instance).await;
    let went = Arc::new(AtomicUsize::new(0));
    for _ in 0..calls {
        let (limiter, went) = (Arc::clone(limiter), Arc::clone(&went));
        tokio::spawn(async move {
            loop {
                let lane = lane_of(&limiter, instance, "t");
                limiter
                    .acquire(&lane, Kind::Request, Instant::now(), Route::Other)
                    .await
                    .unwrap();
                went.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    went
}

/// The same for several instances, from the same time on.
async fn saturated(limiter: &Arc<Limiter>, instances: &[&'static str]) -> Vec<Arc<AtomicUsize>> {
    let mut went = Vec::new();
    for instance in instances {
        accepted(limiter, instance).await;
    }
    for instance in instances {
        went.push(saturate(limiter, instance, 3).await);
    }
    went.iter()
        .for_each(|went| went.store(0, Ordering::Relaxed));
    went
}

fn per_second(went: &AtomicUsize, seconds: f64) -> f64 {
    went.load(Ordering::Relaxed) as f64 / seconds
}

#[tokio::test(start_paused = true)]
async fn tenants_share_by_weight_whatever_number_of_instances_they_have() {
    let tenants = vec![
        tenant("one", 1, None, &["a", "b", "c"]),
        tenant("two", 2, None, &["d"]),
        tenant("four", 4, None, &["e", "f"]),
    ];
    let limiter = scarce(70.0, tenants);
    let went = saturated(&limiter, &["a", "b", "c", "d", "e", "f"]).await;
    tokio::time::sleep(ms(20_000)).await;
    let rate = |range: std::ops::Range<usize>| {
        went[range]
            .iter()
            .map(|went| per_second(went, 20.0))
            .sum::<f64>()
    };
    for (rate, share) in [(rate(0..3), 10.0), (rate(3..4), 20.0), (rate(4..6), 40.0)] {
        assert!(
            (rate - share).abs() <= share * 0.05,
            "{rate}/s, not {share}/s"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn instances_of_no_tenant_are_tenants_of_their_own() {
    let limiter = scarce(30.0, vec![tenant("t", 1, None, &["a", "b"])]);
    let went = saturated(&limiter, &["a", "b", "x", "y"]).await;
    tokio::time::sleep(ms(20_000)).await;
    for (went, share) in went.iter().zip([5.0, 5.0, 10.0, 10.0]) {
        let rate = per_second(went, 20.0);
        assert!(
            (rate - share).abs() <= share * 0.05,
            "{rate}/s, not {share}/s"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_made_up_names_buys_one_share() {
    let limiter = scarce(20.0, Vec::new());
    let rightful = saturate(&limiter, "rightful", 3).await;
    for n in 0..500 {
        let limiter = Arc::clone(&limiter);
        tokio::spawn(async move {
            let lane = lane_of(&limiter, &format!("made-up-{n}"), "x");
            let passed = limiter.acquire(&lane, Kind::Request, Instant::now(), Route::Other);
            passed.await.ok();
        });
    }
    tokio::time::sleep(ms(20_000)).await;
    let rate = per_second(&rightful, 20.0);
    assert!((rate - 10.0).abs() <= 0.6, "{rate}/s");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_tenant_waits_for_one_slot_behind_a_flood() {
    let limiter = scarce(10.0, Vec::new());
    let _flood = saturate(&limiter, "flood", 1000).await;
    accepted(&limiter, "quiet").await;
    tokio::time::sleep(ms(5_000)).await;
    for _ in 0..50 {
        let arrived = Instant::now();
        let lane = lane_of(&limiter, "quiet", "t");
        limiter
            .acquire(&lane, Kind::Request, arrived, Route::Other)
            .await
            .unwrap();
        assert!(arrived.elapsed() <= ms(102), "{:?}", arrived.elapsed());
        tokio::time::sleep(ms(730)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenants_own_budget_holds_over_all_its_instances() {
    let limiter = scarce(1000.0, vec![tenant("t", 1, quota(6.0, 1), &["a", "b"])]);
    let went = saturated(&limiter, &["a", "b"]).await;
    tokio::time::sleep(ms(20_000)).await;
    let rates = [per_second(&went[0], 20.0), per_second(&went[1], 20.0)];
    assert!((rates[0] + rates[1] - 6.0).abs() < 0.3, "{rates:?}");
    assert!((rates[0] - rates[1]).abs() < 0.3, "round-robin: {rates:?}");
}

#[tokio::test(start_paused = true)]
async fn a_bound_tenant_needs_no_scarce_egress() {
    let mut config = settings(None);
    config.tenants = vec![tenant("t", 1, quota(6.0, 1), &["a", "b"])];
    let limiter = Arc::new(limiter(&config));
    let went = saturated(&limiter, &["a", "b"]).await;
    tokio::time::sleep(ms(10_000)).await;
    let both = per_second(&went[0], 10.0) + per_second(&went[1], 10.0);
    assert!((both - 6.0).abs() < 0.3, "{both}");
}

/// Where neither the egress nor the tenant has a budget, nothing is shared.
#[tokio::test(start_paused = true)]
async fn an_instance_shares_only_budgets_that_there_are() {
    let own = quota(6.0, 1);
    let share = |weight, quota| {
        let weight = NonZeroU32::new(weight).unwrap();
        Some(SharedBudget { weight, quota })
    };
    for egress in [None, quota(10.0, 1)] {
        let mut config = settings(None);
        config.egress.quota = egress;
        config.tenants = vec![
            tenant("bound", 2, own, &["b"]),
            tenant("free", 3, None, &["f"]),
        ];
        let limiter = limiter(&config);
        let of_egress = |weight| share(weight, None).filter(|_| egress.is_some());
        for (instance, expected) in [
            ("b", [share(2, own), share(1, own)]),
            ("f", [of_egress(3), of_egress(1)]),
            ("x", [of_egress(1), of_egress(1)]),
            ("", [of_egress(1), of_egress(1)]),
        ] {
            let shared = lane_of(&limiter, instance, "t").shared_budgets();
            assert_eq!(shared, expected, "{instance} {egress:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn bucket_and_egress_both_hold_and_no_token_is_lost_between_them() {
    let mut config = settings(quota(8.0, 1));
    config.egress.quota = quota(10.0, 1);
    let limiter = Arc::new(limiter(&config));
    // Each could have 8, both together 10: the egress binds, to the last token.
    let went = saturated(&limiter, &["a", "b"]).await;
    tokio::time::sleep(ms(30_000)).await;
    let rates = [per_second(&went[0], 30.0), per_second(&went[1], 30.0)];
    assert!((rates[0] + rates[1] - 10.0).abs() < 0.2, "{rates:?}");
    assert!(rates.iter().all(|rate| *rate <= 8.1), "{rates:?}");
}

#[tokio::test(start_paused = true)]
async fn sends_of_a_tenant_go_before_its_receipts_until_those_are_old() {
    let limiter = scarce(1.0, vec![tenant("t", 1, None, &["a", "b"])]);
    let _sends = saturate(&limiter, "a", 2).await;
    accepted(&limiter, "b").await;
    tokio::time::sleep(ms(1_500)).await;
    let arrived = Instant::now();
    let lane = lane_of(&limiter, "b", "t");
    let kind = Kind::Receipt { opened: arrived };
    limiter
        .acquire(&lane, kind, arrived, Route::ReceiptPath)
        .await
        .unwrap();
    let wait = arrived.elapsed();
    assert!(wait >= ms(2000) && wait <= ms(3100), "{wait:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_would_wait_too_long_for_its_share_is_refused_at_once() {
    let limiter = scarce(1.0, Vec::new());
    accepted(&limiter, "a").await;
    let lane = lane_of(&limiter, "a", "t");
    let mut line = Vec::new();
    let start = Instant::now();
    let refused = loop {
        match limiter.admit(&lane, Kind::Request, later(4000)) {
            Ok(admission) => line.push(admission),
            Err(refused) => break refused,
        }
    };
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!((3..=6).contains(&line.len()), "{}", line.len());
    assert_eq!(refused.refusal, Refusal::WaitTooLong);
    assert!(refused.retry_after > ms(4000) && refused.retry_after < ms(7000));
}

#[tokio::test(start_paused = true)]
async fn a_reload_changes_the_shares_of_waiting_requests() {
    let mut config = settings(None);
    config.egress.quota = quota(10.0, 1);
    config.tenants = vec![
        tenant("one", 1, None, &["a"]),
        tenant("two", 1, None, &["b"]),
    ];
    let limiter = Arc::new(limiter(&config));
    let went = saturated(&limiter, &["a", "b"]).await;
    tokio::time::sleep(ms(10_000)).await;
    let before = [
        went[0].load(Ordering::Relaxed),
        went[1].load(Ordering::Relaxed),
    ];
    config.tenants[1].weight = NonZeroU32::new(4).unwrap();
    config.egress.quota = quota(50.0, 1);
    limiter.reconfigure(&config);
    tokio::time::sleep(ms(10_000)).await;
    let rate = |n: usize| (went[n].load(Ordering::Relaxed) - before[n]) as f64 / 10.0;
    assert!(
        (rate(0) - 10.0).abs() < 1.0 && (rate(1) - 40.0).abs() < 2.0,
        "{} {}",
        rate(0),
        rate(1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_lifts_the_limit_lets_all_go() {
    let mut config = settings(None);
    config.egress.quota = quota(0.01, 1);
    let limiter = Arc::new(limiter(&config));
    let lane = lane_of(&limiter, "a", "t");
    let pass = || limiter.acquire(&lane, Kind::Request, Instant::now(), Route::Other);
    pass().await.unwrap();
    let start = Instant::now();
    config.egress.quota = None;
    let (waiting, ()) = tokio::join!(pass(), async {
        tokio::time::sleep(ms(10)).await;
        limiter.reconfigure(&config);
    });
    waiting.unwrap();
    assert_eq!(start.elapsed(), ms(10));
}

/// The first calls of `c` come together, before it is verified: they must not
/// count for a second share once it is.
#[tokio::test(start_paused = true)]
async fn an_instance_that_begins_with_many_calls_gets_one_share() {
    let limiter = scarce(30.0, Vec::new());
    let known = saturated(&limiter, &["a", "b"]).await;
    let went = Arc::new(AtomicUsize::new(0));
    for _ in 0..10 {
        let (limiter, went) = (Arc::clone(&limiter), Arc::clone(&went));
        tokio::spawn(async move {
            loop {
                let lane = lane_of(&limiter, "c", "t");
                let passed = limiter.acquire(&lane, Kind::Request, Instant::now(), Route::Other);
                let permit = passed.await.unwrap().permit;
                went.fetch_add(1, Ordering::Relaxed);
                lane.on_response(&permit, StatusCode::CREATED, None);
            }
        });
    }
    tokio::time::sleep(ms(20_000)).await;
    for went in known.iter().chain([&went]) {
        let rate = per_second(went, 20.0);
        assert!((rate - 10.0).abs() <= 0.6, "{rate}/s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_gives_a_tenant_more_is_felt_at_once() {
    let mut config = settings(None);
    config.tenants = vec![tenant("t", 1, quota(0.001, 1), &["a"])];
    let limiter = limiter(&config);
    accepted(&limiter, "a").await;
    let lane = lane_of(&limiter, "a", "t");
    now(&limiter, &lane);
    let waiting = queued(&limiter, &lane, Kind::Request);
    // It waits at the egress by then.
    tokio::time::sleep(ms(100)).await;
    config.tenants = vec![tenant("t", 1, quota(100.0, 100), &["a"])];
    limiter.reconfigure(&config);
    let start = Instant::now();
    waiting.await;
    assert!(start.elapsed() <= ms(20), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_began_before_a_reload_leaves_its_instance_in_the_new_sharing() {
    let mut config = settings(None);
    let limiter = limiter(&config);
    let lane = lane_of(&limiter, "a", "t");
    let permit = now(&limiter, &lane);
    config.egress.quota = quota(1.0, 1);
    limiter.reconfigure(&config);
    lane.on_response(&permit, StatusCode::CREATED, None);
    let lane = lane_of(&limiter, "a", "t");
    now(&limiter, &lane);
    let second = limiter.admit(&lane, Kind::Request, Instant::now());
    assert_eq!(second.unwrap_err().scope, Scope::Egress);
}

/// Unverified credentials have a second budget of the tenant's size, whatever
/// number of them and of instances there is.
#[tokio::test(start_paused = true)]
async fn unverified_requests_never_draw_on_the_tenants_own_budget() {
    let mut config = settings(None);
    config.tenants = vec![tenant("t", 1, quota(0.01, 5), &["a", "b", "new"])];
    let limiter = limiter(&config);
    accepted(&limiter, "a").await;
    let mut went = 0;
    for call in 0..50 {
        let instance = ["a", "b", "new"][call % 3];
        let lane = lane_of(&limiter, instance, &format!("made-up-{call}"));
        went += usize::from(limiter.check(&lane, Kind::Request, Instant::now()).is_ok());
        drain(&limiter, &lane);
    }
    assert_eq!(went, 1, "the first drained what was left of five");
    assert_eq!(drain(&limiter, &lane_of(&limiter, "a", "t")), 5);
}

#[tokio::test(start_paused = true)]
async fn the_oldest_receipt_of_a_tenant_goes_first() {
    tokio::time::advance(ms(60_000)).await;
    let limiter = scarce(2.0, vec![tenant("t", 1, None, &["a", "b", "c"])]);
    accepted(&limiter, "b").await;
    accepted(&limiter, "c").await;
    let _calls = saturated(&limiter, &["a"]).await;
    let receipt = |instance, age| {
        let lane = lane_of(&limiter, instance, "t");
        let opened = Instant::now() - ms(age);
        queued(&limiter, &lane, Kind::Receipt { opened })
    };
    let fresh = receipt("b", 0);
    tokio::time::sleep(ms(10)).await;
    let arrived = Instant::now();
    receipt("c", 2_500).await;
    assert!(arrived.elapsed() <= ms(1_000), "{:?}", arrived.elapsed());
    fresh.await;
    assert!(arrived.elapsed() >= ms(1_900), "{:?}", arrived.elapsed());
}
