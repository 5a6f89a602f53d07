//! HTTP without connections: fields, codecs, and what proxies say of clients.
//!
//! Invariant: nothing here reads a stream or knows a request's meaning.
//!
//! - [`h1`]: the HTTP/1.1 codec of the fast path;
//! - [`hop_by_hop`]: fields that end at the gateway;
//! - [`path`]: what a path means to a lenient backend;
//! - [`retry_after`]: when to come back;
//! - [`forwarded_for`], [`proxy_protocol`]: the client behind a trusted proxy.

pub(crate) mod forwarded_for;
pub(crate) mod h1;
pub(crate) mod hop_by_hop;
pub(crate) mod path;
pub(crate) mod proxy_protocol;
pub(crate) mod retry_after;

/// The header field that names the WhatsApp instance, in lower case.
pub(crate) const INSTANCE_HEADER: &str = "x-instance-id";
/// The header field that carries an access token, in lower case.
pub(crate) const TOKEN_HEADER: &str = "access-token";
