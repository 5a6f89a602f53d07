//! What lies in `grafana/` fits the gateway: no metric that does not exist, none that no panel or rule uses, and nothing
//! shown without a word on what to do about it. Whether Prometheus agrees is for `prometheus.rs`.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

mod shipped;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use shipped::{dashboard, dashboard_queries, field, is_name, items, rules, text, variables};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wawp_gateway::config::{Config, Tenant, Tls};
use wawp_gateway::gateway::Gateway;
use wawp_gateway::sandbox::{Sandbox, Settings};
use wawp_gateway::{Dial, Io};

/// Metrics that need no panel and no rule.
const WITHOUT_A_PANEL: &[&str] = &[
    // Says nothing that resident memory does not say better.
    "process_virtual_memory_bytes",
];

/// Defined by Grafana itself.
const GRAFANA_VARIABLES: &[&str] = &["__rate_interval", "__range"];

/// What Prometheus puts on every series (`grafana/prometheus.yml`).
const TARGET_LABELS: &[&str] = &["job", "replica", "instance"];

/// A metric as the gateway exposes it.
#[derive(Debug, Default)]
struct Exposed {
    kind: String,
    labels: BTreeSet<String>,
}

/// All metrics of a gateway that has served a tenant's call.
async fn exposed() -> BTreeMap<String, Exposed> {
    let sandbox = Sandbox::new(Settings::default());
    let dial = Dial::With(Arc::new(move || {
        let sandbox = sandbox.clone();
        Box::pin(async move {
            let (near, far) = tokio::io::duplex(64 * 1024);
            tokio::spawn(async move { sandbox.serve_io(far).await });
            Ok(Box::new(near) as Box<dyn Io>)
        })
    }));
    let mut config = Config::default();
    config.upstream.url = "http://upstream.test".parse().unwrap();
    config.tenants = vec![tenant("acme", "123")];
    config.cluster = read_settings("cluster.url = \"redis://127.0.0.1\"").cluster;
    let files = tempfile::tempdir().unwrap();
    let (cert, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    config.server.tls = Some(Tls { cert, key });
    let gateway = Gateway::new(&config, dial).unwrap();
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    let served = gateway.clone();
    tokio::spawn(async move { served.serve(far).await });
    let call = "GET /v2/session/info?instance_id=123&access_token=t HTTP/1.1\r\nHost: gateway.test\r\nConnection: close\r\n\r\n";
    near.write_all(call.as_bytes()).await.unwrap();
    let mut response = String::new();
    near.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    read(&gateway.exposition())
}

fn tenant(name: &str, instance: &str) -> Tenant {
    let settings = format!("[[tenant]]\nname = \"{name}\"\ninstances = [\"{instance}\"]\n");
    read_settings(&settings).tenants.remove(0)
}

fn read_settings(settings: &str) -> Config {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), settings).unwrap();
    let read = wawp_gateway::config::load(
        Some(file.path()),
        std::iter::empty(),
        &wawp_gateway::config::Overrides::default(),
    );
    read.unwrap().config
}

fn read(exposition: &str) -> BTreeMap<String, Exposed> {
    let mut metrics: BTreeMap<String, Exposed> = BTreeMap::new();
    for line in exposition.lines() {
        if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|said| said.split_once(' '))
        {
            metrics.entry(name.to_owned()).or_default().kind = kind.to_owned();
        }
        let (name, rest) = line.split_once('{').unwrap_or((line, ""));
        let parts = ["_bucket", "_sum", "_count"];
        let base = parts.iter().find_map(|part| name.strip_suffix(part));
        let name = base
            .filter(|base| metrics.contains_key(*base))
            .unwrap_or(name);
        if let (Some(metric), Some((labels, _))) = (metrics.get_mut(name), rest.rsplit_once('}')) {
            let names = labels
                .split("\",")
                .filter_map(|label| label.split('=').next());
            metric.labels.extend(names.map(str::to_owned));
        }
    }
    metrics
}

/// A metric where an expression names it.
#[derive(Debug)]
struct Use {
    metric: String,
    /// What is asked of its labels.
    labels: Vec<String>,
    /// The function it is in, right before it.
    function: String,
}

fn uses(expr: &str) -> Vec<Use> {
    let read = |(start, name): (usize, &str)| {
        let after = &expr[start + name.len()..];
        let selector = after
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'));
        let matchers = selector.map_or("", |(matchers, _)| matchers);
        let labels = matchers
            .split(", ")
            .filter_map(|matcher| matcher.split(['=', '!']).next());
        let before = expr[..start].strip_suffix('(').unwrap_or_default();
        let function = before.rsplit(|letter| !is_name(letter)).next();
        Use {
            metric: name.to_owned(),
            labels: labels
                .filter(|label| !label.is_empty())
                .map(str::to_owned)
                .collect(),
            function: function.unwrap_or_default().to_owned(),
        }
    };
    shipped::metrics(expr).into_iter().map(read).collect()
}

/// The metric itself behind a histogram's series.
fn base<'u>(used: &'u Use, metrics: &BTreeMap<String, Exposed>) -> &'u str {
    let parts = ["_bucket", "_sum", "_count"];
    let base = parts.iter().find_map(|part| used.metric.strip_suffix(part));
    base.filter(|base| {
        metrics
            .get(*base)
            .is_some_and(|metric| metric.kind == "histogram")
    })
    .unwrap_or(&used.metric)
}

fn all_uses() -> Vec<(String, Use)> {
    let mut found = Vec::new();
    for (title, expr) in dashboard_queries() {
        found.extend(uses(&expr).into_iter().map(|used| (title.clone(), used)));
    }
    for (name, metric, label) in variables() {
        let mut metrics = uses(&metric);
        metrics
            .iter_mut()
            .for_each(|used| used.labels.push(label.clone()));
        // The names of series are asked for, whatever their kind.
        metrics
            .iter_mut()
            .for_each(|used| "label_values".clone_into(&mut used.function));
        found.extend(
            metrics
                .into_iter()
                .map(|used| (format!("variable {name}"), used)),
        );
    }
    for rule in rules() {
        found.extend(
            uses(&rule.expr)
                .into_iter()
                .map(|used| (rule.name.clone(), used)),
        );
    }
    found
}

#[tokio::test(start_paused = true)]
async fn every_metric_in_use_exists_is_of_the_right_kind_and_has_the_labels() {
    let metrics = exposed().await;
    let recorded: BTreeSet<String> = rules()
        .into_iter()
        .filter(|rule| !rule.is_alert)
        .map(|rule| rule.name)
        .collect();
    let uses = all_uses();
    assert!(uses.len() > 80, "only {} found", uses.len());
    for (place, used) in uses {
        if used.metric == "up" || recorded.contains(&used.metric) {
            continue;
        }
        let name = base(&used, &metrics);
        let metric = metrics
            .get(name)
            .unwrap_or_else(|| panic!("{place}: no such metric: {}", used.metric));
        let wanted: &[&str] = match &*used.function {
            "rate" | "increase" => &["counter", "histogram"],
            "label_values" => &["counter", "gauge"],
            _ => &["gauge"],
        };
        let is_right = wanted.contains(&&*metric.kind);
        assert!(is_right, "{place}: {name} is a {}", metric.kind);
        for label in &used.labels {
            let is_there = metric.labels.contains(label) || TARGET_LABELS.contains(&&**label);
            assert!(is_there, "{place}: {name} has no label {label}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_metric_is_looked_at() {
    let metrics = exposed().await;
    let used: BTreeSet<String> = all_uses()
        .iter()
        .map(|(_, used)| base(used, &metrics).to_owned())
        .collect();
    let unused: Vec<_> = metrics
        .keys()
        .filter(|name| !used.contains(*name) && !WITHOUT_A_PANEL.contains(&&***name))
        .collect();
    assert!(unused.is_empty(), "neither a panel nor a rule: {unused:#?}");
}

#[test]
fn every_panel_says_what_is_normal_and_has_a_place_of_its_own() {
    let dashboard = dashboard();
    let panels = items(&dashboard["panels"]);
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels {
        let title = field(panel, "title");
        assert!(
            ids.insert(panel["id"].as_u64().unwrap()),
            "{title}: its id is taken"
        );
        let at = |side: &str| panel["gridPos"][side].as_u64().unwrap();
        for x in at("x")..at("x") + at("w") {
            assert!(x < 24, "{title} is too wide");
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{title} lies over another");
            }
        }
        if field(panel, "type") == "row" {
            continue;
        }
        assert!(field(panel, "description").contains("Normal:"), "{title}");
        assert!(
            !items(&panel["targets"]).is_empty(),
            "{title} shows nothing"
        );
        for target in items(&panel["targets"]) {
            assert_eq!(
                field(&target["datasource"], "uid"),
                "${datasource}",
                "{title}"
            );
        }
    }
    let rows = panels.iter().filter(|panel| field(panel, "type") == "row");
    let rows: Vec<_> = rows.map(|row| field(row, "title")).collect();
    assert_eq!(
        rows,
        [
            "Overview",
            "Merging",
            "Limits",
            "What enforcing would do",
            "Tenants",
            "Upstream",
            "Cluster",
            "Process"
        ]
    );
}

#[test]
fn every_variable_is_defined_and_used() {
    let dashboard = dashboard();
    let list = items(&dashboard["templating"]["list"]);
    let defined: BTreeSet<_> = list
        .iter()
        .map(|variable| field(variable, "name"))
        .collect();
    let queries = dashboard_queries();
    let mut used = BTreeSet::from(["datasource"]);
    for (title, expr) in &queries {
        for after in expr.split('$').skip(1) {
            let end = after.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
            let name = &after[..end.unwrap_or(after.len())];
            assert!(
                GRAFANA_VARIABLES.contains(&name) || defined.contains(name),
                "{title}: ${name}"
            );
            used.insert(name);
        }
    }
    used.retain(|name| !GRAFANA_VARIABLES.contains(name));
    assert_eq!(used, defined);
    for variable in list
        .iter()
        .filter(|variable| field(variable, "type") == "query")
    {
        let is_true = |name: &str| variable[name] == Value::Bool(true);
        assert!(
            is_true("multi") && is_true("includeAll"),
            "{}",
            field(variable, "name")
        );
    }
}

#[test]
fn every_alert_says_how_bad_it_is_and_where_to_read_on() {
    let readme = text("grafana/README.md");
    let headings = readme.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        heading
            .trim_start_matches('#')
            .trim()
            .to_lowercase()
            .replace(' ', "-")
    };
    let anchors: BTreeSet<String> = headings.map(anchor).collect();
    let rules = rules();
    let alerts: Vec<_> = rules.iter().filter(|rule| rule.is_alert).collect();
    assert!(alerts.len() >= 6);
    for alert in alerts {
        assert!(
            ["critical", "warning"].contains(&alert.says("severity")),
            "{}",
            alert.name
        );
        assert!(!alert.says("summary").is_empty(), "{}", alert.name);
        assert!(!alert.says("description").is_empty(), "{}", alert.name);
        let section = alert.says("runbook_url").strip_prefix("grafana/README.md#");
        let section = section.unwrap_or_else(|| panic!("{}: no runbook", alert.name));
        assert!(
            anchors.contains(section),
            "{}: no section {section}",
            alert.name
        );
    }
}

#[test]
fn every_rule_is_tested() {
    let tests =
        text("grafana/rules/tests/wawp-gateway.yml") + &text("grafana/rules/tests/drain.yml");
    for rule in rules() {
        let line = if rule.is_alert {
            "alertname: "
        } else {
            "expr: "
        };
        assert!(
            tests.contains(&format!("{line}{}", rule.name)),
            "{}",
            rule.name
        );
    }
}

#[test]
fn scrape_config_dashboard_and_rules_mean_the_same_labels() {
    let scrape = text("grafana/prometheus.yml");
    for line in [
        "honor_labels: true",
        "source_labels: [__address__]",
        "target_label: replica",
    ] {
        assert!(scrape.contains(line), "{line}");
    }
    let down = rules()
        .into_iter()
        .find(|rule| rule.name == "WawpGatewayDown")
        .unwrap();
    let job = down.expr.split('"').nth(1).unwrap();
    assert!(scrape.contains(&format!("job_name: {job}\n")), "{job}");
    let pushed_aside = "exported_instance";
    assert!(
        dashboard_queries()
            .iter()
            .all(|(_, expr)| !expr.contains(pushed_aside))
    );
}
