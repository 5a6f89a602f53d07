//! A request in the form that its connection requires.

use std::sync::Arc;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::{Parts, PathAndQuery, Scheme};
use http::{HeaderValue, Request, StatusCode, Uri, Version};
use tokio::sync::Notify;

use super::connection::RequestKind;
use crate::body::RequestBody;
use crate::config::UpstreamUrl;
use crate::http::hop_by_hop;

/// What a request requires of its connection.
pub(super) fn kind(request: &Request<RequestBody>) -> RequestKind {
    if hop_by_hop::has(request.headers(), "upgrade") {
        RequestKind::Upgrade
    } else if request.body().header_case().is_some() {
        RequestKind::Fast
    } else {
        RequestKind::Streamed
    }
}

/// Writes the target and the headers as HTTP/2 requires them.
pub(super) fn prepare_http2(request: &mut Request<RequestBody>, url: &UpstreamUrl) {
    let mut parts = Parts::default();
    parts.scheme = Some(if url.tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(url.authority.clone());
    parts.path_and_query = Some(target(request.uri()));
    *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path make a target");
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.remove(HOST);
    // Connection-specific (RFC 9113 §8.2.2). `TE: trailers` may stay.
    headers.remove(CONNECTION);
    headers.remove(TRANSFER_ENCODING);
}

/// Writes the target and the headers as HTTP/1.1 requires them.
pub(super) fn prepare_http1(request: &mut Request<RequestBody>, host: &HeaderValue) {
    if request.uri().authority().is_some() || request.uri().path_and_query().is_none() {
        *request.uri_mut() = Uri::from(target(request.uri()));
    }
    *request.version_mut() = Version::HTTP_11;
    request.headers_mut().insert(HOST, host.clone());
    if !matches!(request.body(), RequestBody::Streamed(_)) {
        return;
    }
    if !request.headers().contains_key(CONTENT_LENGTH) {
        // hyper takes a GET to have no body unless a header announces one.
        let chunked = HeaderValue::from_static("chunked");
        request.headers_mut().insert(TRANSFER_ENCODING, chunked);
    }
    if hop_by_hop::expects_continue(request.headers()) {
        // The body waits until the upstream asks for it.
        let go_on = Arc::new(Notify::new());
        request.body_mut().hold_until(Arc::clone(&go_on));
        hyper::ext::on_informational(request, move |response| {
            if response.status() == StatusCode::CONTINUE {
                go_on.notify_one();
            }
        });
    }
}

fn target(uri: &Uri) -> PathAndQuery {
    let target = uri.path_and_query().cloned();
    target.unwrap_or(PathAndQuery::from_static("/"))
}
