//! Redis servers that end with the test.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::{RedisResult, Value, cmd};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::ports::free_port;

/// Longest time until something that has to happen has happened.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A server that ends with the test, however that ends.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) directory: TempDir,
    pub(crate) arguments: Vec<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    /// Starts a server behind a socket of its own, with these arguments.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let arguments: Vec<_> = arguments.iter().map(|it| (*it).to_owned()).collect();
        let child = spawn(directory.path(), &arguments);
        let server = Self {
            child,
            directory,
            arguments,
        };
        server.wait().await;
        server
    }

    pub(crate) async fn wait(&self) {
        let socket = self.socket();
        until("the server listens", || {
            UnixStream::connect(&socket).is_ok()
        })
        .await;
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    pub(crate) async fn start_again(&mut self) {
        self.child = spawn(self.directory.path(), &self.arguments);
        self.wait().await;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Asks the server; a server with a password needs it first.
    pub(crate) fn ask(&self, words: &[&str]) -> RedisResult<Value> {
        self.ask_as("", words)
    }

    pub(crate) fn ask_as(&self, password: &str, words: &[&str]) -> RedisResult<Value> {
        let login = match password {
            "" => String::new(),
            password => format!("?pass={password}"),
        };
        let client = redis::Client::open(format!("{}{login}", self.url()))?;
        let mut command = cmd(words[0]);
        for word in &words[1..] {
            command.arg(word);
        }
        command.query(&mut client.get_connection()?)
    }

    /// The keys of the data set.
    pub(crate) fn keys(&self) -> Vec<String> {
        redis::from_redis_value(self.ask(&["KEYS", "*"]).unwrap()).unwrap()
    }
}

pub(crate) fn spawn(directory: &Path, arguments: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    let options = "--port 0 --unixsocket socket --appendonly no";
    if arguments
        .first()
        .is_none_or(|first| !first.ends_with(".conf"))
    {
        command.args(options.split(' ')).args(["--save", ""]);
    }
    command
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed (Debian: apt-get install redis-server)")
}

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LIMIT, "{what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// A primary, its replica, and a sentinel that knows both.
pub(crate) struct Watched {
    pub(crate) primary: Server,
    pub(crate) _replica: Server,
    pub(crate) _sentinel: Server,
    pub(crate) sentinel_port: String,
}

impl Watched {
    pub(crate) async fn start() -> Self {
        let [first, second, watch] =
            [free_port(), free_port(), free_port()].map(|it| it.to_string());
        let primary = Server::start(&["--port", &first]).await;
        let of_first = ["--port", &*second, "--replicaof", "127.0.0.1", &*first];
        let replica = Server::start(&of_first).await;
        until("the replica follows", || {
            let state = replica.ask(&["INFO", "replication"]).unwrap();
            let state: String = redis::from_redis_value(state).unwrap();
            state.contains("master_link_status:up")
        })
        .await;
        let directory = tempfile::tempdir().unwrap();
        let config = format!(
            "port {watch}\nunixsocket socket\nsentinel monitor main 127.0.0.1 {first} 1\n\
             sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n"
        );
        std::fs::write(directory.path().join("sentinel.conf"), config).unwrap();
        let arguments = ["sentinel.conf", "--sentinel"].map(str::to_owned).to_vec();
        let sentinel = Server {
            child: spawn(directory.path(), &arguments),
            directory,
            arguments,
        };
        until("the sentinel knows the replica", || {
            sentinel
                .ask(&["SENTINEL", "REPLICAS", "main"])
                .is_ok_and(|replicas| !matches!(replicas, Value::Array(ref all) if all.is_empty()))
        })
        .await;
        Self {
            primary,
            _replica: replica,
            _sentinel: sentinel,
            sentinel_port: watch,
        }
    }

    /// One sentinel that is asked does not exist.
    pub(crate) fn url(&self) -> String {
        let (nowhere, port) = (free_port(), &self.sentinel_port);
        format!("redis+sentinel://127.0.0.1:{nowhere},127.0.0.1:{port}/main")
    }
}
