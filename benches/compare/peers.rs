//! The proxies side by side: how each is started, doing the same job.
//!
//! Invariant: each limits every instance at a rate that is never reached, reuses
//! upstream connections, streams bodies and writes no access log. Only the plain
//! hyper proxy does nothing but forward.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::process::{Process, free_address};
use crate::upstream::Upstream;

/// A proxy under measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Nginx,
    Haproxy,
    Plain,
    Gateway,
    /// Another build of the gateway, if one is named.
    OtherGateway,
}

/// Where and how proxies are started.
#[derive(Debug)]
pub(crate) struct TestBed {
    /// Configurations and logs; goes with the bench.
    pub(crate) directory: tempfile::TempDir,
    pub(crate) upstream: Upstream,
    /// The core of a proxy that has only one.
    pub(crate) proxy_core: usize,
    /// The core of the load generator and the upstream.
    pub(crate) load_core: usize,
    /// The gateway's program.
    pub(crate) gateway: PathBuf,
    pub(crate) other_gateway: Option<PathBuf>,
}

impl TestBed {
    /// These, and the other build of the gateway if there is one.
    pub(crate) fn peers(&self, peers: &[Peer]) -> Vec<Peer> {
        let other = self.other_gateway.as_ref().map(|_| Peer::OtherGateway);
        peers.iter().copied().chain(other).collect()
    }

    fn gateway(&self, peer: Peer) -> &Path {
        match (peer, &self.other_gateway) {
            (Peer::OtherGateway, Some(other)) => other,
            _ => &self.gateway,
        }
    }
}

/// What may differ between scenarios.
#[derive(Clone, Debug)]
pub(crate) struct Tuning {
    /// Workers, each with a core of its own: one, or two.
    pub(crate) workers: usize,
    /// How the upstream is reached.
    pub(crate) protocol: Protocol,
    /// Idle upstream connections that nginx keeps.
    pub(crate) keepalive: usize,
    /// The gateway's further settings.
    pub(crate) gateway: Vec<(&'static str, String)>,
}

/// How the upstream is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Cleartext,
    /// HTTP/1.1 over TLS.
    Tls,
    /// HTTP/2 over TLS, of the proxies that know it; nginx does not.
    TlsHttp2,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            workers: 1,
            protocol: Protocol::Cleartext,
            keepalive: 256,
            gateway: Vec::new(),
        }
    }
}

impl Peer {
    pub(crate) const ALL: [Self; 4] = [Self::Nginx, Self::Haproxy, Self::Plain, Self::Gateway];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Plain => "plain hyper",
            Self::Gateway => "gateway",
            Self::OtherGateway => "other build",
        }
    }

    /// Starts it.
    pub(crate) async fn start(self, bed: &TestBed, tuning: &Tuning) -> Result<Process> {
        let address = free_address()?;
        let (scheme, upstream, ca) = match tuning.protocol {
            Protocol::Cleartext => ("http", bed.upstream.address, None),
            _ => ("https", bed.upstream.tls_address, Some(&*bed.upstream.ca)),
        };
        let directory = bed.directory.path();
        let log = directory.join(format!("{}-{}.log", self.name(), address.port()));
        let own = |suffix: &str| directory.join(format!("{}{suffix}", address.port()));
        let mut environment = Vec::new();
        let mut command: Vec<Box<OsStr>> = Vec::new();
        let mut word = |word: &dyn AsRef<OsStr>| command.push(word.as_ref().into());
        match self {
            Self::Nginx => {
                let prefix = own(".nginx");
                fs::create_dir(&prefix)?;
                let config = own(".nginx.conf");
                fs::write(&config, nginx(tuning, address.port(), upstream.port(), ca))?;
                word(&program("nginx")?);
                for argument in [Path::new("-p"), &prefix, Path::new("-c"), &config] {
                    word(&argument);
                }
            }
            Self::Haproxy => {
                let config = own(".haproxy.cfg");
                let text = haproxy(tuning, address.port(), upstream.port(), ca);
                fs::write(&config, text)?;
                word(&program("haproxy")?);
                for argument in [Path::new("-db"), Path::new("-f"), &config] {
                    word(&argument);
                }
            }
            Self::Plain => {
                word(&std::env::current_exe()?);
                for argument in ["plain", &address.to_string(), &upstream.to_string()] {
                    word(&argument);
                }
            }
            Self::Gateway | Self::OtherGateway => {
                word(&bed.gateway(self));
                let upstream = format!("{scheme}://{upstream}");
                let listen = address.to_string();
                let flags = [
                    "--listen",
                    &listen,
                    "--admin",
                    "127.0.0.1:0",
                    "--upstream",
                    &upstream,
                ];
                for argument in ["serve"].into_iter().chain(flags) {
                    word(&argument);
                }
                let settings = [
                    // nginx and HAProxy write none here either.
                    ("LOG__ACCESS", "off".to_owned()),
                    ("LIMIT__RATE", "1000000".to_owned()),
                    ("LIMIT__BURST", "100000".to_owned()),
                    ("SERVER__MAX_CONNECTIONS", "40000".to_owned()),
                    ("SERVER__MAX_IN_FLIGHT", "40000".to_owned()),
                ];
                for (key, value) in settings.into_iter().chain(tuning.gateway.clone()) {
                    environment.push((format!("WAWP_GATEWAY_{key}"), value));
                }
                if let Some(ca) = ca {
                    let version = match tuning.protocol {
                        Protocol::TlsHttp2 => "2",
                        _ => "1.1",
                    };
                    let ca = ca.display().to_string();
                    environment.push(("WAWP_GATEWAY_UPSTREAM__CA".to_owned(), ca));
                    environment
                        .push(("WAWP_GATEWAY_UPSTREAM__HTTP".to_owned(), version.to_owned()));
                }
            }
        }
        let words: Vec<&OsStr> = command.iter().map(|word| &**word).collect();
        let cores = match tuning.workers {
            1 => bed.proxy_core.to_string(),
            _ => format!("{},{}", bed.proxy_core, bed.load_core),
        };
        Process::start(&words, &environment, &cores, address, &log).await
    }
}

/// Installs what is missing, where that is possible.
pub(crate) fn ensure_installed() -> Result<()> {
    let missing: Vec<_> = [
        ("nginx", "nginx-light"),
        ("haproxy", "haproxy"),
        ("redis-server", "redis-server"),
    ]
    .into_iter()
    .filter(|(name, _)| program(name).is_err())
    .map(|(_, package)| package)
    .collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("installing {}", missing.join(" "));
    let installed = Command::new("apt-get")
        .args(["install", "-y", "-q", "--no-install-recommends"])
        .args(&missing)
        // The packages' own services are not to be started.
        .envs([("DEBIAN_FRONTEND", "noninteractive"), ("RUNLEVEL", "1")])
        .stdout(std::process::Stdio::null())
        .status();
    match installed {
        Ok(status) if status.success() => Ok(()),
        _ => Err(format!("missing: apt-get install {}", missing.join(" ")).into()),
    }
}

/// Finds a program, also in directories of the administrator's path.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("{name} is not installed").into())
}

fn nginx(tuning: &Tuning, port: u16, upstream: u16, ca: Option<&Path>) -> String {
    let (workers, keepalive) = (tuning.workers, tuning.keepalive);
    // Without it the worker could not enter its own temporary directories.
    let root = fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt as _;
        own.uid() == 0
    });
    let user = if root { "user root;" } else { "" };
    let scheme = if ca.is_some() { "https" } else { "http" };
    let verify = ca.map_or_else(String::new, |ca| {
        format!(
            "proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {};
            proxy_ssl_name localhost;
            proxy_ssl_protocols TLSv1.3;",
            ca.display()
        )
    });
    format!(
        "{user}
daemon off;
worker_processes {workers};
worker_rlimit_nofile 65536;
pid nginx.pid;
error_log stderr crit;
events {{ worker_connections 40000; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 300s;
    client_max_body_size 0;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    tcp_nodelay on;
    limit_req_zone $arg_instance_id zone=instances:64m rate=1000000r/s;
    upstream api {{
        server 127.0.0.1:{upstream};
        keepalive {keepalive};
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            limit_req zone=instances burst=100000 nodelay;
            proxy_pass {scheme}://api;
            {verify}
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_request_buffering off;
            proxy_max_temp_file_size 0;
        }}
    }}
}}
"
    )
}

fn haproxy(tuning: &Tuning, port: u16, upstream: u16, ca: Option<&Path>) -> String {
    let threads = tuning.workers;
    let tls = ca.map_or_else(String::new, |ca| {
        let version = match tuning.protocol {
            Protocol::TlsHttp2 => "h2",
            _ => "http/1.1",
        };
        let ca = ca.display();
        format!("ssl verify required ca-file {ca} verifyhost localhost alpn {version}")
    });
    format!(
        "global
    nbthread {threads}
    no strict-limits
    maxconn 30000
defaults
    mode http
    option http-keep-alive
    http-reuse always
    timeout connect 5s
    timeout client 300s
    timeout server 310s
    timeout http-keep-alive 300s
frontend calls
    bind 127.0.0.1:{port} backlog 4096
    stick-table type string len 64 size 200k expire 60s store http_req_rate(1s)
    http-request track-sc0 url_param(instance_id)
    http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt 1000000 }}
    default_backend api
backend api
    server api 127.0.0.1:{upstream} {tls}
"
    )
}
