//! The formats of responses and errors.
//!
//! Owns the form of an error in JSON, XML, HTML and plain text, but not when one occurs.
//! Invariant: no 2xx response carries `code` with `message` or `error`; clients would treat it as a failure.

use std::io;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use serde_json::{Value, json};

/// The body of every response.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The media type in which a client wants an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Json,
    Xml,
    Text,
    Html,
}

/// An error in the vendor's format.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    /// The stable code that clients compare.
    pub(super) code: &'static str,
    /// What happened; it never contains a credential.
    pub(super) message: String,
}

impl Shape {
    /// The first known type of `Accept`, JSON if there is none. Quality values are ignored.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let accepts = headers
            .get_all(ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok());
        accepts
            .flat_map(|value| value.split(','))
            .filter_map(|item| item.split(';').next())
            .find_map(|item| match item.trim().to_ascii_lowercase().as_str() {
                "application/json" | "*/*" | "application/*" => Some(Self::Json),
                "application/xml" | "text/xml" => Some(Self::Xml),
                "text/plain" => Some(Self::Text),
                "text/html" => Some(Self::Html),
                _ => None,
            })
            // Not a 406: a client that accepts none of these still gets a readable error.
            .unwrap_or(Self::Json)
    }
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    pub(super) fn missing_param(name: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "missing_param",
            format!("Missing required parameter: {name}"),
        )
    }

    /// The error as a response in this media type.
    pub(super) fn response(&self, shape: Shape) -> Response<Body> {
        let Self {
            status,
            code,
            message,
        } = self;
        let title = title(*status);
        match shape {
            Shape::Xml => {
                // The message can contain text of the request.
                let message = escape(message);
                let text = format!(
                    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<response><status>{}</status><code>{code}</code>\
                     <error>{title}</error><message>{message}</message></response>\n",
                    status.as_u16(),
                );
                full(*status, "application/xml; charset=utf-8", text)
            }
            Shape::Text => full(
                *status,
                "text/plain; charset=utf-8",
                format!("{title}: {message}\n"),
            ),
            // The vendor documents HTML only for its own server errors.
            Shape::Html if status.is_server_error() => html(*status),
            Shape::Html | Shape::Json => json(
                *status,
                &json!({"status": status.as_u16(), "code": code, "error": title, "message": message}),
            ),
        }
    }
}

/// A response without a body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    // `Infallible` has no value, so the empty match converts the error type.
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// A response with this text as its body.
pub(super) fn full(
    status: StatusCode,
    content_type: &'static str,
    text: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(
        Full::new(text.into())
            .map_err(|never| match never {})
            .boxed_unsync(),
    );
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(super) fn json(status: StatusCode, value: &Value) -> Response<Body> {
    full(status, "application/json", value.to_string())
}

/// A page like that of the vendor's front proxy.
pub(super) fn html(status: StatusCode) -> Response<Body> {
    let title = format!("{} {}", status.as_u16(), title(status));
    let text = format!(
        "<!DOCTYPE html>\n<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"
    );
    full(status, "text/html; charset=utf-8", text)
}

fn title(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("Unassigned")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_selects_the_shape() {
        let cases = [
            ("*/*", Shape::Json),
            ("application/json, text/plain, */*", Shape::Json),
            ("application/xml", Shape::Xml),
            ("text/xml;q=0.9, application/json", Shape::Xml),
            ("Text/Plain", Shape::Text),
            ("image/png, text/html", Shape::Html),
            ("image/png", Shape::Json),
            ("", Shape::Json),
        ];
        for (accept, shape) in cases {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(Shape::of(&headers), shape, "{accept}");
        }
        assert_eq!(Shape::of(&HeaderMap::new()), Shape::Json);
    }
}
