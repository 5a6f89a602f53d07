//! Knowing an instance's name is not enough to drain its budget (design §3.1).

use super::*;

/// A lane of an instance whose owner `token` the upstream has accepted.
fn proven(limiter: &Limiter, instance: &str, token: &str) -> Lane {
    let lane = lane_of(limiter, instance, token);
    let permit = now(limiter, &lane);
    lane.answered(&permit, StatusCode::CREATED, None);
    lane_of(limiter, instance, token)
}

#[tokio::test(start_paused = true)]
async fn strangers_share_a_bucket_of_their_own() {
    let limiter = of(1.0, 5);
    let owner = proven(&limiter, "1", "owner");
    let mut taken = 0;
    for stranger in 0..100 {
        let lane = lane_of(&limiter, "1", &format!("guess{stranger}"));
        taken += drain(&limiter, &lane);
    }
    assert_eq!(taken, 5, "one bucket for all of them");
    assert_eq!(drain(&limiter, &owner), 4, "and the owner's is untouched");
}

#[tokio::test(start_paused = true)]
async fn a_line_of_strangers_is_not_the_owners() {
    let limiter = of(1.0, 1);
    let owner = proven(&limiter, "1", "owner");
    let stranger = lane_of(&limiter, "1", "guess");
    now(&limiter, &stranger);
    let line: Vec<_> = (0..500)
        .map(|_| queued(&limiter, &stranger, Kind::Request))
        .collect();
    let start = Instant::now();
    queued(&limiter, &owner, Kind::Request).await;
    assert_eq!(start.elapsed(), ms(1000));
    drop(line);
}

#[tokio::test(start_paused = true)]
async fn what_proves_a_credential() {
    for (status, proves) in [
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
        proven(&limiter, "1", "owner");
        let lane = lane_of(&limiter, "1", "other");
        let permit = now(&limiter, &lane);
        let status = StatusCode::from_u16(status).unwrap();
        lane.answered(&permit, status, None);
        // The owner has spent one token, the other one from the second bucket.
        drain(&limiter, &lane_of(&limiter, "1", "owner"));
        let left = drain(&limiter, &lane_of(&limiter, "1", "other"));
        // A stranger's 429 pauses the second bucket, so no token is left there either.
        let expected = if proves || status == 429 { 0 } else { 2 };
        assert_eq!(left, expected, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_strangers_429_pauses_strangers_only() {
    let limiter = of(10.0, 10);
    let owner = proven(&limiter, "1", "owner");
    let stranger = lane_of(&limiter, "1", "guess");
    let permit = now(&limiter, &stranger);
    stranger.answered(&permit, StatusCode::TOO_MANY_REQUESTS, Some(ms(60_000)));
    now(&limiter, &owner);
    let held = limiter.admit(&stranger, Kind::Request, later(1000));
    assert_eq!(held.err().unwrap().refusal, Refusal::Paused);
}

#[tokio::test(start_paused = true)]
async fn without_a_proven_credential_there_is_one_bucket() {
    let limiter = of(1.0, 5);
    assert_eq!(drain(&limiter, &lane_of(&limiter, "1", "a")), 5);
    assert_eq!(drain(&limiter, &lane_of(&limiter, "1", "b")), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_without_credential_is_a_stranger() {
    let limiter = of(1.0, 5);
    let owner = proven(&limiter, "1", "owner");
    let (head, ()) = Request::get("/?instance_id=1")
        .body(())
        .unwrap()
        .into_parts();
    let nobody = limiter.lane(&Findings::of_head(&head).identity(), |_| None, true);
    let permit = now(&limiter, &nobody);
    nobody.answered(&permit, StatusCode::OK, None);
    assert_eq!(drain(&limiter, &nobody), 4);
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
        lane.answered(&permit, StatusCode::UNAUTHORIZED, None);
        lane.series().requests(Route::Other).inc();
    }
    assert!(!text(&limiter).contains("made-up"));
    proven(&limiter, "real", "t")
        .series()
        .requests(Route::Other)
        .inc();
    assert!(text(&limiter).contains("instance=\"real\""));
}

#[tokio::test(start_paused = true)]
async fn a_credential_that_is_proven_does_not_overtake_its_own_waiting_calls() {
    let limiter = of(1.0, 1);
    proven(&limiter, "1", "owner");
    let stranger = lane_of(&limiter, "1", "new");
    let permit = now(&limiter, &stranger);
    let line = queued(&limiter, &stranger, Kind::Request);
    stranger.answered(&permit, StatusCode::CREATED, None);
    // The main bucket has a token again by then, but the first one still waits.
    tokio::time::sleep(ms(500)).await;
    let next = queued(&limiter, &lane_of(&limiter, "1", "new"), Kind::Request);
    assert!(line.await.granted < next.await.granted);
    tokio::time::sleep(ms(1500)).await;
    now(&limiter, &lane_of(&limiter, "1", "new"));
}
