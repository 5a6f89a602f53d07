//! Pass-through over time: what passes while a call is still under way, and how it ends.
//!
//! Each end of a call sees the other's pieces as they come: bodies, trailers, responses before the final one, an upgrade
//! that stays open. What breaks off on one side breaks off on the other.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use crate::support::{
    Framing, Message, Program, RunningSandbox, Stage, at_rest, connect, counted, get,
};

const PLAIN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A request for another protocol.
const UPGRADE: &str =
    "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn trailers_pass_both_ways() {
    let request = "POST /v2/send/file HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nConnection: te\r\nTrailer: X-Sum, X-Other\r\n\
                   Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX-Sum: abc\r\nX-Other: 2\r\n\r\n";
    let response = "HTTP/1.1 200 OK\r\nTrailer: X-Check\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Check: 1\r\n\r\n";
    let mut stage = Stage::new("");
    let mut client = stage.client();
    client.says(request).await;
    let mut line = stage.upstream.accepts().await;
    let heard = line.request().await;
    assert_eq!(heard.framing, Framing::Chunked);
    assert_eq!(heard.body, b"body");
    assert_eq!(heard.field("te"), Some("trailers"));
    let lower = |trailers: &[(String, String)]| -> Vec<_> {
        trailers
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
            .collect()
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        lower(&heard.trailers),
        [pair("x-sum", "abc"), pair("x-other", "2")]
    );
    line.says(response).await;
    let heard = client.response().await;
    assert_eq!(heard.framing, Framing::Chunked);
    assert_eq!(heard.body, b"hello");
    assert_eq!(lower(&heard.trailers), [pair("x-check", "1")]);
}

#[tokio::test(start_paused = true)]
async fn bodies_stream_both_ways_piece_by_piece() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    client
        .says("POST /v2/send/file?instance_id=1 HTTP/1.1\r\nHost: h\r\nAccess-Token: t\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    let mut line = stage.upstream.accepts().await;
    line.hears_until("\r\n\r\n").await;
    for piece in ["3\r\none\r\n", "3\r\ntwo\r\n"] {
        line.hears_nothing().await;
        client.says(piece).await;
        line.hears(piece).await;
    }
    // A response may begin before the request has ended.
    line.says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.hears_until("\r\n\r\n").await;
    for piece in ["5\r\nthree\r\n", "4\r\nfour\r\n"] {
        client.hears_nothing().await;
        line.says(piece).await;
        client.hears(piece).await;
    }
    client.says("3\r\nend\r\n0\r\n\r\n").await;
    line.hears("3\r\nend\r\n0\r\n\r\n").await;
    line.says("0\r\n\r\n").await;
    client.hears("0\r\n\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_read_holds_the_other_side_back() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    client
        .says("POST /v2/x?instance_id=1&access_token=t HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n")
        .await;
    let _line = stage.upstream.accepts().await;
    let mut said = 0;
    let piece = vec![b'x'; 64 * 1024];
    let patience = Duration::from_secs(1);
    while tokio::time::timeout(patience, client.tries_to_say(&piece))
        .await
        .is_ok()
    {
        said += piece.len();
    }
    // Two connections' buffers, hyper's own on both sides, and what stands between.
    assert!(
        said < 2 << 20,
        "{said} bytes are held for an upstream that does not read"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_framing_ends_with_its_connection() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    client.says(get("/v2/chats")).await;
    let mut line = stage.upstream.accepts().await;
    line.request().await;
    line.says("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>old ")
        .await;
    line.says("server</p>").await;
    line.hangs_up();
    let response = client.response().await;
    assert_eq!(response.text(), "<p>old server</p>");
    assert_ne!(response.framing, Framing::Length);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_breaks_off() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    client.says(get("/v2/chats")).await;
    let mut line = stage.upstream.accepts().await;
    line.request().await;
    line.says("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        .await;
    line.hangs_up();
    client
        .hears("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        .await;
    client.hears_end().await;
}

#[tokio::test(start_paused = true)]
async fn a_final_answer_follows_informational_ones() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    client.says(get("/v2/chats")).await;
    let mut line = stage.upstream.accepts().await;
    line.request().await;
    line.says("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n")
        .await;
    line.says(PLAIN).await;
    // They may be dropped, but nothing else may.
    let mut heard = client.response().await;
    while heard.status() < 200 {
        heard = client.response().await;
    }
    assert_eq!(
        heard.end_to_end(),
        Message::response(PLAIN.as_bytes(), "GET").end_to_end()
    );
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_passes_bytes_both_ways() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    let fields = "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
    client
        .says(format!("GET /ws?instance_id=1 HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\n{fields}\r\n"))
        .await;
    let mut line = stage.upstream.accepts().await;
    let heard = line.request().await;
    assert_eq!(heard.start, "GET /ws?instance_id=1 HTTP/1.1");
    assert_eq!(
        heard.field("connection").unwrap().to_ascii_lowercase(),
        "upgrade"
    );
    assert_eq!(heard.field("upgrade"), Some("websocket"));
    assert_eq!(
        heard.field("sec-websocket-key"),
        Some("dGhlIHNhbXBsZSBub25jZQ==")
    );
    line.says("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nfirst")
        .await;
    let heard = client.response().await;
    assert_eq!(heard.status(), 101);
    assert_eq!(heard.field("sec-websocket-accept"), Some("x"));
    assert_eq!(heard.field("upgrade"), Some("websocket"));
    client.hears("first").await;
    client.says([0x81, 0, 255]).await;
    line.hears([0x81, 0, 255]).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    line.says("ten minutes later").await;
    client.hears("ten minutes later").await;
    client.hangs_up();
    line.hears_end().await;
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_is_counted_until_it_ends() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    client.says(UPGRADE).await;
    let mut line = stage.upstream.accepts().await;
    line.request().await;
    line.says(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    )
    .await;
    assert_eq!(client.response().await.status(), 101);
    let connections =
        |stage: &Stage| counted(&stage.gateway.exposition(), "wawp_gateway_connections", &[]);
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(connections(&stage), 1.0);
    client.hangs_up();
    line.hears_end().await;
    drop(line);
    at_rest().await;
    assert_eq!(connections(&stage), 0.0);
}

#[test]
fn an_upgraded_connection_is_one_of_those_that_there_may_be() {
    let sandbox = RunningSandbox::start(wawp_gateway::sandbox::Settings::default());
    let gateway = Program::serve(sandbox.address, &[("SERVER__MAX_CONNECTIONS", "2")]);
    let upgrade =
        "GET /sandbox/ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let upgraded = || {
        let mut stream = connect(gateway.address);
        stream.write_all(upgrade.as_bytes()).unwrap();
        stream
    };
    let mut held = [upgraded(), upgraded()];
    for stream in &mut held {
        let mut response = [0; 12];
        stream.read_exact(&mut response).unwrap();
        assert_eq!(&response, b"HTTP/1.1 101");
    }
    // Its turn comes when another has ended, and not before.
    let mut third = upgraded();
    third
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    assert!(third.read(&mut [0; 12]).is_err());
    drop(held);
    third
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    third.read_exact(&mut [0; 12]).unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_that_is_declined_is_an_answer() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    client.says(UPGRADE).await;
    let mut line = stage.upstream.accepts().await;
    line.request().await;
    line.says(PLAIN).await;
    assert_eq!(client.response().await.text(), "ok");
}
