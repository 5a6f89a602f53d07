//! Outages of the server, and gateways that are cut off.

use super::*;

/// Sends a request every so often on all gateways for a time; returns when they left.
async fn load(all: &Members, every: Duration, lasts: Duration) -> Vec<Instant> {
    let began = Instant::now();
    let mut requests = Vec::new();
    while began.elapsed() < lasts {
        requests.extend(all.members.iter().map(|member| member.send("123")));
        tokio::time::sleep(every).await;
    }
    let mut sent = Vec::new();
    for request in requests {
        let (acquired, at) = request.await.unwrap();
        sent.extend(acquired.is_ok().then_some(at));
    }
    sent.sort_unstable();
    sent
}

#[tokio::test(start_paused = true)]
async fn without_a_server_requests_continue_within_a_second_and_the_budget_is_kept() {
    for path in [Path::Lost, Path::Refused, Path::RepliesLost] {
        let all = Members::start(3, ms(1), of_rate(30.0, 5, 4_000)).await;
        let began = Instant::now();
        let (sent, ()) = tokio::join!(load(&all, ms(50), ms(20_000)), async {
            tokio::time::sleep(ms(5_000)).await;
            all.members.iter().for_each(|it| it.link.set(path));
            tokio::time::sleep(ms(8_000)).await;
            assert!(all.members.iter().all(|it| !it.cluster.is_shared()));
            all.members
                .iter()
                .for_each(|it| it.link.set(Path::Open(ms(1))));
            tokio::time::sleep(ms(3_000)).await;
            assert!(all.members.iter().all(|it| it.cluster.is_shared()));
        });
        // Gateways notice the end of an outage at different times.
        assert_conform(&sent, 30.0, 5, 15.0);
        let between = |from, to| {
            let (from, to) = (began + ms(from), began + ms(to));
            sent.iter().filter(|at| (from..to).contains(at)).count()
        };
        // What was reserved before is used; then each gateway has its share.
        assert!(between(5_000, 7_500) > 0, "{path:?}");
        let alone = between(10_000, 13_000);
        assert!((80..=90).contains(&alone), "{path:?}: {alone}");
        let shared = between(17_000, 20_000);
        assert!((70..=93).contains(&shared), "{path:?}: {shared}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_blip_changes_nothing() {
    let all = Members::start(2, ms(1), of_rate(20.0, 2, 4_000)).await;
    let (sent, ()) = tokio::join!(load(&all, ms(100), ms(5_000)), async {
        tokio::time::sleep(ms(2_000)).await;
        all[0].link.set(Path::Lost);
        tokio::time::sleep(ms(300)).await;
        all[0].link.set(Path::Open(ms(1)));
        assert!(all[0].cluster.is_shared());
    });
    assert_conform(&sent, 20.0, 2, 0.0);
    assert!(sent.len() >= 80, "{}", sent.len());
}

#[tokio::test(start_paused = true)]
async fn a_lost_data_set_gives_no_burst() {
    let all = Members::start(3, ms(1), of_rate(10.0, 20, 4_000)).await;
    let (sent, ()) = tokio::join!(load(&all, ms(100), ms(10_000)), async {
        tokio::time::sleep(ms(5_000)).await;
        all.server.clear();
    });
    assert_conform(&sent, 10.0, 20, 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_no_script_returns_neither_stops_nor_fills_the_gateway() {
    for wrong in [
        vec![],
        vec![i64::MAX; 12],
        vec![i64::MIN; 12],
        vec![1 << 52; 12],
        vec![-(1 << 52); 12],
        vec![1_000_000_000_000, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0],
        // Full for ever, and paused for ever.
        vec![0, 0, 0, 0, 1, 0, 0, 0, 0, 1 << 50, 100_000, 100_000],
        vec![0, 0, 0, 0, 1, 1, 1 << 50, 1, 0, 0, 100_000, 100_000],
        // A slot that is never due.
        vec![1, 1 << 50, 0, 0, 1, 0, 0, 0, 0, 0, 100_000, 100_000],
        vec![1, 0, 0, 0, 1 << 50, 0, 0, 0, 0, 0, 100_000, 100_000],
    ] {
        let all = Members::start(1, ms(1), of_rate(10.0, 2, 1_000)).await;
        all.server
            .replace_replies(&["reserve", "credentials"], &wrong);
        for _ in 0..20 {
            // With a token or without one, in time.
            let request = tokio::time::timeout(ms(1_100), all[0].send("123"));
            let (_, at) = request.await.expect("a request has no end").unwrap();
            assert!(at <= Instant::now(), "{wrong:?}");
        }
        all.server.replace_replies(&[], &[]);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let (acquired, _) = all[0].send("123").await.unwrap();
        assert!(acquired.is_ok(), "{wrong:?}: {acquired:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lost_its_data_in_a_pause_is_not_asked_without_an_end() {
    let all = Members::start(2, ms(1), of_rate(2.0, 20, 300)).await;
    let acquired = all[0].send("123").await.unwrap().0.unwrap();
    all[0].respond("123", &acquired, 429, Some(ms(600)));
    tokio::time::sleep(ms(400)).await;
    all.server.clear();
    let calls = all.server.calls();
    for _ in 0..20 {
        drop(all[0].send("123"));
        tokio::time::sleep(ms(50)).await;
    }
    let calls = all.server.calls() - calls;
    assert!(calls <= 100, "{calls}");
}
