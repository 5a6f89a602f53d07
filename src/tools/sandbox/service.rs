//! The steps from a request to its response.
//!
//! Owns their order: record the head, read the body, apply a fault, respond.
//! Invariant: every request except those to `/sandbox/calls` is recorded once, before a byte of its body is read.

use std::sync::Arc;

use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::conn::{Conn, NoResponse};
use super::faults::FaultTarget;
use super::params::{BodyError, Ids, Params};
use super::recorded_body::RecordedBody;
use super::responses::{self, Body, Failure, Shape};
use super::{cors, endpoints, helpers, paths};

/// Responds to one request.
pub(super) async fn respond(
    conn: Conn,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, NoResponse> {
    // Not recorded, so that reading the record does not change it.
    if request.uri().path() == "/sandbox/calls" {
        return Ok(helpers::calls(&conn.state, request.method()));
    }
    // Must be taken before the request is split into its parts.
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let number = conn.state.log.begin(&parts);
    let body = RecordedBody::new(body, Arc::clone(&conn.state), number);
    let mut response = if let Some(response) = cors::preflight(&parts) {
        response
    } else if is_v2(parts.uri.path()) {
        v2(&conn, &parts, body, number).await?
    } else {
        // Only the head: the helpers stream the body and must not wait for it.
        let params = Params::head(&parts);
        conn.state
            .log
            .identify(number, params.instance.as_deref(), &[]);
        let target = FaultTarget {
            path: parts.uri.path(),
            instance: params.instance.as_deref(),
            ids: &[],
        };
        match conn.strike(target).await? {
            Some(response) => response,
            None => match parts.uri.path().strip_prefix("/sandbox/") {
                Some(helper) => helpers::respond(&conn, helper, &parts, body, upgrade).await?,
                None if parts.method == Method::CONNECT => {
                    responses::html(StatusCode::METHOD_NOT_ALLOWED)
                }
                None => responses::html(StatusCode::NOT_FOUND),
            },
        }
    };
    // Also on errors and faults: without these fields a page cannot read the status.
    cors::allow(&parts.headers, response.headers_mut());
    conn.state
        .log
        .update(number, |call| call.status = response.status().as_u16());
    Ok(response)
}

/// Responds to a request under `/v2`: reads its body, applies a fault, then processes it.
async fn v2(
    conn: &Conn,
    parts: &Parts,
    mut body: RecordedBody,
    number: u64,
) -> Result<Response<Body>, NoResponse> {
    let state = &conn.state;
    let mut params = Params::head(parts);
    let read = params.read_body(&parts.headers, &mut body).await;
    let ids = match params.ids() {
        Ids::Listed(ids) => ids,
        Ids::Whole | Ids::NotAList => Vec::new(),
    };
    let instance = params.instance.as_deref();
    // Recorded even if the body was malformed: a test can still find the request.
    state.log.identify(number, instance, &ids);
    // A fault must not strike here: its `times` would count a request that never arrived.
    if read == Err(BodyError::Broken) {
        return Err(NoResponse);
    }
    let target = FaultTarget {
        path: parts.uri.path(),
        instance,
        ids: &ids,
    };
    if let Some(response) = conn.strike(target).await? {
        return Ok(response);
    }
    let response = match read {
        Ok(()) => endpoints::respond(state, parts, &params),
        // Clients report that the vendor's front proxy responds to large bodies with its own page.
        Err(BodyError::TooLarge | BodyError::Broken) => responses::html(StatusCode::BAD_GATEWAY),
        Err(BodyError::Malformed(text)) => {
            let failure = Failure::new(
                StatusCode::BAD_REQUEST,
                "invalid_param",
                format!("Invalid parameter format: {text}"),
            );
            failure.response(Shape::of(&parts.headers))
        }
    };
    // After the work, not before: the upstream has processed the request even if its client leaves now.
    if !state.settings.latency.is_zero() {
        tokio::time::sleep(state.settings.latency).await;
    }
    Ok(response)
}

fn is_v2(path: &str) -> bool {
    paths::segments(path).is_some()
}
