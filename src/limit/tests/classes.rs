//! Which bucket a path draws on, and what a reload leaves of it.

use super::*;
use crate::config::{Class, PathPattern};

pub(super) fn class(name: &str, path: &str, quota: Option<Quota>) -> Class {
    Class {
        name: name.to_owned(),
        paths: vec![PathPattern::parse(path).unwrap()],
        methods: Vec::new(),
        quota,
    }
}

fn lane(limiter: &Limiter, path: &str) -> Lane {
    let is_receipt = path == "/v2/send/seen";
    let class = |limit: &config::Limit| limit.class_of(&Method::POST, path, is_receipt);
    limiter.lane(&limiter.rules(), &who("1", "t"), class, true)
}

#[tokio::test(start_paused = true)]
async fn a_class_has_its_own_bucket_and_wildcards_spare_receipts() {
    let mut config = settings(quota(1.0, 10));
    config.limit.classes = vec![
        class("sends", "/v2/send/*", quota(1.0, 3)),
        class("everything", "*", quota(1.0, 5)),
    ];
    let limiter = limiter(&config);
    assert_eq!(drain(&limiter, &lane(&limiter, "/v2/send/text")), 3);
    assert_eq!(drain(&limiter, &lane(&limiter, "/v2/send/image")), 0);
    assert_eq!(drain(&limiter, &lane(&limiter, "/v2/chats")), 5);
    assert_eq!(drain(&limiter, &lane(&limiter, "/v2/send/seen")), 10);
}

#[tokio::test(start_paused = true)]
async fn a_class_that_names_the_receipts_path_takes_them() {
    let mut config = settings(quota(1.0, 10));
    config.limit.classes = vec![class("seen", "/v2/send/seen", quota(1.0, 4))];
    let limiter = limiter(&config);
    assert_eq!(drain(&limiter, &lane(&limiter, "/v2/send/seen")), 4);
    assert_eq!(drain(&limiter, &lane(&limiter, "/v2/send/text")), 10);
}

#[tokio::test(start_paused = true)]
async fn a_class_of_rate_zero_is_unlimited() {
    let mut config = settings(quota(1.0, 1));
    config.limit.classes = vec![class("free", "/v2/chats*", None)];
    let limiter = limiter(&config);
    let free = lane(&limiter, "/v2/chats/overview");
    for _ in 0..100 {
        now(&limiter, &free);
    }
    assert_eq!(drain(&limiter, &lane(&limiter, "/v2/groups")), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_what_is_owed() {
    let mut config = settings(quota(1.0, 10));
    config.limit.classes = vec![class("sends", "/v2/send/*", quota(1.0, 4))];
    let limiter = limiter(&config);
    let base = lane(&limiter, "/v2/chats");
    let sends = lane(&limiter, "/v2/send/text");
    for _ in 0..6 {
        now(&limiter, &base);
    }
    now(&limiter, &sends);
    for (burst, left) in [(8, 2), (20, 14), (3, 0)] {
        let limiter = self::limiter(&config);
        let base = lane(&limiter, "/v2/chats");
        for _ in 0..6 {
            now(&limiter, &base);
        }
        let mut other = config.clone();
        other.limit.quota = quota(1.0, burst);
        limiter.reconfigure(&other);
        assert_eq!(drain(&limiter, &base), left, "a debt of 6 of {burst}");
        assert_eq!(drain(&limiter, &lane(&limiter, "/v2/chats")), 0);
    }
    // A class keeps its buckets by name, wherever it now stands.
    config.limit.classes = vec![
        class("groups", "/v2/groups*", quota(1.0, 9)),
        class("sends", "/v2/send/*", quota(1.0, 4)),
    ];
    limiter.reconfigure(&config);
    assert_eq!(drain(&limiter, &lane(&limiter, "/v2/send/text")), 3);
    assert_eq!(drain(&limiter, &lane(&limiter, "/v2/groups")), 9);
    assert_eq!(drain(&limiter, &lane(&limiter, "/v2/chats")), 4);
}

#[tokio::test(start_paused = true)]
async fn a_reload_with_the_same_quota_changes_nothing() {
    let config = settings(quota(10.0, 4));
    let limiter = limiter(&config);
    let lane = lane(&limiter, "/v2/chats");
    assert_eq!(drain(&limiter, &lane), 4);
    tokio::time::advance(ms(250)).await;
    limiter.reconfigure(&config);
    assert_eq!(drain(&limiter, &lane), 2);
    tokio::time::advance(ms(50)).await;
    assert_eq!(drain(&limiter, &lane), 1);
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_profit_from_a_reload() {
    let mut config = settings(quota(0.05, 1));
    let limiter = limiter(&config);
    let lane = lane(&limiter, "/v2/chats");
    now(&limiter, &lane);
    let start = Instant::now();
    let first = queued(&limiter, &lane, Kind::Request);
    let second = queued(&limiter, &lane, Kind::Request);
    tokio::time::sleep(ms(1000)).await;
    config.limit.quota = quota(10.0, 1);
    limiter.reconfigure(&config);
    first.await;
    assert_eq!(start.elapsed(), ms(1100));
    config.limit.quota = None;
    limiter.reconfigure(&config);
    second.await;
    assert_eq!(start.elapsed(), ms(1100));
}
