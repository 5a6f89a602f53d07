//! Verified credentials that gateways share: the bucket of verified credentials stays theirs on all
//! gateways.

use super::*;

const ROUND_TRIP: Duration = ms(2);

/// Five tokens at once, and one each second. What does not get one in time is refused.
async fn gateways(count: u32) -> Members {
    Members::start(count, ROUND_TRIP, of_rate(1.0, 5, 100)).await
}

impl Member {
    async fn request(&self, token: &str) -> Option<(Lane, Acquired)> {
        let lane = lane_of(&self.limiter, "123", token);
        let acquired = self
            .limiter
            .acquire(&lane, Kind::Request, Instant::now(), Route::Other);
        Some((lane.clone(), acquired.await.ok()?))
    }

    /// A request that finds a token and gets this response.
    async fn exchange(&self, token: &str, status: u16) {
        let (lane, acquired) = self.request(token).await.expect("a token");
        let status = StatusCode::from_u16(status).unwrap();
        lane.on_response(&acquired.permit, status, None);
    }

    /// How many of ten requests at once find a token.
    async fn flood(&self, token: &str) -> usize {
        let requests = (0..10).map(|_| self.request(token));
        let sent = futures_util::future::join_all(requests).await;
        sent.iter().flatten().count()
    }
}

/// Until all buckets are full again.
async fn refill() {
    tokio::time::sleep(ms(6_000)).await;
}

/// That junk does not take the tokens of the owner, on whatever gateway each is.
#[track_caller]
fn assert_separate(junk: usize, owner: usize) {
    assert!(junk <= 5, "{junk} tokens for junk");
    assert_eq!(owner, 5, "tokens for the owner");
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_junk_on_another_gateway_does_not_take_the_owners_tokens() {
    for is_known_there in [true, false] {
        let all = gateways(2).await;
        if is_known_there {
            // It learns by an announcement, otherwise by its first question.
            all[1].exchange("junk", 401).await;
        }
        all[0].exchange("owner", 200).await;
        refill().await;
        let junk = all[1].flood("junk").await;
        assert_separate(junk, all[0].flood("owner").await);
        refill().await;
        let junk = all[0].flood("junk").await;
        assert_separate(junk, all[1].flood("owner").await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_does_not_know_yet_what_is_verified_reserves_one_token() {
    let mut all = gateways(1).await;
    all[0].exchange("owner", 200).await;
    all.join(ms(20));
    refill().await;
    let (junk, owner) = tokio::join!(all[1].flood("junk"), async {
        // The reservation has arrived, and the slot is not back yet.
        tokio::time::sleep(ms(15)).await;
        all[0].flood("owner").await
    });
    assert_eq!((junk, owner), (5, 4));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_joins_later_knows_what_is_verified() {
    let mut all = gateways(1).await;
    all[0].exchange("owner", 201).await;
    all[0].exchange("other-app", 201).await;
    all.join(ROUND_TRIP);
    refill().await;
    let junk = all[1].flood("junk").await;
    assert_separate(junk, all[1].flood("owner").await);
    refill().await;
    let junk = all[1].flood("junk").await;
    assert_separate(junk, all[1].flood("other-app").await);
}

#[tokio::test(start_paused = true)]
async fn a_401_removes_the_verification_on_all_gateways() {
    let mut all = gateways(2).await;
    all[1].exchange("owner", 200).await;
    all[0].exchange("owner", 401).await;
    refill().await;
    all.join(ROUND_TRIP);
    refill().await;
    for member in &all.members {
        refill().await;
        // There is only the main bucket again.
        assert_eq!(member.flood("junk").await, 5);
        assert_eq!(member.flood("owner").await, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn lost_announcements_are_made_up_for() {
    let all = gateways(2).await;
    all[1].exchange("junk", 401).await;
    all.server.end_listening();
    all[0].exchange("owner", 200).await;
    refill().await;
    let junk = all[1].flood("junk").await;
    assert_separate(junk, all[1].flood("owner").await);
}

#[tokio::test(start_paused = true)]
async fn without_a_server_each_gateway_goes_on_with_what_it_knows_and_shares_it_later() {
    for path in [Path::Lost, Path::Refused, Path::RepliesLost] {
        let all = gateways(2).await;
        all[1].exchange("junk", 401).await;
        all[0].exchange("owner", 200).await;
        tokio::time::sleep(ms(10)).await;
        all.members.iter().for_each(|it| it.link.set(path));
        for member in &all.members {
            while member.cluster.is_shared() {
                member.request("junk").await;
            }
            // From now on its part of each bucket fills.
            member.request("junk").await;
            member.request("owner").await;
        }
        refill().await;
        // Each has half of both buckets.
        assert_eq!(all[1].flood("junk").await, 2, "{path:?}");
        assert_eq!(all[1].flood("owner").await, 2, "{path:?}");
        all[0].exchange("later", 200).await;
        let back = Path::Open(ROUND_TRIP);
        all.members.iter().for_each(|it| it.link.set(back));
        refill().await;
        all[0].exchange("later", 200).await;
        // Its part is what a gateway goes on with at first.
        for token in ["junk", "owner"] {
            all[1].request(token).await;
        }
        refill().await;
        for token in ["owner", "later"] {
            let junk = all[1].flood("junk").await;
            assert_separate(junk, all[1].flood(token).await);
            refill().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn another_data_set_gets_what_gateways_know() {
    for is_another_key in [false, true] {
        let mut all = gateways(2).await;
        all[1].exchange("junk", 401).await;
        all[0].exchange("owner", 200).await;
        match is_another_key {
            true => all.server.replace("another"),
            false => all.server.clear(),
        }
        // Its buckets begin empty.
        refill().await;
        refill().await;
        let junk = all[1].flood("junk").await;
        assert_separate(junk, all[1].flood("owner").await);
        refill().await;
        all[0].exchange("owner", 200).await;
        all.join(ROUND_TRIP);
        refill().await;
        let junk = all[2].flood("junk").await;
        assert_separate(junk, all[2].flood("owner").await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_credential_in_use_costs_one_operation_a_request_and_is_not_forgotten() {
    let mut all = gateways(1).await;
    all[0].exchange("owner", 200).await;
    refill().await;
    let before = all.server.calls();
    for _ in 0..10 {
        all[0].exchange("owner", 200).await;
        refill().await;
    }
    assert_eq!(all.server.calls() - before, 10);
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_secs(600)).await;
        all[0].exchange("owner", 200).await;
    }
    all.join(ROUND_TRIP);
    refill().await;
    let junk = all[1].flood("junk").await;
    assert_separate(junk, all[1].flood("owner").await);
    // One that is not used for an hour is.
    tokio::time::sleep(Duration::from_secs(3_700)).await;
    all.join(ROUND_TRIP);
    refill().await;
    assert_eq!(all[2].flood("junk").await, 5);
    assert_eq!(all[2].flood("owner").await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_one_gateway_has_verified_holds_in_every_class_of_the_others() {
    for opened_before in [false, true] {
        let mut config = of_rate(1.0, 5, 100);
        config.limit.classes = vec![classes::class("strict", "*", quota(1.0, 1))];
        let all = Members::start(2, ROUND_TRIP, config).await;
        let request = async |token: &str| {
            let identity = who("123", token);
            let limiter = &all[1].limiter;
            let lane = limiter.lane(&limiter.rules(), &identity, |_, _| Some(0), true);
            let acquired = limiter.acquire(&lane, Kind::Request, Instant::now(), Route::Other);
            acquired.await.is_ok()
        };
        if opened_before {
            assert!(request("junk").await);
        }
        all[0].exchange("owner", 200).await;
        refill().await;
        assert!(request("junk").await && !request("junk").await);
        assert!(request("owner").await);
    }
}
