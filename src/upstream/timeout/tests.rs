//! One timer for many requests on a connection.

use std::pin::pin;

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

fn timeout() -> ResponseTimeout {
    ResponseTimeout {
        started: Instant::now(),
        limit: LIMIT,
        progress: None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_timer_that_fires_for_an_earlier_request_cuts_no_later_one() {
    let began = Instant::now();
    let mut timer = pin!(tokio::time::sleep_until(began + LIMIT));
    for _ in 0..7 {
        let timeout = timeout();
        let response = pin!(tokio::time::sleep(Duration::from_secs(4)));
        assert!(timeout.wait_for(response, timer.as_mut()).await.is_some());
    }
    assert_eq!(began.elapsed(), Duration::from_secs(28));
    let sent = Instant::now();
    let never = pin!(std::future::pending::<()>());
    assert!(timeout().wait_for(never, timer.as_mut()).await.is_none());
    assert_eq!(sent.elapsed(), LIMIT);
}

#[tokio::test(start_paused = true)]
async fn a_timer_that_fired_while_the_connection_was_idle_is_armed_again() {
    let mut timer = pin!(tokio::time::sleep(LIMIT));
    timer.as_mut().await;
    tokio::time::sleep(LIMIT).await;
    let sent = Instant::now();
    let never = pin!(std::future::pending::<()>());
    assert!(timeout().wait_for(never, timer.as_mut()).await.is_none());
    assert_eq!(sent.elapsed(), LIMIT);
}
