//! Three gateways behind HAProxy, with one server and one upstream.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::laws::Budget;
use super::ports::free_port;
use super::recorder::Recorder;
use super::servers::{Server, until};

pub(super) const BUDGET: Budget = Budget {
    rate: 20.0,
    burst: 20.0,
};
pub(super) const MAX_WAIT: Duration = Duration::from_secs(2);
pub(super) const COUNT: usize = 3;

/// So many at a time: they mostly wait, but judge times, so the machine must not be busy.
static RUNNING: Semaphore = Semaphore::const_new(3);

/// Waits until one more test may run.
pub(super) async fn may_run() -> SemaphorePermit<'static> {
    RUNNING.acquire().await.unwrap()
}

/// What runs. Everything ends with it.
pub(super) struct Gateways {
    /// First, so that nothing reports an outage at the end.
    balancer: Child,
    pub(super) gateways: Vec<Gateway>,
    pub(super) server: Server,
    pub(super) upstream: Recorder,
    /// That of HAProxy.
    pub(super) port: u16,
    _running: SemaphorePermit<'static>,
}

pub(super) struct Gateway {
    child: Child,
    pub(super) port: u16,
    admin: u16,
    settings: PathBuf,
    /// Of the cluster's server.
    url: String,
    log: PathBuf,
    upstream: u16,
}

impl Gateways {
    /// Waits until all three share the budget. `weights`: how HAProxy spreads the requests.
    pub(super) async fn start(weights: [u32; COUNT]) -> Self {
        let server = Server::start(&[]).await;
        let urls = [(); COUNT].map(|()| server.url());
        Self::start_with(weights, server, urls, "").await
    }

    /// With the URL of the server for each gateway, and further lines of settings.
    pub(super) async fn start_with(
        weights: [u32; COUNT],
        server: Server,
        urls: [String; COUNT],
        further: &str,
    ) -> Self {
        let running = may_run().await;
        let upstream = Recorder::start();
        let directory = server.directory.path();
        let settings = directory.join("gateway.toml");
        let text = format!(
            "[server]\ndrain_delay = \"1s\"\nmax_connections = 1000\n[limit]\nrate = {}\nburst = {}\nmax_wait = {:?}\n\
             [cluster]\nreplicas = {COUNT}\n[log]\naccess = \"off\"\n{further}",
            BUDGET.rate,
            BUDGET.burst,
            format!("{}ms", MAX_WAIT.as_millis()),
        );
        std::fs::write(&settings, text).unwrap();
        let start = |(index, url)| Gateway::start(&settings, url, index, upstream.port);
        let gateways = urls.into_iter().enumerate().map(start);
        let gateways: Vec<_> = gateways.collect();
        let port = free_port();
        let balancer = balance(directory, port, &gateways, weights);
        let all = Self {
            balancer,
            gateways,
            server,
            upstream,
            port,
            _running: running,
        };
        all.until_shared().await;
        until("HAProxy listens", || is_open(port)).await;
        all
    }

    /// Waits until the gateways share the budget and know of each other. Returns how long it took.
    pub(super) async fn until_shared(&self) -> Duration {
        let begun = Instant::now();
        let count = format!("cluster_replicas {COUNT}\n");
        until("the gateways share the budget", || {
            let shares = |gateway: &Gateway| {
                gateway.shows("cluster_state{state=\"shared\"} 1\n") && gateway.shows(&count)
            };
            self.gateways.iter().all(shares)
        })
        .await;
        begun.elapsed()
    }
}

impl Drop for Gateways {
    fn drop(&mut self) {
        self.balancer.kill().ok();
        self.balancer.wait().ok();
    }
}

impl Gateway {
    fn start(settings: &Path, url: String, index: usize, upstream: u16) -> Self {
        let (port, admin) = (free_port(), free_port());
        let log = settings.with_file_name(format!("gateway{index}.log"));
        Self {
            child: serve(settings, &url, &log, [port, admin, upstream]),
            url,
            log,
            port,
            admin,
            settings: settings.to_owned(),
            upstream,
        }
    }

    /// Starts again on the same ports.
    pub(super) async fn start_again(&mut self) {
        self.child = serve(
            &self.settings,
            &self.url,
            &self.log,
            [self.port, self.admin, self.upstream],
        );
        until("the gateway is ready", || self.is_ready()).await;
    }

    /// Drains. Returns whether it ended well.
    pub(super) async fn stop(&mut self) -> bool {
        self.signal(Signal::TERM);
        until("the gateway ends", || {
            matches!(self.child.try_wait(), Ok(Some(_)))
        })
        .await;
        self.child.wait().unwrap().success()
    }

    pub(super) fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn is_ready(&self) -> bool {
        page(self.admin, "/readyz").is_ok_and(|page| page.contains("200 OK"))
    }

    /// The lines of its log that contain this text.
    pub(super) fn logged(&self, text: &str) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap();
        log.lines().filter(|line| line.contains(text)).count()
    }

    /// Whether a metric has a value: `name value`, with the end of the line.
    pub(super) fn shows(&self, metric: &str) -> bool {
        let metric = format!("wawp_gateway_{metric}");
        page(self.admin, "/metrics").is_ok_and(|page| page.contains(&metric))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
        self.kill();
    }
}

fn serve(settings: &Path, url: &str, log: &Path, [port, admin, upstream]: [u16; 3]) -> Child {
    let log = File::options().create(true).append(true).open(log).unwrap();
    let mut command = program(settings, &["serve"]);
    command.args(["--listen", &format!("127.0.0.1:{port}")]);
    command.args(["--admin", &format!("127.0.0.1:{admin}")]);
    command.args(["--upstream", &format!("http://127.0.0.1:{upstream}")]);
    command.env("WAWP_GATEWAY_CLUSTER__URL", url);
    command.stderr(log).spawn().unwrap()
}

fn balance(directory: &Path, port: u16, gateways: &[Gateway], weights: [u32; COUNT]) -> Child {
    // A connection that cannot be made is tried at another gateway: nothing was sent.
    let mut text = format!(
        "defaults\n mode http\n timeout connect 1s\n timeout client 30s\n timeout server 30s\n \
         timeout check 10s\n retries 3\n retry-on conn-failure\n option redispatch 1\n\
         frontend callers\n bind 127.0.0.1:{port}\n default_backend gateways\n\
         backend gateways\n balance roundrobin\n option httpchk GET /readyz\n"
    );
    for (index, (gateway, weight)) in gateways.iter().zip(weights).enumerate() {
        writeln!(
            text,
            " server gateway{index} 127.0.0.1:{} weight {weight} check port {} inter 200ms fall 1 rise 1",
            gateway.port, gateway.admin,
        )
        .unwrap();
    }
    let path = directory.join("haproxy.cfg");
    std::fs::write(&path, text).unwrap();
    // Debian's is in a directory that not every path contains.
    let program = match Path::new("/usr/sbin/haproxy") {
        path if path.exists() => path,
        _ => Path::new("haproxy"),
    };
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(path);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let balancer = command.stderr(Stdio::null()).spawn();
    balancer.expect("haproxy is installed (Debian: apt-get install haproxy)")
}

fn is_open(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// The program with this settings file.
pub(crate) fn program(file: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wawp-gateway"));
    command.args(arguments).arg("--config").arg(file);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

pub(crate) fn page(admin: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", admin))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}
