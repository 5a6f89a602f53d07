//! Reads the query and the headers of a request.
//!
//! Invariant: only this file decides which headers count. A field of a query counts by its
//! name alone ([`Named`](names::Named)), also where a receipt has read it already.

use http::HeaderMap;
use http::request::Parts;

use super::credential::CredentialSource;
use super::names::{self, FieldName};
use super::query::pairs;
use crate::http::raw_target::RawTarget;
use crate::http::{INSTANCE_HEADER, TOKEN_HEADER};

/// HTTP's own header for credentials (RFC 9110 §11.6.2), in lower case.
const AUTHORIZATION_HEADER: &str = "authorization";

/// The part of a request that names an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InstanceSource {
    /// `instance_id` in the query.
    Query,
    /// The `X-Instance-ID` header.
    Header,
    /// `instance_id` in the body.
    Body,
}

/// Receives the fields found in a head.
pub(super) trait HeadSink {
    /// Receives an instance.
    fn instance(&mut self, source: InstanceSource, name: &str);
    /// Receives a credential.
    fn credential(&mut self, source: CredentialSource, credential: &[u8]);
    /// A field is an element of a list: some backends use it, others ignore it.
    fn list_element(&mut self);
}

/// Reads the query and the headers.
pub(super) fn read(head: &Parts, sink: &mut impl HeadSink) {
    read_query(head.uri.query().unwrap_or_default(), sink);
    // Backends differ in whether a query ends at `#`: both readings must name
    // the same (rule: ambiguous requests).
    if let Some(raw) = RawTarget::of(head) {
        read_query(raw.query_before_fragment(head).unwrap_or_default(), sink);
    }
    read_headers(&head.headers, sink);
}

/// Reads the headers.
pub(super) fn read_headers(headers: &HeaderMap, sink: &mut impl HeadSink) {
    // One pass over the headers costs less than one lookup for each name, and finds
    // other spellings, too.
    for (name, value) in headers {
        let (name, value) = (name.as_str(), value.as_bytes());
        if name == AUTHORIZATION_HEADER {
            sink.credential(CredentialSource::Authorization, value);
        } else if names::is_header(name, INSTANCE_HEADER) {
            sink.instance(InstanceSource::Header, &String::from_utf8_lossy(value));
        } else if names::is_header(name, TOKEN_HEADER) {
            sink.credential(CredentialSource::Header, value);
        }
    }
}

fn read_query(query: &str, sink: &mut impl HeadSink) {
    for pair in pairs(query) {
        let Some(named) = pair.named() else { continue };
        if named.is_list {
            sink.list_element();
        }
        match named.name {
            FieldName::Instance => sink.instance(InstanceSource::Query, &pair.decoded()),
            FieldName::Token => {
                sink.credential(CredentialSource::Query, pair.decoded().as_bytes());
            }
        }
    }
}
