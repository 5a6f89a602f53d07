//! Idle connections to the upstream: how many are kept, and which one is closed.

use std::time::Duration;

use tokio::time::sleep;

use crate::support::{ClientConn, Stage, at_rest, counted, get};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// For the fast path, and for hyper.
fn requests() -> [String; 2] {
    let request = get("/v2/chats");
    let for_hyper = request.replacen("\r\n", "\r\nTE: trailers\r\n", 1);
    [request, for_hyper]
}

/// A stage without limits on requests.
fn stage(settings: &str) -> Stage {
    Stage::new(&format!("limit.rate = 0\nlimit.burst = 0\n{settings}"))
}

/// Requests in flight at the same time, one for each of these. Returns the clients that sent
/// them, and the upstream's end of each new connection.
async fn sent(stage: &mut Stage, requests: &[&String]) -> (Vec<ClientConn>, Vec<ClientConn>) {
    let (mut clients, mut ends) = (Vec::new(), Vec::new());
    for request in requests {
        let mut client = stage.client();
        client.says(request).await;
        let mut end = stage.upstream.accepts().await;
        end.request().await;
        clients.push(client);
        ends.push(end);
    }
    (clients, ends)
}

/// One response after another, so that the first connection is idle longest.
async fn responds(clients: &mut [ClientConn], ends: &mut [ClientConn]) {
    for (client, end) in clients.iter_mut().zip(ends) {
        sleep(Duration::from_millis(1)).await;
        end.says(OK).await;
        assert_eq!(client.response().await.status(), 200);
    }
}

fn idle(stage: &Stage) -> f64 {
    let exposition = stage.gateway.exposition();
    let labels = ["state=\"idle\""];
    counted(&exposition, "wawp_gateway_upstream_connections", &labels)
}

#[tokio::test(start_paused = true)]
async fn two_thousand_requests_in_flight_use_the_same_connections_again() {
    for request in requests() {
        let mut stage = stage("");
        let (mut clients, mut ends) = sent(&mut stage, &[&request; 2000]).await;
        responds(&mut clients, &mut ends).await;
        assert_eq!(idle(&stage), 2000.0);
        for client in &mut clients {
            client.says(&request).await;
        }
        for end in &mut ends {
            end.request().await;
            end.says(OK).await;
        }
        for client in &mut clients {
            assert_eq!(client.response().await.status(), 200);
        }
        stage.upstream.is_left_alone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn beyond_the_bound_the_connection_that_was_idle_longest_is_closed() {
    let [fast, hyper] = requests();
    for requests in [[&fast; 4], [&hyper; 4], [&fast, &hyper, &fast, &hyper]] {
        let mut stage = stage("upstream.max_idle = 2");
        let (mut clients, mut ends) = sent(&mut stage, &requests).await;
        responds(&mut clients[..2], &mut ends[..2]).await;
        assert_eq!(idle(&stage), 2.0);
        responds(&mut clients[2..], &mut ends[2..]).await;
        ends[0].hears_end().await;
        ends[1].hears_end().await;
        assert_eq!(idle(&stage), 2.0);
        for end in [3, 2] {
            clients[end].says(requests[end]).await;
            ends[end].request().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_bound_holds_for_all_workers_together() {
    let [request, _] = requests();
    let mut stage = stage("upstream.max_idle = 2");
    let (mut clients, mut ends) = sent(&mut stage, &[&request; 2]).await;
    stage.gateway = stage.gateway.for_another_worker();
    let (more_clients, more_ends) = sent(&mut stage, &[&request; 3]).await;
    clients.extend(more_clients);
    ends.extend(more_ends);
    responds(&mut clients, &mut ends).await;
    for end in &mut ends[..3] {
        end.hears_end().await;
    }
    assert_eq!(idle(&stage), 2.0);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_taken_makes_room_for_another() {
    let [request, _] = requests();
    let mut stage = stage("upstream.max_idle = 1");
    let (mut clients, mut ends) = sent(&mut stage, &[&request; 2]).await;
    responds(&mut clients[..1], &mut ends[..1]).await;
    clients[0].says(&request).await;
    ends[0].request().await;
    responds(&mut clients[1..], &mut ends[1..]).await;
    assert_eq!(idle(&stage), 1.0);
    ends[1].hears_nothing().await;
    // The first one now follows: it is the second that was idle longest.
    responds(&mut clients[..1], &mut ends[..1]).await;
    ends[1].hears_end().await;
    // One that ended by itself has made room too.
    ends.remove(0).hangs_up();
    at_rest().await;
    let (mut clients, mut ends) = sent(&mut stage, &[&request]).await;
    responds(&mut clients, &mut ends).await;
    assert_eq!(idle(&stage), 1.0);
    ends[0].hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn without_idle_connections_each_request_has_a_new_one() {
    for request in requests() {
        let mut stage = stage("upstream.max_idle = 0");
        for _ in 0..3 {
            let (mut clients, mut ends) = sent(&mut stage, &[&request]).await;
            responds(&mut clients, &mut ends).await;
            ends[0].hears_end().await;
        }
    }
}
