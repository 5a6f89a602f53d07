//! Which bucket a credential draws on (rule: verification).

use super::*;

/// A lane of an instance for which the upstream has accepted `token`.
fn verified(limiter: &Limiter, instance: &str, token: &str) -> Lane {
    let lane = lane_of(limiter, instance, token);
    let permit = now(limiter, &lane);
    lane.on_response(&permit, StatusCode::CREATED, None);
    lane_of(limiter, instance, token)
}

#[tokio::test(start_paused = true)]
async fn unverified_credentials_share_a_bucket_of_their_own() {
    let limiter = of(1.0, 5);
    let owner = verified(&limiter, "1", "owner");
    let mut taken = 0;
    for other in 0..100 {
        let lane = lane_of(&limiter, "1", &format!("guess{other}"));
        taken += drain(&limiter, &lane);
    }
    assert_eq!(taken, 5, "one bucket for all of them");
    assert_eq!(drain(&limiter, &owner), 4, "and the owner's is untouched");
}

#[tokio::test(start_paused = true)]
async fn a_queue_of_unverified_requests_is_not_the_owners() {
    let limiter = of(1.0, 1);
    let owner = verified(&limiter, "1", "owner");
    let other = lane_of(&limiter, "1", "guess");
    now(&limiter, &other);
    let line: Vec<_> = (0..500)
        .map(|_| queued(&limiter, &other, Kind::Request))
        .collect();
    let start = Instant::now();
    queued(&limiter, &owner, Kind::Request).await;
    assert_eq!(start.elapsed(), ms(1000));
    drop(line);
}

#[tokio::test(start_paused = true)]
async fn what_verifies_a_credential() {
    for (status, verifies) in [
        (200, true),
        (201, true),
        (302, false),
        (400, false),
        (404, false),
        (500, false),
        (502, false),
        (401, false),
        (403, false),
        (429, false),
    ] {
        let limiter = of(1.0, 3);
        verified(&limiter, "1", "owner");
        let lane = lane_of(&limiter, "1", "other");
        let permit = now(&limiter, &lane);
        let status = StatusCode::from_u16(status).unwrap();
        lane.on_response(&permit, status, None);
        // The owner has spent one token, the other one from the second bucket.
        drain(&limiter, &lane_of(&limiter, "1", "owner"));
        let left = drain(&limiter, &lane_of(&limiter, "1", "other"));
        // A 429 to it pauses the second bucket, so no token is left there either.
        let expected = if verifies || status == 429 { 0 } else { 2 };
        assert_eq!(left, expected, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_429_to_an_unverified_credential_pauses_only_the_second_bucket() {
    let limiter = of(10.0, 10);
    let owner = verified(&limiter, "1", "owner");
    let other = lane_of(&limiter, "1", "guess");
    let permit = now(&limiter, &other);
    other.on_response(&permit, StatusCode::TOO_MANY_REQUESTS, Some(ms(60_000)));
    now(&limiter, &owner);
    let held = limiter.admit(&other, Kind::Request, later(1000));
    assert_eq!(held.err().unwrap().refusal, Refusal::Paused);
}

#[tokio::test(start_paused = true)]
async fn without_a_verified_credential_there_is_one_bucket() {
    let limiter = of(1.0, 5);
    assert_eq!(drain(&limiter, &lane_of(&limiter, "1", "a")), 5);
    assert_eq!(drain(&limiter, &lane_of(&limiter, "1", "b")), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_without_credential_is_unverified() {
    let limiter = of(1.0, 5);
    let owner = verified(&limiter, "1", "owner");
    let (head, ()) = Request::get("/?instance_id=1")
        .body(())
        .unwrap()
        .into_parts();
    let anonymous = limiter.lane(
        &limiter.rules(),
        &Findings::of_head(&head).identity(),
        |_, _| None,
        true,
    );
    let permit = now(&limiter, &anonymous);
    anonymous.on_response(&permit, StatusCode::OK, None);
    assert_eq!(drain(&limiter, &anonymous), 4);
    assert_eq!(drain(&limiter, &owner), 4);
}

#[tokio::test(start_paused = true)]
async fn made_up_instances_take_up_no_label() {
    let mut config = settings(quota(1.0, 5));
    config.metrics.max_instances = 1;
    let limiter = limiter(&config);
    let text = |limiter: &Limiter| limiter.metrics.exposition();
    for n in 0..5 {
        let lane = lane_of(&limiter, &format!("made-up-{n}"), "t");
        let permit = now(&limiter, &lane);
        lane.on_response(&permit, StatusCode::UNAUTHORIZED, None);
        lane.series().requests(Route::Other).inc();
    }
    assert!(!text(&limiter).contains("made-up"));
    verified(&limiter, "real", "t")
        .series()
        .requests(Route::Other)
        .inc();
    assert!(text(&limiter).contains("instance=\"real\""));
}

#[tokio::test(start_paused = true)]
async fn a_credential_does_not_overtake_its_own_waiting_requests_when_it_is_verified() {
    let limiter = of(1.0, 1);
    verified(&limiter, "1", "owner");
    let other = lane_of(&limiter, "1", "new");
    let permit = now(&limiter, &other);
    let line = queued(&limiter, &other, Kind::Request);
    other.on_response(&permit, StatusCode::CREATED, None);
    // The waiting request has moved to the main bucket, before the next one.
    tokio::time::sleep(ms(500)).await;
    let next = queued(&limiter, &lane_of(&limiter, "1", "new"), Kind::Request);
    assert!(line.await.granted < next.await.granted);
    tokio::time::sleep(ms(1500)).await;
    now(&limiter, &lane_of(&limiter, "1", "new"));
}

/// The flood was there first, and the owner verifies itself through it.
#[tokio::test(start_paused = true)]
async fn from_the_first_verification_on_a_flood_costs_the_owner_nothing() {
    let mut settings = settings(quota(10.0, 20));
    settings.limit.max_wait = ms(4000);
    let limiter = Arc::new(limiter(&settings));
    let flood = lane_of(&limiter, "1", "junk");
    let owner = lane_of(&limiter, "1", "owner");
    let permit = now(&limiter, &owner);
    while limiter.admit(&flood, Kind::Request, later(0)).is_ok() {}
    let pass = |lane: &Lane| {
        let (limiter, lane) = (Arc::clone(&limiter), lane.clone());
        async move {
            limiter
                .acquire(&lane, Kind::Request, Instant::now(), Route::Other)
                .await
        }
    };
    let mut floods = tokio::task::JoinSet::new();
    (0..60).for_each(|_| drop(floods.spawn(pass(&flood))));
    tokio::task::yield_now().await;
    lane_answer(&owner, &permit, 201);
    for _ in 0..40 {
        tokio::time::sleep(ms(100)).await;
        floods.spawn(pass(&flood));
        assert!(pass(&owner).await.is_ok());
    }
    assert!(
        floods.join_all().await.iter().any(Result::is_ok),
        "it has a bucket too"
    );
}

/// One token in the query and in a header is two credentials.
#[tokio::test(start_paused = true)]
async fn two_spellings_of_one_token_do_not_double_the_rate() {
    let mut settings = settings(quota(10.0, 1));
    settings.limit.max_wait = ms(4000);
    let limiter = Arc::new(limiter(&settings));
    verified(&limiter, "1", "query");
    let went = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    for token in ["query", "header"] {
        for _ in 0..5 {
            let (limiter, went) = (Arc::clone(&limiter), Arc::clone(&went));
            tokio::spawn(async move {
                loop {
                    let lane = lane_of(&limiter, "1", token);
                    let arrived = Instant::now();
                    let pass = limiter
                        .acquire(&lane, Kind::Request, arrived, Route::Other)
                        .await;
                    if let Ok(pass) = pass {
                        went.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        lane_answer(&lane, &pass.permit, 200);
                    }
                    tokio::time::sleep(ms(1)).await;
                }
            });
        }
    }
    tokio::time::sleep(ms(10_000)).await;
    let went = went.load(std::sync::atomic::Ordering::Relaxed);
    assert!((98..=104).contains(&went), "{went} in 10 s");
}

/// Those who wait move to the bucket that is theirs, and keep their order.
#[tokio::test(start_paused = true)]
async fn waiting_requests_move_with_their_credential_in_order() {
    let limiter = of(1.0, 1);
    let (owner, other) = (
        lane_of(&limiter, "1", "owner"),
        lane_of(&limiter, "1", "other"),
    );
    let permit = now(&limiter, &owner);
    let start = Instant::now();
    let waiting: Vec<_> = [&other, &owner, &other, &owner]
        .map(|lane| queued(&limiter, lane, Kind::Request))
        .into();
    lane_answer(&owner, &permit, 201);
    let mut went = Vec::new();
    for place in waiting {
        went.push((place.await.granted - start).as_millis());
    }
    // Both buckets serve; the second one was full.
    assert_eq!(went, [0, 1000, 1000, 2000]);
}

#[tokio::test(start_paused = true)]
async fn a_401_removes_a_credential() {
    let limiter = of(1.0, 5);
    let owner = verified(&limiter, "1", "owner");
    let other = verified(&limiter, "1", "other");
    let permit = now(&limiter, &other);
    lane_answer(&other, &permit, 401);
    assert_eq!(drain(&limiter, &other), 4, "it draws on the second bucket");
    assert_eq!(drain(&limiter, &owner), 3);
    lane_answer(&owner, &permit, 401);
    assert_eq!(
        drain(&limiter, &owner),
        0,
        "one bucket again, with its debt"
    );
}

/// A junk token that waits while the last verification ends.
#[tokio::test(start_paused = true)]
async fn when_no_credential_is_verified_any_more_all_wait_in_one_queue() {
    let limiter = of(1.0, 1);
    let owner = verified(&limiter, "1", "owner");
    let other = lane_of(&limiter, "1", "other");
    now(&limiter, &other);
    let start = Instant::now();
    let places = [&other, &owner, &other].map(|lane| queued(&limiter, lane, Kind::Request));
    owner.revoke();
    let mut went = Vec::new();
    for place in places {
        went.push((place.await.granted - start).as_millis());
    }
    assert_eq!(went, [1000, 2000, 3000]);
}

#[test]
fn a_hundred_thousand_accounts_are_small() {
    // With the two counters of its `Arc`.
    let size = size_of::<account::Account>() + 2 * size_of::<usize>();
    assert!(size <= 176, "{size} bytes");
}

fn lane_answer(lane: &Lane, permit: &Permit, status: u16) {
    lane.on_response(permit, StatusCode::from_u16(status).unwrap(), None);
}

/// A limiter with a class that permits one token, and the lanes of both limits.
fn with_class() -> (Limiter, impl Fn(&Limiter, &str, Option<usize>) -> Lane) {
    let mut config = settings(quota(1.0, 5));
    config.limit.classes = vec![classes::class("strict", "*", quota(1.0, 1))];
    let lane = |limiter: &Limiter, token: &str, class| {
        limiter.lane(&limiter.rules(), &who("1", token), |_, _| class, true)
    };
    (limiter(&config), lane)
}

#[tokio::test(start_paused = true)]
async fn what_one_class_has_verified_holds_in_all() {
    // The account of the other class is opened after the verification, and before it.
    for opened_before in [false, true] {
        let (limiter, lane) = with_class();
        if opened_before {
            lane(&limiter, "guess", Some(0));
        }
        lane(&limiter, "owner", None).verify();
        assert_eq!(drain(&limiter, &lane(&limiter, "guess", Some(0))), 1);
        let owner = lane(&limiter, "owner", Some(0));
        assert_eq!(drain(&limiter, &owner), 1, "its own token, {opened_before}");
        lane(&limiter, "owner", None).revoke();
        tokio::time::advance(ms(1000)).await;
        assert_eq!(drain(&limiter, &lane(&limiter, "guess", Some(0))), 1);
        assert_eq!(drain(&limiter, &owner), 0, "one bucket again");
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_401_to_a_request_that_could_verify_removes_a_verification() {
    for (verifies, of_others) in [(true, 0), (false, 5)] {
        let limiter = of(1.0, 5);
        verified(&limiter, "1", "owner");
        let page = limiter.lane(&limiter.rules(), &who("1", "owner"), |_, _| None, verifies);
        let permit = now(&limiter, &page);
        page.on_response(&permit, StatusCode::UNAUTHORIZED, None);
        drain(&limiter, &page);
        // A second bucket for others is there only while the owner is verified.
        let others = drain(&limiter, &lane_of(&limiter, "1", "guess"));
        assert_eq!(others, of_others, "could verify: {verifies}");
    }
}

#[tokio::test(start_paused = true)]
async fn where_limits_are_observed_a_429_pauses_the_bucket_of_its_own_credential() {
    let mut config = settings(quota(1.0, 5));
    config.limit.mode = LimitMode::Observe;
    let limiter = limiter(&config);
    lane_of(&limiter, "1", "owner").verify();
    let guess = lane_of(&limiter, "1", "guess");
    // Its shadow opens the second bucket.
    let request = (Kind::Request, Instant::now(), Route::Other);
    let acquired = limiter.acquire(&guess, request.0, request.1, request.2);
    let acquired = acquired.await.unwrap();
    guess.on_response(
        &acquired.permit,
        StatusCode::TOO_MANY_REQUESTS,
        Some(ms(60_000)),
    );
    let paused = |token| lane_of(&limiter, "1", token).paused_until().is_some();
    assert_eq!((paused("owner"), paused("guess")), (false, true));
    // And that of a verified one the other bucket.
    let owner = lane_of(&limiter, "1", "owner");
    let acquired = limiter.acquire(&owner, Kind::Request, Instant::now(), Route::Other);
    let acquired = acquired.await.unwrap();
    let retry_after = Some(ms(30_000));
    owner.on_response(&acquired.permit, StatusCode::TOO_MANY_REQUESTS, retry_after);
    let until = owner.paused_until();
    assert_eq!(until, Some(Instant::now() + ms(30_000)));
}
