//! What leaves a queue first, what leaves it early, and what is refused.

use super::*;

/// Waits for all tickets and names them in the order of their tokens.
async fn order(tickets: Vec<(&'static str, PendingPermit)>) -> Vec<String> {
    let start = Instant::now();
    let mut waiting = tokio::task::JoinSet::new();
    for (name, ticket) in tickets {
        waiting.spawn(async move { (ticket.await.granted, name) });
    }
    let mut left = waiting.join_all().await;
    left.sort();
    left.iter()
        .map(|(at, name)| format!("{name} {}", (*at - start).as_millis()))
        .collect()
}

fn receipt(age: u64) -> Kind {
    Kind::Receipt {
        opened: Instant::now() - ms(age),
    }
}

#[tokio::test(start_paused = true)]
async fn receipts_yield_to_requests_until_they_are_old() {
    tokio::time::advance(ms(10_000)).await;
    let limiter = of(2.0, 1);
    let lane = lane_of(&limiter, "1", "t");
    now(&limiter, &lane);
    let mut waiting = vec![("seen", queued(&limiter, &lane, receipt(0)))];
    for name in ["a", "b", "c", "d", "e"] {
        waiting.push((name, queued(&limiter, &lane, Kind::Request)));
    }
    // batch.max_delay is 2 s: at 2000 the receipt is old enough.
    assert_eq!(
        order(waiting).await,
        ["a 500", "b 1000", "c 1500", "seen 2000", "d 2500", "e 3000"]
    );
}

#[tokio::test(start_paused = true)]
async fn receipts_leave_in_the_order_they_were_opened() {
    tokio::time::advance(ms(10_000)).await;
    let limiter = of(10.0, 1);
    let lane = lane_of(&limiter, "1", "t");
    now(&limiter, &lane);
    let waiting = vec![
        ("young", queued(&limiter, &lane, receipt(0))),
        // A part of a batch that was split asks with the batch's own age.
        ("old", queued(&limiter, &lane, receipt(1000))),
        ("call", queued(&limiter, &lane, Kind::Request)),
    ];
    assert_eq!(order(waiting).await, ["call 100", "old 200", "young 300"]);
}

#[tokio::test(start_paused = true)]
async fn an_old_receipt_goes_before_requests_even_if_a_younger_one_joined_first() {
    tokio::time::advance(ms(10_000)).await;
    let limiter = of(10.0, 1);
    let lane = lane_of(&limiter, "1", "t");
    now(&limiter, &lane);
    let waiting = vec![
        ("young", queued(&limiter, &lane, receipt(0))),
        ("old", queued(&limiter, &lane, receipt(2000))),
        ("call", queued(&limiter, &lane, Kind::Request)),
    ];
    assert_eq!(order(waiting).await, ["old 100", "call 200", "young 300"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_counts_the_receipts_that_will_be_overdue() {
    tokio::time::advance(ms(10_000)).await;
    let limiter = of(1.0, 1);
    let lane = lane_of(&limiter, "1", "t");
    now(&limiter, &lane);
    let waiting = vec![
        queued(&limiter, &lane, receipt(2000)),
        queued(&limiter, &lane, receipt(0)),
        queued(&limiter, &lane, Kind::Request),
    ];
    // 1 s: overdue receipt; 2 s: request; 3 s: the other receipt; then this one.
    let refused = limiter
        .admit(&lane, Kind::Request, later(1999))
        .err()
        .unwrap();
    assert_eq!(refused.retry_after, ms(4000));
    // Both receipts wait longer where this one would be late otherwise.
    assert!(limiter.check(&lane, Kind::Request, later(2000)).is_ok());
    drop(waiting);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_leaves_makes_room() {
    let mut config = settings(quota(10.0, 1));
    config.limit.max_queue = 3;
    let limiter = limiter(&config);
    let lane = lane_of(&limiter, "1", "t");
    now(&limiter, &lane);
    let first = queued(&limiter, &lane, Kind::Request);
    let second = queued(&limiter, &lane, Kind::Request);
    let third = queued(&limiter, &lane, Kind::Request);
    let full = limiter
        .admit(&lane, Kind::Request, later(60_000))
        .err()
        .unwrap();
    assert_eq!((full.refusal, full.waiting), (Refusal::QueueFull, 3));
    drop(first);
    let fourth = queued(&limiter, &lane, Kind::Request);
    assert_eq!(
        order(vec![
            ("second", second),
            ("third", third),
            ("fourth", fourth)
        ])
        .await,
        ["second 100", "third 200", "fourth 300"]
    );
    assert_eq!(lane.series().queued.get(), 0);
}

/// The serving task may not have run since the tokens came.
#[tokio::test(start_paused = true)]
async fn a_full_queue_whose_tokens_are_there_refuses_none() {
    let mut config = settings(quota(10.0, 5));
    config.limit.max_queue = 1;
    let limiter = limiter(&config);
    let lane = lane_of(&limiter, "1", "t");
    drain(&limiter, &lane);
    let waiting = queued(&limiter, &lane, Kind::Request);
    let ask = |at| lane.admit(lane.rules().token_request(Kind::Request, at, at + ms(5000)));
    let refused = ask(later(100)).unwrap_err();
    assert_eq!(refused.refusal, Refusal::QueueFull);
    let admitted = ask(later(200));
    assert!(matches!(admitted, Ok(Admission::Now(_))), "{admitted:?}");
    waiting.await;
}

/// A ticket that was served may be dropped late, when others wait.
#[tokio::test(start_paused = true)]
async fn a_served_ticket_takes_no_other_out_of_the_queue() {
    let limiter = of(10.0, 1);
    let lane = lane_of(&limiter, "1", "t");
    now(&limiter, &lane);
    let mut served = queued(&limiter, &lane, Kind::Request);
    (&mut served).await;
    // Served, and its queue has ended; the next request opens a new one.
    tokio::task::yield_now().await;
    let next = queued(&limiter, &lane, Kind::Request);
    drop(served);
    let permit = tokio::time::timeout(ms(150), next).await;
    assert!(permit.is_ok(), "the next in line was forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_comes_at_once() {
    let mut settings = settings(quota(0.05, 1));
    settings.limit.max_wait = ms(4000);
    let limiter = limiter(&settings);
    let lane = lane_of(&limiter, "1", "t");
    now(&limiter, &lane);
    let start = Instant::now();
    let refused = limiter
        .acquire(&lane, Kind::Request, start, Route::Other)
        .await
        .unwrap_err();
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(refused.refusal, Refusal::WaitTooLong);
    assert_eq!(refused.retry_after, ms(20_000));
}

#[tokio::test(start_paused = true)]
async fn an_overdue_receipt_takes_no_token_that_makes_a_waiting_request_late() {
    tokio::time::advance(ms(10_000)).await;
    let mut settings = settings(quota(10.0, 1));
    settings.limit.max_wait = ms(4000);
    let limiter = Arc::new(limiter(&settings));
    let lane = lane_of(&limiter, "1", "t");
    now(&limiter, &lane);
    let mut sends = tokio::task::JoinSet::new();
    for _ in 0..38 {
        let (limiter, lane) = (Arc::clone(&limiter), lane.clone());
        sends.spawn(async move {
            let arrived = Instant::now();
            limiter
                .acquire(&lane, Kind::Request, arrived, Route::Other)
                .await
        });
    }
    tokio::time::sleep(ms(10)).await;
    let receipts: Vec<_> = (0..20)
        .filter_map(|_| limiter.admit(&lane, receipt(2000), later(3990)).ok())
        .collect();
    assert_eq!(receipts.len(), 2, "the 40th token is the last in time");
    for sent in sends.join_all().await {
        assert!(sent.is_ok(), "{sent:?}");
    }
}

/// A receipt was promised its token: no later request may take it away.
#[tokio::test(start_paused = true)]
async fn a_newcomer_that_makes_a_waiting_receipt_late_is_refused() {
    tokio::time::advance(ms(10_000)).await;
    // The next token comes after 1 s, the one after it after 2 s.
    for (newcomer, deadline, is_refused) in [
        (Kind::Request, 1999, true),
        (Kind::Request, 2000, false),
        // Older than the receipt that waits: it goes first.
        (receipt(1000), 1999, true),
        (receipt(1000), 2000, false),
        // Younger: it takes nothing away.
        (receipt(0), 1999, false),
    ] {
        let limiter = of(1.0, 1);
        let lane = lane_of(&limiter, "1", "t");
        now(&limiter, &lane);
        let waits = limiter.admit(&lane, receipt(500), later(deadline));
        assert!(matches!(waits, Ok(Admission::Queued(_))), "{waits:?}");
        let refused = limiter.admit(&lane, newcomer, later(9000)).err();
        let refused = refused.map(|it| (it.refusal, it.retry_after));
        let expected = is_refused.then_some((Refusal::WaitTooLong, ms(2000)));
        assert_eq!(refused, expected, "{newcomer:?} {deadline}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_overdue_receipt_goes_first_if_the_request_is_then_just_in_time() {
    tokio::time::advance(ms(10_000)).await;
    for (deadline, expected) in [
        (2000, ["receipt 1000", "request 2000"]),
        (1999, ["request 1000", "receipt 2000"]),
    ] {
        let limiter = of(1.0, 1);
        let lane = lane_of(&limiter, "1", "t");
        now(&limiter, &lane);
        let admitted = limiter.admit(&lane, Kind::Request, later(deadline));
        let Ok(Admission::Queued(request)) = admitted else {
            panic!("{admitted:?}");
        };
        let request: PendingPermit = Box::pin(async { request.await.unwrap() });
        let receipt = queued(&limiter, &lane, receipt(2000));
        let waiting = vec![("request", request), ("receipt", receipt)];
        assert_eq!(order(waiting).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_another_rate_makes_late_is_refused_at_its_deadline() {
    let mut settings = settings(quota(1.0, 1));
    settings.limit.max_wait = ms(1000);
    let limiter = limiter(&settings);
    let lane = lane_of(&limiter, "1", "t");
    now(&limiter, &lane);
    let start = Instant::now();
    settings.limit.quota = quota(0.1, 1);
    let (refused, ()) = tokio::join!(
        limiter.acquire(&lane, Kind::Request, start, Route::Other),
        async { limiter.reconfigure(&settings) }
    );
    assert_eq!(start.elapsed(), ms(1002));
    assert_eq!(refused.unwrap_err().refusal, Refusal::WaitTooLong);
}

/// Rate 5, burst 1: the tenth token after the first is due after 2 s.
#[tokio::test(start_paused = true)]
async fn a_token_due_exactly_at_the_deadline_is_in_time() {
    let mut settings = settings(quota(5.0, 1));
    settings.limit.max_wait = ms(2000);
    let limiter = Arc::new(limiter(&settings));
    let lane = lane_of(&limiter, "1", "t");
    now(&limiter, &lane);
    let start = Instant::now();
    let pass = || {
        let (limiter, lane) = (Arc::clone(&limiter), lane.clone());
        async move {
            limiter
                .acquire(&lane, Kind::Request, start, Route::Other)
                .await
        }
    };
    let mut waiting = tokio::task::JoinSet::new();
    (0..10).for_each(|_| drop(waiting.spawn(pass())));
    tokio::task::yield_now().await;
    let refused = pass().await.unwrap_err();
    assert_eq!(start.elapsed(), Duration::ZERO, "at once");
    assert_eq!(refused.retry_after, ms(2200));
    assert!(waiting.join_all().await.iter().all(Result::is_ok));
    assert_eq!(start.elapsed(), ms(2000));
}

#[tokio::test(start_paused = true)]
async fn rate_zero_is_unlimited() {
    let limiter = limiter(&settings(None));
    let lane = lane_of(&limiter, "1", "t");
    for _ in 0..10_000 {
        assert_eq!(now(&limiter, &lane).remaining, None);
    }
}

#[tokio::test(start_paused = true)]
async fn each_instance_has_a_bucket_of_its_own() {
    let limiter = of(1.0, 2);
    let one = lane_of(&limiter, "1", "t");
    let two = lane_of(&limiter, "2", "t");
    assert_eq!(drain(&limiter, &one), 2);
    assert_eq!(drain(&limiter, &two), 2);
    // The same instance, by another lane.
    assert_eq!(drain(&limiter, &lane_of(&limiter, "1", "t")), 0);
}

#[tokio::test(start_paused = true)]
async fn requests_without_instance_are_distinguished_by_credential() {
    let limiter = of(1.0, 2);
    let lane = |target: &str| {
        let (head, ()) = Request::get(target).body(()).unwrap().into_parts();
        limiter.lane(
            &limiter.rules(),
            &Findings::of_head(&head).identity(),
            |_, _| None,
            true,
        )
    };
    assert_eq!(drain(&limiter, &lane("/?access_token=a")), 2);
    assert_eq!(drain(&limiter, &lane("/?access_token=a")), 0);
    assert_eq!(drain(&limiter, &lane("/?access_token=b")), 2);
    assert_eq!(drain(&limiter, &lane("/")), 2);
    assert_eq!(drain(&limiter, &lane("/")), 0);
}

/// More receipts than tokens, for longer than they yield: each second token is
/// a request's, as long as one waits.
#[tokio::test(start_paused = true)]
async fn endless_receipts_leave_requests_every_second_token() {
    tokio::time::advance(ms(10_000)).await;
    let limiter = of(10.0, 1);
    let lane = lane_of(&limiter, "1", "t");
    now(&limiter, &lane);
    let mut waiting = Vec::new();
    for name in ["A", "B", "C", "D"] {
        waiting.push((name, queued(&limiter, &lane, receipt(5000))));
    }
    for name in ["a", "b"] {
        waiting.push((name, queued(&limiter, &lane, Kind::Request)));
    }
    let refused = limiter.admit(&lane, Kind::Request, later(299)).unwrap_err();
    assert_eq!(refused.retry_after, ms(600), "A a B b C: it is the sixth");
    assert_eq!(
        order(waiting).await,
        ["A 100", "a 200", "B 300", "b 400", "C 500", "D 600"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_turn_among_receipts_that_grow_old_is_foretold_as_it_comes() {
    tokio::time::advance(ms(10_000)).await;
    let limiter = of(10.0, 1);
    let lane = lane_of(&limiter, "1", "t");
    now(&limiter, &lane);
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(queued(&limiter, &lane, Kind::Request));
        waiting.push(queued(&limiter, &lane, receipt(0)));
    }
    // Two seconds of requests, then receipts and requests alternate.
    for (kind, age) in [(Kind::Request, 2300), (receipt(1900), 100)] {
        let refused = limiter.admit(&lane, kind, Instant::now()).unwrap_err();
        assert_eq!(refused.retry_after, ms(age));
    }
    let start = Instant::now();
    let own = queued(&limiter, &lane, Kind::Request);
    let others = tokio::spawn(futures_of(waiting));
    own.await;
    assert_eq!(start.elapsed(), ms(2300));
    others.await.unwrap();
}

async fn futures_of(places: Vec<PendingPermit>) {
    let mut all: tokio::task::JoinSet<_> = places.into_iter().collect();
    while all.join_next().await.is_some() {}
}
