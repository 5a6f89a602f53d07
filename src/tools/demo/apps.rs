//! The apps of a demo: HTTP clients that send the plan's requests to the gateway.
//!
//! Invariant: every request that was started is recorded once, however it ended.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::plan::{DemoRequest, Operation, PlannedRequest, Scene};

/// The access token of every app.
const TOKEN: &str = "demo";

/// A request and its result, as the client observed it.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub(super) request: DemoRequest,
    /// From the first byte sent to the last byte of the response.
    pub(super) took: Duration,
    pub(super) end: End,
}

/// How a request ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    Response(StatusCode),
    /// The client closed the connection before the response.
    HungUp,
    Failed(String),
}

/// All apps together.
#[derive(Debug)]
pub(super) struct Apps {
    gateway: SocketAddr,
    /// Connections without a request.
    idle: Mutex<Vec<Connection>>,
    observed: Mutex<Vec<Observed>>,
    /// No request starts after this.
    pub(super) stop: CancellationToken,
}

/// A connection to the gateway, and the task that drives it.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    task: AbortHandle,
}

impl Apps {
    pub(super) fn new(gateway: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            gateway,
            idle: Mutex::default(),
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
        lock(&self.idle).clear();
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
    async fn stopped_until(&self, then: Instant) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => true,
            () = tokio::time::sleep_until(then) => false,
        }
    }

    /// Sends one request and records its result.
    async fn send(&self, planned: PlannedRequest) {
        // Lent to the exchange, so that the connection can be aborted after a timeout.
        let mut connection = None;
        let began = Instant::now();
        let exchange = self.exchange(&planned.request, &mut connection);
        let end = match planned.timeout {
            None => exchange.await,
            Some(timeout) => tokio::time::timeout(timeout, exchange)
                .await
                .unwrap_or(End::HungUp),
        };
        let took = began.elapsed();
        match (&end, connection) {
            (End::Response(_), Some(connection)) => lock(&self.idle).push(connection),
            // Closes the socket at once, as an app does that does not wait for the response.
            (_, Some(connection)) => connection.task.abort(),
            (_, None) => {}
        }
        lock(&self.observed).push(Observed {
            request: planned.request,
            took,
            end,
        });
    }

    /// One exchange; the caller keeps the connection, so that it can abort it.
    async fn exchange(&self, request: &DemoRequest, connection: &mut Option<Connection>) -> End {
        let work = async {
            // The last one used: it is the least likely to have been closed by the gateway.
            let idle = lock(&self.idle).pop();
            let found = match idle.filter(|idle| idle.sender.is_ready()) {
                Some(found) => found,
                None => Connection::open(self.gateway).await?,
            };
            let sender = &mut connection.insert(found).sender;
            let response = sender
                .send_request(http_request(request, self.gateway))
                .await?;
            let status = response.status();
            // To the last byte, as documented for `took`; only then can the connection be used
            // again.
            response.into_body().collect().await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(status)
        };
        match work.await {
            Ok(status) => End::Response(status),
            Err(error) => End::Failed(error.to_string()),
        }
    }
}

impl Connection {
    async fn open(gateway: SocketAddr) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(gateway).await?;
        // Nagle's algorithm would add up to 40 ms to the measured times.
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // The error is not lost: the request in progress receives it too.
        let task = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        Ok(Self { sender, task })
    }
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
