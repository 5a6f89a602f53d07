//! A real Prometheus, with the shipped files, before a gateway under traffic: every expression of the dashboard and of
//! the rules brings data. So no metric or label can be renamed without a panel that shows it going blank here first.
//!
//! Needs `prometheus` and `promtool`, `redis-server` (Debian: `apt-get install prometheus redis-server`), and only 127.0.0.1.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

mod shipped;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http::HeaderValue;
use http::header::RETRY_AFTER;
use serde_json::{Value, json};
use shipped::{dashboard, dashboard_queries, field, items, metrics, path, rules, text, variables};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use wawp_gateway::Dial;
use wawp_gateway::app::App;
use wawp_gateway::config::{self, Config, Overrides};
use wawp_gateway::sandbox::{Fault, FaultKind, Sandbox, Settings};

/// Until every expression must have brought data; and those of the drain, which is cut after that.
const TIMEOUT: Duration = Duration::from_secs(60);
const DRAIN: Duration = Duration::from_secs(12);

/// Alerts that this traffic sets off.
const FIRING: &[&str] = &["WawpGatewayInstanceThrottled", "WawpGatewayDrainAboutToCut"];
/// What names it brings data in a drain only.
const DRAINING: &str = "wawp_gateway_draining";
/// What names it brings data only while the gateway observes.
const OBSERVING: &str = "wawp_gateway_would_";
/// Exposed only by a gateway with TLS, which this one is not.
const WITH_TLS: &str = "wawp_gateway_certificate_expiry_timestamp_seconds";

const SETTINGS: &str = r#"
[limit]
rate = 20
burst = 10
max_queue = 8
[server]
drain_timeout = "12s"
[egress]
rate = 500
burst = 500
[[tenant]]
name = "acme"
instances = ["123", "789"]
weight = 4
[[tenant]]
name = "zoo"
instances = ["456"]
"#;

/// The server of a cluster of one gateway. Ends with the test.
struct Redis(Child);

impl Drop for Redis {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Redis {
    /// Starts one behind `socket` in this directory.
    fn start(directory: &Path) -> Self {
        let options = "--port 0 --unixsocket socket --appendonly no --save";
        let child = Command::new("redis-server")
            .args(options.split(' '))
            .arg("")
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (Debian: apt-get install redis-server)");
        Self(child)
    }

    /// Cuts all connections now and then, so that operations fail.
    async fn interrupt(url: String) {
        loop {
            sleep(Duration::from_secs(2)).await;
            let client = redis::Client::open(&*url).unwrap();
            let mut kill = redis::cmd("CLIENT");
            kill.arg("KILL").arg("TYPE").arg("normal");
            if let Ok(mut connection) = client.get_connection() {
                kill.exec(&mut connection).ok();
            }
        }
    }
}

/// Ends with the test, however that ends.
struct Prometheus {
    child: Child,
    address: SocketAddr,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Prometheus {
    /// Starts one with the shipped files, but for addresses and intervals.
    async fn start(directory: &Path, gateway: SocketAddr) -> Self {
        let faster = |text: String| text.replace("interval: 5s", "interval: 1s");
        let config = faster(text("grafana/prometheus.yml"));
        let shipped = "127.0.0.1:9464";
        assert!(
            config.contains(shipped),
            "the target is where the gateway is by default"
        );
        let config = config.replace(shipped, &gateway.to_string());
        std::fs::create_dir(directory.join("rules")).unwrap();
        std::fs::write(directory.join("prometheus.yml"), config).unwrap();
        let rules = faster(text("grafana/rules/wawp-gateway.yml"));
        std::fs::write(directory.join("rules/wawp-gateway.yml"), rules).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let child = Command::new("prometheus")
            .arg(format!(
                "--config.file={}",
                directory.join("prometheus.yml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("prometheus is installed (Debian: apt-get install prometheus)");
        Self { child, address }
    }

    /// What an expression brings now; nothing, while Prometheus is not there.
    async fn ask(&self, expr: &str) -> Vec<Value> {
        let query = percent_encoding::utf8_percent_encode(expr, percent_encoding::NON_ALPHANUMERIC);
        let request = format!("GET /api/v1/query?query={query} HTTP/1.0\r\n\r\n");
        let response = call(self.address, &request).await;
        let Some((_, body)) = response.split_once("\r\n\r\n") else {
            return Vec::new();
        };
        let response: Value = serde_json::from_str(body).unwrap_or_default();
        assert_ne!(response["status"], "error", "{expr}: {response}");
        let series = items(&response["data"]["result"]).iter();
        // 0/0 is no data either.
        series
            .filter(|series| series["value"][1] != "NaN")
            .cloned()
            .collect()
    }

    /// What is still without data. `labels`: those that a legend names.
    async fn blank(&self, wanted: &[Wanted]) -> Vec<String> {
        let mut blank = Vec::new();
        for Wanted {
            place,
            expr,
            labels,
        } in wanted
        {
            let series = self.ask(expr).await;
            let has = |series: &Value| {
                labels
                    .iter()
                    .all(|label| !field(&series["metric"], label).is_empty())
            };
            if series.is_empty() || !series.iter().all(has) {
                blank.push(format!("{place}: {expr}"));
            }
        }
        blank
    }

    async fn brings(&self, wanted: &[Wanted], within: Duration) {
        let end = Instant::now() + within;
        loop {
            let blank = self.blank(wanted).await;
            if blank.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "without data: {blank:#?}");
            sleep(Duration::from_millis(500)).await;
        }
    }
}

/// An expression that must bring data, and the labels all of it must have.
struct Wanted {
    place: String,
    expr: String,
    labels: Vec<String>,
}

impl Wanted {
    fn new(place: &str, expr: &str, labels: &[&str]) -> Self {
        // As Grafana does, with All in every variable.
        let mut expr = expr
            .replace("$__rate_interval", "10s")
            .replace("$__range", "60s");
        for name in ["job", "replica", "tenant", "instance"] {
            expr = expr.replace(&format!("${name}"), ".+");
        }
        Self {
            place: place.to_owned(),
            expr,
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        }
    }
}

/// The dashboard's expressions: those that bring data while the gateway serves, and those of its drain.
fn panels() -> (Vec<Wanted>, Vec<Wanted>) {
    let dashboard = dashboard();
    let mut wanted = Vec::new();
    for panel in items(&dashboard["panels"]) {
        for target in items(&panel["targets"]) {
            let legend = field(target, "legendFormat");
            let labels = legend
                .split("{{")
                .skip(1)
                .filter_map(|part| part.split("}}").next());
            let labels: Vec<_> = labels.collect();
            wanted.push(Wanted::new(
                field(panel, "title"),
                field(target, "expr"),
                &labels,
            ));
        }
    }
    assert!(wanted.len() > 40);
    wanted
        .into_iter()
        .partition(|wanted| !wanted.expr.contains(DRAINING))
}

async fn call(address: SocketAddr, request: &str) -> String {
    let mut response = Vec::new();
    if let Ok(mut stream) = TcpStream::connect(address).await {
        stream.write_all(request.as_bytes()).await.ok();
        stream.read_to_end(&mut response).await.ok();
    }
    String::from_utf8_lossy(&response).into_owned()
}

fn post(target: &str, body: &Value) -> String {
    let body = body.to_string();
    let length = body.len();
    format!(
        "POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

fn receipt(instance: &str, id: &str) -> String {
    let body = json!({ "instance_id": instance, "access_token": "t", "chatId": "1@c.us", "messageIds": [id] });
    post("/v2/send/seen", &body)
}

fn message(instance: &str, words: &str) -> String {
    let body = json!({ "instance_id": instance, "access_token": "t", "chatId": "1@c.us", "message": words });
    post("/v2/send/text", &body)
}

/// Calls of every kind, for ever: receipts that merge, split and are repeated, a flood that is refused, and 429s.
async fn traffic(gateway: SocketAddr, sandbox: Sandbox) {
    for round in 0_usize.. {
        let mut requests = Vec::new();
        for n in 0..4 {
            requests.push(receipt("123", &format!("false_1@c.us_{round}X{n}")));
            requests.push(receipt("456", &format!("false_1@c.us_{round}Y{n}")));
        }
        requests.push(message("123", "hello"));
        if round % 10 == 0 {
            let culprit = format!("false_1@c.us_{round}BAD");
            sandbox.script(Fault::status(500).id(&*culprit).times(usize::MAX));
            requests.push(receipt("123", &culprit));
            sandbox.script(Fault::status(503).path("/v2/send/seen").instance("456"));
            requests.extend((0..40).map(|_| message("789", "flood")));
        }
        if round % 10 == 5 {
            let busy = Fault::status(429).header(RETRY_AFTER, HeaderValue::from_static("1"));
            sandbox.script(busy.path("/v2/send/text").instance("123"));
        }
        for request in requests {
            tokio::spawn(async move { call(gateway, &request).await });
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// The URL of the cluster's server.
fn socket(directory: &Path) -> String {
    format!("unix://{}", directory.join("socket").display())
}

fn settings(directory: &Path, upstream: SocketAddr) -> Config {
    let file = directory.join("gateway.toml");
    let settings = format!("{SETTINGS}[cluster]\nurl = {:?}\n", socket(directory));
    std::fs::write(&file, settings).unwrap();
    let some = |text: &str| Some(text.to_owned());
    let flags = Overrides {
        listen: some("127.0.0.1:0"),
        admin: some("127.0.0.1:0"),
        upstream: Some(format!("http://{upstream}")),
        ..Overrides::default()
    };
    match config::load(Some(&file), std::iter::empty(), &flags) {
        Ok(effective) => effective.config,
        Err(mistakes) => panic!("{mistakes}"),
    }
}

fn promtool(arguments: &[&str], input: &str) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed (Debian: apt-get install prometheus)");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

#[tokio::test]
async fn every_expression_of_dashboard_and_rules_brings_data() {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap();
    let sandbox = Sandbox::new(Settings {
        latency: Duration::from_millis(20),
        ..Settings::default()
    });
    tokio::spawn(sandbox.clone().serve(listener, std::future::pending()));
    let _redis = Redis::start(directory.path());
    tokio::spawn(Redis::interrupt(socket(directory.path())));
    let app = App::bind(settings(directory.path(), upstream), Dial::Tcp).unwrap();
    let (gateway, admin) = (app.address().unwrap(), app.admin_address().unwrap());
    let observer = app.gateway().clone();
    let stop = CancellationToken::new();
    let served = tokio::spawn(
        app.single_worker()
            .run_until(stop.clone().cancelled_owned()),
    );
    let prometheus = Prometheus::start(directory.path(), admin).await;
    let apps = tokio::spawn(traffic(gateway, sandbox.clone()));

    let (mut wanted, drain) = panels();
    assert_eq!(drain.len(), 2);
    for (place, expr) in dashboard_queries()
        .iter()
        .filter(|(_, expr)| expr.contains("ALERTS"))
    {
        wanted.push(Wanted::new(place, expr, &["alertname"]));
    }
    for (name, metric, label) in variables() {
        let expr = format!("count by ({label}) ({metric})");
        wanted.push(Wanted::new(&name, &expr, &[&label]));
    }
    let mut all_drain = drain;
    for rule in rules() {
        let now = if rule.expr.contains(DRAINING) {
            &mut all_drain
        } else {
            &mut wanted
        };
        if FIRING.contains(&&*rule.name) {
            let (name, severity) = (&rule.name, rule.says("severity"));
            let firing = format!(
                r#"ALERTS{{alertname="{name}", severity="{severity}", alertstate="firing"}}"#
            );
            now.push(Wanted::new(name, &firing, &["job"]));
        }
        if rule.is_alert {
            // Whether it fires is for promtool; what it looks at must be there.
            let metrics: BTreeSet<&str> = metrics(&rule.expr)
                .into_iter()
                .map(|(_, name)| name)
                .collect();
            assert!(!metrics.is_empty(), "{}", rule.name);
            wanted.extend(
                metrics
                    .iter()
                    .filter(|metric| **metric != WITH_TLS)
                    .map(|metric| Wanted::new(&rule.name, metric, &["job"])),
            );
        } else {
            wanted.push(Wanted::new(&rule.name, &rule.expr, &["job"]));
            wanted.push(Wanted::new("recorded", &rule.name, &["job"]));
        }
    }
    let (observing, wanted): (Vec<_>, Vec<_>) = wanted
        .into_iter()
        .partition(|wanted| wanted.expr.contains(OBSERVING));
    prometheus.brings(&wanted, TIMEOUT).await;
    let mut observed = settings(directory.path(), upstream);
    observed.limit.mode = config::LimitMode::Observe;
    observed.batch.mode = config::BatchMode::Observe;
    observer.reload(&observed);
    assert!(observing.len() > 10, "{}", observing.len());
    prometheus.brings(&observing, TIMEOUT).await;

    // Ours is the instance of WhatsApp, and the replica the address.
    let ours = r#"wawp_gateway_instance_requests_total{instance="123", route="seen"}"#;
    let ours = prometheus.ask(ours).await;
    assert_eq!(ours.len(), 1, "our label has not kept its name");
    assert_eq!(field(&ours[0]["metric"], "replica"), admin.to_string());
    assert_eq!(
        prometheus.ask(r#"{exported_instance=~".+"}"#).await,
        [Value::Null; 0]
    );

    let exposition = call(admin, "GET /metrics HTTP/1.0\r\n\r\n").await;
    let (_, exposition) = exposition.split_once("\r\n\r\n").unwrap();
    promtool(&["check", "metrics"], exposition);
    promtool(
        &[
            "check",
            "config",
            path("grafana/prometheus.yml").to_str().unwrap(),
        ],
        "",
    );

    // A drain that has something to wait for.
    apps.abort();
    let slow = FaultKind::Delay(Duration::from_secs(10));
    sandbox.script(Fault::new(slow).path("/v2/send/slow"));
    let request = post("/v2/send/slow?instance_id=slow&access_token=t", &json!({}));
    let held = tokio::spawn(async move { call(gateway, &request).await });
    while !sandbox
        .calls()
        .iter()
        .any(|call| call.path() == "/v2/send/slow")
        && !held.is_finished()
    {
        sleep(Duration::from_millis(50)).await;
    }
    stop.cancel();
    prometheus.brings(&all_drain, DRAIN).await;
    held.abort();
    served.abort();
}
