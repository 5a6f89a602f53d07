//! Calls in flight whose number is bounded, where gateways reserve slots of one bucket.

use super::*;

/// One call in flight for each of two gateways.
async fn capped() -> Members {
    Members::start(2, ms(1), with_cap(of_rate(10.0, 5, 4_000), 2)).await
}

/// Waits behind a call of two seconds; returns the operations on the server meanwhile.
async fn behind_a_call(all: &Members, kind: impl Fn(Instant) -> Kind) -> usize {
    let first = all[0].send("123").await.unwrap().0.unwrap();
    tokio::time::sleep(ms(50)).await;
    let calls = all.server.calls();
    let waiting: Vec<_> = (0..3).map(|_| all[0].send_kind("123", &kind)).collect();
    tokio::time::sleep(ms(1_950)).await;
    let calls = all.server.calls() - calls;
    assert!(waiting.iter().all(|it| !it.is_finished()));
    // None of them has a slot that is lost: the other gateway has the rate and the burst.
    let began = Instant::now();
    for _ in 0..5 {
        let acquired = all[1].send("123").await.unwrap().0.unwrap();
        drop(acquired);
    }
    assert!(began.elapsed() <= ms(30), "{:?}", began.elapsed());
    tokio::time::sleep(ms(500)).await;
    drop(first);
    let ended = Instant::now();
    for next in waiting {
        let (acquired, at) = next.await.unwrap();
        assert!(acquired.is_ok() && at - ended <= ms(10), "{:?}", at - ended);
    }
    calls
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_for_a_call_to_end_reserve_nothing() {
    let all = capped().await;
    let calls = behind_a_call(&all, |_| Kind::Request).await;
    assert!(calls <= 2, "{calls}");
}

#[tokio::test(start_paused = true)]
async fn receipts_that_wait_for_a_call_to_end_reserve_nothing() {
    let all = capped().await;
    let calls = behind_a_call(&all, |opened| Kind::Receipt { opened }).await;
    assert!(calls <= 2, "{calls}");
}

#[tokio::test(start_paused = true)]
async fn a_request_is_refused_at_its_deadline_after_an_earlier_one_was() {
    let all = capped().await;
    let _first = all[0].send("123").await.unwrap().0.unwrap();
    for _ in 0..2 {
        let began = Instant::now();
        let (refused, at) = all[0].send("123").await.unwrap();
        assert!(refused.is_err());
        assert!(at - began <= ms(4_010), "{:?}", at - began);
        tokio::time::sleep(ms(1_000)).await;
    }
}
