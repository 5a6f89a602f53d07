//! The apps of a demo: HTTP clients that play scenes against the gateway.
//!
//! Owns how each call is spelled and what its client saw. Invariant: every
//! call that was begun is recorded once, however it ended.

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

use super::plan::{Order, Planned, Scene, What};

/// What every app of the demo shows as its access token.
const TOKEN: &str = "demo";

/// A call, as its client saw it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) order: Order,
    /// From the first byte sent to the last byte of the answer.
    pub(super) took: Duration,
    pub(super) end: End,
}

/// How a call ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    Answered(StatusCode),
    /// The client did not wait for the answer.
    HungUp,
    Failed(String),
}

/// All apps together.
#[derive(Debug)]
pub(super) struct Apps {
    gateway: SocketAddr,
    /// Connections nobody uses at the moment.
    idle: Mutex<Vec<Connection>>,
    seen: Mutex<Vec<Seen>>,
    /// No call begins after this.
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
            seen: Mutex::default(),
            stop: CancellationToken::new(),
        })
    }

    /// Plays all scenes, each at its moment, and closes every connection.
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

    /// What the clients saw of their calls.
    pub(super) fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).clone()
    }

    async fn scene(self: Arc<Self>, scene: Scene) {
        let mut open = JoinSet::new();
        for call in scene.calls {
            if self.stopped_until(Instant::now() + call.pause).await {
                break;
            }
            if scene.in_turn {
                self.call(call).await;
            } else {
                let apps = Arc::clone(&self);
                open.spawn(async move { apps.call(call).await });
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

    async fn call(&self, call: Planned) {
        let mut connection = None;
        let began = Instant::now();
        let exchange = self.exchange(&call.order, &mut connection);
        let end = match call.patience {
            None => exchange.await,
            Some(patience) => tokio::time::timeout(patience, exchange)
                .await
                .unwrap_or(End::HungUp),
        };
        let took = began.elapsed();
        match (&end, connection) {
            (End::Answered(_), Some(connection)) => lock(&self.idle).push(connection),
            (_, Some(connection)) => connection.task.abort(),
            (_, None) => {}
        }
        lock(&self.seen).push(Seen {
            order: call.order,
            took,
            end,
        });
    }

    /// One call; the connection it goes over stays with the caller, who may
    /// tear it.
    async fn exchange(&self, order: &Order, connection: &mut Option<Connection>) -> End {
        let work = async {
            let idle = lock(&self.idle).pop();
            let found = match idle.filter(|idle| idle.sender.is_ready()) {
                Some(found) => found,
                None => Connection::open(self.gateway).await?,
            };
            let sender = &mut connection.insert(found).sender;
            let answer = sender.send_request(request(order, self.gateway)).await?;
            let status = answer.status();
            answer.into_body().collect().await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(status)
        };
        match work.await {
            Ok(status) => End::Answered(status),
            Err(error) => End::Failed(error.to_string()),
        }
    }
}

impl Connection {
    async fn open(gateway: SocketAddr) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(gateway).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // What goes wrong on it is told to the call at hand.
        let task = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        Ok(Self { sender, task })
    }
}

/// Spells a call: agents' inboxes as the vendor's samples do (credentials in
/// the query), bots all in the body, the dashboard as the Python SDK does.
fn request(order: &Order, gateway: SocketAddr) -> Request<Full<Bytes>> {
    let instance = &order.instance;
    let credentials = format!("instance_id={instance}&access_token={TOKEN}");
    let (method, target, body) = match &order.what {
        What::Receipt { chat, id } => (
            Method::POST,
            format!("/v2/send/seen?{credentials}"),
            json!({ "chatId": chat, "messageIds": [id] }),
        ),
        What::Typing { chat } => (
            Method::POST,
            "/v2/send/start-typing".to_owned(),
            json!({ "instance_id": instance, "access_token": TOKEN, "chatId": chat }),
        ),
        What::Text { chat, text } => (
            Method::POST,
            "/v2/send/text".to_owned(),
            json!({ "instance_id": instance, "access_token": TOKEN, "chatId": chat, "message": text }),
        ),
        What::Chats => (
            Method::GET,
            "/v2/chats?limit=20".to_owned(),
            serde_json::Value::Null,
        ),
    };
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(HOST, gateway.to_string());
    let request = if body.is_null() {
        request
            .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
            .header("X-Instance-ID", instance)
            .body(Full::default())
    } else {
        request
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body.to_string()))
    };
    request.expect("names and chats of the plan are valid in a request")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
