//! What is exposed, and that it stays bounded.

use std::num::NonZeroU32;
use std::time::Duration;

use http::StatusCode;

use super::*;

fn series(metrics: &Metrics) -> Vec<String> {
    let text = metrics.exposition();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let names = lines.filter_map(|line| line.rsplit_once(' '));
    names.map(|(series, _)| series.to_owned()).collect()
}

fn status(tokens: Option<f64>, paused: u64) -> BucketStatus {
    BucketStatus {
        tokens,
        paused: Duration::from_secs(paused),
    }
}

/// Uses every label that clients can choose.
fn flood(metrics: &Metrics, round: usize) {
    for n in 0..1_000 {
        let series = metrics.instance(&format!("{round}-{n}\"\\\n"));
        series.queued.inc();
        series.throttled.inc();
        for reason in Reason::ALL {
            series.rejected(reason).inc();
        }
        for route in Route::ALL {
            series.requests(route).inc();
        }
    }
    for code in 100..1_000 {
        let code = StatusCode::from_u16(code).unwrap();
        for route in Route::ALL {
            metrics.requests[route as usize].code(code).inc();
            metrics.upstream[route as usize].code(code).inc();
        }
    }
    metrics.instance(&"x".repeat(100_000));
    metrics.set_bucket_gauges(|_| status(Some(0.125), 59));
}

#[test]
fn labels_chosen_by_clients_are_bounded() {
    let metrics = Metrics::new(100);
    flood(&metrics, 0);
    let full = series(&metrics).len();
    for round in 1..4 {
        flood(&metrics, round);
        assert_eq!(series(&metrics).len(), full, "round {round}");
    }
    let text = metrics.exposition();
    assert!(text.len() < 1_000_000, "{} bytes", text.len());
    assert!(!text.contains("xxxxxxxxxx"));
    let tokens = series(&metrics);
    let tokens = tokens
        .iter()
        .filter(|name| name.starts_with("wawp_gateway_limit_tokens{"));
    assert_eq!(tokens.count(), 100);
}

#[test]
fn common_series_are_exposed_at_zero_from_the_start() {
    let text = Metrics::new(100).exposition();
    for name in ["requests_total", "upstream_requests_total"] {
        for route in ["seen", "other"] {
            for code in [
                "200", "201", "400", "401", "403", "404", "408", "413", "422", "429", "500", "502",
                "503", "504",
            ] {
                let zero =
                    format!("\nwawp_gateway_{name}{{code=\"{code}\",route=\"{route}\"}} 0\n");
                assert!(text.contains(&zero), "{zero}");
            }
        }
    }
    for instance in ["none", "other"] {
        for reason in ["queue_full", "max_wait", "paused"] {
            let labels = format!("{{instance=\"{instance}\",reason=\"{reason}\"}} 0\n");
            assert!(text.contains(&format!("wawp_gateway_limit_rejected_total{labels}")));
        }
    }
}

#[test]
fn an_instance_shows_the_fewest_tokens_and_the_longest_pause() {
    let one = status(Some(3.0), 0);
    assert_eq!(one.scarcer(status(Some(1.5), 2)), status(Some(1.5), 2));
    assert_eq!(one.scarcer(status(None, 7)), status(Some(3.0), 7));
    assert_eq!(BucketStatus::default().scarcer(one), one);
}

#[test]
fn tokens_are_not_exposed_without_a_limit() {
    let metrics = Metrics::new(1);
    metrics.instance("1");
    metrics.set_bucket_gauges(|_| status(Some(2.5), 0));
    assert!(
        metrics
            .exposition()
            .contains("limit_tokens{instance=\"1\"} 2.5\n")
    );
    metrics.set_bucket_gauges(|_| status(None, 0));
    assert!(!metrics.exposition().contains("limit_tokens{"));
}

#[test]
fn a_removed_tenant_has_no_weight_but_keeps_its_count() {
    let metrics = Metrics::new(0);
    let weight = |weight| NonZeroU32::new(weight).unwrap();
    let count = |tenant: &str| {
        metrics.tenant(tenant).upstream().inc();
    };
    let shown = |line: &str| {
        let line = format!("\nwawp_gateway_tenant_{line}\n");
        metrics.exposition().contains(&line)
    };
    metrics.renew_tenants([("a", weight(2)), ("b", weight(1))].into_iter());
    count("a");
    count("b");
    metrics.renew_tenants([("a", weight(5))].into_iter());
    assert!(shown("weight{tenant=\"a\"} 5") && !shown("weight{tenant=\"b\"} 1"));
    metrics.renew_tenants([("b", weight(1))].into_iter());
    count("b");
    assert!(shown("weight{tenant=\"b\"} 1"));
    assert!(shown("upstream_requests_total{tenant=\"a\"} 1"));
    assert!(shown("upstream_requests_total{tenant=\"b\"} 2"));
}
