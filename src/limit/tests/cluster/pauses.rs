//! Pauses of buckets that gateways share, and the probes that end them.

use super::*;

/// The response 429 to a request of gateway 0, which pauses the bucket on all gateways.
async fn pause(all: &Members, retry_after: u64) {
    let (acquired, _) = all[0].send("123").await.unwrap();
    all[0].respond("123", &acquired.unwrap(), 429, Some(ms(retry_after)));
    tokio::time::sleep(ms(5)).await;
}

/// Sends a request, which gets this response after 200 ms.
async fn exchange(member: &Member, status: u16) {
    let (acquired, _) = member.send("123").await.unwrap();
    tokio::time::sleep(ms(200)).await;
    member.respond("123", &acquired.unwrap(), status, None);
    tokio::time::sleep(ms(5)).await;
}

/// When requests leave, of which all do.
async fn times(requests: Vec<Sending>) -> Vec<Instant> {
    let mut sent = Vec::new();
    for request in requests {
        let (acquired, at) = request.await.unwrap();
        acquired.unwrap();
        sent.push(at);
    }
    sent.sort_unstable();
    sent
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_comes_late_costs_no_more_than_its_response() {
    for statuses in [&[200][..], &[500, 200], &[429, 200], &[500, 500, 429, 200]] {
        let all = Members::start(2, ms(1), of_rate(10.0, 20, 4_000)).await;
        pause(&all, 1_000).await;
        for (index, status) in statuses.iter().enumerate() {
            tokio::time::sleep(ms(30_000)).await;
            exchange(&all[index % 2], *status).await;
        }
        let began = Instant::now();
        let requests = (0..10).map(|index| all[index % 2].send("123")).collect();
        let sent = times(requests).await;
        assert!(sent[9] - began <= ms(1_000), "{:?}", sent[9] - began);
        // No burst, although a full bucket would have come back meanwhile.
        assert_conform(&sent, 10.0, 1, 0.0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_a_probe_goes_at_the_rate_after_it() {
    for quiet in [0, 30_000] {
        let all = Members::start(2, ms(1), of_rate(10.0, 20, 4_000)).await;
        pause(&all, 1_000).await;
        tokio::time::sleep(ms(quiet)).await;
        let mut waiting: Vec<_> = (0..16)
            .map(|index| (index % 2, all[index % 2].send("123")))
            .collect();
        let mut last = Instant::now();
        // The first probe fails, the second one succeeds.
        for status in [500, 200] {
            let is_sent = |it: &(usize, Sending)| it.1.is_finished();
            while !waiting.iter().any(is_sent) {
                tokio::time::sleep(ms(1)).await;
            }
            let first = waiting.iter().position(is_sent).unwrap();
            let (gateway, probe) = waiting.remove(first);
            let (acquired, at) = probe.await.unwrap();
            assert!(at - last <= ms(1_010), "{:?}", at - last);
            tokio::time::sleep(ms(500)).await;
            assert!(!waiting.iter().any(is_sent), "a second probe");
            all[gateway].respond("123", &acquired.unwrap(), status, None);
            last = Instant::now();
        }
        let sent = times(waiting.into_iter().map(|it| it.1).collect()).await;
        assert_eq!(sent.len(), 14);
        assert!(sent[0] - last <= ms(105), "{:?}", sent[0] - last);
        assert!(sent[13] - last <= ms(1_405), "{:?}", sent[13] - last);
        assert_conform(&sent, 10.0, 1, 0.0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_is_followed_by_one_of_any_gateway_at_once() {
    for other in [0, 1] {
        let all = Members::start(2, ms(1), of_rate(10.0, 5, 4_000)).await;
        pause(&all, 500).await;
        let probe = all[0].send("123");
        tokio::time::sleep(ms(5)).await;
        let next = all[other].send("123");
        let (acquired, at) = probe.await.unwrap();
        tokio::time::sleep(ms(150)).await;
        assert!(!next.is_finished());
        all[0].respond("123", &acquired.unwrap(), 503, None);
        let (acquired, next) = next.await.unwrap();
        acquired.unwrap();
        assert!(next - at <= ms(160), "{:?}", next - at);
    }
}

#[tokio::test(start_paused = true)]
async fn the_right_to_probe_is_asked_for_again_where_the_reply_is_lost() {
    let all = Members::start(2, ms(1), of_rate(10.0, 5, 4_000)).await;
    pause(&all, 500).await;
    let began = Instant::now();
    let waiting = all[1].send("123");
    tokio::time::sleep(ms(490)).await;
    all[1].link.set(Path::Lost);
    tokio::time::sleep(ms(30)).await;
    all[1].link.set(Path::Open(ms(1)));
    let (acquired, at) = waiting.await.unwrap();
    acquired.unwrap();
    // The end of the pause, `cluster.timeout`, and 50 ms before it asks again.
    assert!(at - began <= ms(660), "{:?}", at - began);
}

#[tokio::test(start_paused = true)]
async fn slots_are_asked_for_again_where_the_reply_is_lost_although_others_are_there() {
    let all = Members::start(2, ms(1), of_rate(1.0, 1, 8_000)).await;
    let first: Vec<_> = (0..2).map(|_| all[0].send("123")).collect();
    tokio::time::sleep(ms(20)).await;
    all[0].link.set(Path::Lost);
    let lost = all[0].send("123");
    tokio::time::sleep(ms(50)).await;
    all[0].link.set(Path::Open(ms(1)));
    tokio::time::sleep(ms(250)).await;
    let later = all[1].send("123");
    times(first).await;
    let sent = [lost.await.unwrap().1, later.await.unwrap().1];
    assert!(sent[0] < sent[1], "{:?} after", sent[0] - sent[1]);
}

#[tokio::test(start_paused = true)]
async fn a_right_that_was_not_used_passes_to_others() {
    let all = Members::start(2, ms(20), of_rate(10.0, 5, 6_000)).await;
    pause(&all, 500).await;
    let began = Instant::now();
    let leaves = all[0].send("123");
    // While the reply is under way that gives it the right.
    tokio::time::sleep(ms(515)).await;
    leaves.abort();
    let waiting = all[1].send("123");
    let (probe, at) = waiting.await.unwrap();
    assert!(at - began <= ms(2_700), "{:?}", at - began);
    // While that probe is under way, the earlier right does not count.
    let second = all[0].send("123");
    tokio::time::sleep(ms(1_000)).await;
    assert!(!second.is_finished(), "a second probe");
    all[1].respond("123", &probe.unwrap(), 200, None);
    second.await.unwrap().0.unwrap();
}

#[tokio::test(start_paused = true)]
async fn slots_that_were_reserved_before_an_outage_are_not_used_in_a_pause() {
    // The 429 comes before the gateways go on without the server, or after.
    for late in [0, 1_600] {
        let all = Members::start(2, ms(1), of_rate(10.0, 1, 4_000)).await;
        let (first, _) = all[0].send("123").await.unwrap();
        let first = first.unwrap();
        let mut waiting: Vec<_> = (0..30).map(|_| all[0].send("123")).collect();
        tokio::time::sleep(ms(20)).await;
        all[0].link.set(Path::Lost);
        for _ in 0..late / 100 {
            waiting.push(all[0].send("123"));
            tokio::time::sleep(ms(100)).await;
        }
        assert_eq!(all[0].cluster.is_shared(), late == 0);
        all[0].respond("123", &first, 429, Some(ms(2_000)));
        let began = Instant::now();
        for _ in 0..20 {
            tokio::time::sleep(ms(100)).await;
            waiting.push(all[0].send("123"));
        }
        let mut after = 0;
        for request in waiting {
            let (acquired, at) = request.await.unwrap();
            if acquired.is_ok() && at > began {
                assert!(at >= began + ms(2_000), "{:?}", at - began);
                after += 1;
            }
        }
        assert!(after > 0, "nothing was sent after the pause");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_nothing_follows_keeps_no_account() {
    let all = Members::start(1, ms(1), of_rate(10.0, 5, 4_000)).await;
    pause(&all, 1_000).await;
    let account = all[0].limiter.rules().registries[0].known("123").unwrap();
    for (quiet, is_idle) in [(30_000, false), (40_000, true)] {
        tokio::time::sleep(ms(quiet)).await;
        assert_eq!(account.is_idle(Instant::now(), false), is_idle);
    }
}

#[tokio::test(start_paused = true)]
async fn slots_of_requests_that_a_pause_refuses_go_back() {
    let all = Members::start(2, ms(1), of_rate(10.0, 1, 4_000)).await;
    let (first, _) = all[0].send("123").await.unwrap();
    let mut waiting = Vec::new();
    for _ in 0..30 {
        waiting.push(all[0].send("123"));
        tokio::time::sleep(ms(3)).await;
    }
    let began = Instant::now();
    all[0].respond("123", &first.unwrap(), 429, Some(ms(10_000)));
    for request in waiting {
        let (refused, at) = request.await.unwrap();
        assert!(refused.is_err() || at <= began);
    }
    // From now on all requests arrive at the other gateway.
    tokio::time::sleep(ms(10_000)).await;
    let began = Instant::now();
    let sent = times(vec![all[1].send("123")]).await;
    assert!(sent[0] - began <= ms(110), "{:?}", sent[0] - began);
}

#[tokio::test(start_paused = true)]
async fn a_pause_survives_a_reload_from_a_rate_to_none_and_back() {
    let all = Members::start(2, ms(1), of_rate(10.0, 5, 20_000)).await;
    pause(&all, 5_000).await;
    let began = Instant::now();
    let mut unlimited = all.config.clone();
    unlimited.limit.quota = None;
    all[0].limiter.reconfigure(&unlimited);
    tokio::time::sleep(ms(100)).await;
    let waiting = all[0].send("123");
    tokio::time::sleep(ms(100)).await;
    assert!(!waiting.is_finished());
    all[0].limiter.reconfigure(&all.config);
    let sent = times(vec![waiting, all[0].send("123")]).await;
    assert!(sent[0] >= began + ms(4_990), "{:?}", sent[0] - began);
}
