//! Prepares a request for its connection: HTTP/2 or HTTP/1.1, hyper or fast path.

use std::sync::Arc;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Parts, PathAndQuery, Scheme};
use http::{HeaderValue, Request, StatusCode, Uri, Version};
use tokio::sync::Notify;

use crate::body::{RequestBody, UpstreamRequest};
use crate::config::{HttpVersion, UpstreamUrl};
use crate::http::hop_by_hop;
use crate::http::request_head::RequestHead;

/// What a request requires of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// Nothing beyond the fast path.
    Fast,
    /// hyper, for a body that streams.
    Streamed,
    /// HTTP/1.1 with hyper, since the connection may be upgraded.
    Upgrade,
}

/// What a request requires of its connection, where these versions of HTTP are spoken.
pub(super) fn kind(request: &UpstreamRequest, http: HttpVersion) -> RequestKind {
    let is_streamed = matches!(request.body, RequestBody::Streamed(_));
    // HTTP/2 has no upgrade, which any server may ignore (RFC 9110 §7.8).
    if http != HttpVersion::Http2 && hop_by_hop::has(&request.head.headers, &UPGRADE) {
        RequestKind::Upgrade
    } else if is_streamed || request.head.header_case().is_none() {
        // Without the case here, hyper has read the names and alone knows their case.
        RequestKind::Streamed
    } else {
        RequestKind::Fast
    }
}

/// Writes the target and the headers as HTTP/2 requires them.
pub(super) fn prepare_http2(head: &mut RequestHead, url: &UpstreamUrl) {
    let mut parts = Parts::default();
    parts.scheme = Some(if url.tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(url.authority.clone());
    parts.path_and_query = Some(target(&head.uri));
    head.uri = Uri::from_parts(parts).expect("scheme, authority and path make a target");
    head.version = Version::HTTP_2;
    head.headers.remove(HOST);
    // Connection-specific (RFC 9113 §8.2.2). `TE: trailers` may stay.
    head.headers.remove(CONNECTION);
    head.headers.remove(TRANSFER_ENCODING);
    head.headers.remove(UPGRADE);
}

/// Writes the target and the headers as HTTP/1.1 requires them.
pub(super) fn prepare_http1(request: &mut UpstreamRequest, host: &HeaderValue) {
    let head = &mut request.head;
    if head.uri.authority().is_some() || head.uri.path_and_query().is_none() {
        head.uri = Uri::from(target(&head.uri));
    }
    head.version = Version::HTTP_11;
    head.headers.insert(HOST, host.clone());
    let is_streamed = matches!(request.body, RequestBody::Streamed(_));
    if hop_by_hop::has(&head.headers, &CONTENT_LENGTH) {
        return;
    }
    if is_streamed {
        // hyper sends no body with a GET unless a header announces one.
        let chunked = HeaderValue::from_static("chunked");
        head.headers.insert(TRANSFER_ENCODING, chunked);
    } else if head.announces_body() && request.body.held().is_none() {
        // An empty chunked body. Some servers require a length (411), and to others no
        // body is not an empty one.
        let zero = HeaderValue::from_static("0");
        head.headers.insert(CONTENT_LENGTH, zero);
    }
}

/// Takes the request out of the reference, for hyper.
pub(super) fn take_for_hyper(request: &mut UpstreamRequest) -> Request<RequestBody> {
    let parts = request.head.take_parts();
    let mut taken = Request::from_parts(parts, std::mem::take(&mut request.body));
    let is_http1 = taken.version() == Version::HTTP_11;
    if is_http1 && hop_by_hop::expects_continue(taken.headers()) {
        // The client is asked for its body only when the upstream asks for it (RFC
        // 9110 §10.1.1).
        let go_on = Arc::new(Notify::new());
        taken.body_mut().hold_until(Arc::clone(&go_on));
        hyper::ext::on_informational(&mut taken, move |response| {
            if response.status() == StatusCode::CONTINUE {
                go_on.notify_one();
            }
        });
    }
    taken
}

/// Restores a request that hyper did not send.
pub(super) fn restore(request: &mut UpstreamRequest, unsent: Request<RequestBody>) {
    let (parts, body) = unsent.into_parts();
    **request.head = parts;
    request.body = body;
}

fn target(uri: &Uri) -> PathAndQuery {
    let target = uri.path_and_query().cloned();
    target.unwrap_or(PathAndQuery::from_static("/"))
}
