//! An upstream that speaks HTTP/2, played by the test: how its responses end, and how long their heads may be.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;
use wawp_gateway::config;
use wawp_gateway::gateway::Gateway;
use wawp_gateway::{Dial, Io};

use crate::support::{Authority, ClientConn, Scratch, counted, get, post, receipt, trusting};

/// A gateway before an upstream of HTTP/2 that the test plays.
struct Stage {
    gateway: Gateway,
    connections: Arc<AtomicUsize>,
    asked: mpsc::UnboundedReceiver<(Request<RecvStream>, SendResponse<Bytes>)>,
}

impl Stage {
    fn new() -> Self {
        Self::whose_connections_end_after(usize::MAX)
    }

    /// Each connection is asked to end after so many requests.
    fn whose_connections_end_after(requests: usize) -> Self {
        Self::with(move |io, asking, _| Box::pin(serve(io, asking, requests)))
    }

    /// `serves` gets the number of the connection, from 0.
    fn with<F>(serves: F) -> Self
    where
        F: Fn(TlsStream<DuplexStream>, Asking, usize) -> Served + Clone + Send + Sync + 'static,
    {
        let (authority, scratch) = (Authority::new(), Scratch::new());
        let ca = scratch.file("ca.pem", &authority.pem());
        let acceptor = authority.server(&[b"h2"]);
        let (asking, asked) = mpsc::unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let dial = move || {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let (acceptor, asking, serves) = (acceptor.clone(), asking.clone(), serves.clone());
            let number = count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let io = acceptor.accept(far).await.unwrap();
                serves(io, asking, number).await;
            });
            let dialled = async { Ok::<_, io::Error>(Box::new(near) as Box<dyn Io>) };
            Box::pin(dialled) as std::pin::Pin<Box<dyn Future<Output = _> + Send>>
        };
        let config = trusting("https://localhost", &ca);
        let gateway = Gateway::new(&config, Dial::With(Arc::new(dial))).unwrap();
        Self {
            gateway,
            connections,
            asked,
        }
    }

    fn client(&self) -> ClientConn {
        ClientConn::new(crate::support::stream(&self.gateway))
    }

    /// The next request, with its body to be read.
    async fn asked_with_body(&mut self) -> (Request<RecvStream>, SendResponse<Bytes>) {
        let soon = Duration::from_secs(10);
        let asked = tokio::time::timeout(soon, self.asked.recv()).await;
        asked.expect("a call").unwrap()
    }

    /// The next call, to be answered.
    async fn asked(&mut self) -> SendResponse<Bytes> {
        self.asked_with_body().await.1
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    async fn is_left_alone(&mut self) {
        let long = Duration::from_secs(600);
        let asked = tokio::time::timeout(long, self.asked.recv()).await;
        assert!(asked.is_err(), "an unexpected call");
    }
}

type Asking = mpsc::UnboundedSender<(Request<RecvStream>, SendResponse<Bytes>)>;
type Served = Pin<Box<dyn Future<Output = ()> + Send>>;

async fn serve(io: TlsStream<DuplexStream>, asking: Asking, mut requests: usize) {
    let mut connection = h2::server::handshake(io).await.unwrap();
    while let Some(Ok(asked)) = connection.accept().await {
        asking.send(asked).ok();
        requests -= 1;
        if requests == 0 {
            connection.graceful_shutdown();
        }
    }
}

/// Takes two requests, responds to the first, and says that it never saw the other.
async fn goes_away_behind_the_first(mut io: TlsStream<DuplexStream>) {
    let (mut head, mut streams) = ([0; 9], 0);
    io.read_exact(&mut [0; 24]).await.unwrap();
    io.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    while io.read_exact(&mut head).await.is_ok() {
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        io.read_exact(&mut vec![0; length]).await.unwrap();
        // SETTINGS without ACK, and HEADERS.
        match (head[3], head[4]) {
            (4, 0) => io.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).await.unwrap(),
            (1, _) => streams += 1,
            _ => {}
        }
        if head[3] == 1 && streams == 2 {
            let away = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
            let response = [0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88];
            io.write_all(&[&away[..], &response].concat())
                .await
                .unwrap();
        }
    }
}

async fn whole(mut body: RecvStream) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        whole.extend_from_slice(&piece);
    }
    whole
}

fn respond(mut response: SendResponse<Bytes>) {
    let head = Response::new(());
    response.send_response(head, true).unwrap();
}

/// Begins a response: its head and the first half of its body.
fn begins(mut response: SendResponse<Bytes>, length: Option<usize>) -> SendStream<Bytes> {
    let mut head = Response::builder().status(201);
    if let Some(length) = length {
        head = head.header("content-length", length);
    }
    let mut body = response
        .send_response(head.body(()).unwrap(), false)
        .unwrap();
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
        assert_eq!(client.response().await.text(), "halfwhole");
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
    assert_eq!(client.response().await.text(), "halfwhole");
}

#[tokio::test(start_paused = true)]
async fn an_answers_head_may_be_as_long_as_over_http_1() {
    for (length, status) in [(60_000, 200), (70_000, 502)] {
        let mut stage = Stage::new();
        let mut client = stage.client();
        client
            .says(get("/v2/chats?instance_id=1&access_token=t"))
            .await;
        let mut response = stage.asked().await;
        // In fields that a client may hold, too.
        let mut head = Response::builder();
        for n in 0..10 {
            head = head.header(format!("x-{n}"), "x".repeat(length / 10));
        }
        response
            .send_response(head.body(()).unwrap(), true)
            .unwrap();
        assert_eq!(client.response().await.status(), status, "{length}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_is_sent_again_on_another_connection_with_its_body() {
    let target = "/v2/send/text?instance_id=1&access_token=t";
    let complete = post(target, "hello");
    let chunked = format!(
        "POST {target} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
    );
    for request in [complete, chunked] {
        for reads_first in [false, true] {
            let mut stage = Stage::new();
            let mut client = stage.client();
            client.says(&request).await;
            let (asked, mut response) = stage.asked_with_body().await;
            if reads_first {
                assert_eq!(whole(asked.into_body()).await, b"hello");
            }
            response.send_reset(Reason::REFUSED_STREAM);
            let (asked, response) = stage.asked_with_body().await;
            assert_eq!(whole(asked.into_body()).await, b"hello");
            respond(response);
            assert_eq!(client.response().await.status(), 200);
            assert_eq!(stage.connections(), 2);
            stage.is_left_alone().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_is_not_sent_again_behind_a_long_body_or_trailers() {
    let head = "POST /v2/send/text?instance_id=1 HTTP/1.1\r\nHost: h\r\n";
    let long = |length| {
        format!(
            "{head}Content-Length: {length}\r\n\r\n{}",
            "x".repeat(length)
        )
    };
    let trailers = format!(
        "{head}Transfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"
    );
    for (request, again) in [
        (long(60_000), true),
        (long(70_000), false),
        (trailers, false),
    ] {
        let mut stage = Stage::new();
        let mut client = stage.client();
        let read = async {
            let (asked, response) = stage.asked_with_body().await;
            let mut body = asked.into_body();
            while let Some(piece) = body.data().await {
                let length = piece.unwrap().len();
                body.flow_control().release_capacity(length).unwrap();
            }
            (body.trailers().await.unwrap(), response)
        };
        let (_, (trailers, mut response)) = tokio::join!(client.says(&request), read);
        assert_eq!(trailers.is_some(), request.contains("Trailer"));
        response.send_reset(Reason::REFUSED_STREAM);
        if again {
            let (asked, response) = stage.asked_with_body().await;
            assert_eq!(whole(asked.into_body()).await.len(), 60_000);
            respond(response);
        }
        let status = if again { 200 } else { 502 };
        assert_eq!(client.response().await.status(), status);
        stage.is_left_alone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_always_refused_fails_soon() {
    let mut stage = Stage::new();
    let mut client = stage.client();
    client
        .says(post("/v2/send/text?instance_id=1", "hello"))
        .await;
    for _ in 0..2 {
        stage.asked().await.send_reset(Reason::REFUSED_STREAM);
    }
    assert_eq!(client.response().await.status(), 502);
    stage.is_left_alone().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_another_request_made_is_no_new_one_of_a_refused_request() {
    let mut stage = Stage::new();
    let mut clients = [stage.client(), stage.client()];
    for client in &mut clients {
        client
            .says(post("/v2/send/text?instance_id=1", "hello"))
            .await;
    }
    respond(stage.asked().await);
    stage.asked().await.send_reset(Reason::REFUSED_STREAM);
    assert_eq!(stage.connections(), 1);
    stage.asked().await.send_reset(Reason::REFUSED_STREAM);
    respond(stage.asked().await);
    for client in &mut clients {
        assert_eq!(client.response().await.status(), 200);
    }
    assert_eq!(stage.connections(), 3);
    stage.is_left_alone().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_may_have_been_processed_is_never_sent_again() {
    for reason in [Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::NO_ERROR] {
        let mut stage = Stage::new();
        let mut client = stage.client();
        client
            .says(post("/v2/send/text?instance_id=1", "hello"))
            .await;
        stage.asked().await.send_reset(reason);
        assert_eq!(client.response().await.status(), 502);
        stage.is_left_alone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_behind_the_last_of_a_goaway_is_sent_again() {
    let mut stage = Stage::with(|io, asking, number| match number {
        0 => Box::pin(goes_away_behind_the_first(io)),
        _ => Box::pin(serve(io, asking, usize::MAX)),
    });
    let mut clients = [stage.client(), stage.client()];
    for client in &mut clients {
        client
            .says(post("/v2/send/text?instance_id=1", "hello"))
            .await;
    }
    let (asked, response) = stage.asked_with_body().await;
    assert_eq!(whole(asked.into_body()).await, b"hello");
    respond(response);
    for client in &mut clients {
        assert_eq!(client.response().await.status(), 200);
    }
    stage.is_left_alone().await;
}

#[tokio::test(start_paused = true)]
async fn no_request_fails_where_connections_end_after_some_requests() {
    let mut stage = Stage::whose_connections_end_after(20);
    let mut clients: Vec<_> = (0..10).map(|_| stage.client()).collect();
    let calls = async {
        for round in 0..30 {
            for (n, client) in clients.iter_mut().enumerate() {
                let target = format!("/v2/send/text?instance_id={n}");
                client.says(post(&target, "hello")).await;
            }
            for client in &mut clients {
                assert_eq!(client.response().await.status(), 200, "round {round}");
            }
        }
    };
    let serves = async {
        while let Some((_, response)) = stage.asked.recv().await {
            respond(response);
        }
    };
    tokio::select! {
        () = calls => {}
        () = serves => {}
    }
    assert!(stage.connections() >= 15, "{}", stage.connections());
}

/// Takes requests and pings, and responds to none of them after the first request.
async fn falls_silent(io: TlsStream<DuplexStream>, asking: Asking) {
    let mut connection = h2::server::handshake(io).await.unwrap();
    asking
        .send(connection.accept().await.unwrap().unwrap())
        .ok();
    // The response to it goes out, then nothing is read or written any more.
    let polls = std::future::poll_fn(|cx| connection.poll_closed(cx));
    drop(tokio::time::timeout(Duration::from_secs(1), polls).await);
    std::future::pending::<()>().await;
    drop(connection);
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_soon_gets_no_request_and_then_ends() {
    let mut stage = Stage::with(|io, asking, number| match number {
        0 => Box::pin(falls_silent(io, asking)),
        _ => Box::pin(serve(io, asking, usize::MAX)),
    });
    let mut client = stage.client();
    client.says(get("/v2/first?instance_id=1")).await;
    respond(stage.asked().await);
    assert_eq!(client.response().await.status(), 200);
    tokio::time::sleep(Duration::from_secs(2)).await;
    // This one joins the connection before anything can be known of it.
    let mut lost = stage.client();
    lost.says(get("/v2/lost?instance_id=1")).await;
    let began = tokio::time::Instant::now();
    tokio::time::sleep(Duration::from_secs(5)).await;
    client.says(get("/v2/second?instance_id=1")).await;
    respond(stage.asked().await);
    assert_eq!(client.response().await.status(), 200);
    assert_eq!(stage.connections(), 2);
    assert_eq!(lost.response().await.status(), 502);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_response_that_takes_minutes_is_not_cut_and_others_join_its_connection() {
    let mut stage = Stage::new();
    let (mut slow, mut quick) = (stage.client(), stage.client());
    slow.says(get("/v2/slow?instance_id=1")).await;
    let late = stage.asked().await;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        quick.says(get("/v2/quick?instance_id=2")).await;
        respond(stage.asked().await);
        assert_eq!(quick.response().await.status(), 200);
    }
    respond(late);
    assert_eq!(slow.response().await.status(), 200);
    assert_eq!(stage.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_no_uri_is_refused_with_its_byte() {
    let mut stage = Stage::new();
    let mut client = stage.client();
    let response = client.asks(get("/a#b")).await;
    assert_eq!(response.status(), 400);
    assert_eq!(response.json()["code"], "malformed");
    assert!(response.text().contains("%23"), "{response:?}");
    stage.is_left_alone().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_too_old_gets_no_stream_and_cuts_none() {
    let mut stage = Stage::new();
    let mut slow = stage.client();
    slow.says(get("/v2/slow?instance_id=1")).await;
    let late = stage.asked().await;
    let is_busy = |stage: &Stage, connections| {
        let exposition = stage.gateway.exposition();
        let name = "wawp_gateway_upstream_connections";
        assert_eq!(counted(&exposition, name, &["active"]), connections);
    };
    for ask in [1, 2] {
        match ask {
            1 => tokio::time::sleep(Duration::from_secs(300)).await,
            _ => stage.gateway.reload(&config::Config::default()),
        }
        let mut quick = stage.client();
        for _ in 0..3 {
            quick.says(get("/v2/quick?instance_id=2")).await;
            respond(stage.asked().await);
            assert_eq!(quick.response().await.status(), 200);
        }
        assert_eq!(stage.connections(), 1 + ask);
        is_busy(&stage, 1.0);
    }
    respond(late);
    assert_eq!(slow.response().await.status(), 200);
    tokio::time::sleep(Duration::from_millis(1)).await;
    is_busy(&stage, 0.0);
}
