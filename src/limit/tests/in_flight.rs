//! The bound on calls in flight.

use super::*;
use crate::config::Class;

/// A limiter whose base limit has this quota and so many calls in flight.
fn capped(cap: u32, quota: Option<Quota>, change: impl FnOnce(&mut Config)) -> Limiter {
    let mut config = settings(quota);
    config.limit.classes = vec![class(cap, quota)];
    change(&mut config);
    limiter(&config)
}

fn class(cap: u32, quota: Option<Quota>) -> Class {
    Class {
        max_in_flight: NonZeroU32::new(cap),
        ..classes::class("capped", "*", quota)
    }
}

fn lane(limiter: &Limiter) -> Lane {
    limiter.lane(&limiter.rules(), &who("1", "t"), |_, _| Some(0), true)
}

/// Ends a call after so long, which is measured.
async fn call(mut permit: Permit, took: u64) {
    let place = permit.send();
    tokio::time::sleep(ms(took)).await;
    drop(place);
}

fn refusal(limiter: &Limiter, lane: &Lane, wait: u64) -> Option<RateLimited> {
    limiter.admit(lane, Kind::Request, later(wait)).err()
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_are_in_flight_than_the_class_allows() {
    let limiter = capped(2, None, |_| {});
    let lane = lane(&limiter);
    let begun = Instant::now();
    let first = now(&limiter, &lane);
    let second = now(&limiter, &lane);
    let third = queued(&limiter, &lane, Kind::Request);
    let fourth = queued(&limiter, &lane, Kind::Request);
    tokio::spawn(call(first, 300));
    tokio::spawn(call(second, 700));
    let third = third.await;
    assert_eq!(begun.elapsed(), ms(300));
    tokio::spawn(call(third, 9000));
    let fourth = fourth.await;
    assert_eq!(begun.elapsed(), ms(700));
    // Another instance has places of its own.
    let other = limiter.lane(&limiter.rules(), &who("2", "t"), |_, _| Some(0), true);
    drop((now(&limiter, &other), fourth));
    // A permit that is dropped unused gives its place back at once.
    now(&limiter, &lane);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_leaves_with_its_permit_on_the_way_gives_its_place_to_the_next() {
    let limiter = capped(1, None, |_| {});
    let lane = lane(&limiter);
    let held = now(&limiter, &lane);
    let Ok(Admission::Queued(gone)) = limiter.admit(&lane, Kind::Request, later(9000)) else {
        panic!("a place was free");
    };
    let next = queued(&limiter, &lane, Kind::Request);
    tokio::task::yield_now().await;
    drop(held);
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    drop(gone);
    let begun = Instant::now();
    next.await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_forecast_takes_calls_to_last_as_long_as_recent_ones() {
    let limiter = capped(2, None, |_| {});
    let lane = lane(&limiter);
    // Before a call has ended, a call is taken to last 250 ms.
    let (first, second) = (now(&limiter, &lane), now(&limiter, &lane));
    let refused = refusal(&limiter, &lane, 249).unwrap();
    assert_eq!(
        (refused.refusal, refused.retry_after),
        (Refusal::WaitTooLong, ms(250))
    );
    assert!(refusal(&limiter, &lane, 250).is_none());
    tokio::join!(call(first, 400), call(second, 400));
    // From now on 400 ms: two begin now, two in 400 ms, two in 800 ms.
    let _held = (now(&limiter, &lane), now(&limiter, &lane));
    tokio::time::sleep(ms(100)).await;
    let waiting: Vec<_> = (0..2)
        .map(|_| queued(&limiter, &lane, Kind::Request))
        .collect();
    assert_eq!(refusal(&limiter, &lane, 699).unwrap().retry_after, ms(700));
    let last = limiter.admit(&lane, Kind::Request, later(700));
    assert!(matches!(last, Ok(Admission::Queued(_))), "{last:?}");
    drop((waiting, last));
    // A call that lasts longer is taken to begin anew.
    tokio::time::sleep(ms(400)).await;
    assert_eq!(refusal(&limiter, &lane, 399).unwrap().retry_after, ms(400));
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_place_is_refused_at_its_deadline_if_the_calls_last() {
    let limiter = capped(1, None, |_| {});
    let lane = lane(&limiter);
    let _held = now(&limiter, &lane);
    let begun = Instant::now();
    let Ok(Admission::Queued(ticket)) = limiter.admit(&lane, Kind::Request, later(1500)) else {
        panic!("a place was free");
    };
    let refused = ticket.await.unwrap_err();
    assert_eq!(refused.refusal, Refusal::WaitTooLong);
    assert!(begun.elapsed() < ms(1510), "{:?}", begun.elapsed());
}

/// Token and place are both needed: the later of the two decides.
#[tokio::test(start_paused = true)]
async fn the_forecast_is_exact_where_calls_last_as_predicted() {
    // Without an egress the forecast is computed, with one it is simulated.
    for egress in [None, quota(500.0, 1)] {
        for (rate, burst, cap, took) in [
            (10.0, 1, 1, 50),
            (10.0, 1, 1, 250),
            (10.0, 3, 2, 130),
            (2.0, 4, 3, 900),
            (50.0, 2, 7, 333),
        ] {
            let change = |config: &mut Config| config.egress.quota = egress;
            let limiter = Arc::new(capped(cap, quota(rate, burst), change));
            let lane = lane(&limiter);
            call(now(&limiter, &lane), took).await;
            tokio::time::sleep(ms(10_000)).await;
            let begun = Instant::now();
            let mut calls = tokio::task::JoinSet::new();
            for index in 0..20 {
                let far = later(3_600_000);
                let promised = lane.forecast(lane.rules().token_request(
                    Kind::Request,
                    Instant::now(),
                    far,
                ));
                let admitted = limiter.admit(&lane, Kind::Request, far).unwrap();
                calls.spawn(async move {
                    let permit = match admitted {
                        Admission::Now(permit) => permit,
                        Admission::Queued(ticket) => ticket.await.unwrap(),
                    };
                    let late = Instant::now().saturating_duration_since(promised);
                    // A timer may fire a little late, in each round.
                    assert!(late < ms(40), "{index}: {late:?} late, {cap} at {rate}/s");
                    assert!(Instant::now() >= promised, "{index}");
                    call(permit, took).await;
                });
                tokio::time::sleep(ms(7)).await;
            }
            while let Some(called) = calls.join_next().await {
                called.unwrap();
            }
            assert!(begun.elapsed() > ms(took));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_wakes_a_bucket_that_waits_for_the_egress() {
    let limiter = capped(1, None, |config| config.egress.quota = quota(1000.0, 10));
    let lane = lane(&limiter);
    let held = now(&limiter, &lane);
    let begun = Instant::now();
    let waiting = queued(&limiter, &lane, Kind::Request);
    tokio::time::sleep(ms(400)).await;
    drop(held);
    waiting.await;
    assert_eq!(begun.elapsed(), ms(400));
}

#[tokio::test(start_paused = true)]
async fn a_reload_changes_the_bound_and_counts_what_is_in_flight() {
    let mut config = settings(None);
    config.limit.classes = vec![class(1, None)];
    let limiter = limiter(&config);
    let lane = lane(&limiter);
    let held = now(&limiter, &lane);
    let waiting = queued(&limiter, &lane, Kind::Request);
    let begun = Instant::now();
    config.limit.classes = vec![class(2, None)];
    limiter.reconfigure(&config);
    let second = waiting.await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    // Two are in flight: with one place the next waits for both.
    config.limit.classes = vec![class(1, None)];
    limiter.reconfigure(&config);
    let third = queued(&limiter, &lane, Kind::Request);
    tokio::spawn(call(held, 200));
    tokio::spawn(call(second, 500));
    third.await;
    assert_eq!(begun.elapsed(), ms(500));
    // Without a bound, and with one again while a call is in flight.
    let held = now(&limiter, &lane);
    config.limit.classes = vec![Class {
        max_in_flight: None,
        ..class(1, None)
    }];
    limiter.reconfigure(&config);
    drop(now(&limiter, &lane));
    config.limit.classes = vec![class(1, None)];
    limiter.reconfigure(&config);
    assert!(refusal(&limiter, &lane, 0).is_some());
    drop(held);
    now(&limiter, &lane);
}

#[tokio::test(start_paused = true)]
async fn the_bucket_of_other_credentials_has_places_of_its_own_and_keeps_them() {
    let limiter = capped(1, None, |_| {});
    let owner = lane(&limiter);
    let other = limiter.lane(&limiter.rules(), &who("1", "made-up"), |_, _| Some(0), true);
    owner.verify();
    let (owned, made_up) = (now(&limiter, &owner), now(&limiter, &other));
    assert!(refusal(&limiter, &owner, 0).is_some());
    assert!(refusal(&limiter, &other, 0).is_some());
    // Nothing is verified any more, and then again: the call still counts there.
    owner.revoke();
    owner.verify();
    assert!(refusal(&limiter, &other, 0).is_some());
    drop(made_up);
    now(&limiter, &other);
    assert!(refusal(&limiter, &owner, 0).is_some());
    drop(owned);
    now(&limiter, &owner);
}

#[tokio::test(start_paused = true)]
async fn shadow_calls_last_as_long_as_measured_ones() {
    let mut config = settings(None);
    config.limit.classes = vec![class(1, None)];
    config.limit.mode = LimitMode::Observe;
    let limiter = limiter(&config);
    let lane = lane(&limiter);
    let send = async || {
        let acquired = limiter.acquire(&lane, Kind::Request, Instant::now(), Route::Other);
        call(acquired.await.unwrap().permit, 200).await;
    };
    let delays = || limiter.metrics.would_delay(Route::Other).get_sample_sum();
    // Taken to last 250 ms, and then 200 ms.
    send().await;
    tokio::time::sleep(ms(1000)).await;
    assert!(delays() < 0.001);
    tokio::join!(send(), send());
    tokio::time::sleep(ms(1000)).await;
    assert!((0.19..0.21).contains(&delays()), "{}", delays());
}
