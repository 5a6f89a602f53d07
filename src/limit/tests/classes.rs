//! Which bucket a path draws on, and what a reload leaves of it.

use super::*;
use crate::config::{Class, PathPattern};

pub(super) fn class(name: &str, path: &str, quota: Option<Quota>) -> Class {
    Class {
        name: name.to_owned(),
        paths: vec![PathPattern::parse(path).unwrap()],
        methods: Vec::new(),
        instances: Vec::new(),
        tenants: Vec::new(),
        quota,
        max_in_flight: None,
    }
}

fn lane(limiter: &Limiter, path: &str) -> Lane {
    lane_at(limiter, "1", path)
}

fn lane_at(limiter: &Limiter, instance: &str, path: &str) -> Lane {
    let is_receipt = path == "/v2/send/seen";
    let class = |classes: &Classes, instance: Option<&InstanceId>| {
        classes.class_of(&Method::POST, path, is_receipt, instance.map(|it| &**it))
    };
    limiter.lane(&limiter.rules(), &who(instance, "t"), class, true)
}

/// A class for these instances: of these paths, or the base limit.
fn class_for(name: &str, path: Option<&str>, instances: &[&str], quota: Option<Quota>) -> Class {
    Class {
        paths: path
            .map(|path| PathPattern::parse(path).unwrap())
            .into_iter()
            .collect(),
        instances: instances.iter().map(|&it| it.to_owned()).collect(),
        ..class(name, "*", quota)
    }
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

#[tokio::test(start_paused = true)]
async fn a_class_without_paths_is_the_base_limit_of_its_instances() {
    let mut config = settings(quota(1.0, 10));
    config.limit.classes = vec![
        class_for("new", None, &["1"], quota(1.0, 2)),
        class("sends", "/v2/send/*", quota(1.0, 3)),
    ];
    let limiter = limiter(&config);
    let taken = |instance, path| drain(&limiter, &lane_at(&limiter, instance, path));
    assert_eq!(taken("1", "/v2/send/text"), 2);
    assert_eq!(taken("1", "/v2/send/seen"), 0);
    assert_eq!(taken("2", "/v2/send/text"), 3);
    assert_eq!(taken("2", "/v2/chats"), 10);
    assert_eq!(limiter.budgets("1")[0].class.as_deref(), Some("new"));
    assert_eq!(limiter.budgets("2")[0].class, None);
}

/// Moves an instance between classes of the same requests, and back.
#[tokio::test(start_paused = true)]
async fn a_reload_that_moves_an_instance_keeps_its_debt_and_its_order() {
    for path in [None, Some("/v2/send/*")] {
        let mut config = settings(quota(1.0, 10));
        let warm = class_for("warm", path, &["2", "3"], quota(1.0, 4));
        let cold = |instances: &[&str]| class_for("cold", path, instances, quota(0.5, 2));
        config.limit.classes = vec![cold(&["2"]), warm.clone()];
        let limiter = limiter(&config);
        let lane = |instance| lane_at(&limiter, instance, "/v2/send/text");
        for _ in 0..3 {
            now(&limiter, &lane("3"));
        }
        // Three of four are missing: all of the two that a cold instance has.
        config.limit.classes = vec![cold(&["2", "3"]), warm.clone()];
        limiter.reconfigure(&config);
        assert_eq!(drain(&limiter, &lane("3")), 0, "{path:?}");
        let begun = Instant::now();
        let first = queued(&limiter, &lane("3"), Kind::Request);
        let second = queued(&limiter, &lane("3"), Kind::Request);
        config.limit.classes = vec![cold(&["2"]), warm];
        limiter.reconfigure(&config);
        // What comes after the reload comes after what waits, at the other rate.
        let third = queued(&limiter, &lane("3"), Kind::Request);
        let mut granted = Vec::new();
        for waiting in [first, second, third] {
            granted.push((waiting.await.granted - begun).as_millis());
        }
        assert!(granted.is_sorted(), "{granted:?}");
        assert!(granted[2] - granted[1] == 1000, "{granted:?}");
        assert_eq!(drain(&limiter, &lane("2")), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_class_that_changes_its_paths_keeps_its_buckets() {
    let mut config = settings(quota(1.0, 10));
    config.limit.classes = vec![class("sends", "/v2/send/*", quota(1.0, 4))];
    let limiter = limiter(&config);
    now(&limiter, &lane(&limiter, "/v2/send/text"));
    config.limit.classes = vec![
        class("texts", "/v2/send/text", quota(1.0, 4)),
        class("sends", "/v2/send/i*", quota(1.0, 4)),
    ];
    limiter.reconfigure(&config);
    assert_eq!(drain(&limiter, &lane(&limiter, "/v2/send/image")), 3);
    assert_eq!(drain(&limiter, &lane(&limiter, "/v2/send/text")), 4);
}
