//! The admin listener: metrics, health checks and pages, for operators only.
//!
//! Invariants: it responds however busy the gateway is, and none of its pages
//! shows a secret (rule: secrets).
//!
//! - [`state`], [`instances`]: the state of the gateway, as JSON;
//! - [`history`]: its last two minutes; [`judge`], [`problems`]: what is wrong now;
//! - [`page`]: the page for people; [`runbook`]: what to do about a problem.

mod history;
mod instances;
mod judge;
mod page;
mod problems;
mod runbook;
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
use history::History;
use instances::Instances;
use page::View;
use state::Status;

/// Scrapers and health checks are few; more connections than this are an error of one of them.
const MAX_CONNECTIONS: usize = 128;
/// The head of a health check fits into one packet.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// A pause after an accept error.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// The Prometheus text format (exposition format 0.0.4).
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
/// The policy of everything but the page: allows nothing, also no framing.
const NO_CONTENT_POLICY: &str = "default-src 'none'; frame-ancestors 'none'";

/// Whether the gateway accepts requests.
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

/// Serves the admin pages until the process ends.
pub(crate) async fn serve(listener: TcpListener, gateway: Gateway, ready: Ready) -> Infallible {
    let admin = Arc::new(Admin {
        gateway,
        ready,
        began: Instant::now(),
        history: Arc::default(),
    });
    let history = Arc::clone(&admin.history);
    tokio::spawn(history.record(admin.gateway.clone()));
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Before `accept`: a connection that is not accepted waits in the backlog and holds no
        // memory here.
        let permit = Arc::clone(&permits)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        // Usually no descriptor is free; an immediate retry would use a whole core.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let admin = Arc::clone(&admin);
        tokio::spawn(async move {
            // HTTP/1.1 only, without TLS: every scraper and every health check can do that.
            let service = service_fn(|request| {
                // Made at once, without a wait: a page must respond however busy the gateway is.
                let response = admin.respond(&request);
                async move { Ok::<_, Infallible>(response) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            // A health check that disconnects is not an error.
            drop(served);
            drop(permit);
        });
    }
}

/// What the pages show.
struct Admin {
    gateway: Gateway,
    ready: Ready,
    began: Instant,
    history: Arc<History>,
}

impl Admin {
    /// Responds to one request. Does not wait and does not read a body.
    fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let Self {
            gateway,
            ready,
            began,
            history,
        } = self;
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut response = text(
                StatusCode::METHOD_NOT_ALLOWED,
                PLAIN,
                "GET and HEAD are allowed\n",
            );
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        // A closure: a health check must not pay for the state that it does not show.
        let status = || Status::of(gateway, history, ready.get(), began.elapsed());
        match request.uri().path() {
            "/metrics" => text(StatusCode::OK, EXPOSITION, gateway.exposition()),
            // Always: a restart by an orchestrator would only lose the requests in progress.
            "/livez" => text(StatusCode::OK, PLAIN, "ok\n"),
            "/readyz" if ready.get() => text(StatusCode::OK, PLAIN, "ok\n"),
            "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, "draining\n"),
            "/instances" => json(&Instances::of(gateway, history)),
            "/status" => json(&status()),
            "/config" => match gateway.shown_settings() {
                Some(settings) => text(StatusCode::OK, PLAIN, settings.to_string()),
                None => text(StatusCode::NOT_FOUND, PLAIN, "no settings are shown here\n"),
            },
            "/runbook" => html(page::render_runbook()),
            "/" => {
                let view = View::of(request.uri().query());
                html(page::render(&status(), &view))
            }
            _ => text(
                StatusCode::NOT_FOUND,
                PLAIN,
                "there are /, /metrics, /livez, /readyz, /instances, /status, /config and /runbook\n",
            ),
        }
    }
}

/// A page for people. Only these have scripts and styles, and a policy that allows
/// exactly these.
fn html(page: String) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::OK, HTML, page);
    if let Ok(policy) = HeaderValue::from_str(page::policy()) {
        response
            .headers_mut()
            .insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

fn json(what: &impl serde::Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(what) {
        Ok(body) => text(StatusCode::OK, JSON, body),
        Err(error) => {
            tracing::error!(%error, "a page could not be written");
            text(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, "")
        }
    }
}

/// A response with the security headers that every admin page has.
fn text(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    for (name, value) in [
        (CONTENT_TYPE, content_type),
        (CONTENT_SECURITY_POLICY, NO_CONTENT_POLICY),
        // Some texts contain names that clients chose; a browser must not guess that they are HTML.
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}
