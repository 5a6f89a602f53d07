//! The real program, on ports of its own, and what it takes to talk to it.
//!
//! Blocking and in real time. Waiting is for a thing to happen, never for a time to pass; the limits are there to end
//! a test that would never end.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;
use wawp_gateway::sandbox::{Sandbox, Settings};

use super::message::Message;

/// A step after which a test is given up.
const TIMEOUT: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(10);

/// Waits until something is true.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..TIMEOUT.as_millis() / STEP.as_millis() {
        if is() {
            return;
        }
        std::thread::sleep(STEP);
    }
    panic!("never: {what}");
}

/// Connects, with a limit on how long a response may take.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Says something on a connection of its own, and returns all that comes back until the end of the connection.
pub(crate) fn call(address: SocketAddr, request: impl AsRef<[u8]>) -> Vec<u8> {
    let mut stream = connect(address);
    // Who is refused early may find the line closed while still talking.
    stream.write_all(request.as_ref()).ok();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).ok();
    heard
}

/// A directory that goes with the test.
pub(crate) struct Scratch(tempfile::TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Writes a file and returns its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// A gateway that runs as a process of its own.
pub(crate) struct Program {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Program {
    /// Starts `serve` with these settings (`LIMIT__RATE` and the like) before an upstream.
    pub(crate) fn serve(upstream: SocketAddr, settings: &[(&str, &str)]) -> Self {
        Self::serve_with(upstream, settings, &[])
    }

    /// The same with further flags.
    pub(crate) fn serve_with(
        upstream: SocketAddr,
        settings: &[(&str, &str)],
        flags: &[&str],
    ) -> Self {
        Self::start(
            Command::new(env!("CARGO_BIN_EXE_wawp-gateway")),
            upstream,
            settings,
            flags,
        )
    }

    /// The same with these soft and hard limits on open files.
    pub(crate) fn serve_with_open_files(
        (soft, hard): (u32, u32),
        upstream: SocketAddr,
        settings: &[(&str, &str)],
    ) -> Self {
        let mut command = Command::new("sh");
        let script = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\"");
        command
            .args(["-c", &script])
            .arg(env!("CARGO_BIN_EXE_wawp-gateway"));
        Self::start(command, upstream, settings, &[])
    }

    fn start(
        mut command: Command,
        upstream: SocketAddr,
        settings: &[(&str, &str)],
        flags: &[&str],
    ) -> Self {
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.2:0"])
            .arg("--upstream")
            .arg(format!("http://{upstream}"))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        super::forget_proxies(&mut command);
        for (key, value) in settings {
            command.env(format!("WAWP_GATEWAY_{key}"), value);
        }
        let mut child = command.spawn().unwrap();
        let (stdout, reads_stdout) = gather(child.stdout.take().unwrap());
        let (stderr, reads_stderr) = gather(child.stderr.take().unwrap());
        let mut addresses = None;
        eventually("the gateway serves", || {
            addresses = addresses_in(&stderr.lock().unwrap());
            let ended = child.try_wait().unwrap().is_some();
            assert!(!ended || addresses.is_some(), "{}", stderr.lock().unwrap());
            addresses.is_some()
        });
        let (address, admin) = addresses.unwrap();
        Self {
            child,
            address,
            admin,
            stdout,
            stderr,
            readers: vec![reads_stdout, reads_stderr],
        }
    }

    /// A page of the admin listener.
    pub(crate) fn page(&self, path: &str) -> Message {
        let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        Message::response(&call(self.admin, request), "GET")
    }

    /// The sum of a metric.
    pub(crate) fn counted(&self, name: &str, labels: &[&str]) -> f64 {
        super::world::counted(self.page("/metrics").text(), name, labels)
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", self.child.id())])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// The most memory it ever held, in kB.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// The memory it holds, in kB.
    pub(crate) fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The environment it was started with.
    pub(crate) fn environment(&self) -> Vec<String> {
        let all = std::fs::read_to_string(format!("/proc/{}/environ", self.child.id())).unwrap();
        all.split_terminator('\0').map(str::to_owned).collect()
    }

    /// Its soft and hard limits on open files, as `/proc` writes them.
    pub(crate) fn open_files(&self) -> String {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", self.child.id())).unwrap();
        let mut lines = limits.lines();
        let line = lines.find(|line| line.starts_with("Max open files"));
        line.unwrap().to_owned()
    }

    /// What the kernel tells of it (proc(5)).
    fn status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// What it has written to stderr so far.
    pub(crate) fn said(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Waits for its end; returns the exit code, stdout and stderr.
    pub(crate) fn ends(mut self) -> (i32, String, String) {
        let mut status = None;
        eventually("the gateway ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        let stdout = self.stdout.lock().unwrap().clone();
        (status.unwrap().code().unwrap_or(-1), stdout, self.said())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Harmless if it has ended; a failed test must not leave it running.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Gathers what is written, line by line, until its end.
fn gather(pipe: impl Read + Send + 'static) -> (Arc<Mutex<String>>, JoinHandle<()>) {
    let text = Arc::new(Mutex::new(String::new()));
    let lines = BufReader::new(pipe).lines();
    let gathered = Arc::clone(&text);
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let mut text = text.lock().unwrap();
            text.push_str(&line);
            text.push('\n');
        }
    });
    (gathered, reader)
}

/// Finds `address=… admin=…` in text, or their like in JSON.
fn addresses_in(log: &str) -> Option<(SocketAddr, SocketAddr)> {
    let line = log.lines().find(|line| line.contains("serving"))?;
    let value = |key: &str| {
        let at = line.find(key)? + key.len();
        let rest = line[at..].trim_start_matches(['"', ':', '=']);
        let end = rest
            .find(|c: char| !(c.is_ascii_digit() || ".:".contains(c)))
            .unwrap_or(rest.len());
        rest[..end].parse().ok()
    };
    Some((value("address")?, value("admin")?))
}

/// The sandbox on a port of its own.
pub(crate) struct RunningSandbox {
    pub(crate) sandbox: Sandbox,
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl RunningSandbox {
    pub(crate) fn start(settings: Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let sandbox = Sandbox::new(settings);
        let (stop, stopped) = oneshot::channel();
        let serving = sandbox.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let stopped = async { drop(stopped.await) };
                serving.serve(listener, stopped).await;
            });
        });
        Self {
            sandbox,
            address,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for RunningSandbox {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
