//! TLS to clients and to the upstream, by certificates made for the test.

mod files;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;

use http::Version;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use wawp_gateway::Dial;
use wawp_gateway::gateway::Gateway;
use wawp_gateway::sandbox::{Sandbox, Settings};

use crate::reach::Log;
use crate::support::{
    Authority, Program, RunningSandbox, Scratch, connect, eventually, run, trusting,
};

/// A gateway with a certificate, and what is needed to talk to it.
struct Secured {
    authority: Authority,
    scratch: Scratch,
    cert: PathBuf,
    key: PathBuf,
    gateway: Program,
}

impl Secured {
    fn new(upstream: &RunningSandbox) -> Self {
        Self::with(upstream, &[])
    }

    fn with(upstream: &RunningSandbox, settings: &[(&str, &str)]) -> Self {
        let (authority, scratch) = (Authority::new(), Scratch::new());
        let (cert, key) = authority.certificate();
        let (cert, key) = (
            scratch.file("cert.pem", &cert),
            scratch.file("key.pem", &key),
        );
        let tls = [
            ("SERVER__TLS__CERT", cert.to_str().unwrap()),
            ("SERVER__TLS__KEY", key.to_str().unwrap()),
        ];
        let gateway = Program::serve(upstream.address, &[&tls, settings].concat());
        Self {
            authority,
            scratch,
            cert,
            key,
            gateway,
        }
    }

    fn handshake(&self, protocols: &[&[u8]]) -> StreamOwned<ClientConnection, TcpStream> {
        self.handshake_after(b"", protocols)
    }

    /// A handshake after something said in clear.
    fn handshake_after(
        &self,
        said: &[u8],
        protocols: &[&[u8]],
    ) -> StreamOwned<ClientConnection, TcpStream> {
        let name = ServerName::try_from("localhost").unwrap();
        let client = ClientConnection::new(self.authority.client(protocols), name).unwrap();
        let mut stream = StreamOwned::new(client, connect(self.gateway.address));
        stream.sock.write_all(said).unwrap();
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
        stream
    }

    fn call(&self) -> String {
        self.call_after(b"")
    }

    fn call_after(&self, said: &[u8]) -> String {
        let mut stream = self.handshake_after(said, &[b"http/1.1"]);
        let request = "GET /v2/session/me?instance_id=1&access_token=t HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        // The gateway may close without a farewell of TLS's own.
        stream.read_to_string(&mut response).ok();
        response
    }

    fn serial(&self) -> Vec<u8> {
        let stream = self.handshake(&[]);
        stream.conn.peer_certificates().unwrap()[0].to_vec()
    }
}

#[test]
fn both_protocols_are_offered_and_calls_are_answered() {
    let upstream = RunningSandbox::start(Settings::default());
    let secured = Secured::new(&upstream);
    let chosen = |protocols: &[&[u8]]| {
        secured
            .handshake(protocols)
            .conn
            .alpn_protocol()
            .map(<[u8]>::to_vec)
    };
    assert_eq!(chosen(&[b"h2", b"http/1.1"]).as_deref(), Some(&b"h2"[..]));
    assert_eq!(chosen(&[b"http/1.1"]).as_deref(), Some(&b"http/1.1"[..]));
    assert_eq!(chosen(&[]), None);
    assert!(secured.call().starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_connection_that_rested_is_answered_and_ends_with_a_farewell() {
    let upstream = RunningSandbox::start(Settings::default());
    let secured = Secured::with(&upstream, &[("SERVER__IDLE_TIMEOUT", "2s")]);
    let mut stream = secured.handshake(&[b"http/1.1"]);
    for _ in 0..2 {
        stream
            .write_all(b"GET /sandbox/status/204 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"\r\n\r\n") {
            let mut piece = [0; 1024];
            let length = stream.read(&mut piece).unwrap();
            assert!(length > 0, "{heard:?}");
            heard.extend_from_slice(&piece[..length]);
        }
        assert!(heard.starts_with(b"HTTP/1.1 204 "));
        // Longer than a connection lies idle before it rests.
        std::thread::sleep(std::time::Duration::from_millis(1300));
    }
    // An end without TLS's own would be an error.
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn stalled_handshakes_hold_up_nobody() {
    let upstream = RunningSandbox::start(Settings::default());
    let secured = Secured::new(&upstream);
    let stalled: Vec<_> = (0..200)
        .map(|n| {
            let mut stream = connect(secured.gateway.address);
            // Some say nothing, some begin a hello and stop.
            if n % 2 == 0 {
                stream.write_all(&[0x16, 0x03, 0x01, 0x02]).unwrap();
            }
            stream
        })
        .collect();
    for _ in 0..5 {
        assert!(secured.call().starts_with("HTTP/1.1 200 "));
    }
    drop(stalled);
}

#[test]
fn cleartext_on_a_tls_port_is_closed() {
    let upstream = RunningSandbox::start(Settings::default());
    let secured = Secured::new(&upstream);
    let mut stream = connect(secured.gateway.address);
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        .unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).ok();
    assert!(!heard.starts_with(b"HTTP/"), "{heard:?}");
    assert!(secured.call().starts_with("HTTP/1.1 200 "));
}

#[test]
fn the_proxy_protocol_stands_before_tls() {
    let upstream = RunningSandbox::start(Settings::default());
    let rules = [
        ("ACCESS__NETWORKS", "[\"203.0.113.0/24\"]"),
        ("ACCESS__TRUSTED_PROXIES", "[\"127.0.0.1\"]"),
    ];
    let secured = Secured::with(&upstream, &rules);
    let binary = |source: [u8; 4]| {
        let fixed = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
        [&fixed[..], &source, &[127, 0, 0, 1, 1, 1, 2, 2]].concat()
    };
    for (header, status) in [
        (b"PROXY TCP4 203.0.113.9 127.0.0.1 1 2\r\n".to_vec(), "200"),
        (b"PROXY TCP4 198.51.100.1 127.0.0.1 1 2\r\n".to_vec(), "403"),
        (binary([203, 0, 113, 9]), "200"),
        (binary([198, 51, 100, 1]), "403"),
        // The proxy itself is in no network that may connect.
        (b"PROXY UNKNOWN\r\n".to_vec(), "403"),
        (Vec::new(), "403"),
    ] {
        let response = secured.call_after(&header);
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status} ")),
            "{}: {response}",
            header.escape_ascii()
        );
    }
    let mut stream = connect(secured.gateway.address);
    stream.write_all(b"PROXY TCP4 nonsense\r\n").unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).ok();
    assert_eq!(heard, b"", "closed without a word");
}

#[test]
fn before_tls_a_strangers_header_is_no_handshake() {
    let upstream = RunningSandbox::start(Settings::default());
    let secured = Secured::new(&upstream);
    let mut stream = connect(secured.gateway.address);
    stream
        .write_all(b"PROXY TCP4 203.0.113.9 127.0.0.1 1 2\r\n")
        .unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).ok();
    assert!(!heard.starts_with(b"HTTP/"), "{heard:?}");
    let unreadable = "wawp_gateway_unreadable_total";
    eventually("it is counted", || {
        secured.gateway.counted(unreadable, &["handshake"]) > 0.0
    });
    eventually("the log says why", || {
        let said = secured.gateway.said();
        said.contains("peer=127.0.0.1") && said.contains("access.trusted_proxies")
    });
    // A health check that only connects is no failure.
    drop(connect(secured.gateway.address));
    assert!(secured.call().starts_with("HTTP/1.1 200 "));
}

/// A sandbox behind TLS which offers these protocols, and a gateway before it
/// that trusts its authority by `upstream.ca`.
async fn behind_tls(protocols: &[&[u8]]) -> (Sandbox, Gateway) {
    let authority = Authority::new();
    behind(&authority, authority.server(protocols)).await
}

async fn behind(authority: &Authority, acceptor: TlsAcceptor) -> (Sandbox, Gateway) {
    let scratch = Scratch::new();
    let ca = scratch.file("ca.pem", &authority.pem());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sandbox = Sandbox::new(Settings::default());
    let serving = sandbox.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, sandbox) = (acceptor.clone(), serving.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    sandbox.serve_io(stream).await;
                }
            });
        }
    });
    let config = trusting(&format!("https://localhost:{port}"), &ca);
    (sandbox, Gateway::new(&config, Dial::Tcp).unwrap())
}

async fn ask(gateway: &Gateway, request: &str) -> String {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let gateway = gateway.clone();
    tokio::spawn(async move { gateway.serve(server).await });
    let (mut reader, mut writer) = tokio::io::split(client);
    writer.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    reader.read_to_string(&mut response).await.unwrap();
    response
}

#[tokio::test]
async fn the_upstream_is_spoken_to_in_the_protocol_it_chooses() {
    let cases: [(&[&[u8]], Version); 3] = [
        (&[b"h2", b"http/1.1"], Version::HTTP_2),
        (&[b"http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ];
    for (protocols, version) in cases {
        let (sandbox, gateway) = behind_tls(protocols).await;
        let receipt = "POST /v2/send/seen?instance_id=1&access_token=t HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\
                       Content-Length: 48\r\n\r\n{\"chatId\":\"1@c.us\",\"messageIds\":[\"false_1@c_A\"]}";
        let text = "GET /v2/send/text?instance_id=1&access_token=t&chatId=1&message=m HTTP/1.1\r\nHost: h\r\n\
                    Connection: close\r\n\r\n";
        for request in [receipt, text, text] {
            let response = ask(&gateway, request).await;
            assert!(
                response.starts_with("HTTP/1.1 201 "),
                "{version:?}: {response}"
            );
        }
        let calls = sandbox.calls();
        assert_eq!(calls.len(), 3);
        assert!(
            calls.iter().all(|call| call.version == version),
            "{calls:?}"
        );
    }
}

#[tokio::test]
async fn the_log_says_what_to_do_about_an_upstream_whose_certificate_is_not_trusted() {
    let (authority, other) = (Authority::new(), Authority::new());
    for (acceptor, advice) in [
        (authority.server_of_itself(), "basicConstraints=CA:FALSE"),
        (
            other.server(&[]),
            "name the certificate of its authority in upstream.ca",
        ),
    ] {
        let (log, _guard) = Log::listen();
        let (_, gateway) = behind(&authority, acceptor).await;
        let request =
            "GET /v2/chats?instance_id=1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        assert!(ask(&gateway, request).await.starts_with("HTTP/1.1 502 "));
        let lines = log.lines().join("\n");
        assert!(lines.contains(advice), "{advice}\n{lines}");
    }
}

#[tokio::test]
async fn a_client_that_breaks_off_is_told_apart_from_an_upstream_that_does() {
    let (_, gateway) = behind_tls(&[b"h2"]).await;
    let (client, server) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move { gateway.serve(server).await });
    let (mut reader, mut writer) = tokio::io::split(client);
    let request = "POST /sandbox/sink HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n";
    writer.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    reader.read_to_string(&mut response).await.unwrap();
    assert!(
        response.is_empty() || response.starts_with("HTTP/1.1 400 "),
        "{response}"
    );
}

#[tokio::test]
async fn calls_on_a_shared_connection_keep_the_order_in_which_they_came() {
    let (sandbox, gateway) = behind_tls(&[b"h2"]).await;
    // That one closes its connection: it is hyper's to read.
    let call = |message: usize, field: &str| {
        format!(
            "GET /v2/send/text?instance_id=1&access_token=t&chatId=1&message={message} HTTP/1.1\r\n\
             Host: h\r\n{field}\r\n"
        )
    };
    ask(&gateway, &call(0, "Connection: close\r\n")).await;
    let mut clients = Vec::new();
    for message in 1..9 {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let gateway = gateway.clone();
        tokio::spawn(async move { gateway.serve(server).await });
        let field = ["", "Connection: close\r\n"][message % 2];
        client
            .write_all(call(message, field).as_bytes())
            .await
            .unwrap();
        clients.push(client);
    }
    for client in &mut clients {
        client.read_u8().await.unwrap();
    }
    let calls = sandbox.calls();
    let messages = calls
        .iter()
        .map(|call| call.target.rsplit('=').next().unwrap());
    assert_eq!(messages.collect::<String>(), "012345678");
}
