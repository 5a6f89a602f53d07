//! What operators see of the limits: budgets, gauges, names of refusals.

use super::*;
use crate::config::Class;
use crate::observe::metrics::Reason;

/// The base limit and a class, and a lane of each.
fn with_class(base: Option<Quota>, own: Option<Quota>) -> (Limiter, [Lane; 2]) {
    let mut config = settings(base);
    config.limit.classes = vec![Class {
        max_in_flight: NonZeroU32::new(3),
        ..classes::class("media", "/v2/send/file", own)
    }];
    let limiter = limiter(&config);
    let lane = |class| limiter.lane(&limiter.rules(), &who("1", "t"), |_, _| class, true);
    let lanes = [lane(None), lane(Some(0))];
    (limiter, lanes)
}

#[tokio::test(start_paused = true)]
async fn the_budgets_of_an_instance_are_those_of_its_buckets() {
    let (limiter, [base, media]) = with_class(quota(10.0, 5), quota(2.0, 2));
    assert_eq!(limiter.budgets("2"), [], "it has no account");
    let permit = now(&limiter, &base);
    base.on_response(&permit, StatusCode::TOO_MANY_REQUESTS, Some(ms(3000)));
    let held = [0; 2].map(|_| now(&limiter, &media));
    let request = queued(&limiter, &media, Kind::Request);
    let receipts = [0; 2].map(|_| {
        let opened = Instant::now();
        queued(&limiter, &media, Kind::Receipt { opened })
    });
    tokio::time::sleep(ms(250)).await;
    let expected_base = Budget {
        class: None,
        tokens: Some(0.0),
        burst: Some(5),
        rate: Some(10.0),
        in_flight: None,
        max_in_flight: None,
        waiting: Waiting::default(),
        pause: 2.75,
    };
    let expected_media = Budget {
        class: Some("media".into()),
        tokens: Some(0.5),
        burst: Some(2),
        rate: Some(2.0),
        in_flight: Some(2),
        max_in_flight: Some(3),
        waiting: Waiting {
            requests: 1,
            receipts: 2,
        },
        pause: 0.0,
    };
    assert_eq!(limiter.budgets("1"), [expected_base, expected_media]);
    drop((held, request, receipts));
}

#[tokio::test(start_paused = true)]
async fn the_gauges_of_an_instance_are_those_of_its_scarcer_bucket() {
    let (limiter, [base, media]) = with_class(quota(10.0, 20), quota(10.0, 5));
    let gauges = || {
        limiter.report();
        let text = limiter.metrics.exposition();
        let value = |name: &str| {
            let start = format!("wawp_gateway_limit_{name}{{instance=\"1\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&*start));
            line.map(|value| value.parse::<f64>().unwrap())
        };
        (value("tokens"), value("paused"))
    };
    assert_eq!(gauges(), (None, None), "not verified, so without a label");
    base.verify();
    assert_eq!(gauges(), (Some(5.0), Some(0.0)));
    // An instance without an account has full buckets.
    for _ in 0..17 {
        now(&limiter, &base);
    }
    assert_eq!(gauges(), (Some(3.0), Some(0.0)));
    let permit = now(&limiter, &media);
    media.on_response(&permit, StatusCode::TOO_MANY_REQUESTS, Some(ms(2000)));
    let (tokens, paused) = gauges();
    assert_eq!((tokens, paused), (Some(0.0), Some(2.0)));
    // Without a limit there is no such gauge.
    limiter.reconfigure(&settings(None));
    assert_eq!(gauges(), (None, Some(0.0)));
}

#[tokio::test(start_paused = true)]
async fn ratelimit_fields_are_sent_where_the_present_settings_say_so() {
    let mut config = settings(None);
    let limiter = limiter(&config);
    let lane = lane_of(&limiter, "1", "t");
    assert!(!lane.sends_ratelimit_headers());
    config.limit.headers = true;
    limiter.reconfigure(&config);
    assert!(lane.sends_ratelimit_headers());
}

#[test]
fn each_refusal_has_its_reason_and_each_budget_its_name() {
    let refused = |refusal, scope| RateLimited {
        refusal,
        scope,
        quota: None,
        max_in_flight: None,
        waiting: 0,
        retry_after: Duration::ZERO,
    };
    let scopes = [Scope::Instance, Scope::Tenant, Scope::Egress];
    let late = [Reason::MaxWait, Reason::TenantBudget, Reason::EgressBudget];
    for (scope, late) in scopes.into_iter().zip(late) {
        for (refusal, reason) in [
            (Refusal::QueueFull, Reason::QueueFull),
            (Refusal::Paused, Reason::Paused),
            (Refusal::WaitTooLong, late),
        ] {
            assert_eq!(refused(refusal, scope).reason(), reason);
        }
    }
    assert_eq!(scopes.map(Scope::as_str), ["instance", "tenant", "egress"]);
}
