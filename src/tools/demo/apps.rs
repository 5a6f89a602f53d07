//! The apps of a demo: HTTP clients that send the plan's requests to the gateways in turn.
//!
//! Where there is another gateway, an app leaves one that broke off. Invariants: every request that was
//! started is recorded once, however it ended; a text is never sent again.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::plan::{DemoRequest, Operation, PlannedRequest, Scene};
use super::pool::{Connection, Pool, Turn};

/// The access token of every app.
const TOKEN: &str = "demo";

/// A request and its result, as the client observed it.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub(super) request: DemoRequest,
    /// From the first byte sent to the last byte of the response.
    pub(super) took: Duration,
    pub(super) end: End,
    /// The gateway that it was sent to last.
    pub(super) gateway: usize,
    /// The gateways that it was sent to before, without a response.
    pub(super) lost_at: Vec<usize>,
}

/// How a request ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    Response(StatusCode),
    /// The client closed the connection before the response.
    HungUp,
    /// The gateway broke off. The request was not sent again, because it may have been carried out.
    Lost,
    Failed(String),
}

/// All apps together.
#[derive(Debug)]
pub(super) struct Apps {
    pool: Mutex<Pool>,
    observed: Mutex<Vec<Observed>>,
    /// No request starts after this.
    pub(super) stop: CancellationToken,
}

/// How far a request has come.
#[derive(Debug, Default)]
struct Progress {
    gateway: usize,
    lost_at: Vec<usize>,
    connection: Option<Connection>,
}

/// Why a gateway gave no response.
enum Broken {
    /// Nothing of the request was sent.
    NotSent(String),
    /// The request may have been carried out.
    Lost(String),
}

impl Apps {
    /// There must be a gateway.
    pub(super) fn new(gateways: Vec<SocketAddr>) -> Arc<Self> {
        Arc::new(Self {
            pool: Mutex::new(Pool::new(gateways)),
            observed: Mutex::default(),
            stop: CancellationToken::new(),
        })
    }

    /// Plays all scenes, each at its time, and closes every connection.
    pub(super) async fn play(self: Arc<Self>, scenes: Vec<Scene>) {
        let began = Instant::now();
        let mut open = JoinSet::new();
        for scene in scenes {
            if self.stopped_until(began + scene.at).await {
                break;
            }
            open.spawn(Arc::clone(&self).scene(scene));
        }
        // Every started request must be recorded before the figures are compared.
        while open.join_next().await.is_some() {}
        lock(&self.pool).close();
    }

    /// What the clients observed.
    pub(super) fn observed(&self) -> Vec<Observed> {
        lock(&self.observed).clone()
    }

    /// Sends the requests of a scene, with their pauses.
    async fn scene(self: Arc<Self>, scene: Scene) {
        let mut open = JoinSet::new();
        for planned in scene.requests {
            if self.stopped_until(Instant::now() + planned.pause).await {
                break;
            }
            if scene.is_sequential {
                self.send(planned).await;
            } else {
                let apps = Arc::clone(&self);
                open.spawn(async move { apps.send(planned).await });
            }
        }
        while open.join_next().await.is_some() {}
    }

    /// Sleeps; true if the demo was stopped meanwhile.
    pub(super) async fn stopped_until(&self, then: Instant) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => true,
            () = tokio::time::sleep_until(then) => false,
        }
    }

    /// Sends one request and records its result.
    async fn send(&self, planned: PlannedRequest) {
        // Lent to the exchange, so that the connection can be aborted after a timeout.
        let mut progress = Progress::default();
        let began = Instant::now();
        let exchange = self.exchange(&planned.request, &mut progress);
        let end = match planned.timeout {
            None => exchange.await,
            Some(timeout) => tokio::time::timeout(timeout, exchange)
                .await
                .unwrap_or(End::HungUp),
        };
        let took = began.elapsed();
        let Progress {
            gateway,
            lost_at,
            connection,
        } = progress;
        match (&end, connection) {
            (End::Response(_), Some(connection)) => lock(&self.pool).put(gateway, connection),
            (_, Some(connection)) => connection.abort(),
            (_, None) => {}
        }
        lock(&self.observed).push(Observed {
            request: planned.request,
            took,
            end,
            gateway,
            lost_at,
        });
    }

    /// Sends a request, to another gateway where one broke off. The caller keeps the progress.
    async fn exchange(&self, request: &DemoRequest, progress: &mut Progress) -> End {
        // It ends: each round leaves a gateway.
        loop {
            let turn = lock(&self.pool).turn();
            let gateway = turn.gateway;
            let broken = match attempt(request, turn, progress).await {
                Ok(status) => return End::Response(status),
                Err(broken) => broken,
            };
            let has_others = lock(&self.pool).leave(gateway);
            match broken {
                Broken::NotSent(why) | Broken::Lost(why) if !has_others => return End::Failed(why),
                Broken::NotSent(_) => {}
                Broken::Lost(_) if request.operation.is_repeatable() => {
                    progress.lost_at.push(gateway);
                }
                Broken::Lost(_) => return End::Lost,
            }
        }
    }
}

/// One exchange with the gateway whose turn it is.
async fn attempt(
    request: &DemoRequest,
    turn: Turn,
    progress: &mut Progress,
) -> Result<StatusCode, Broken> {
    let connection = match turn.idle {
        Some(idle) => idle,
        None => Connection::open(turn.address)
            .await
            .map_err(|error| Broken::NotSent(error.to_string()))?,
    };
    progress.gateway = turn.gateway;
    let sender = &mut progress.connection.insert(connection).sender;
    let sent = sender.try_send_request(http_request(request, turn.address));
    let response = sent.await.map_err(|mut error| {
        // hyper returns a request of which it has written nothing.
        let was_sent = error.take_message().is_none();
        let why = error.into_error().to_string();
        match was_sent {
            true => Broken::Lost(why),
            false => Broken::NotSent(why),
        }
    })?;
    let status = response.status();
    // To the last byte, as documented for `took`; only then can the connection be used again.
    let body = response.into_body().collect().await;
    body.map_err(|error| Broken::Lost(error.to_string()))?;
    Ok(status)
}

/// Builds the HTTP request: receipts as in the vendor's samples (credentials in the
/// query), bots with all fields in the body, the dashboard as the Python SDK does.
fn http_request(request: &DemoRequest, gateway: SocketAddr) -> Request<Full<Bytes>> {
    let instance = &request.instance;
    let credentials = format!("instance_id={instance}&access_token={TOKEN}");
    let (method, target, body) = match &request.operation {
        Operation::Receipt { chat, id } => (
            Method::POST,
            format!("/v2/send/seen?{credentials}"),
            json!({ "chatId": chat, "messageIds": [id] }),
        ),
        Operation::Typing { chat } => (
            Method::POST,
            "/v2/send/start-typing".to_owned(),
            json!({ "instance_id": instance, "access_token": TOKEN, "chatId": chat }),
        ),
        Operation::Text { chat, text } => (
            Method::POST,
            "/v2/send/text".to_owned(),
            json!({ "instance_id": instance, "access_token": TOKEN, "chatId": chat, "message": text }),
        ),
        Operation::Chats => (
            Method::GET,
            "/v2/chats?limit=20".to_owned(),
            serde_json::Value::Null,
        ),
    };
    let builder = Request::builder()
        .method(method)
        .uri(target)
        .header(HOST, gateway.to_string());
    let built = if body.is_null() {
        builder
            .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
            .header("X-Instance-ID", instance)
            .body(Full::default())
    } else {
        builder
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body.to_string()))
    };
    built.expect("names and chats of the plan are valid in a request")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Serves each connection once: responds to its request, or breaks off when it has arrived.
    async fn gateway(responds: bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                if responds {
                    let response =
                        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
                    stream.write_all(response).await.unwrap();
                }
            }
        });
        address
    }

    /// An address at which nothing listens.
    async fn nowhere() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    }

    /// Sends receipts and texts in turn; returns how each ended, and where.
    async fn ends(gateways: &[SocketAddr], count: usize) -> Vec<(End, usize, Vec<usize>)> {
        let apps = Apps::new(gateways.to_vec());
        let (chat, id, text) = ("c".to_owned(), "i".to_owned(), "t".to_owned());
        let receipt = Operation::Receipt {
            chat: chat.clone(),
            id,
        };
        let operations = [receipt, Operation::Text { chat, text }];
        for operation in operations.into_iter().cycle().take(count) {
            let request = DemoRequest {
                instance: "1".to_owned(),
                operation,
            };
            apps.send(PlannedRequest {
                pause: Duration::ZERO,
                timeout: None,
                request,
            })
            .await;
        }
        let end = |it: Observed| (it.end, it.gateway, it.lost_at);
        apps.observed().into_iter().map(end).collect()
    }

    fn ok() -> End {
        End::Response(StatusCode::OK)
    }

    #[tokio::test]
    async fn gateways_take_turns() {
        let gateways = [gateway(true).await, gateway(true).await];
        let at = |gateway| (ok(), gateway, vec![]);
        assert_eq!(ends(&gateways, 3).await, [at(0), at(1), at(0)]);
    }

    #[tokio::test]
    async fn a_receipt_whose_response_was_lost_is_sent_again_and_a_text_is_not() {
        let (broken, good) = (gateway(false).await, gateway(true).await);
        let receipt_first = ends(&[broken, good], 2).await;
        assert_eq!(receipt_first, [(ok(), 1, vec![0]), (ok(), 1, vec![])]);
        let text_second = ends(&[good, broken, good], 3).await;
        let expected = [(ok(), 0, vec![]), (End::Lost, 1, vec![]), (ok(), 2, vec![])];
        assert_eq!(text_second, expected);
    }

    #[tokio::test]
    async fn a_gateway_that_cannot_be_reached_costs_no_request() {
        let gateways = [nowhere().await, nowhere().await, gateway(true).await];
        let at = |gateway| (ok(), gateway, vec![]);
        assert_eq!(ends(&gateways, 2).await, [at(2), at(2)]);
    }

    #[tokio::test]
    async fn without_another_gateway_a_request_fails() {
        for gateway in [gateway(false).await, nowhere().await] {
            let ends = ends(&[gateway], 2).await;
            let has_failed = |(end, ..): &(End, usize, Vec<usize>)| matches!(end, End::Failed(_));
            assert!(ends.len() == 2 && ends.iter().all(has_failed), "{ends:?}");
        }
    }
}
