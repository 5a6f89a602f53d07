//! Connections to the upstream that have become too old: they take no further request, and none is cut.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use wawp_gateway::gateway::Gateway;
use wawp_gateway::{Dial, Io, config};

use crate::support::{ClientConn, Stage, gateway_with, get, stream};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

const MAX_AGE: Duration = Duration::from_secs(60);

const SETTINGS: &str = "upstream.max_age = \"60s\"\nupstream.idle_timeout = \"1h\"";

fn stage() -> Stage {
    Stage::new(SETTINGS)
}

/// An upstream whose name resolves to the address that `resolved` holds. Every address accepts connections.
struct MovingUpstream {
    resolved: Mutex<SocketAddr>,
    arrivals: mpsc::UnboundedSender<(SocketAddr, ClientConn)>,
}

impl MovingUpstream {
    fn lookup(&self, host: &str) -> Vec<SocketAddr> {
        assert_eq!(host, "upstream.test");
        vec![*self.resolved.lock().unwrap()]
    }

    fn connect(&self, address: SocketAddr) -> Box<dyn Io> {
        let (near, far) = tokio::io::duplex(16 * 1024);
        self.arrivals.send((address, ClientConn::new(far))).unwrap();
        Box::new(near)
    }
}

/// One request on a connection of the upstream.
async fn exchange(client: &mut ClientConn, upstream: &mut ClientConn, request: &str) {
    client.says(request).await;
    upstream.request().await;
    upstream.says(OK).await;
    assert_eq!(client.response().await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_used_until_its_age_and_then_closed() {
    // Over the fast path, and over hyper.
    for more in ["", "TE: trailers\r\n"] {
        let mut stage = stage();
        let mut client = stage.client();
        let request = get("/v2/chats").replacen("\r\n", &format!("\r\n{more}"), 1);
        client.says(&request).await;
        let mut first = stage.upstream.accepts().await;
        first.request().await;
        first.says(OK).await;
        client.response().await;
        for _ in 0..4 {
            sleep(Duration::from_secs(10)).await;
            exchange(&mut client, &mut first, &request).await;
        }
        sleep(Duration::from_secs(20)).await;
        client.says(&request).await;
        let mut second = stage.upstream.accepts().await;
        second.request().await;
        first.hears_end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_is_not_cut_by_the_age_of_its_connection() {
    let mut stage = stage();
    let mut client = stage.client();
    client.says(get("/v2/slow")).await;
    let mut first = stage.upstream.accepts().await;
    first.request().await;
    sleep(2 * MAX_AGE).await;
    first
        .says("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
        .await;
    sleep(2 * MAX_AGE).await;
    first.says("lf").await;
    assert_eq!(client.response().await.text(), "half");
    first.hears_end().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_bound_a_connection_is_kept() {
    let settings = "upstream.max_age = \"0s\"\nupstream.idle_timeout = \"1day\"";
    let mut stage = Stage::new(&format!("{settings}\nserver.idle_timeout = \"1day\""));
    let mut client = stage.client();
    client.says(get("/v2/0")).await;
    let mut only = stage.upstream.accepts().await;
    only.request().await;
    only.says(OK).await;
    client.response().await;
    for _ in 0..5 {
        sleep(Duration::from_secs(3600)).await;
        exchange(&mut client, &mut only, &get("/v2/later")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_reload_replaces_the_connections_and_cuts_no_request() {
    let mut stage = stage();
    let (mut slow, mut client) = (stage.client(), stage.client());
    slow.says(get("/v2/slow")).await;
    let mut busy = stage.upstream.accepts().await;
    busy.request().await;
    client.says(get("/v2/0")).await;
    let mut idle = stage.upstream.accepts().await;
    idle.request().await;
    idle.says(OK).await;
    client.response().await;

    stage.gateway.reload(&config::Config::default());
    idle.hears_end().await;
    client.says(get("/v2/1")).await;
    let mut new = stage.upstream.accepts().await;
    new.request().await;
    new.says(OK).await;
    client.response().await;
    busy.says(OK).await;
    assert_eq!(slow.response().await.status(), 200);
    busy.hears_end().await;
    exchange(&mut client, &mut new, &get("/v2/2")).await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_has_moved_is_looked_up_again_after_the_age_and_after_a_reload() {
    let [old, new] = [1, 2].map(|last| SocketAddr::from(([192, 0, 2, last], 80)));
    let by_reload = |gateway: &Gateway| gateway.reload(&config::Config::default());
    for renews in [None, Some(by_reload)] {
        let (arrivals, mut arrived) = mpsc::unbounded_channel();
        let upstream = Arc::new(MovingUpstream {
            resolved: Mutex::new(old),
            arrivals,
        });
        let (names, addresses) = (Arc::clone(&upstream), Arc::clone(&upstream));
        let dial = Dial::Named {
            lookup: Arc::new(move |host, _| Ok(names.lookup(host))),
            connect: Arc::new(move |address| {
                let stream = addresses.connect(address);
                Box::pin(async move { Ok(stream) })
            }),
        };
        let gateway = gateway_with(SETTINGS, dial);
        let mut client = ClientConn::new(stream(&gateway));
        client.says(get("/v2/0")).await;
        let (address, mut first) = arrived.recv().await.unwrap();
        assert_eq!(address, old);
        first.request().await;
        first.says(OK).await;
        client.response().await;

        *upstream.resolved.lock().unwrap() = new;
        exchange(&mut client, &mut first, &get("/v2/1")).await;
        match renews {
            Some(renew) => renew(&gateway),
            None => sleep(MAX_AGE).await,
        }
        client.says(get("/v2/2")).await;
        let (address, mut second) = arrived.recv().await.unwrap();
        assert_eq!(address, new);
        second.request().await;
        second.says(OK).await;
        assert_eq!(client.response().await.text(), "ok");
        first.hears_end().await;
    }
}
