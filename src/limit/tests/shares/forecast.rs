//! When a request is refused that would wait too long for a share, and what counts.

use super::*;

/// Of the egress, then of a tenant: the refusal names the budget and the time.
#[tokio::test(start_paused = true)]
async fn a_share_that_is_used_up_refuses_at_once() {
    let slow = quota(0.1, 1);
    let mut over_all = settings(quota(10.0, 20));
    over_all.egress.quota = slow;
    let mut of_tenant = settings(quota(10.0, 20));
    of_tenant.tenants = vec![tenant("t", 1, slow, &["a", "b"])];
    // With both budgets, the one that is used up.
    let mut rich_tenant = over_all.clone();
    rich_tenant.tenants = vec![tenant("t", 1, quota(10.0, 20), &["a", "b"])];
    let mut rich_egress = of_tenant.clone();
    rich_egress.egress.quota = quota(10.0, 20);
    for (config, scope) in [
        (over_all, Scope::Egress),
        (of_tenant, Scope::Tenant),
        (rich_tenant, Scope::Egress),
        (rich_egress, Scope::Tenant),
    ] {
        let limiter = Arc::new(limiter(&config));
        accepted(&limiter, "a").await;
        tokio::time::advance(ms(11_000)).await;
        let lane = lane_of(&limiter, "a", "t");
        let is_checked = |wait| limiter.check(&lane, Kind::Request, later(wait));
        assert_eq!(is_checked(0), Ok(()));
        now(&limiter, &lane);
        let refused = limiter
            .admit(&lane, Kind::Request, later(9_000))
            .expect_err("its token comes later");
        assert_eq!(is_checked(9_000), Err(refused));
        assert_eq!(is_checked(11_000), Ok(()));
        assert_eq!(refused.refusal, Refusal::WaitTooLong);
        assert_eq!((refused.scope, refused.quota), (scope, slow));
        assert!(refused.retry_after > ms(9_000) && refused.retry_after <= ms(10_000));
    }
}

/// Each bucket has a rate below that of the tenant, both together have not.
#[tokio::test(start_paused = true)]
async fn the_waiting_requests_of_a_tenant_count_together() {
    let mut config = settings(quota(1.0, 1));
    config.tenants = vec![tenant("t", 1, quota(1.5, 5), &["a", "b"])];
    let limiter = limiter(&config);
    let lanes = ["a", "b"].map(|instance| lane_of(&limiter, instance, "t"));
    let mut waiting = Vec::new();
    for lane in &lanes {
        lane.verify();
        now(&limiter, lane);
        waiting.extend((0..11).map(|_| queued(&limiter, lane, Kind::Request)));
    }
    // Alone, the bucket would have its token after 12 s.
    let refused = limiter.check(&lanes[1], Kind::Request, later(12_100));
    assert_eq!(refused.unwrap_err().scope, Scope::Tenant);
    assert_eq!(
        limiter.check(&lanes[1], Kind::Request, later(20_000)),
        Ok(())
    );
}

/// Each is the first of its own line: what they wait for is the others.
#[tokio::test(start_paused = true)]
async fn a_request_behind_many_tenants_is_refused_at_once() {
    let limiter = scarce(1.0, Vec::new());
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    for name in names {
        accepted(&limiter, name).await;
    }
    let ask = |name, wait| {
        let lane = lane_of(&limiter, name, "t");
        limiter.admit(&lane, Kind::Request, later(wait))
    };
    let mut line = Vec::new();
    for name in &names[..4] {
        line.push(ask(name, 4000).unwrap());
    }
    for name in &names[4..] {
        let refused = ask(name, 4000).unwrap_err();
        assert_eq!(refused.scope, Scope::Egress);
        assert_eq!(refused.retry_after, ms(5000), "{name}");
    }
    assert!(ask("h", 5000).is_ok());
}

/// What waits for its own bucket or a pause delays no other at the egress.
#[tokio::test(start_paused = true)]
async fn paused_instances_refuse_no_other() {
    let mut config = settings(quota(10.0, 20));
    config.egress.quota = quota(2.0, 5);
    let limiter = limiter(&config);
    accepted(&limiter, "quiet").await;
    let mut line = Vec::new();
    for number in 0..12 {
        let name = format!("paused{number}");
        let lane = lane_of(&limiter, &name, "t");
        let pass = limiter.acquire(&lane, Kind::Request, Instant::now(), Route::Other);
        let permit = pass.await.unwrap().permit;
        lane.on_response(&permit, StatusCode::CREATED, None);
        let throttled = StatusCode::TOO_MANY_REQUESTS;
        lane.on_response(&permit, throttled, Some(ms(60_000)));
        line.push(queued(&limiter, &lane, Kind::Request));
    }
    tokio::time::sleep(ms(3_000)).await;
    let lane = lane_of(&limiter, "quiet", "t");
    let asks = |wait| limiter.check(&lane, Kind::Request, later(wait));
    assert_eq!(asks(0), Ok(()));
    drain(&limiter, &lane);
    assert_eq!(asks(500), Ok(()));
}

/// On its first acceptance, and on a reload, an instance of no tenant changes
/// its place in the sharing.
#[tokio::test(start_paused = true)]
async fn waiting_requests_move_with_their_instance() {
    let mut config = settings(None);
    config.egress.quota = quota(2.0, 1);
    let limiter = limiter(&config);
    let lane = lane_of(&limiter, "a", "t");
    let permit = now(&limiter, &lane);
    let _line: Vec<_> = (0..8)
        .map(|_| queued(&limiter, &lane, Kind::Request))
        .collect();
    lane.on_response(&permit, StatusCode::CREATED, None);
    let lane = lane_of(&limiter, "a", "t");
    for _ in 0..2 {
        tokio::time::sleep(ms(5)).await;
        let refused = limiter
            .admit(&lane, Kind::Request, later(4_000))
            .unwrap_err();
        assert!(refused.retry_after > ms(4_400), "{refused:?}");
        // An unverified request is behind none of them but the first.
        let unverified = lane_of(&limiter, "made-up", "x");
        let check = limiter.check(&unverified, Kind::Request, later(1_100));
        assert_eq!(check, Ok(()));
        limiter.reconfigure(&config);
    }
}

/// Requests that wait for their bucket will wait for their share, too.
#[tokio::test(start_paused = true)]
async fn an_own_queue_counts_at_the_egress() {
    let mut config = settings(quota(10.0, 1));
    config.egress.quota = quota(2.0, 1);
    config.limit.max_wait = ms(4_000);
    let limiter = limiter(&config);
    accepted(&limiter, "a").await;
    // Its first call was an unverified one, which may come again for a while.
    tokio::time::advance(ms(10_000)).await;
    now(&limiter, &lane_of(&limiter, "a", "t"));
    let lane = lane_of(&limiter, "a", "t");
    let mut line = Vec::new();
    let refused = loop {
        match limiter.admit(&lane, Kind::Request, later(4_000)) {
            Ok(Admission::Queued(ticket)) => line.push(ticket),
            Ok(Admission::Now(permit)) => panic!("{permit:?}"),
            Err(refused) => break refused,
        }
    };
    assert_eq!((line.len(), refused.scope), (8, Scope::Egress));
    for ticket in line {
        let granted = tokio::time::timeout(ms(4_010), ticket).await;
        assert!(granted.is_ok());
    }
}

/// They had joined before the pause began.
#[tokio::test(start_paused = true)]
async fn requests_caught_by_a_pause_refuse_no_other() {
    let mut config = settings(None);
    config.egress.quota = quota(2.0, 1);
    let limiter = limiter(&config);
    let mut line = Vec::new();
    for name in ["a", "b", "c"] {
        accepted(&limiter, name).await;
        let lane = lane_of(&limiter, name, "t");
        let Ok(Admission::Queued(first)) = limiter.admit(&lane, Kind::Request, later(60_000))
        else {
            panic!("the egress has no token");
        };
        let permit = first.await.unwrap();
        line.extend((0..4).map(|_| queued(&limiter, &lane, Kind::Request)));
        lane.on_response(&permit, StatusCode::TOO_MANY_REQUESTS, Some(ms(60_000)));
    }
    let lane = lane_of(&limiter, "d", "t");
    let check = limiter.check(&lane, Kind::Request, later(2_500));
    assert_eq!(check, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn waiting_requests_are_still_counted_after_a_reload() {
    let mut config = settings(None);
    config.tenants = vec![tenant("t", 1, quota(1.0, 1), &["a"])];
    let limiter = limiter(&config);
    accepted(&limiter, "a").await;
    let lane = lane_of(&limiter, "a", "t");
    now(&limiter, &lane);
    let _waiting: Vec<_> = (0..5)
        .map(|_| queued(&limiter, &lane, Kind::Request))
        .collect();
    limiter.reconfigure(&config);
    let refused = limiter
        .admit(&lane, Kind::Request, later(5_500))
        .unwrap_err();
    assert_eq!(refused.retry_after, ms(6_000));
}

/// Receipts that found a token at once are no requests, which later ones would have to
/// let pass.
#[tokio::test(start_paused = true)]
async fn receipts_alone_may_use_all_that_their_tenant_has() {
    let mut config = settings(None);
    config.limit.max_wait = ms(4000);
    config.tenants = vec![tenant("t", 1, quota(5.0, 20), &["1"])];
    let limiter = Arc::new(limiter(&config));
    lane_of(&limiter, "1", "t").verify();
    let lane = lane_of(&limiter, "1", "t");
    let opened = Instant::now();
    let admit = || limiter.admit(&lane, Kind::Receipt { opened }, later(4000));
    for n in 0..20 {
        assert!(matches!(admit(), Ok(Admission::Now(_))), "{n}");
    }
    assert!(matches!(admit(), Ok(Admission::Queued(_))), "due in 0.2 s");
}

#[tokio::test(start_paused = true)]
async fn the_refusal_after_a_wait_names_the_budget_without_a_token() {
    let mut config = settings(None);
    config.tenants = vec![tenant("t", 1, quota(1.0, 1), &["1"])];
    let limiter = Arc::new(limiter(&config));
    lane_of(&limiter, "1", "t").verify();
    let lane = lane_of(&limiter, "1", "t");
    now(&limiter, &lane);
    let _waits = queued(&limiter, &lane, Kind::Request);
    let refused = lane.too_late();
    assert_eq!(
        (refused.scope, refused.quota),
        (Scope::Tenant, quota(1.0, 1))
    );
}
