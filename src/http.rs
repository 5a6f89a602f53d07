//! HTTP without connections: fields, codecs, and what proxies say of clients.
//!
//! Invariant: nothing here reads a stream or knows a request's meaning.
//!
//! - [`response_head`]: the head of a response, on raw lines or a map;
//! - [`h1`]: the HTTP/1.1 codec of the fast path;
//! - [`hop_by_hop`]: headers that end at the gateway;
//! - [`method`]: methods that stand for others;
//! - [`path`]: what a path means to a lenient backend;
//! - [`retry_after`]: when to come back;
//! - [`forwarded_for`], [`proxy_protocol`]: the client behind a trusted proxy.

pub(crate) mod forwarded_for;
pub(crate) mod h1;
pub(crate) mod header_case;
pub(crate) mod hop_by_hop;
pub(crate) mod method;
pub(crate) mod path;
pub(crate) mod proxy_protocol;
mod raw_head;
pub(crate) mod response_head;
pub(crate) mod retry_after;

/// The header field that names the WhatsApp instance, in lower case.
pub(crate) const INSTANCE_HEADER: &str = "x-instance-id";
/// The header field that carries an access token, in lower case.
pub(crate) const TOKEN_HEADER: &str = "access-token";
