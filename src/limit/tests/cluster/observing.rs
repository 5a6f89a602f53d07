//! Gateways that only observe their budgets (`limit.mode = "observe"`) beside others that enforce them.

use super::*;
use crate::config::LimitMode;

/// Sends so many requests at once; returns how long the last one waited.
async fn send_all(member: &Member, count: usize) -> Duration {
    let began = Instant::now();
    let sent: Vec<_> = (0..count).map(|_| member.send("123")).collect();
    for sending in sent {
        sending.await.unwrap().0.unwrap();
    }
    began.elapsed()
}

fn observe(member: &Member, config: &Config) {
    let mut config = config.clone();
    config.limit.mode = LimitMode::Observe;
    member.limiter.reconfigure(&config);
}

fn limits() -> Config {
    let mut config = of_rate(10.0, 5, 4_000);
    config.egress.quota = quota(20.0, 5);
    config
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_observes_takes_nothing_from_one_that_enforces() {
    let all = Members::start(2, ms(2), limits()).await;
    observe(&all[1], &all.config);
    assert_eq!(send_all(&all[1], 50).await, Duration::ZERO);
    tokio::time::sleep(ms(50)).await;
    let waited = send_all(&all[0], 5).await;
    assert!(waited <= ms(10), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_observed_is_owed_when_it_is_enforced() {
    let all = Members::start(2, ms(2), limits()).await;
    observe(&all[1], &all.config);
    assert_eq!(send_all(&all[1], 10).await, Duration::ZERO);
    tokio::time::sleep(ms(50)).await;
    all[1].limiter.reconfigure(&all.config);
    tokio::time::sleep(ms(50)).await;
    // Ten requests with a burst of five: the next token is there after 600 ms.
    let waited = send_all(&all[0], 1).await;
    assert!((ms(400)..=ms(600)).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn gateways_that_observe_share_what_they_observe() {
    let all = Members::start(2, ms(2), limits()).await;
    observe(&all[0], &all.config);
    observe(&all[1], &all.config);
    send_all(&all[0], 10).await;
    tokio::time::sleep(ms(50)).await;
    all[0].limiter.reconfigure(&all.config);
    all[1].limiter.reconfigure(&all.config);
    tokio::time::sleep(ms(50)).await;
    let waited = send_all(&all[1], 1).await;
    assert!((ms(400)..=ms(600)).contains(&waited), "{waited:?}");
}
