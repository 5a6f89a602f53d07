//! A real nginx as upstream, over HTTP/2 and TLS, that ends each connection after 20 requests: no request fails, and
//! none is sent twice.
//!
//! Needs `nginx` (Debian: `apt-get install nginx`), and only 127.0.0.1.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

mod ports;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use wawp_gateway::config::{self, Overrides};
use wawp_gateway::gateway::Gateway;
use wawp_gateway::{Dial, Io};

const CLIENTS: usize = 60;
const REQUESTS: usize = 1000;
/// Requests on one connection.
const KEEPALIVE_REQUESTS: usize = 20;

/// The first server is the upstream; the second one takes the time of a backend and logs what was processed.
const CONFIG: &str = r#"
daemon off;
master_process off;
error_log stderr error;
pid nginx.pid;
events { worker_connections 1024; }
http {
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    log_format processed '$request_uri';
    access_log off;
    keepalive_requests KEEPALIVE_REQUESTS;
    server {
        listen UPSTREAM ssl http2;
        ssl_certificate cert.pem;
        ssl_certificate_key key.pem;
        location / { proxy_pass http://BACKEND; }
    }
    server {
        listen BACKEND;
        access_log processed.log processed;
        location / { return 201 "ok"; }
    }
}
"#;

/// Ends with the test, however that ends.
struct Nginx {
    child: Child,
    directory: tempfile::TempDir,
    address: SocketAddr,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], ports::free_port()))
}

/// `nginx` is often in a directory that only root's path contains.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    directories.push("/usr/sbin".into());
    let found = directories
        .iter()
        .map(|directory| directory.join("nginx"))
        .find(|program| program.is_file());
    found.expect("nginx is installed (Debian: apt-get install nginx)")
}

impl Nginx {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).unwrap();
        };
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        write("cert.pem", &certified.cert.pem());
        write("key.pem", &certified.signing_key.serialize_pem());
        let (address, backend) = (free_address(), free_address());
        let config = CONFIG
            .replace("UPSTREAM", &address.to_string())
            .replace("BACKEND", &backend.to_string())
            .replace("KEEPALIVE_REQUESTS", &KEEPALIVE_REQUESTS.to_string());
        write("nginx.conf", &config);
        let child = Command::new(program())
            .arg("-p")
            .arg(directory.path())
            .args(["-c", "nginx.conf", "-e", "stderr"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let nginx = Self {
            child,
            directory,
            address,
        };
        for _ in 0..1000 {
            if TcpStream::connect(address).await.is_ok() {
                return nginx;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("nginx does not listen on {address}");
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// How often each target was processed.
    fn processed(&self) -> BTreeMap<String, usize> {
        let log = std::fs::read_to_string(self.path().join("processed.log")).unwrap();
        let mut times = BTreeMap::new();
        for target in log.lines() {
            *times.entry(target.to_owned()).or_default() += 1;
        }
        times
    }
}

/// Copies what arrives, `delay` later.
async fn copy_later(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin + Send + 'static,
    delay: Duration,
) {
    let (sender, mut pieces) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((due, piece)) = pieces.recv().await {
            sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        to.shutdown().await.ok();
    });
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let due = Instant::now() + delay;
        if sender.send((due, buffer[..length].to_vec())).is_err() {
            return;
        }
    }
}

/// Reaches the address over a line with this round trip.
fn dial(address: SocketAddr, round_trip: Duration) -> Dial {
    type Dialled = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;
    Dial::With(Arc::new(move || -> Dialled {
        Box::pin(async move {
            let (read, write) = TcpStream::connect(address).await?.into_split();
            let (near, far) = tokio::io::duplex(64 * 1024);
            let (far_read, far_write) = tokio::io::split(far);
            tokio::spawn(copy_later(read, far_write, round_trip / 2));
            tokio::spawn(copy_later(far_read, write, round_trip / 2));
            Ok(Box::new(near) as Box<dyn Io>)
        })
    }))
}

/// Sends requests one after another on one connection; returns the responses that are not 201.
async fn client(gateway: Gateway, number: usize) -> Vec<String> {
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move { gateway.serve(far).await });
    let mut failed = Vec::new();
    for request in (number..REQUESTS).step_by(CLIENTS) {
        let body = r#"{"chatId":"1@c.us","message":"hello"}"#;
        let request = format!(
            "POST /v2/send/text?instance_id={number}&access_token=t&request={request} HTTP/1.1\r\nHost: h\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        near.write_all(request.as_bytes()).await.unwrap();
        let mut response = Vec::new();
        while !String::from_utf8_lossy(&response).contains("\r\n\r\nok") {
            let read = near.read_buf(&mut response).await;
            if !matches!(read, Ok(1..)) {
                break;
            }
            // Our own responses are JSON.
            if response.ends_with(b"}") {
                break;
            }
        }
        let response = String::from_utf8_lossy(&response).into_owned();
        if !response.starts_with("HTTP/1.1 201 ") {
            failed.push(response);
        }
    }
    failed
}

async fn no_request_fails(round_trip: Duration) {
    let nginx = Nginx::start().await;
    let ca = nginx.path().join("cert.pem");
    let settings = [
        ("WAWP_GATEWAY_UPSTREAM__URL", "https://localhost"),
        ("WAWP_GATEWAY_UPSTREAM__CA", ca.to_str().unwrap()),
        ("WAWP_GATEWAY_LIMIT__RATE", "0"),
        ("WAWP_GATEWAY_LIMIT__BURST", "0"),
    ];
    let env = settings.map(|(name, value)| (name.into(), value.into()));
    let settings = config::load(None, env.into_iter(), &Overrides::default()).unwrap();
    let gateway = Gateway::new(&settings.config, dial(nginx.address, round_trip)).unwrap();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| tokio::spawn(client(gateway.clone(), number)))
        .collect();
    let mut failed = Vec::new();
    for client in clients {
        failed.extend(client.await.unwrap());
    }
    assert!(
        failed.is_empty(),
        "{} failed: {:?}",
        failed.len(),
        failed[0]
    );
    let mut processed = nginx.processed();
    // nginx writes its log after the response.
    for _ in 0..100 {
        if processed.len() == REQUESTS {
            break;
        }
        sleep(Duration::from_millis(10)).await;
        processed = nginx.processed();
    }
    assert_eq!(processed.len(), REQUESTS);
    assert!(processed.values().all(|times| *times == 1), "{processed:?}");
}

#[tokio::test]
async fn no_request_fails_or_is_sent_twice() {
    no_request_fails(Duration::ZERO).await;
}

#[tokio::test]
async fn no_request_fails_or_is_sent_twice_with_a_round_trip_of_40_ms() {
    no_request_fails(Duration::from_millis(40)).await;
}
