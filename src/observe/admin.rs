//! The admin listener: metrics, probes and pages, for operators only (design §4.4).
//!
//! Invariant: it answers however busy the gateway is with calls, and no secret
//! is on any of its pages.
//!
//! - [`state`]: what the gateway is doing;
//! - [`page`]: the page for people.

mod page;
mod state;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::gateway::Gateway;
use state::{Instances, Status};

/// Scrapers and probes are few; more connections than this are a mistake.
const MAX_CONNECTIONS: usize = 128;
/// The head of a probe is a single packet.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// A pause after an accept error.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// The Prometheus text format (exposition format 0.0.4).
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
/// For what is no page: it may do nothing, and be shown in no other page.
const NOTHING: &str = "default-src 'none'; frame-ancestors 'none'";

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
    let began = Instant::now();
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
                let answer = answer(&request, &gateway, &ready, began);
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

fn answer(
    request: &Request<Incoming>,
    gateway: &Gateway,
    ready: &Ready,
    began: Instant,
) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut answer = say(
            StatusCode::METHOD_NOT_ALLOWED,
            PLAIN,
            "GET and HEAD are allowed\n",
        );
        answer
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    let status = || Status::of(gateway, ready.get(), began.elapsed());
    match request.uri().path() {
        "/metrics" => say(StatusCode::OK, EXPOSITION, gateway.exposition()),
        "/livez" => say(StatusCode::OK, PLAIN, "ok\n"),
        "/readyz" if ready.get() => say(StatusCode::OK, PLAIN, "ok\n"),
        "/readyz" => say(StatusCode::SERVICE_UNAVAILABLE, PLAIN, "draining\n"),
        "/instances" => json(&Instances::of(gateway)),
        "/status" => json(&status()),
        "/config" => match gateway.shown_settings() {
            Some(settings) => say(StatusCode::OK, PLAIN, settings.to_string()),
            None => say(StatusCode::NOT_FOUND, PLAIN, "no settings are shown here\n"),
        },
        "/" => {
            let mut answer = say(StatusCode::OK, HTML, page::render(&status()));
            if let Ok(policy) = HeaderValue::from_str(page::policy()) {
                answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
            }
            answer
        }
        _ => say(
            StatusCode::NOT_FOUND,
            PLAIN,
            "there are /, /metrics, /livez, /readyz, /instances, /status and /config\n",
        ),
    }
}

fn json(what: &impl serde::Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(what) {
        Ok(text) => say(StatusCode::OK, JSON, text),
        Err(error) => {
            tracing::error!(%error, "a page could not be written");
            say(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, "")
        }
    }
}

fn say(
    status: StatusCode,
    content_type: &'static str,
    text: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    for (name, value) in [
        (CONTENT_TYPE, content_type),
        (CONTENT_SECURITY_POLICY, NOTHING),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ] {
        answer
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    answer
}
