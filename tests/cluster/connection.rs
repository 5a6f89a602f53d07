//! The connection of one gateway to the server, and what the program says of it.

use std::process::Child;
use std::time::Duration;

use redis::Value;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};
use wawp_gateway::config::{self, Overrides};
use wawp_gateway::testing::cluster::Peer;

use super::gateways::{page, program};
use super::ports::free_port;
use super::servers::{LIMIT, Server, Watched, until};

/// A gateway with this server, and further lines in `[cluster]`.
fn join_with(url: &str, lines: &str) -> Peer {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = format!("[cluster]\nurl = {url:?}\n{lines}");
    std::fs::write(file.path(), text).unwrap();
    let read = config::load(Some(file.path()), std::iter::empty(), &Overrides::default());
    Peer::join(&read.unwrap_or_else(|mistakes| panic!("{mistakes}")).config)
}

/// A gateway that uses this server.
pub(crate) async fn join(url: &str) -> Peer {
    let peer = join_with(url, "");
    until("the server is used", || peer.is_shared()).await;
    assert!(peer.reserve("1").await);
    peer
}

/// Waits until requests go on without the server, each 20 ms one.
async fn until_fallback(peer: &Peer) {
    let begun = Instant::now();
    while peer.is_shared() {
        assert!(begun.elapsed() < LIMIT, "{:?}", peer.state());
        peer.reserve("1").await;
        sleep(Duration::from_millis(20)).await;
    }
}

async fn until_shared(peer: &Peer) {
    until("the server is used again", || peer.is_shared()).await;
}

/// The server is used again by a peer that was without it. How fast, the unit tests say.
async fn returns(peer: &Peer) {
    until_shared(peer).await;
    assert!(peer.reserve("1").await);
}

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn check_says_what_it_found_and_never_fails_because_of_the_server() {
    let mut server = Server::start(&["--requirepass", "s3cret"]).await;
    let file = server.directory.path().join("gateway.toml");
    let url = format!("unix://:s3cret@{}", server.socket().display());
    std::fs::write(&file, format!("[cluster]\nurl = {url:?}\n")).unwrap();
    let check = || {
        let output = program(&file, &["check"]).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let found = check();
    assert!(
        found.contains("is a primary and permits scripts; round trip"),
        "{found}"
    );
    assert_eq!(found.lines().count(), 1);
    for words in [["maxmemory", "100mb"], ["maxmemory-policy", "allkeys-lru"]] {
        let words = ["CONFIG", "SET", words[0], words[1]];
        server.ask_as("s3cret", &words).unwrap();
    }
    assert!(check().contains("maxmemory-policy allkeys-lru"));
    let keys = server.ask_as("s3cret", &["DBSIZE"]);
    assert_eq!(keys, Ok(Value::Int(0)), "something was written");
    server.kill();
    let found = check();
    assert!(
        found.contains("(refused)") && !found.contains("s3cret"),
        "{found}"
    );
}

#[tokio::test]
async fn a_gateway_is_ready_without_the_server_shows_the_cluster_and_deregisters_at_its_end() {
    let mut server = Server::start(&[]).await;
    server.kill();
    let file = server.directory.path().join("gateway.toml");
    let admin = free_port();
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:{admin}\"\n[cluster]\nurl = {:?}\nreplicas = 4\n",
        server.url()
    );
    std::fs::write(&file, text).unwrap();
    let log = server.directory.path().join("log");
    let mut serve = program(&file, &["serve"]);
    serve.stderr(std::fs::File::create(&log).unwrap());
    let mut gateway = Running(serve.spawn().unwrap());
    let shows = |path: &str, text: &str| page(admin, path).is_ok_and(|page| page.contains(text));
    until("it is ready", || shows("/readyz", "200 OK")).await;
    until("the page says why", || {
        shows("/", "this gateway takes 1/4 of every rate (refused)")
    })
    .await;
    assert!(shows("/status", "\"alert\":\"WawpGatewayClusterFallback\""));
    server.start_again().await;
    until("the server is used", || {
        shows("/metrics", "wawp_gateway_cluster_state{state=\"shared\"} 1")
    })
    .await;
    assert!(shows("/", "(this one)") && shows("/livez", "200 OK"));
    let registered = || server.ask(&["HLEN", "{wawp}:gateways"]);
    assert_eq!(registered(), Ok(Value::Int(1)));
    kill_process(Pid::from_child(&gateway.0), Signal::TERM).unwrap();
    assert!(gateway.0.wait().unwrap().success());
    assert_eq!(registered(), Ok(Value::Int(0)));
    // One line at the start of the outage, and one at its end.
    let log = std::fs::read_to_string(log).unwrap();
    let lines = log
        .lines()
        .filter(|line| line.contains("the cluster's server"));
    let lines: Vec<_> = lines.collect();
    assert!(
        lines.len() == 2 && lines[0].contains("reason=\"refused\""),
        "{log}"
    );
    assert!(lines[1].contains("is used again"), "{log}");
}

#[tokio::test]
async fn gateways_see_each_other_and_only_two_keys_do_not_expire() {
    let server = Server::start(&[]).await;
    let peers = [join(&server.url()).await, join(&server.url()).await];
    until("both are seen", || {
        peers.iter().all(|peer| peer.live() == 2)
    })
    .await;
    assert_eq!(peers[0].digest("a"), peers[1].digest("a"));
    let mut kept: Vec<_> = server.keys();
    kept.retain(|key| server.ask(&["PTTL", key]) == Ok(Value::Int(-1)));
    kept.sort();
    assert_eq!(kept, ["{wawp}:birth", "{wawp}:hash_key"]);
    peers[1].leave().await;
    until("the other has left", || peers[0].live() == 1).await;
}

#[tokio::test]
async fn a_gateway_that_vanished_is_missed_after_the_clock_was_set_back_too() {
    let server = Server::start(&[]).await;
    let peer = join(&server.url()).await;
    // It has reported itself in the year 2100, and not again.
    let entry = "4102444800000000 0.1.0 - 1";
    server
        .ask(&["HSET", "{wawp}:gateways", "x", entry])
        .unwrap();
    until("it is seen", || peer.live() == 2).await;
    until("it is missed", || peer.live() == 1).await;
}

#[tokio::test]
async fn gateways_of_another_name_or_database_are_another_cluster() {
    let server = Server::start(&[]).await;
    let peer = join(&server.url()).await;
    let named = join_with(&server.url(), "name = \"blue\"");
    let database = join(&format!("{}?db=3", server.url())).await;
    until_shared(&named).await;
    for other in [&named, &database] {
        assert_ne!(other.digest("a"), peer.digest("a"));
        assert_eq!(other.live(), 1);
    }
}

#[tokio::test]
async fn a_start_without_the_server_joins_it_when_it_is_there() {
    let mut server = Server::start(&[]).await;
    server.kill();
    let peer = join_with(&server.url(), "");
    sleep(Duration::from_millis(100)).await;
    assert_eq!(peer.state(), ("fallback", Some("refused")));
    server.start_again().await;
    returns(&peer).await;
}

#[tokio::test]
async fn a_server_that_is_killed_is_used_again_after_its_return() {
    let mut server = Server::start(&[]).await;
    let peer = join(&server.url()).await;
    server.kill();
    until_fallback(&peer).await;
    assert_eq!(peer.state().1, Some("refused"));
    let hash = peer.digest("a");
    server.start_again().await;
    returns(&peer).await;
    assert_eq!(peer.digest("a"), hash);
}

#[tokio::test]
async fn a_server_that_hangs_is_left_and_used_again() {
    let port = free_port().to_string();
    let server = Server::start(&["--port", &port]).await;
    let peer = join(&format!("redis://127.0.0.1:{port}")).await;
    server.signal(Signal::STOP);
    until_fallback(&peer).await;
    assert_eq!(peer.state().1, Some("timeout"));
    until("the connection is left", || peer.state().0 == "fallback").await;
    assert!(!peer.reserve("1").await);
    server.signal(Signal::CONT);
    returns(&peer).await;
}

#[tokio::test]
async fn a_connection_that_is_cut_is_replaced_and_nothing_else_happens() {
    let server = Server::start(&[]).await;
    let peer = join(&server.url()).await;
    sleep(Duration::from_millis(600)).await;
    server.ask(&["CLIENT", "KILL", "TYPE", "normal"]).unwrap();
    until("there is another connection", || peer.generation() == 2).await;
    assert!(peer.is_shared() && peer.reserve("1").await);
}

#[tokio::test]
async fn a_blip_is_no_outage() {
    let server = Server::start(&[]).await;
    let peer = join(&server.url()).await;
    server.ask(&["CLIENT", "PAUSE", "300"]).unwrap();
    for _ in 0..10 {
        peer.reserve("1").await;
        sleep(Duration::from_millis(20)).await;
        assert!(peer.is_shared());
    }
    until("it is forgotten", || peer.state().0 == "shared").await;
    assert_eq!(peer.generation(), 1);
}

#[tokio::test]
async fn a_primary_that_becomes_a_replica_is_left_until_it_is_a_primary_again() {
    let server = Server::start(&[]).await;
    let peer = join(&server.url()).await;
    server.ask(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    until_fallback(&peer).await;
    assert_eq!(peer.state().1, Some("demoted"));
    assert!(peer.exposition().contains("{reason=\"read_only\"}"));
    server.ask(&["REPLICAOF", "NO", "ONE"]).unwrap();
    returns(&peer).await;
}

#[tokio::test]
async fn scripts_and_data_that_are_lost_are_there_again() {
    let server = Server::start(&[]).await;
    let peer = join(&server.url()).await;
    let hash = peer.digest("a");
    for command in [&["SCRIPT", "FLUSH"][..], &["FLUSHALL"]] {
        server.ask(command).unwrap();
        assert!(peer.reserve("1").await, "{command:?}");
    }
    // The next report puts the key back.
    until("the key is there", || {
        server.keys().iter().any(|key| key.ends_with("hash_key"))
    })
    .await;
    let other = join(&server.url()).await;
    assert_eq!((peer.digest("a"), other.digest("a")), (hash.clone(), hash));
    // What the emptied data set has lost is asserted again, as after another connection.
    until("data is asserted", || peer.generation() == 2).await;
}

#[tokio::test]
async fn user_and_password_count() {
    let server = Server::start(&["--requirepass", "right"]).await;
    let url = |login: &str| format!("unix://{login}{}", server.socket().display());
    for (login, failure) in [(":wrong@", "auth"), ("", "auth"), ("other:right@", "auth")] {
        let peer = join_with(&url(login), "");
        until("the failure is known", || {
            peer.state() == ("fallback", Some(failure))
        })
        .await;
    }
    join(&url(":right@")).await;
    let words = [
        "ACL",
        "SETUSER",
        "app",
        "on",
        ">x",
        "~*",
        "&*",
        "+@all",
        "-@scripting",
    ];
    server.ask_as("right", &words).unwrap();
    let peer = join_with(&url("app:x@"), "");
    until("the failure is known", || {
        peer.state().1 == Some("permission")
    })
    .await;
    server
        .ask_as("right", &["ACL", "SETUSER", "app", "+@scripting"])
        .unwrap();
    returns(&peer).await;
}

#[tokio::test]
async fn a_server_without_memory_or_scripts_is_not_used() {
    let server = Server::start(&[]).await;
    let peer = join(&server.url()).await;
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    until_fallback(&peer).await;
    assert_eq!(peer.state().1, Some("out_of_memory"));
    server.ask(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    returns(&peer).await;
    let server = Server::start(&["--rename-command", "EVALSHA", ""]).await;
    let peer = join_with(&server.url(), "");
    until("the failure is known", || {
        peer.state().1 == Some("no_scripts")
    })
    .await;
    // A port of something else.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = join_with(&format!("redis://{}", listener.local_addr().unwrap()), "");
    until("the failure is known", || peer.state().1 == Some("timeout")).await;
}

#[tokio::test]
async fn announcements_arrive_on_a_connection_of_their_own() {
    let server = Server::start(&[]).await;
    let mut peer = join(&server.url()).await;
    for line in ["a b", "c"] {
        until("the gateway listens", || {
            let heard = server.ask(&["PUBLISH", "{wawp}:announced", line]);
            heard == Ok(Value::Int(1))
        })
        .await;
        assert_eq!(timeout(LIMIT, peer.announced()).await.unwrap(), line);
        server.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]).unwrap();
    }
    assert_eq!(peer.generation(), 1);
}

/// A sentinel that names these servers in turn.
async fn disagreeing(ports: [u16; 2]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        for port in ports.into_iter().cycle() {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut read = Vec::new();
                while !read.ends_with(b"ADDR-BY-NAME\r\n$4\r\nmain\r\n") {
                    stream.read_buf(&mut read).await.unwrap();
                }
                let port = port.to_string();
                let replies = format!(
                    "*2\r\n$12\r\nconfig-epoch\r\n$1\r\n1\r\n*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n",
                    port.len()
                );
                stream.write_all(replies.as_bytes()).await.unwrap();
                stream.read_buf(&mut read).await.ok();
            });
        }
    });
    own
}

#[tokio::test]
async fn announcements_come_from_the_server_of_the_scripts_where_sentinels_disagree() {
    let ports = [free_port(), free_port()];
    let [first, second] = ports.map(|port| port.to_string());
    let servers = [
        Server::start(&["--port", &first]).await,
        Server::start(&["--port", &second]).await,
    ];
    let sentinel = disagreeing(ports).await;
    let _peer = join(&format!("redis+sentinel://127.0.0.1:{sentinel}/main")).await;
    let listens =
        |server: &Server| server.ask(&["PUBLISH", "{wawp}:announced", "a"]) == Ok(Value::Int(1));
    until("the gateway listens", || servers.iter().any(listens)).await;
    let uses = |server: &Server| server.keys().contains(&"{wawp}:birth".to_owned());
    for server in &servers {
        assert_eq!(listens(server), uses(server));
    }
}

#[tokio::test]
async fn over_tls_only_a_server_of_a_trusted_authority_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (
        directory.path().join("cert.pem"),
        directory.path().join("key.pem"),
    );
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let [cert, key] = [cert, key].map(|path| path.display().to_string());
    let port = free_port().to_string();
    let tls = [
        "--tls-port",
        &port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
    ];
    let server = Server::start(&tls).await;
    let url = format!("rediss://localhost:{port}");
    let trusting = join_with(&url, &format!("ca = {cert:?}"));
    until_shared(&trusting).await;
    assert!(trusting.reserve("1").await);
    let other = join_with(&url, "");
    until("the failure is known", || other.state().1 == Some("tls")).await;
    drop(server);
}

#[tokio::test]
async fn a_failover_by_sentinel_leads_to_the_new_primary() {
    let mut watched = Watched::start().await;
    let peer = join(&watched.url()).await;
    let hash = peer.digest("a");
    watched.primary.kill();
    until_fallback(&peer).await;
    until_shared(&peer).await;
    assert!(peer.reserve("1").await);
    assert_eq!(peer.digest("a"), hash);
    let unknown = watched.url().replace("/main", "/other");
    let unknown = join_with(&unknown, "");
    until("the failure is known", || {
        unknown.state().1 == Some("no_primary")
    })
    .await;
}
