//! Clients of HTTP/2 that leave their responses lying, and those that are only slow.

use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::support::{ClientConn, Stage, World, at_rest, counted, get, stream};
use wawp_gateway::gateway::Gateway;

const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A client of HTTP/2 that grants so much of a window to each response before it reads.
async fn client(gateway: &Gateway, window: u32) -> SendRequest<Bytes> {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window);
    let (client, connection) = builder.handshake(stream(gateway)).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn asks(client: &mut SendRequest<Bytes>, path: &str) -> ResponseFuture {
    let target = format!("http://h{path}?instance_id=1&access_token=t");
    let request = Request::get(target).body(()).unwrap();
    *client = client.clone().ready().await.unwrap();
    client.send_request(request, true).unwrap().0
}

fn in_flight(gateway: &Gateway) -> f64 {
    counted(
        &gateway.exposition(),
        "wawp_gateway_in_flight_requests",
        &[],
    )
}

/// Reads up to the end, granting window byte by byte; how much there was.
async fn reads(body: &mut RecvStream, pause: Duration) -> usize {
    let mut length = 0;
    while let Some(data) = body.data().await {
        length += data.unwrap().len();
        tokio::time::sleep(pause).await;
        body.flow_control().release_capacity(1).ok();
    }
    length
}

#[tokio::test(start_paused = true)]
async fn answers_for_which_no_window_is_granted_hold_up_nobody_for_long() {
    // One that would be read in one piece, one in many, and both often.
    for path in ["/sandbox/bytes/10", "/sandbox/bytes/1000000"] {
        let world = World::new(
            "server.body_timeout = \"30s\"\nserver.max_in_flight = 50\nlimit.rate = 0\nlimit.burst = 0",
        );
        let mut client = client(&world.gateway, 0).await;
        let mut responses = Vec::new();
        for _ in 0..60 {
            responses.push(asks(&mut client, path).await);
        }
        at_rest().await;
        let began = Instant::now();
        assert_eq!(world.call(get("/sandbox/echo")).await.status(), 503);
        while in_flight(&world.gateway) != 0.0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(began.elapsed() < Duration::from_secs(36));
        }
        assert!(began.elapsed() >= BODY_TIMEOUT, "{:?}", began.elapsed());
        assert_eq!(world.call(get("/sandbox/echo")).await.status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_left_lying_is_found_among_others() {
    let world = World::new("server.body_timeout = \"30s\"");
    let mut client = client(&world.gateway, 1000).await;
    let left = asks(&mut client, "/sandbox/bytes/1001").await;
    let began = Instant::now();
    let _left = left.await.unwrap();
    let mut answered = 0;
    while began.elapsed() < Duration::from_secs(40) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let Ok(ready) = client.clone().ready().await else {
            break;
        };
        client = ready;
        let Ok(response) = asks(&mut client, "/sandbox/bytes/10").await.await else {
            break;
        };
        assert_eq!(response.status(), 200);
        answered += 1;
    }
    assert!((59..62).contains(&answered), "{answered}");
}

#[tokio::test(start_paused = true)]
async fn calls_beside_one_that_is_left_lying_have_a_while_to_end() {
    let mut stage = Stage::new("server.body_timeout = \"30s\"");
    let mut client = client(&stage.gateway, 10).await;
    let left = tokio::spawn(asks(&mut client, "/left").await);
    let mut line: ClientConn = stage.upstream.accepts().await;
    line.request().await;
    let long = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        "x".repeat(100)
    );
    line.says(long).await;
    let _left = left.await.unwrap().unwrap();
    tokio::time::sleep(BODY_TIMEOUT - Duration::from_secs(1)).await;
    let beside = tokio::spawn(asks(&mut client, "/beside").await);
    line.request().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    line.says("HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok")
        .await;
    let response = beside.await.unwrap().unwrap();
    assert_eq!(response.status(), 201);
    assert_eq!(rest(response.into_body()).await, 2);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let connections = counted(&stage.gateway.exposition(), "wawp_gateway_connections", &[]);
    assert_eq!(connections, 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_is_never_cut_be_it_ever_so_slow() {
    let world = World::new("server.body_timeout = \"30s\"");
    let mut client = client(&world.gateway, 1).await;
    let response = asks(&mut client, "/sandbox/bytes/50").await;
    let mut body = response.await.unwrap().into_body();
    let length = reads(&mut body, Duration::from_secs(29)).await;
    assert_eq!(length, 50);
    assert_eq!(world.counted("wawp_gateway_connections", &[]), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_for_the_upstream_is_never_cut() {
    let mut stage = Stage::new("server.body_timeout = \"5s\"\nserver.idle_timeout = \"5s\"");
    let mut client = client(&stage.gateway, 1000).await;
    let response = tokio::spawn(asks(&mut client, "/x").await);
    let mut line: ClientConn = stage.upstream.accepts().await;
    line.request().await;
    tokio::time::sleep(Duration::from_secs(200)).await;
    line.says("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        .await;
    let mut body = response.await.unwrap().unwrap().into_body();
    for piece in ["no", "ok"] {
        tokio::time::sleep(Duration::from_secs(200)).await;
        line.says(piece).await;
        assert_eq!(body.data().await.unwrap().unwrap(), piece);
    }
    assert!(body.data().await.is_none());
}

/// The rest of a response, read as soon as it comes.
async fn rest(mut body: RecvStream) -> usize {
    let mut length = 0;
    while let Some(data) = body.data().await {
        let data = data.unwrap().len();
        length += data;
        body.flow_control().release_capacity(data).unwrap();
    }
    length
}

#[tokio::test(start_paused = true)]
async fn answers_that_wait_for_their_turn_on_a_slow_connection_are_not_left_lying() {
    let world = World::new("server.body_timeout = \"30s\"\nlimit.rate = 0\nlimit.burst = 0");
    let (near, slow) = tokio::io::duplex(16 * 1024);
    let (mut said, mut heard) = tokio::io::split(slow);
    let (mut responses, mut asked) = tokio::io::split(stream(&world.gateway));
    tokio::spawn(async move { tokio::io::copy(&mut said, &mut asked).await });
    tokio::spawn(async move {
        let mut piece = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = responses.read(&mut piece).await {
            heard.write_all(&piece[..length]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        heard.shutdown().await.ok();
    });
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 24);
    let (mut client, connection) = builder.handshake::<_, Bytes>(near).await.unwrap();
    tokio::spawn(connection);
    let mut bodies = Vec::new();
    for _ in 0..32 {
        let response = asks(&mut client, "/sandbox/bytes/100000").await;
        bodies.push(tokio::spawn(async move {
            rest(response.await.unwrap().into_body()).await
        }));
    }
    for body in bodies {
        assert_eq!(body.await.unwrap(), 100_000);
    }
}

/// A client whose response was read to its end, and of which it has taken ten bytes of a thousand.
async fn takes_a_little(world: &World) -> (SendRequest<Bytes>, RecvStream) {
    let mut client = client(&world.gateway, 10).await;
    let response = asks(&mut client, "/sandbox/bytes/1000").await;
    let body = response.await.unwrap().into_body();
    at_rest().await;
    assert_eq!(in_flight(&world.gateway), 0.0);
    (client, body)
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_still_leaving_is_no_idleness() {
    let world = World::new("server.body_timeout = \"30s\"\nserver.idle_timeout = \"5s\"");
    let (_client, body) = takes_a_little(&world).await;
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(rest(body).await, 1000);
    let began = Instant::now();
    while world.counted("wawp_gateway_connections", &[]) != 0.0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Asked to end after five seconds, it is given five more.
    let took = began.elapsed().as_secs();
    assert!((5..=11).contains(&took), "{took} s");
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_an_answer_that_is_still_leaving() {
    for reads in [true, false] {
        let world = World::new("server.body_timeout = \"30s\"");
        let (_client, body) = takes_a_little(&world).await;
        let began = Instant::now();
        world.gateway.drain();
        tokio::time::sleep(Duration::from_secs(25)).await;
        let _body = if reads {
            assert_eq!(rest(body).await, 1000);
            None
        } else {
            Some(body)
        };
        world.gateway.drained().await;
        let took = began.elapsed().as_secs();
        assert!((25..=35).contains(&took), "{took} s");
        assert_eq!(world.gateway.unfinished(), (0, usize::from(!reads)));
    }
}
