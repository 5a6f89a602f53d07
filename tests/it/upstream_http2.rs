//! An upstream that speaks HTTP/2, played by the test: how its answers end, and how long their heads may be.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{Request, Response};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use wawp_gateway::gateway::Gateway;
use wawp_gateway::{Dial, Io};

use crate::support::{Authority, Line, Scratch, get, receipt, trusting};

/// A gateway before an upstream of HTTP/2 that the test plays.
struct Stage {
    gateway: Gateway,
    asked: mpsc::UnboundedReceiver<(Request<h2::RecvStream>, SendResponse<Bytes>)>,
}

impl Stage {
    fn new() -> Self {
        let (authority, scratch) = (Authority::new(), Scratch::new());
        let ca = scratch.file("ca.pem", &authority.pem());
        let acceptor = authority.server(&[b"h2"]);
        let (asking, asked) = mpsc::unbounded_channel();
        let dial = move || {
            let (near, far) = tokio::io::duplex(64 * 1024);
            tokio::spawn(serve(acceptor.clone(), far, asking.clone()));
            let dialled = async { Ok::<_, io::Error>(Box::new(near) as Box<dyn Io>) };
            Box::pin(dialled) as std::pin::Pin<Box<dyn Future<Output = _> + Send>>
        };
        let config = trusting("https://localhost", &ca);
        let gateway = Gateway::new(&config, Dial::With(Arc::new(dial))).unwrap();
        Self { gateway, asked }
    }

    fn client(&self) -> Line {
        Line::new(crate::support::stream(&self.gateway))
    }

    /// The next call, to be answered.
    async fn asked(&mut self) -> SendResponse<Bytes> {
        let soon = Duration::from_secs(10);
        let asked = tokio::time::timeout(soon, self.asked.recv()).await;
        asked.expect("a call").unwrap().1
    }

    async fn is_left_alone(&mut self) {
        let long = Duration::from_secs(600);
        let asked = tokio::time::timeout(long, self.asked.recv()).await;
        assert!(asked.is_err(), "a call that nobody expects");
    }
}

async fn serve(
    acceptor: tokio_rustls::TlsAcceptor,
    io: DuplexStream,
    asking: mpsc::UnboundedSender<(Request<h2::RecvStream>, SendResponse<Bytes>)>,
) {
    let io = acceptor.accept(io).await.unwrap();
    let mut connection = h2::server::handshake(io).await.unwrap();
    while let Some(Ok(asked)) = connection.accept().await {
        asking.send(asked).ok();
    }
}

/// Begins an answer: its head and the first half of its body.
fn begins(mut answer: SendResponse<Bytes>, length: Option<usize>) -> SendStream<Bytes> {
    let mut head = Response::builder().status(201);
    if let Some(length) = length {
        head = head.header("content-length", length);
    }
    let mut body = answer.send_response(head.body(()).unwrap(), false).unwrap();
    body.send_data(Bytes::from_static(b"half"), false).unwrap();
    body
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_stream_is_reset_breaks_off_whatever_the_reset_says() {
    for reason in [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR] {
        for length in [None, Some(8)] {
            let mut stage = Stage::new();
            let mut client = stage.client();
            client
                .says(get("/v2/chats?instance_id=1&access_token=t"))
                .await;
            let mut body = begins(stage.asked().await, length);
            let head = client.hears_until("\r\n\r\n").await;
            assert!(head.starts_with("HTTP/1.1 201 "), "{head}");
            client.hears_until("half").await;
            body.send_reset(reason);
            let rest = client.hears_rest().await;
            assert!(!rest.contains("0\r\n\r\n"), "{reason:?}: {rest:?}");
            stage.is_left_alone().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_merged_receipt_is_repeated_when_its_answer_is_reset() {
    let mut stage = Stage::new();
    let mut clients = [stage.client(), stage.client()];
    for (n, client) in clients.iter_mut().enumerate() {
        client.says(receipt([n])).await;
    }
    let mut body = begins(stage.asked().await, None);
    tokio::time::sleep(Duration::from_millis(1)).await;
    body.send_reset(Reason::NO_ERROR);
    let mut body = begins(stage.asked().await, None);
    body.send_data(Bytes::from_static(b"whole"), true).unwrap();
    for client in &mut clients {
        assert_eq!(client.answer().await.text(), "halfwhole");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_whole_may_be_followed_by_a_reset() {
    let mut stage = Stage::new();
    let mut client = stage.client();
    // A body that never comes to its end: the upstream wants no more of it.
    client
        .says("POST /x?instance_id=1&access_token=t HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nbegin")
        .await;
    let mut body = begins(stage.asked().await, None);
    body.send_data(Bytes::from_static(b"whole"), true).unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    body.send_reset(Reason::NO_ERROR);
    assert_eq!(client.answer().await.text(), "halfwhole");
}

#[tokio::test(start_paused = true)]
async fn an_answers_head_may_be_as_long_as_over_http_1() {
    for (length, status) in [(60_000, 200), (70_000, 502)] {
        let mut stage = Stage::new();
        let mut client = stage.client();
        client
            .says(get("/v2/chats?instance_id=1&access_token=t"))
            .await;
        let mut answer = stage.asked().await;
        // In fields that a client may hold, too.
        let mut head = Response::builder();
        for n in 0..10 {
            head = head.header(format!("x-{n}"), "x".repeat(length / 10));
        }
        answer.send_response(head.body(()).unwrap(), true).unwrap();
        assert_eq!(client.answer().await.status(), status, "{length}");
    }
}
