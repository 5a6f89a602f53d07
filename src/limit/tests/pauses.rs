//! What an upstream 429 does to the requests that follow (rule: pauses).

use super::*;

const TOO_MANY: StatusCode = StatusCode::TOO_MANY_REQUESTS;

/// A limiter with tokens to spare, and a lane on it.
fn rich() -> (Limiter, Lane) {
    let limiter = of(1000.0, 1000);
    let lane = lane_of(&limiter, "1", "t");
    (limiter, lane)
}

#[tokio::test(start_paused = true)]
async fn a_429_holds_all_back_for_its_retry_after() {
    let (limiter, lane) = rich();
    let permit = now(&limiter, &lane);
    lane.on_response(&permit, TOO_MANY, Some(ms(2500)));
    assert_eq!(lane.series().throttled.get(), 1);
    let refused = limiter
        .admit(&lane, Kind::Request, later(2499))
        .err()
        .unwrap();
    assert_eq!(refused.refusal, Refusal::Paused);
    assert_eq!(refused.retry_after, ms(2500));
    let start = Instant::now();
    queued(&limiter, &lane, Kind::Request).await;
    assert_eq!(start.elapsed(), ms(2500));
}

#[tokio::test(start_paused = true)]
async fn unexplained_429s_double_until_a_success() {
    let (limiter, lane) = rich();
    let mut permit = now(&limiter, &lane);
    for expected in [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000] {
        lane.on_response(&permit, TOO_MANY, None);
        let start = Instant::now();
        permit = queued(&limiter, &lane, Kind::Request).await;
        assert_eq!(start.elapsed(), ms(expected));
    }
    lane.on_response(&permit, StatusCode::CREATED, None);
    tokio::time::advance(ms(1)).await;
    let permit = now(&limiter, &lane);
    lane.on_response(&permit, TOO_MANY, None);
    let start = Instant::now();
    queued(&limiter, &lane, Kind::Request).await;
    assert_eq!(start.elapsed(), ms(1000));
}

#[tokio::test(start_paused = true)]
async fn one_call_goes_first_and_its_success_lets_the_others_go() {
    let (limiter, lane) = rich();
    let permit = now(&limiter, &lane);
    lane.on_response(&permit, TOO_MANY, Some(ms(1000)));
    let start = Instant::now();
    let probe = queued(&limiter, &lane, Kind::Request);
    let others: Vec<_> = (0..10)
        .map(|_| queued(&limiter, &lane, Kind::Request))
        .collect();
    let probe = probe.await;
    assert_eq!(start.elapsed(), ms(1000));
    tokio::time::sleep(ms(300)).await;
    assert_eq!(lane.series().queued.get(), 10, "all wait for the probe");
    lane.on_response(&probe, StatusCode::CREATED, None);
    let mut went = Vec::new();
    for other in others {
        went.push((other.await.granted - start).as_millis());
    }
    let at_the_rate: Vec<_> = (1300..1310).collect();
    assert_eq!(went, at_the_rate, "no burst");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_refused_begins_the_pause_anew_for_all() {
    let (limiter, lane) = rich();
    let permit = now(&limiter, &lane);
    lane.on_response(&permit, TOO_MANY, Some(ms(1000)));
    let start = Instant::now();
    let probe = queued(&limiter, &lane, Kind::Request);
    let next = queued(&limiter, &lane, Kind::Request);
    let probe = probe.await;
    lane.on_response(&probe, TOO_MANY, Some(ms(5000)));
    next.await;
    assert_eq!(start.elapsed(), ms(6000));
}

#[tokio::test(start_paused = true)]
async fn a_silent_probe_holds_none_for_ever() {
    let (limiter, lane) = rich();
    let permit = now(&limiter, &lane);
    lane.on_response(&permit, TOO_MANY, Some(ms(1000)));
    let start = Instant::now();
    let probe = queued(&limiter, &lane, Kind::Request);
    let next = queued(&limiter, &lane, Kind::Request);
    probe.await;
    next.await;
    assert_eq!(start.elapsed(), ms(3000));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_is_followed_by_another_at_once() {
    for status in [None, Some(StatusCode::BAD_GATEWAY)] {
        let (limiter, lane) = rich();
        let permit = now(&limiter, &lane);
        lane.on_response(&permit, TOO_MANY, Some(ms(1000)));
        let probe = queued(&limiter, &lane, Kind::Request).await;
        let start = Instant::now();
        let next = queued(&limiter, &lane, Kind::Request);
        let last = queued(&limiter, &lane, Kind::Request);
        tokio::time::sleep(ms(100)).await;
        match status {
            None => lane.on_no_response(&probe),
            Some(status) => lane.on_response(&probe, status, None),
        }
        let next = next.await;
        assert_eq!(start.elapsed().as_millis() / 10, 10, "{status:?}");
        // It is a probe too: the last one waits for its response.
        tokio::time::sleep(ms(500)).await;
        lane.on_response(&next, StatusCode::CREATED, None);
        last.await;
        assert_eq!(start.elapsed().as_millis() / 10, 60, "{status:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn answers_to_calls_sent_before_the_pause_change_nothing() {
    let (limiter, lane) = rich();
    let sent: Vec<_> = (0..5).map(|_| now(&limiter, &lane)).collect();
    tokio::time::advance(ms(100)).await;
    let start = Instant::now();
    for straggler in &sent {
        lane.on_response(straggler, TOO_MANY, None);
    }
    lane.on_response(&sent[0], StatusCode::CREATED, None);
    let permit = queued(&limiter, &lane, Kind::Request).await;
    assert_eq!(start.elapsed(), ms(1000), "five 429s at one time are one");
    lane.on_response(&permit, TOO_MANY, None);
    let again = Instant::now();
    queued(&limiter, &lane, Kind::Request).await;
    assert_eq!(again.elapsed(), ms(2000));
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_felt_where_the_rate_is_unlimited_too() {
    let limiter = limiter(&settings(None));
    let lane = lane_of(&limiter, "1", "t");
    let permit = now(&limiter, &lane);
    lane.on_response(&permit, TOO_MANY, Some(ms(1500)));
    let start = Instant::now();
    queued(&limiter, &lane, Kind::Request).await;
    assert_eq!(start.elapsed(), ms(1500));
}

#[tokio::test(start_paused = true)]
async fn calls_held_back_never_prolong_the_pause() {
    let (limiter, lane) = rich();
    let permit = now(&limiter, &lane);
    lane.on_response(&permit, TOO_MANY, Some(ms(1000)));
    let end = later(1000);
    while Instant::now() < end {
        let refused = limiter.admit(&lane, Kind::Request, Instant::now());
        let refused = refused.expect_err("held back");
        assert_eq!(Instant::now() + refused.retry_after, end);
        tokio::time::advance(ms(50)).await;
    }
    now(&limiter, &lane);
}

/// One probe at 2 s, then the rate: nothing is saved up in a pause.
#[tokio::test(start_paused = true)]
async fn after_a_pause_the_bucket_is_empty() {
    let limiter = of(1.0, 20);
    let lane = lane_of(&limiter, "1", "t");
    let permit = now(&limiter, &lane);
    lane.on_response(&permit, TOO_MANY, Some(ms(2000)));
    let start = Instant::now();
    let mut line = Vec::new();
    let refused = loop {
        match limiter.admit(&lane, Kind::Request, later(4000)) {
            Ok(Admission::Queued(ticket)) => line.push(ticket),
            Ok(Admission::Now(permit)) => panic!("{permit:?}"),
            Err(refused) => break refused,
        }
    };
    assert_eq!((line.len(), refused.refusal), (3, Refusal::Paused));
    assert_eq!(refused.retry_after, ms(5000));
    for (ticket, at) in line.into_iter().zip([2000, 3000, 4000]) {
        let permit = ticket.await.unwrap();
        assert_eq!(permit.granted - start, ms(at));
        lane.on_response(&permit, StatusCode::CREATED, None);
    }
    assert_eq!(drain(&limiter, &lane), 0);
}

#[tokio::test(start_paused = true)]
async fn a_pause_refuses_the_waiting_requests_whose_deadline_it_covers() {
    let mut settings = settings(quota(1.0, 1));
    settings.limit.max_wait = ms(4000);
    let limiter = Arc::new(limiter(&settings));
    let lane = lane_of(&limiter, "1", "t");
    let permit = now(&limiter, &lane);
    let start = Instant::now();
    let short: Vec<_> = [Kind::Request, Kind::Receipt { opened: start }]
        .map(|kind| limiter.admit(&lane, kind, later(4000)).unwrap())
        .into();
    let long = queued(&limiter, &lane, Kind::Request);
    tokio::time::sleep(ms(500)).await;
    lane.on_response(&permit, TOO_MANY, Some(ms(10_000)));
    for admission in short {
        let Admission::Queued(ticket) = admission else {
            panic!("no token is there");
        };
        let refused = ticket.await.unwrap_err();
        assert_eq!(start.elapsed(), ms(500), "at once");
        assert_eq!(refused.refusal, Refusal::Paused);
        assert_eq!(refused.retry_after, ms(10_000));
    }
    // A receipt that would join a batch is refused as well.
    let refused = lane.check_pause(later(4000)).unwrap_err();
    assert_eq!(refused.refusal, Refusal::Paused);
    assert_eq!(lane.check_pause(later(10_000)), Ok(()));
    long.await;
    assert_eq!(start.elapsed(), ms(10_500));
}

/// The first probe may have its response at any time. Once it timed out, a request
/// waits for no probe whose head start ends after its deadline.
#[tokio::test(start_paused = true)]
async fn behind_a_probe_that_hangs_requests_are_refused_before_their_deadline() {
    let mut settings = settings(quota(10.0, 10));
    settings.limit.max_wait = ms(4000);
    let limiter = Arc::new(limiter(&settings));
    let lane = lane_of(&limiter, "1", "t");
    let permit = now(&limiter, &lane);
    lane.on_response(&permit, TOO_MANY, Some(ms(1000)));
    let start = Instant::now();
    let mut passes = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let (limiter, lane) = (Arc::clone(&limiter), lane.clone());
        passes.spawn(async move {
            let pass = limiter.acquire(&lane, Kind::Request, start, Route::Other);
            (pass.await.is_ok(), start.elapsed().as_millis())
        });
    }
    let mut outcomes = passes.join_all().await;
    outcomes.sort_unstable();
    let refused = (false, 3000);
    assert_eq!(
        outcomes,
        [refused, refused, refused, (true, 1000), (true, 3000)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_ended_a_minute_ago_is_forgotten() {
    for (quiet, begins_with, next_pause) in [(60_900, 1, 2000), (61_100, 20, 1000)] {
        let limiter = of(10.0, 20);
        let lane = lane_of(&limiter, "1", "t");
        lane.on_response(&now(&limiter, &lane), TOO_MANY, None);
        tokio::time::sleep(ms(quiet)).await;
        let permits: Vec<_> = (0..21)
            .map_while(|_| match limiter.admit(&lane, Kind::Request, later(0)) {
                Ok(Admission::Now(permit)) => Some(permit),
                _ => None,
            })
            .collect();
        assert_eq!(permits.len(), begins_with, "{quiet}");
        lane.on_response(&permits[0], TOO_MANY, None);
        let until = lane.paused_until().unwrap();
        assert_eq!(until - Instant::now(), ms(next_pause), "{quiet}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_429_from_before_a_pause_that_is_over_begins_no_other() {
    for named in [None, Some(ms(3000))] {
        let (limiter, lane) = rich();
        let (first, late) = (now(&limiter, &lane), now(&limiter, &lane));
        tokio::time::sleep(ms(100)).await;
        lane.on_response(&first, TOO_MANY, Some(ms(1000)));
        let probe = queued(&limiter, &lane, Kind::Request).await;
        tokio::time::sleep(ms(200)).await;
        lane.on_response(&probe, StatusCode::CREATED, None);
        tokio::time::sleep(ms(200)).await;
        lane.on_response(&late, TOO_MANY, named);
        // Only a named end that is later pauses.
        let paused = lane.paused_until().map(|until| until - Instant::now());
        assert_eq!(paused, named);
        if named.is_none() {
            now(&limiter, &lane);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_before_a_late_429_does_not_count_as_silent() {
    let (limiter, lane) = rich();
    let (first, late) = (now(&limiter, &lane), now(&limiter, &lane));
    tokio::time::sleep(ms(100)).await;
    lane.on_response(&first, TOO_MANY, Some(ms(1000)));
    let probe = queued(&limiter, &lane, Kind::Request).await;
    lane.on_response(&late, TOO_MANY, Some(ms(3000)));
    lane.on_response(&probe, StatusCode::CREATED, None);
    let next = queued(&limiter, &lane, Kind::Request);
    let Ok(Admission::Queued(waiting)) = limiter.admit(&lane, Kind::Request, later(4500)) else {
        panic!("not queued");
    };
    let next = next.await;
    tokio::time::sleep(ms(100)).await;
    // Behind a probe that followed a silent one, it would have been refused by now.
    lane.on_response(&next, StatusCode::CREATED, None);
    waiting.await.unwrap();
}
