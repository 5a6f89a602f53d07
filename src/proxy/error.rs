//! Every failure of a request, and the response that the gateway makes for it.
//!
//! JSON in the upstream's shape, `Proxy-Status` and `Retry-After` (rule: gateway
//! responses). Invariants: every match is exhaustive, so that a new failure must
//! choose its response; no text in a response is taken from a request.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, DATE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};

use super::ratelimit_headers;
use crate::body::{self, ClientResponse, ResponseBody};
use crate::http::response_head::ResponseHead;
use crate::http::retry_after;
use crate::limit::{RateLimited, Refusal, Scope};
use crate::tenant::{Denied, key};
use crate::upstream::{Unreachable, UpstreamError};

/// Marks a response as the gateway's own (RFC 9209).
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// `Retry-After` of a 503: some requests have probably ended by then.
const OVERLOAD_WAIT: Duration = Duration::from_secs(1);

/// Why the gateway makes the response itself.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub(crate) enum Error {
    /// `CONNECT`.
    #[error("CONNECT is not offered: this is a reverse proxy")]
    Connect,
    /// An absolute target that names another host.
    #[error("the request names another host: this gateway serves one upstream only")]
    ForeignTarget,
    /// Framing or headers that recipients could read in different ways.
    #[error("the request is malformed: {0}")]
    Malformed(&'static str),
    /// The target has this byte, and the request cannot be forwarded by the fast
    /// path (rule: pass-through).
    #[error(
        "the request target contains the byte 0x{0:02X}, which this request cannot carry; \
         send it as %{0:02X}"
    )]
    RawTarget(u8),
    /// The client sent nothing of the body for `server.body_timeout`.
    #[error("the request body arrived too slowly")]
    ClientTooSlow,
    /// The client disconnected, or has its response already. It does not read this one.
    #[error("the request body broke off")]
    ClientGone,
    /// An access rule.
    #[error(transparent)]
    Denied(Denied),
    /// A tenant key that is not valid for this request.
    #[error(transparent)]
    Key(key::Refusal),
    /// No bucket token in time.
    #[error("{}", describe(.0))]
    RateLimited(RateLimited),
    /// Too many requests in flight: the limit, and its value.
    #[error("too many requests in flight: the limit is {1} ({0})")]
    Overloaded(&'static str, usize),
    /// More headers than `server.max_headers`.
    #[error("too many header fields: the limit is {0} (server.max_headers)")]
    TooManyHeaders(usize),
    /// The upstream sent no response.
    #[error(transparent)]
    Upstream(UpstreamError),
}

impl From<body::Error> for Error {
    fn from(error: body::Error) -> Self {
        match error {
            body::Error::ClientGone | body::Error::Declined => Self::ClientGone,
            body::Error::ClientTooSlow => Self::ClientTooSlow,
            body::Error::UpstreamBrokeOff => Self::Upstream(UpstreamError::BrokeOff),
        }
    }
}

impl From<UpstreamError> for Error {
    fn from(failure: UpstreamError) -> Self {
        match failure {
            UpstreamError::Client(error) => error.into(),
            UpstreamError::RawTarget(byte) => Self::RawTarget(byte),
            failure => Self::Upstream(failure),
        }
    }
}

impl From<Denied> for Error {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

impl From<key::Refusal> for Error {
    fn from(refusal: key::Refusal) -> Self {
        Self::Key(refusal)
    }
}

impl From<RateLimited> for Error {
    fn from(refused: RateLimited) -> Self {
        Self::RateLimited(refused)
    }
}

impl Error {
    /// The status of the response.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::ForeignTarget => StatusCode::MISDIRECTED_REQUEST,
            Self::Malformed(_) | Self::RawTarget(_) | Self::ClientGone => StatusCode::BAD_REQUEST,
            Self::ClientTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Denied(_) | Self::Key(_) => StatusCode::FORBIDDEN,
            Self::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Overloaded(..) => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooManyHeaders(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Upstream(UpstreamError::Timeout) => StatusCode::GATEWAY_TIMEOUT,
            Self::Upstream(_) => StatusCode::BAD_GATEWAY,
        }
    }

    /// The stable `code` of the failure, also its name in the access log.
    pub(crate) fn code(&self) -> &'static str {
        // Programs compare these: they never change, and details go into the message.
        match self {
            Self::Connect | Self::ForeignTarget => "foreign_target",
            Self::Malformed(_) | Self::RawTarget(_) | Self::ClientGone => "malformed",
            Self::ClientTooSlow => "client_too_slow",
            Self::Denied(_) | Self::Key(_) => "refused",
            Self::RateLimited(_) => "rate_limited",
            Self::Overloaded(..) => "overloaded",
            Self::TooManyHeaders(_) => "too_large",
            Self::Upstream(UpstreamError::Unreachable(_)) => "upstream_unreachable",
            Self::Upstream(UpstreamError::Timeout) => "upstream_timeout",
            Self::Upstream(
                UpstreamError::BrokeOff
                | UpstreamError::Malformed
                | UpstreamError::TooLong
                | UpstreamError::RawTarget(_)
                | UpstreamError::Client(_),
            ) => "upstream_broke_off",
        }
    }

    /// The budget that refused the request.
    pub(crate) fn budget(&self) -> Option<&'static str> {
        match self {
            Self::RateLimited(refused) => Some(refused.scope.as_str()),
            _ => None,
        }
    }

    /// The error type of RFC 9209 §2.3.
    fn proxy_error(&self) -> &'static str {
        match self {
            Self::Connect
            | Self::ForeignTarget
            | Self::Denied(_)
            | Self::Key(_)
            | Self::RateLimited(_) => "http_request_denied",
            Self::Malformed(_)
            | Self::RawTarget(_)
            | Self::ClientGone
            | Self::ClientTooSlow
            | Self::TooManyHeaders(_) => "http_request_error",
            // The nearest of the registered types: a bound on requests in flight.
            Self::Overloaded(..) => "connection_limit_reached",
            Self::Upstream(failure) => match failure {
                UpstreamError::Unreachable(unreachable) => match unreachable {
                    Unreachable::Resolve => "dns_error",
                    Unreachable::Refused => "connection_refused",
                    Unreachable::Timeout => "connection_timeout",
                    Unreachable::Tls => "tls_protocol_error",
                    Unreachable::ClosedAtOnce => "connection_terminated",
                    Unreachable::NoHttp2 => "http_protocol_error",
                    Unreachable::Proxy(_) | Unreachable::Network(_) => "destination_unavailable",
                },
                UpstreamError::BrokeOff => "connection_terminated",
                UpstreamError::Malformed
                | UpstreamError::RawTarget(_)
                | UpstreamError::Client(_) => "http_protocol_error",
                UpstreamError::Timeout => "http_response_timeout",
                UpstreamError::TooLong => "http_response_body_size",
            },
        }
    }

    /// The `Retry-After` of the response, if one is known.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        // None for the upstream's failures: nothing says when it works again.
        match self {
            Self::RateLimited(refused) => Some(refused.retry_after),
            Self::Overloaded(..) => Some(OVERLOAD_WAIT),
            Self::Connect
            | Self::ForeignTarget
            | Self::Malformed(_)
            | Self::RawTarget(_)
            | Self::ClientTooSlow
            | Self::TooManyHeaders(_)
            | Self::ClientGone
            | Self::Denied(_)
            | Self::Key(_)
            | Self::Upstream(_) => None,
        }
    }

    /// The response of the gateway.
    pub(crate) fn response(&self) -> ClientResponse {
        let status = self.status();
        let message = match self.retry_after() {
            Some(wait) => format!("{self}; retry in {} s", retry_after::seconds(wait)),
            None => self.to_string(),
        };
        let body = serde_json::json!({
            "status": status.as_u16(),
            "code": self.code(),
            "error": status.canonical_reason().unwrap_or_default(),
            "message": message,
        });
        let details = format!(
            "wawp-gateway; error={}; details=\"{message}\"",
            self.proxy_error()
        );
        let body = ResponseBody::whole(Bytes::from(body.to_string()), None);
        let mut head = Box::new(ResponseHead::new(status));
        head.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // The gateway is the origin of this response, and has a clock (RFC 9110 §6.6.1).
        let date = httpdate::fmt_http_date(SystemTime::now());
        if let Ok(date) = HeaderValue::try_from(date) {
            head.insert(DATE, date);
        }
        // A string of a structured field must be ASCII without `"` and `\` (RFC 8941
        // §3.3.3). All messages are.
        let details = HeaderValue::from_str(&details)
            .unwrap_or_else(|_| HeaderValue::from_static("wawp-gateway"));
        head.insert(PROXY_STATUS, details);
        if let Some(wait) = self.retry_after() {
            head.insert(RETRY_AFTER, retry_after::value(wait));
        }
        if let Self::RateLimited(refused) = self {
            ratelimit_headers::describe(
                &mut head,
                refused.scope,
                refused.quota,
                0,
                refused.retry_after,
            );
        }
        // Required with a 405 (RFC 9110 §15.5.6).
        if *self == Self::Connect {
            head.insert(
                ALLOW,
                HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            );
        }
        ClientResponse { head, body }
    }
}

/// Names the limit that refused the request.
fn describe(refused: &RateLimited) -> String {
    // No quota: only calls in flight or a pause of the upstream were in the way.
    let limit = refused.quota.map_or_else(String::new, |quota| {
        format!(
            ": the limit is {} requests per second, burst {}",
            quota.rate, quota.burst
        )
    });
    let cap = refused.max_in_flight.map_or_else(String::new, |cap| {
        format!("; at most {cap} of its calls are in flight at once (max_in_flight)")
    });
    let limit = limit + &cap;
    let waiting = refused.waiting;
    let budget = match refused.scope {
        Scope::Instance => "this instance's budget",
        Scope::Tenant => "the budget of this instance's tenant (tenant.rate)",
        Scope::Egress => "the budget of all instances together (egress.rate)",
    };
    match refused.refusal {
        Refusal::QueueFull => {
            format!(
                "{waiting} upstream calls of this instance wait already (limit.max_queue){limit}"
            )
        }
        Refusal::WaitTooLong => {
            format!("{budget} is used up and {waiting} upstream calls wait (limit.max_wait){limit}")
        }
        Refusal::Paused => "the upstream paused this instance with a 429".to_owned(),
    }
}
