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
        while open.join_next().await.is_some() {}
        lock(&self.idle).clear();
    }

    /// What the clients observed.
    pub(super) fn observed(&self) -> Vec<Observed> {
        lock(&self.observed).clone()
    }

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

    async fn send(&self, planned: PlannedRequest) {
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
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // The request in progress gets the error.
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
