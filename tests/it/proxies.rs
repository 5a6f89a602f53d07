//! An upstream behind a proxy that knows `CONNECT`, and the versions of HTTP that are spoken with an upstream.

use std::io;
use std::sync::{Arc, Mutex};

use http::Version;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;
use wawp_gateway::config::{HttpVersion, ProxyUrl};
use wawp_gateway::gateway::Gateway;
use wawp_gateway::sandbox::{Sandbox, Settings};
use wawp_gateway::{Dial, Io};

use crate::reach::Log;
use crate::support::{
    Authority, ClientConn, ConnectProxy, Program, RunningSandbox, Scratch, Stage, call, eventually,
    get, read_head, run, stream, text, trusting,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const PROXY: &str = "upstream.proxy = \"http://user:p%40ss@proxy.test:3128\"";
/// `user:p@ss`.
const BASIC: &str = "Basic dXNlcjpwQHNz";

#[tokio::test(start_paused = true)]
async fn a_cleartext_upstream_is_reached_by_connect_and_sees_nothing_of_the_proxy() {
    for is_plain in [true, false] {
        let mut stage = Stage::new(PROXY);
        let mut client = stage.client();
        client.says_as(is_plain, &get("/v2/chats")).await;
        let mut far = stage.upstream.accepts().await;
        let connect = far.request().await;
        assert_eq!(connect.start, "CONNECT upstream.test:80 HTTP/1.1");
        assert_eq!(connect.field("host"), Some("upstream.test:80"));
        assert_eq!(connect.field("proxy-authorization"), Some(BASIC));
        // Nothing is sent before the proxy has connected.
        far.hears_nothing().await;
        far.says("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.0 200 Connected\r\nVia: x\r\n\r\n")
            .await;
        for _ in 0..2 {
            let request = far.request().await;
            assert_eq!(request.start, "GET /v2/chats HTTP/1.1");
            assert_eq!(request.field("host"), Some("upstream.test"));
            assert_eq!(request.field("proxy-authorization"), None);
            far.says(OK).await;
            assert_eq!(client.response().await.status(), 200);
            client.says_as(is_plain, &get("/v2/chats")).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_failure_of_a_proxy_says_what_is_wrong_and_no_password() {
    for (response, reason) in [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
            "the proxy requires other credentials in upstream.proxy (407)",
        ),
        (
            "HTTP/1.1 403 Forbidden\r\n\r\n",
            "the proxy does not permit a connection to the upstream (403)",
        ),
        (
            "HTTP/1.1 503 Service Unavailable\r\n\r\n",
            "the proxy could not connect to the upstream",
        ),
        ("SSH-2.0-x\r\n", "the proxy did not respond with HTTP"),
        (
            "HTTP/1.1 2x0 OK\r\n\r\n",
            "the proxy did not respond with HTTP",
        ),
        ("", "the proxy closed the connection"),
    ] {
        let (log, _guard) = Log::listen();
        let mut stage = Stage::new(PROXY);
        let mut client = stage.client();
        client.says(get("/v2/chats")).await;
        let mut far = stage.upstream.accepts().await;
        far.request().await;
        far.says(response).await;
        far.says_no_more().await;
        let failure = client.response().await;
        assert_eq!(failure.status(), 502);
        assert_eq!(failure.json()["code"], "upstream_unreachable");
        let message = failure.json()["message"].to_string();
        assert!(message.contains(reason), "{message}");
        let lines = log.lines().join("\n");
        assert!(lines.contains(reason), "{lines}");
        assert_eq!(lines.contains("status 503"), response.contains("503"));
        for secret in ["p@ss", "p%40ss", BASIC] {
            assert!(!format!("{lines}{failure:?}").contains(secret), "{lines}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_does_not_respond_takes_no_longer_than_the_connect_timeout() {
    let settings = "upstream.connect_timeout = \"2s\"";
    let mut stage = Stage::new(&format!("{PROXY}\n{settings}"));
    let mut client = stage.client();
    let began = Instant::now();
    client.says(get("/v2/chats")).await;
    let mut far = stage.upstream.accepts().await;
    far.request().await;
    // Some bytes do not make it longer.
    far.says("HTTP/1.1 200").await;
    let failure = client.response().await;
    assert!(failure.text().contains("the proxy did not respond in time"));
    assert_eq!(began.elapsed().as_secs(), 2);
    far.hears_end().await;
    // A response without an end is bounded, too.
    client.says(get("/v2/chats")).await;
    let mut far = stage.upstream.accepts().await;
    far.request().await;
    far.says(format!("HTTP/1.1 200 {}", "x".repeat(10_000)))
        .await;
    let failure = client.response().await;
    assert!(failure.text().contains("did not respond with HTTP"));
}

/// A sandbox that offers these protocols over TLS, behind a proxy if `has_proxy`; the gateway before it, and the heads
/// that the proxy got.
fn behind(
    protocols: &[&[u8]],
    has_proxy: bool,
    http: HttpVersion,
) -> (Sandbox, Gateway, Arc<Mutex<Vec<String>>>) {
    let (authority, scratch) = (Authority::new(), Scratch::new());
    let ca = scratch.file("ca.pem", &authority.pem());
    let acceptor = authority.server(protocols);
    let sandbox = Sandbox::new(Settings::default());
    let heads = Arc::new(Mutex::new(Vec::new()));
    let (serving, taken) = (sandbox.clone(), Arc::clone(&heads));
    let dial = move || {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let (acceptor, sandbox, heads) = (acceptor.clone(), serving.clone(), taken.clone());
        tokio::spawn(async move {
            if has_proxy {
                let head = read_head(&mut far).await;
                heads.lock().unwrap().push(head);
                far.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            }
            if let Ok(stream) = acceptor.accept(far).await {
                sandbox.serve_io(stream).await;
            }
        });
        let dialled = async { Ok::<_, io::Error>(Box::new(near) as Box<dyn Io>) };
        Box::pin(dialled) as std::pin::Pin<Box<dyn Future<Output = _> + Send>>
    };
    let mut config = trusting("https://localhost", &ca);
    config.upstream.http = http;
    config.upstream.proxy = has_proxy.then(|| ProxyUrl::try_from("p:1".to_owned()).unwrap());
    let gateway = Gateway::new(&config, Dial::With(Arc::new(dial))).unwrap();
    (sandbox, gateway, heads)
}

#[tokio::test(start_paused = true)]
async fn an_upstream_with_tls_is_reached_through_a_proxy_in_the_version_it_chooses() {
    let both: [&[u8]; 2] = [b"h2", b"http/1.1"];
    for (protocols, version) in [(&both[..], Version::HTTP_2), (&both[1..], Version::HTTP_11)] {
        let (sandbox, gateway, heads) = behind(protocols, true, HttpVersion::Auto);
        for _ in 0..2 {
            let mut client = ClientConn::new(stream(&gateway));
            assert_eq!(client.asks(text("hello")).await.status(), 201);
        }
        let calls = sandbox.calls();
        assert!(calls.iter().all(|call| call.version == version));
        let heads = heads.lock().unwrap();
        let head = "CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\n\r\n";
        assert_eq!(*heads, [head]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_settings_choose_the_version_of_http() {
    let both: [&[u8]; 2] = [b"h2", b"http/1.1"];
    for (protocols, http, version) in [
        (&both[..], HttpVersion::Http1, Some(Version::HTTP_11)),
        (&both[..], HttpVersion::Http2, Some(Version::HTTP_2)),
        (&both[..1], HttpVersion::Http2, Some(Version::HTTP_2)),
        // The server refuses the handshake, or ignores what was offered.
        (&both[1..], HttpVersion::Http2, None),
        (&[], HttpVersion::Http2, None),
        (&[], HttpVersion::Http1, Some(Version::HTTP_11)),
    ] {
        let (sandbox, gateway, _) = behind(protocols, false, http);
        let mut client = ClientConn::new(stream(&gateway));
        let response = client.asks(text("hello")).await;
        let versions: Vec<_> = sandbox.calls().iter().map(|call| call.version).collect();
        match version {
            Some(version) => assert_eq!((response.status(), versions), (201, vec![version])),
            None => {
                assert_eq!((response.status(), versions), (502, vec![]));
                let reason = "does not speak HTTP/2, which upstream.http demands";
                assert!(response.text().contains(reason), "{}", response.text());
            }
        }
    }
}

const HTTP2: &str = "upstream.http = \"2\"";

#[tokio::test(start_paused = true)]
async fn http_2_in_cleartext_is_spoken_by_prior_knowledge() {
    let world = crate::support::World::new(HTTP2);
    let mut client = world.client();
    for _ in 0..3 {
        assert_eq!(client.asks(text("hello")).await.status(), 201);
    }
    // An upgrade that HTTP/2 does not have is left out, as a server may do that does not know it.
    let upgrade = "GET /v2/chats?instance_id=1 HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let status = client.asks(upgrade).await.status();
    assert!(status < 500, "{status}");
    let calls = world.sandbox.calls();
    assert_eq!(calls.len(), 4);
    for call in calls {
        assert_eq!(call.version, Version::HTTP_2);
        assert!(!call.headers.contains_key("upgrade"), "{call:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cleartext_upstream_that_does_not_speak_http_2_gets_no_request() {
    for (said, reason) in [
        ("HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak HTTP/2"),
        ("", "closed the connection at once"),
    ] {
        let mut stage = Stage::new(HTTP2);
        let mut client = stage.client();
        client.says(text("hello")).await;
        let mut upstream = stage.upstream.accepts().await;
        upstream.hears("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        upstream.says(said).await;
        upstream.says_no_more().await;
        let failure = client.response().await;
        assert_eq!(failure.status(), 502);
        assert!(failure.text().contains(reason), "{}", failure.text());
        assert!(!upstream.hears_rest().await.contains("hello"));
    }
    // One that says nothing is given up after the connect timeout.
    let mut stage = Stage::new(HTTP2);
    let mut client = stage.client();
    client.says(text("hello")).await;
    let upstream = stage.upstream.accepts().await;
    let began = Instant::now();
    assert_eq!(client.response().await.status(), 502);
    assert_eq!(began.elapsed().as_secs(), 5);
    drop(upstream);
}

#[test]
fn the_program_goes_through_its_proxy_and_takes_another_on_reload() {
    let sandbox = RunningSandbox::start(Settings::default());
    let (first, second) = (
        ConnectProxy::start(sandbox.address),
        ConnectProxy::start(sandbox.address),
    );
    let scratch = Scratch::new();
    let settings = |proxy: &ConnectProxy, password: &str| {
        let address = proxy.address;
        scratch.file(
            "gateway.toml",
            &format!("upstream.proxy = \"http://user:{password}@{address}\"\n"),
        )
    };
    let file = settings(&first, "s3cret-1");
    let gateway = Program::serve_with(sandbox.address, &[], &["--config", file.to_str().unwrap()]);
    let ask = || {
        let request = text("hello").replacen("\r\n", "\r\nConnection: close\r\n", 1);
        let response = call(gateway.address, request);
        assert!(response.starts_with(b"HTTP/1.1 201 "), "{response:?}");
    };
    ask();
    assert_eq!(first.heads().len(), 1);
    let start = format!("proxy=\"http://…@{}\"", first.address);
    assert!(gateway.said().contains(&start), "{}", gateway.said());

    settings(&second, "s3cret-2");
    gateway.signal("HUP");
    eventually("the settings are read", || {
        gateway.said().contains("reloaded")
    });
    ask();
    assert_eq!((first.heads().len(), second.heads().len()), (1, 1));
    let shown = gateway.page("/config");
    assert!(
        shown
            .text()
            .contains(&format!("http://…@{}", second.address))
    );
    for said in [gateway.said(), shown.text().to_owned()] {
        assert!(!said.contains("s3cret"), "{said}");
    }
}

#[test]
fn a_proxy_is_checked_and_its_password_masked() {
    let scratch = Scratch::new();
    for (proxy, is_right) in [
        ("http://user:s3cret@p:1", true),
        ("https://user:s3cret@p", false),
    ] {
        let file = scratch.file("gateway.toml", &format!("upstream.proxy = \"{proxy}\"\n"));
        let (code, stdout, stderr) = run(&["check", "--config", file.to_str().unwrap()]);
        assert_eq!(code == 0, is_right, "{stderr}");
        assert_eq!(stdout.contains("proxy = \"http://…@p:1\""), is_right);
        assert_eq!(stderr.contains("no https:// to the proxy"), !is_right);
        assert!(!format!("{stdout}{stderr}").contains("s3cret"));
    }
}
