//! What an upstream 429 does to those who come after (design §3.6, §7.4).

use super::*;

const TOO_MANY: StatusCode = StatusCode::TOO_MANY_REQUESTS;

/// A limiter with tokens to spare, and a lane on it.
fn rich() -> (Limiter, Lane) {
    let limiter = of(1000.0, 1000);
    let lane = lane_of(&limiter, "1", "t");
    (limiter, lane)
}

#[tokio::test(start_paused = true)]
async fn a_429_holds_everybody_back_for_its_retry_after() {
    let (limiter, lane) = rich();
    let permit = now(&limiter, &lane);
    lane.answered(&permit, TOO_MANY, Some(ms(2500)));
    assert_eq!(lane.series().throttled.get(), 1);
    let refused = limiter.admit(&lane, Kind::Request, later(2499)).err().unwrap();
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
        lane.answered(&permit, TOO_MANY, None);
        let start = Instant::now();
        permit = queued(&limiter, &lane, Kind::Request).await;
        assert_eq!(start.elapsed(), ms(expected));
    }
    lane.answered(&permit, StatusCode::CREATED, None);
    let permit = now(&limiter, &lane);
    lane.answered(&permit, TOO_MANY, None);
    let start = Instant::now();
    queued(&limiter, &lane, Kind::Request).await;
    assert_eq!(start.elapsed(), ms(1000));
}

#[tokio::test(start_paused = true)]
async fn one_call_goes_first_and_its_success_lets_the_others_go() {
    let (limiter, lane) = rich();
    let permit = now(&limiter, &lane);
    lane.answered(&permit, TOO_MANY, Some(ms(1000)));
    let start = Instant::now();
    let probe = queued(&limiter, &lane, Kind::Request);
    let others: Vec<_> = (0..10)
        .map(|_| queued(&limiter, &lane, Kind::Request))
        .collect();
    let probe = probe.await;
    assert_eq!(start.elapsed(), ms(1000));
    tokio::time::sleep(ms(300)).await;
    assert_eq!(lane.series().queued.get(), 10, "all wait for the probe");
    lane.answered(&probe, StatusCode::CREATED, None);
    for other in others {
        other.await;
    }
    assert_eq!(start.elapsed(), ms(1300));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_refused_begins_the_pause_anew_for_all() {
    let (limiter, lane) = rich();
    let permit = now(&limiter, &lane);
    lane.answered(&permit, TOO_MANY, Some(ms(1000)));
    let start = Instant::now();
    let probe = queued(&limiter, &lane, Kind::Request);
    let next = queued(&limiter, &lane, Kind::Request);
    let probe = probe.await;
    lane.answered(&probe, TOO_MANY, Some(ms(5000)));
    next.await;
    assert_eq!(start.elapsed(), ms(6000));
}

#[tokio::test(start_paused = true)]
async fn a_silent_probe_holds_nobody_for_ever() {
    let (limiter, lane) = rich();
    let permit = now(&limiter, &lane);
    lane.answered(&permit, TOO_MANY, Some(ms(1000)));
    let start = Instant::now();
    let probe = queued(&limiter, &lane, Kind::Request);
    let next = queued(&limiter, &lane, Kind::Request);
    probe.await;
    next.await;
    assert_eq!(start.elapsed(), ms(3000));
}

#[tokio::test(start_paused = true)]
async fn answers_to_calls_sent_before_the_pause_change_nothing() {
    let (limiter, lane) = rich();
    let sent: Vec<_> = (0..5).map(|_| now(&limiter, &lane)).collect();
    tokio::time::advance(ms(100)).await;
    let start = Instant::now();
    for straggler in &sent {
        lane.answered(straggler, TOO_MANY, None);
    }
    lane.answered(&sent[0], StatusCode::CREATED, None);
    let permit = queued(&limiter, &lane, Kind::Request).await;
    assert_eq!(start.elapsed(), ms(1000), "five 429s of one moment are one");
    lane.answered(&permit, TOO_MANY, None);
    let again = Instant::now();
    queued(&limiter, &lane, Kind::Request).await;
    assert_eq!(again.elapsed(), ms(2000));
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_felt_where_the_rate_is_unlimited_too() {
    let limiter = limiter(&settings(None));
    let lane = lane_of(&limiter, "1", "t");
    let permit = now(&limiter, &lane);
    lane.answered(&permit, TOO_MANY, Some(ms(1500)));
    let start = Instant::now();
    queued(&limiter, &lane, Kind::Request).await;
    assert_eq!(start.elapsed(), ms(1500));
}

#[tokio::test(start_paused = true)]
async fn calls_held_back_never_prolong_the_pause() {
    let (limiter, lane) = rich();
    let permit = now(&limiter, &lane);
    lane.answered(&permit, TOO_MANY, Some(ms(1000)));
    let end = later(1000);
    while Instant::now() < end {
        let refused = limiter.admit(&lane, Kind::Request, Instant::now());
        let refused = refused.expect_err("held back");
        assert_eq!(Instant::now() + refused.retry_after, end);
        tokio::time::advance(ms(50)).await;
    }
    now(&limiter, &lane);
}

#[tokio::test(start_paused = true)]
async fn tokens_saved_up_in_a_pause_are_counted_in() {
    let limiter = of(1.0, 20);
    let lane = lane_of(&limiter, "1", "t");
    let permit = now(&limiter, &lane);
    lane.answered(&permit, TOO_MANY, Some(ms(2000)));
    // 20 tokens wait at the end of the pause: nobody needs to be refused.
    let line: Vec<_> = (0..20)
        .map(|place| {
            let admitted = limiter.admit(&lane, Kind::Request, later(4000));
            admitted.unwrap_or_else(|refused| panic!("{place}: {refused:?}"))
        })
        .collect();
    assert_eq!(line.len(), 20);
}
