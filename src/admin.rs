//! The admin listener: metrics and probes, for operators only (design §4.4).
//!
//! Invariant: it answers however busy the gateway is with calls, and no secret
//! is on any of its pages.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::gateway::Gateway;

/// Scrapers and probes are few; more connections than this are a mistake.
const MAX_CONNECTIONS: usize = 128;
/// The head of a probe is a single packet.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// A pause after an accept error.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// The Prometheus text format (exposition format 0.0.4).
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// Whether the gateway wants calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ready(Arc<AtomicBool>);

impl Ready {
    pub(crate) fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Serves the admin pages for ever.
pub(crate) async fn serve(listener: TcpListener, gateway: Gateway, ready: Ready) -> Infallible {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&permits)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (gateway, ready) = (gateway.clone(), ready.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = answer(&request, &gateway, &ready);
                async move { Ok::<_, Infallible>(answer) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            // A probe that hangs up is no news.
            drop(served);
            drop(permit);
        });
    }
}

fn answer(request: &Request<Incoming>, gateway: &Gateway, ready: &Ready) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut answer = page(
            StatusCode::METHOD_NOT_ALLOWED,
            PLAIN,
            "GET and HEAD are allowed\n",
        );
        answer
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match request.uri().path() {
        "/metrics" => page(StatusCode::OK, EXPOSITION, gateway.exposition()),
        "/livez" => page(StatusCode::OK, PLAIN, "ok\n"),
        "/readyz" if ready.get() => page(StatusCode::OK, PLAIN, "ok\n"),
        "/readyz" => page(StatusCode::SERVICE_UNAVAILABLE, PLAIN, "draining\n"),
        _ => page(
            StatusCode::NOT_FOUND,
            PLAIN,
            "there are /metrics, /livez and /readyz\n",
        ),
    }
}

fn page(
    status: StatusCode,
    content_type: &'static str,
    text: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
