//! The sandbox over in-memory streams, from the side of a client.

mod api;
mod faults;
mod helpers;
mod serving;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;

/// A response with its whole body.
struct WholeResponse {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

impl WholeResponse {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

/// Opens a connection to a sandbox.
fn connect(sandbox: &Sandbox) -> DuplexStream {
    let (near, far) = tokio::io::duplex(64 << 10);
    let sandbox = sandbox.clone();
    tokio::spawn(async move { sandbox.serve_io(far).await });
    near
}

/// Sends one request over HTTP/1.1 on a connection of its own.
async fn try_send(
    sandbox: &Sandbox,
    request: Request<Full<Bytes>>,
) -> hyper::Result<WholeResponse> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(connect(sandbox))).await?;
    tokio::spawn(connection);
    read(sender.send_request(request).await?).await
}

async fn send(sandbox: &Sandbox, request: Request<Full<Bytes>>) -> WholeResponse {
    try_send(sandbox, request).await.unwrap()
}

/// Sends one request over cleartext HTTP/2 with prior knowledge.
async fn send_h2(sandbox: &Sandbox, request: Request<Full<Bytes>>) -> hyper::Result<WholeResponse> {
    let stream = TokioIo::new(connect(sandbox));
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
    tokio::spawn(connection);
    read(sender.send_request(request).await?).await
}

async fn read(response: http::Response<hyper::body::Incoming>) -> hyper::Result<WholeResponse> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().cloned();
    Ok(WholeResponse {
        status: parts.status,
        headers: parts.headers,
        body: body.to_bytes(),
        trailers,
    })
}

/// Writes raw bytes and reads until the connection ends.
async fn raw(sandbox: &Sandbox, text: &str) -> Vec<u8> {
    let mut stream = connect(sandbox);
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.unwrap();
    response
}

fn get(target: &str) -> Request<Full<Bytes>> {
    Request::get(target).body(Full::default()).unwrap()
}

/// A POST with credentials in the query and a JSON body.
fn post(path: &str, body: &str) -> Request<Full<Bytes>> {
    typed(
        "application/json",
        &format!("{path}?instance_id=123&access_token=s3cret"),
        body,
    )
}

fn typed(content_type: &str, target: &str, body: &str) -> Request<Full<Bytes>> {
    let request = Request::post(target).header("content-type", content_type);
    request.body(Full::from(body.to_owned())).unwrap()
}

fn seen(ids: &[&str]) -> Request<Full<Bytes>> {
    let body = serde_json::json!({ "chatId": "1@c.us", "messageIds": ids });
    post("/v2/send/seen", &body.to_string())
}
