//! Every failure of a call, and the answer the gateway gives to it itself.
//!
//! Owns design §3.8: JSON in the upstream's shape, `Proxy-Status`, and when to
//! come back. Invariant: matched without a catch-all, so a new failure must
//! choose its answer; no text here comes from a request.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};

use super::ratelimit_headers;
use crate::body::{self, ClientResponse, ResponseBody};
use crate::http::response_head::ResponseHead;
use crate::http::retry_after;
use crate::limit::{Refusal, Refused, Scope};
use crate::tenant::{Denied, key};
use crate::upstream::{Failure, Unreachable};

/// The field that tells our answers from the upstream's (RFC 9209).
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// When to come back to a gateway that is full: by then some calls have ended.
const OVERLOAD_WAIT: Duration = Duration::from_secs(1);

/// Why the gateway answers a call itself.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub(crate) enum Error {
    /// `CONNECT`.
    #[error("CONNECT is not offered: this is a reverse proxy")]
    Connect,
    /// An absolute target for somebody else.
    #[error("the request names another host: this gateway serves one upstream only")]
    ForeignTarget,
    /// Framing or fields that could be read in two ways.
    #[error("the request is malformed: {0}")]
    Malformed(&'static str),
    /// The body stopped coming.
    #[error("the request's body came too slowly")]
    ClientTooSlow,
    /// The client went away, or was answered already; nobody reads this.
    #[error("the request's body broke off")]
    ClientGone,
    /// A rule of access.
    #[error(transparent)]
    Denied(Denied),
    /// A tenant's key that opens nothing here.
    #[error(transparent)]
    Key(key::Refusal),
    /// No token in time.
    #[error("{}", why(.0))]
    RateLimited(Refused),
    /// Too many calls are being worked on: which limit, and its value.
    #[error("too many calls at once: the limit is {1} ({0})")]
    Overloaded(&'static str, usize),
    /// More header fields than `server.max_headers`.
    #[error("too many header fields: the limit is {0} (server.max_headers)")]
    TooManyHeaders(usize),
    /// The upstream gave no answer.
    #[error(transparent)]
    Upstream(Failure),
}

impl From<body::Error> for Error {
    fn from(error: body::Error) -> Self {
        match error {
            body::Error::ClientGone | body::Error::Declined => Self::ClientGone,
            body::Error::ClientTooSlow => Self::ClientTooSlow,
            body::Error::UpstreamBrokeOff => Self::Upstream(Failure::BrokeOff),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Client(error) => error.into(),
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

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Self::RateLimited(refused)
    }
}

impl Error {
    /// The status the caller gets.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::ForeignTarget => StatusCode::MISDIRECTED_REQUEST,
            Self::Malformed(_) | Self::ClientGone => StatusCode::BAD_REQUEST,
            Self::ClientTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Denied(_) | Self::Key(_) => StatusCode::FORBIDDEN,
            Self::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Overloaded(..) => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooManyHeaders(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Upstream(Failure::Timeout) => StatusCode::GATEWAY_TIMEOUT,
            Self::Upstream(_) => StatusCode::BAD_GATEWAY,
        }
    }

    /// The stable word for the failure.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Connect | Self::ForeignTarget => "foreign_target",
            Self::Malformed(_) | Self::ClientGone => "malformed",
            Self::ClientTooSlow => "client_too_slow",
            Self::Denied(_) | Self::Key(_) => "refused",
            Self::RateLimited(_) => "rate_limited",
            Self::Overloaded(..) => "overloaded",
            Self::TooManyHeaders(_) => "too_large",
            Self::Upstream(Failure::Unreachable(_)) => "upstream_unreachable",
            Self::Upstream(Failure::Timeout) => "upstream_timeout",
            Self::Upstream(
                Failure::BrokeOff | Failure::Malformed | Failure::TooLong | Failure::Client(_),
            ) => "upstream_broke_off",
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
            | Self::ClientGone
            | Self::ClientTooSlow
            | Self::TooManyHeaders(_) => "http_request_error",
            Self::Overloaded(..) => "connection_limit_reached",
            Self::Upstream(failure) => match failure {
                Failure::Unreachable(unreachable) => match unreachable {
                    Unreachable::Resolve => "dns_error",
                    Unreachable::Refused => "connection_refused",
                    Unreachable::Timeout => "connection_timeout",
                    Unreachable::Tls => "tls_protocol_error",
                    Unreachable::ClosedAtOnce => "connection_terminated",
                    Unreachable::Network(_) => "destination_unavailable",
                },
                Failure::BrokeOff => "connection_terminated",
                Failure::Malformed | Failure::Client(_) => "http_protocol_error",
                Failure::Timeout => "http_response_timeout",
                Failure::TooLong => "http_response_body_size",
            },
        }
    }

    /// When to come back, where that is known.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited(refused) => Some(refused.retry_after),
            Self::Overloaded(..) => Some(OVERLOAD_WAIT),
            Self::Connect
            | Self::ForeignTarget
            | Self::Malformed(_)
            | Self::ClientTooSlow
            | Self::TooManyHeaders(_)
            | Self::ClientGone
            | Self::Denied(_)
            | Self::Key(_)
            | Self::Upstream(_) => None,
        }
    }

    /// The gateway's own answer.
    pub(crate) fn answer(&self) -> Box<ClientResponse> {
        let status = self.status();
        let message = match self.retry_after() {
            Some(wait) => format!("{self}; come back in {} s", retry_after::seconds(wait)),
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
        let mut head = ResponseHead::new(status);
        head.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // Our messages hold no quotes and only ASCII, as an sf-string must.
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
        if *self == Self::Connect {
            head.insert(
                ALLOW,
                HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            );
        }
        Box::new(ClientResponse { head, body })
    }
}

/// Says which limit was in the way.
fn why(refused: &Refused) -> String {
    let limit = refused.quota.map_or_else(String::new, |quota| {
        format!(
            ": the limit is {} calls a second, {} at once",
            quota.rate, quota.burst
        )
    });
    let waiting = refused.waiting;
    let budget = match refused.scope {
        Scope::Instance => "this instance's budget",
        Scope::Tenant => "the budget of this instance's tenant (tenant.rate)",
        Scope::Egress => "the budget of all instances together (egress.rate)",
    };
    match refused.refusal {
        Refusal::QueueFull => {
            format!("{waiting} calls of this instance wait already (limit.max_queue){limit}")
        }
        Refusal::WaitTooLong => {
            format!("{budget} is used up and {waiting} calls wait (limit.max_wait){limit}")
        }
        Refusal::Paused => "the upstream has asked for a pause of this instance".to_owned(),
    }
}
