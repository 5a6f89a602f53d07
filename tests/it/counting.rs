//! The figures add up: what clients got, what the upstream saw, and what was counted are one story.

use std::collections::BTreeMap;
use std::time::Duration;

use wawp_gateway::sandbox::{Fault, FaultKind};

use crate::support::{World, at_rest, get, ids, post, receipt, receipt_in_query, receipt_of, text};

/// A stream of numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn route(path: &str) -> &'static str {
    if path == "/v2/send/seen" {
        "seen"
    } else {
        "other"
    }
}

#[tokio::test(start_paused = true)]
async fn counters_add_up_over_a_mix_of_everything() {
    for seed in [1, 77, 4242] {
        let world = World::new(
            "limit.rate = 20\nlimit.burst = 10\nlimit.max_queue = 15\nlimit.max_wait = \"1s\"\nbatch.quarantine = \"0s\"",
        );
        let culprit = ids([13]).remove(0);
        world
            .sandbox
            .script(Fault::status(500).id(culprit).times(usize::MAX));
        world
            .sandbox
            .script(Fault::status(503).id(ids([7]).remove(0)).times(3));
        world.sandbox.script(
            Fault::new(FaultKind::ResetBeforeHead)
                .path("/v2/send/text")
                .times(4),
        );
        let busy = Fault::status(429).header(
            http::header::RETRY_AFTER,
            http::HeaderValue::from_static("0.2"),
        );
        world.sandbox.script(busy.path("/v2/session").times(2));
        let mut dice = Dice(seed);
        let mut calls = Vec::new();
        for n in 0..600 {
            let number = dice.throw(20) as usize;
            let (path, request) = match dice.throw(12) {
                0..5 => ("/v2/send/seen", receipt([number])),
                5 => ("/v2/send/seen", receipt_in_query([number])),
                6 => {
                    let instance = format!("inst{}", dice.throw(3));
                    (
                        "/v2/send/seen",
                        receipt_of(&instance, "t", "2@c.us", &ids([number])),
                    )
                }
                7 => (
                    "/v2/send/seen",
                    post("/v2/send/seen?instance_id=123", r#"{"odd":1}"#),
                ),
                8 => ("/v2/send/text", text(&n.to_string())),
                9 => (
                    "/v2/session/me",
                    get("/v2/session/me?instance_id=123&access_token=token-1"),
                ),
                10 => (
                    "/v2/send/text",
                    get("/v2/send/text?instance_id=inst9&access_token=invalid&chatId=1&message=m"),
                ),
                _ => ("/sandbox/status/204", get("/sandbox/status/204")),
            };
            calls.push((path, world.calling(request)));
            tokio::time::sleep(Duration::from_millis(dice.throw(12))).await;
        }
        // A calm end: what repeats and splits took is made up for.
        tokio::time::sleep(Duration::from_secs(5)).await;
        calls.extend((0..40).map(|n| ("/v2/send/seen", world.calling(receipt([100 + n])))));
        let mut answered: BTreeMap<(&str, u16), f64> = BTreeMap::new();
        let mut told_by_upstream = 0.0;
        for (path, call) in calls {
            let response = call.await.unwrap();
            *answered
                .entry((route(path), response.status()))
                .or_default() += 1.0;
            let timing = response.field("server-timing").unwrap_or_default();
            if route(path) == "seen" && timing.contains("batch;dur=") {
                told_by_upstream += 1.0;
            }
        }
        at_rest().await;

        // Clients: every response that a client got is counted once, and no other.
        let mut total = 0.0;
        for ((route, status), count) in &answered {
            let labels = [
                &*format!("route=\"{route}\""),
                &*format!("code=\"{status}\""),
            ];
            assert_eq!(
                world.counted("wawp_gateway_requests_total", &labels),
                *count,
                "{labels:?}"
            );
            total += count;
        }
        assert_eq!(total, 640.0);
        assert_eq!(world.counted("wawp_gateway_requests_total", &[]), total);
        assert_eq!(
            world.counted("wawp_gateway_instance_requests_total", &[]),
            total
        );
        assert_eq!(
            world.counted("wawp_gateway_request_duration_seconds_count", &[]),
            total
        );

        // Upstream: every call the sandbox saw is counted under what it answered.
        let seen = world.sandbox.calls();
        let mut arrived: BTreeMap<(&str, String), f64> = BTreeMap::new();
        for call in &seen {
            let code = match call.status {
                0 => "error".to_owned(),
                status => status.to_string(),
            };
            *arrived.entry((route(call.path()), code)).or_default() += 1.0;
        }
        for ((route, code), count) in &arrived {
            let labels = [&*format!("route=\"{route}\""), &*format!("code=\"{code}\"")];
            assert_eq!(
                world.counted("wawp_gateway_upstream_requests_total", &labels),
                *count,
                "{labels:?}"
            );
        }
        assert_eq!(
            world.counted("wawp_gateway_upstream_requests_total", &[]),
            seen.len() as f64
        );

        assert_eq!(
            world.counted("wawp_gateway_tenant_upstream_requests_total", &[]),
            seen.len() as f64
        );

        // Each response on the path of receipts was merged, or not for one reason.
        let seen_responses = world.counted("wawp_gateway_requests_total", &["route=\"seen\""]);
        let merged = world.counted("wawp_gateway_receipts_merged_total", &[]);
        let unmerged = world.counted("wawp_gateway_receipts_unmerged_total", &[]);
        assert_eq!(merged + unmerged, seen_responses);
        assert!(merged > 40.0 && unmerged > 40.0, "{merged} and {unmerged}");

        // Merging: callers that got a response of the upstream, less the calls.
        let receipts: Vec<_> = seen.iter().filter(|call| !call.ids.is_empty()).collect();
        let saved = world.counted("wawp_gateway_upstream_requests_saved_total", &[]);
        // The calm end alone saves 39, less what splits before it took too much.
        assert!(saved > 30.0, "{saved} saved");
        assert_eq!(saved, told_by_upstream - receipts.len() as f64);
        let batches = world.counted("wawp_gateway_batch_callers_count", &[]);
        let retries = world.counted("wawp_gateway_batch_retries_total", &[]);
        let splits = world.counted("wawp_gateway_batch_splits_total", &[]);
        // A batch that is split sends three callers alone at most, then four parts.
        let most = batches + retries + 7.0 * splits;
        assert!((batches..=most).contains(&(receipts.len() as f64)));
        assert!(
            retries >= 1.0 && splits >= 1.0,
            "{retries} retries, {splits} splits"
        );
        assert_eq!(
            world.counted("wawp_gateway_limit_wait_seconds_count", &[]),
            seen.len() as f64,
            "one token per upstream call"
        );

        // Refusals of the gateway's own are what is left.
        let own = world.counted("wawp_gateway_limit_rejected_total", &[]);
        let all_429 = world.counted("wawp_gateway_requests_total", &["code=\"429\""]);
        let theirs = world.counted(
            "wawp_gateway_upstream_requests_total",
            &["route=\"other\"", "code=\"429\""],
        );
        assert_eq!(own, all_429 - theirs);

        // At rest nothing is left over.
        for gauge in ["in_flight_requests", "batches_open", "limit_queued"] {
            assert_eq!(
                world.counted(&format!("wawp_gateway_{gauge}"), &[]),
                0.0,
                "{gauge}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn callers_per_batch_are_counted_exactly() {
    let world = World::new("");
    for size in [1, 5, 20] {
        world.together((0..size).map(|n| receipt([n]))).await;
    }
    at_rest().await;
    assert_eq!(world.counted("wawp_gateway_batch_callers_sum", &[]), 26.0);
    assert_eq!(world.counted("wawp_gateway_batch_callers_count", &[]), 3.0);
    assert_eq!(
        world.counted("wawp_gateway_batch_message_ids_sum", &[]),
        26.0
    );
    assert_eq!(
        world.counted("wawp_gateway_upstream_requests_saved_total", &[]),
        23.0
    );
    let waited = world.counted("wawp_gateway_batch_wait_seconds_sum", &[]);
    assert!((waited - 0.15).abs() < 1e-9, "{waited}");
    assert_eq!(
        world.counted(
            "wawp_gateway_instance_requests_total",
            &["instance=\"123\"", "route=\"seen\""]
        ),
        26.0
    );
}

#[tokio::test(start_paused = true)]
async fn a_response_that_breaks_off_is_one_call_and_has_a_counter_of_its_own() {
    let world = World::new("");
    let torn = FaultKind::CutBody {
        promised: 10,
        sent: "half".into(),
    };
    world.sandbox.script(Fault::new(torn));
    let mut client = world.client();
    client.says(get("/sandbox/echo")).await;
    client.hears_until("half").await;
    client.hears_end().await;
    at_rest().await;
    assert_eq!(
        world.counted("wawp_gateway_requests_total", &["code=\"200\""]),
        1.0
    );
    let upstream = "wawp_gateway_upstream_requests_total";
    assert_eq!(world.counted(upstream, &["code=\"200\""]), 1.0);
    assert_eq!(world.counted(upstream, &[]), 1.0);
    let broken_off = "wawp_gateway_upstream_broken_off_total";
    assert_eq!(world.counted(broken_off, &[]), 1.0);
}

#[tokio::test(start_paused = true)]
async fn savings_are_counted_for_the_tenant_and_the_instance_that_they_belong_to() {
    let world = World::new(
        "[[tenant]]\nname = \"acme\"\ninstances = [\"1\", \"2\"]\n[[tenant]]\nname = \"zoo\"\ninstances = [\"3\"]\n",
    );
    for (instance, callers) in [("1", 5), ("2", 3), ("3", 2), ("4", 4)] {
        // The first response verifies the instance, which then has a label.
        for callers in [1, callers] {
            let receipts = (0..callers).map(|n| receipt_of(instance, "t", "1@c.us", &ids([n])));
            world.together(receipts).await;
        }
    }
    at_rest().await;
    let saved = |metric: &str, label: &str| {
        world.counted(
            &format!("wawp_gateway_{metric}_saved_total"),
            &[&format!("{label}\"")],
        )
    };
    for (tenant, calls) in [("acme", 6.0), ("zoo", 1.0), ("other", 3.0)] {
        let label = format!("tenant=\"{tenant}");
        assert_eq!(saved("upstream_requests", &label), calls, "{tenant}");
    }
    for (instance, calls) in [("1", 4.0), ("2", 2.0), ("3", 1.0), ("4", 3.0)] {
        let label = format!("instance=\"{instance}");
        assert_eq!(
            saved("instance_upstream_requests", &label),
            calls,
            "{instance}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn failures_of_the_api_are_counted_by_instance_and_status() {
    let world = World::new("");
    let fault = |status| Fault::status(status).path("/v2/send/text");
    for status in [401, 404, 403, 429, 500, 201] {
        world.sandbox.script(fault(status));
    }
    world
        .sandbox
        .script(Fault::new(FaultKind::ResetBeforeHead).path("/v2/send/text"));
    world.together([receipt([0])]).await;
    for n in 0..7 {
        world.together([text(&n.to_string())]).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    for (code, times) in [
        ("401", 1.0),
        ("404", 1.0),
        ("4xx", 1.0),
        ("5xx", 1.0),
        ("error", 1.0),
    ] {
        let labels = [&*format!("code=\"{code}\""), "instance=\"123\""];
        let counted = world.counted("wawp_gateway_instance_upstream_errors_total", &labels);
        assert_eq!(counted, times, "{code}");
    }
}
