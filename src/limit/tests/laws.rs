//! What holds for any arrivals.

use std::sync::Mutex;

use proptest::prelude::*;

use super::*;

/// A request or a batch that asks for a token.
#[derive(Clone, Debug)]
struct Arrival {
    /// After the one before, in ms.
    gap: u64,
    /// `Some`: a batch opened that long ago.
    age: Option<u64>,
    /// Until its deadline, in ms.
    wait: u64,
    /// It leaves the line after that long.
    leaves: Option<u64>,
}

/// What became of it.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Granted(Instant),
    /// It left the line, or its deadline came there.
    Gone {
        joined: Instant,
        left: Instant,
    },
    Refused(RateLimited),
}

/// Gaps that mostly fall on the times at which tokens come: events at the same
/// time are the likely failures.
fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let arrival = (
        prop_oneof![3 => Just(0), 4 => (0_u64..8).prop_map(|n| n * 50), 1 => 0_u64..400],
        prop_oneof![2 => Just(None), 1 => (0_u64..60).prop_map(|n| Some(n * 50))],
        prop_oneof![1 => (0_u64..40).prop_map(|n| n * 50), 2 => Just(4000)],
        prop_oneof![4 => Just(None), 1 => (0_u64..20).prop_map(|n| Some(n * 50))],
    );
    let arrival = arrival.prop_map(|(gap, age, wait, leaves)| Arrival {
        gap,
        age,
        wait,
        leaves,
    });
    proptest::collection::vec(arrival, 1..60)
}

/// Runs arrivals against one bucket, and says what became of each.
fn run(arrivals: &[Arrival], interval: u64, burst: u32, max_queue: usize) -> Vec<Fate> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut config = settings(quota(1000.0 / interval as f64, burst));
        config.limit.max_queue = max_queue;
        let limiter = Arc::new(limiter(&config));
        let lane = lane_of(&limiter, "1", "t");
        tokio::time::advance(ms(10_000)).await;
        let fates = Arc::new(Mutex::new(vec![None; arrivals.len()]));
        let mut waiting = tokio::task::JoinSet::new();
        let mut at = Instant::now();
        for (index, arrival) in arrivals.iter().enumerate() {
            at += ms(arrival.gap);
            tokio::time::sleep_until(at).await;
            let joined = Instant::now();
            let kind = arrival.age.map_or(Kind::Request, |age| Kind::Receipt {
                opened: joined - ms(age),
            });
            let deadline = joined + ms(arrival.wait);
            let fate = match limiter.admit(&lane, kind, deadline) {
                Ok(Admission::Now(permit)) => Fate::Granted(permit.granted),
                Err(refused) => Fate::Refused(refused),
                Ok(Admission::Queued(ticket)) => {
                    let leaves = arrival
                        .leaves
                        .map_or(deadline, |leaves| deadline.min(joined + ms(leaves)));
                    let fates = Arc::clone(&fates);
                    waiting.spawn(async move {
                        let fate = match tokio::time::timeout_at(leaves, ticket).await {
                            Ok(Ok(permit)) => Fate::Granted(permit.granted),
                            Ok(Err(_)) | Err(_) => Fate::Gone {
                                joined,
                                left: Instant::now(),
                            },
                        };
                        fates.lock().unwrap()[index] = Some(fate);
                    });
                    continue;
                }
            };
            fates.lock().unwrap()[index] = Some(fate);
        }
        while waiting.join_next().await.is_some() {}
        assert_eq!(lane.series().queued.get(), 0, "a waiter is still counted");
        let fates = fates.lock().unwrap();
        fates
            .iter()
            .map(|fate| fate.expect("each has a fate"))
            .collect()
    })
}

fn granted(fates: &[Fate]) -> Vec<Instant> {
    let mut granted: Vec<_> = fates
        .iter()
        .filter_map(|fate| match fate {
            Fate::Granted(at) => Some(*at),
            _ => None,
        })
        .collect();
    granted.sort();
    granted
}

proptest! {
    /// Over any interval: at most `burst + rate × interval` tokens.
    #[test]
    fn no_interval_sees_more_tokens_than_the_quota_allows(
        arrivals in arrivals(),
        interval in prop_oneof![Just(50_u64), Just(100), Just(250), Just(1000)],
        burst in 1_u32..6,
    ) {
        let granted = granted(&run(&arrivals, interval, burst, 1000));
        for (first, from) in granted.iter().enumerate() {
            for (last, to) in granted.iter().enumerate().skip(first) {
                let allowed = u128::from(burst) + (*to - *from).as_millis() / u128::from(interval);
                prop_assert!((last - first + 1) as u128 <= allowed, "{first}..={last} of {granted:?}");
            }
        }
    }

    /// While a request waits, tokens are handed out: none lies idle, and no
    /// waiter is forgotten.
    #[test]
    fn no_token_lies_idle_while_a_request_waits(
        arrivals in arrivals(),
        interval in prop_oneof![Just(50_u64), Just(100), Just(250)],
        burst in 1_u32..6,
    ) {
        let fates = run(&arrivals, interval, burst, 1000);
        let granted = granted(&fates);
        for fate in &fates {
            let Fate::Gone { joined, left } = *fate else { continue };
            let due = (left - joined).as_millis() / u128::from(interval);
            let seen = granted.iter().filter(|at| (joined..=left).contains(*at)).count();
            prop_assert!(seen as u128 >= due, "{seen} of {due} from {joined:?} to {left:?}: {fates:?}");
        }
    }

    /// Requests of one lane leave in the order in which they joined.
    #[test]
    fn requests_never_overtake_each_other(arrivals in arrivals(), burst in 1_u32..6) {
        let fates = run(&arrivals, 100, burst, 1000);
        let calls: Vec<_> = fates
            .iter()
            .zip(&arrivals)
            .filter_map(|(fate, arrival)| match (fate, arrival.age) {
                (Fate::Granted(at), None) => Some(*at),
                _ => None,
            })
            .collect();
        prop_assert!(calls.is_sorted(), "{calls:?}");
    }

    /// A refusal states the reason: the queue was full, or the token too late.
    #[test]
    fn only_requests_that_would_be_late_are_refused(
        arrivals in arrivals(),
        max_queue in 1_usize..12,
    ) {
        for (fate, arrival) in run(&arrivals, 100, 2, max_queue).iter().zip(&arrivals) {
            let Fate::Refused(refused) = fate else { continue };
            match refused.refusal {
                Refusal::QueueFull => prop_assert_eq!(refused.waiting, max_queue),
                // Or it would make others late, which were admitted before.
                Refusal::WaitTooLong => prop_assert!(
                    refused.retry_after > ms(arrival.wait) || refused.waiting > 0
                ),
                Refusal::Paused => prop_assert!(false, "there was no pause"),
            }
        }
    }

    /// A request that comes back after `Retry-After` is admitted at once.
    #[test]
    fn the_promise_of_a_refusal_is_kept(
        waiting in 0_usize..30,
        interval in prop_oneof![Just(20_u64), Just(100), Just(333), Just(20_000)],
        burst in 1_u32..8,
        elapsed in 0_u64..100,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let limiter = of(1000.0 / interval as f64, burst);
            let lane = lane_of(&limiter, "1", "t");
            prop_assert_eq!(drain(&limiter, &lane), burst as usize);
            tokio::time::advance(ms(elapsed)).await;
            drain(&limiter, &lane);
            let tickets: Vec<_> = (0..waiting)
                .map(|_| queued(&limiter, &lane, Kind::Request))
                .collect();
            let refused = limiter.admit(&lane, Kind::Request, Instant::now()).err();
            let refused = refused.expect("an empty bucket and no time");
            prop_assert_eq!(refused.refusal, Refusal::WaitTooLong);
            prop_assert_eq!(refused.waiting, waiting);
            let back = Instant::now() + refused.retry_after;
            for ticket in tickets {
                ticket.await;
            }
            prop_assert!(Instant::now() <= back);
            tokio::time::sleep_until(back).await;
            now(&limiter, &lane);
            Ok(())
        })?;
    }
}

/// A burst of waiting requests leaves at the first times that the rate allows.
#[tokio::test(start_paused = true)]
async fn waiting_requests_leave_as_soon_as_the_rate_allows() {
    let limiter = of(10.0, 3);
    let lane = lane_of(&limiter, "1", "t");
    let start = Instant::now();
    assert_eq!(drain(&limiter, &lane), 3);
    let tickets: Vec<_> = (0..5)
        .map(|_| queued(&limiter, &lane, Kind::Request))
        .collect();
    let mut left = Vec::new();
    for ticket in tickets {
        left.push((ticket.await.granted - start).as_millis());
    }
    assert_eq!(left, [100, 200, 300, 400, 500]);
}
