//! HTTP messages, without connections.
//!
//! - [`request_head`], [`response_head`]: heads, with the case of header names;
//! - [`h1`]: the HTTP/1.1 codec of the fast path;
//! - [`content_length`]: the value of that header;
//! - [`hop_by_hop`]: headers that are not forwarded;
//! - [`raw_target`]: targets with bytes that a URI may not contain;
//! - [`method`]: overridden methods;
//! - [`path`]: paths as a lenient backend reads them;
//! - [`retry_after`]: the header of that name;
//! - [`forwarded_for`], [`proxy_protocol`]: the client behind a trusted proxy.
//!
//! Invariant: nothing here reads from a connection or knows the WhatsApp API.

pub(crate) mod content_length;
pub(crate) mod forwarded_for;
pub(crate) mod h1;
pub(crate) mod header_case;
pub(crate) mod hop_by_hop;
pub(crate) mod method;
pub(crate) mod path;
pub(crate) mod proxy_protocol;
mod raw_head;
pub(crate) mod raw_target;
pub(crate) mod request_head;
pub(crate) mod response_head;
pub(crate) mod retry_after;

/// Whether a text contains such a byte. All bytes are read, because without an early exit
/// the compiler compares sixteen at a time: nearly always there is none.
pub(crate) fn has_byte(text: &[u8], is_it: impl Fn(u8) -> bool) -> bool {
    text.iter().fold(false, |found, byte| found | is_it(*byte))
}

/// The header that names the WhatsApp instance, in lower case.
pub(crate) const INSTANCE_HEADER: &str = "x-instance-id";
/// The header that carries an access token, in lower case.
pub(crate) const TOKEN_HEADER: &str = "access-token";
