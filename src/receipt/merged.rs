//! How a merged request is written.
//!
//! Invariant: it is the first caller's request, byte for byte, except for the
//! list of ids and the content length.

use std::ops::Range;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};

use super::{IdsAt, Receipt, ids};
use crate::body::{RequestBody, SCAN_LIMIT, UpstreamRequest};

/// The longest target of a merged request, in bytes. Common servers accept 8 KiB
/// (nginx' default) for the whole request line.
pub(super) const MAX_TARGET: usize = 8000;

/// How ids are written in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As JSON.
    Body,
    /// As JSON, percent-encoded.
    Query,
}

impl Form {
    /// Bytes that an id takes in a merged request, with its quotes and comma.
    pub(crate) fn cost(self, id: &str) -> usize {
        match self {
            Self::Query => ids::encode(id).len() + "%22%22%2C".len(),
            Self::Body => id.len() + "\"\",".len(),
        }
    }
}

impl Receipt {
    /// Bytes that ids may take in a request made from this one. With more, the body
    /// would be too long for a receipt, or the target too long for servers.
    pub(crate) fn max_id_bytes(&self) -> usize {
        match &self.ids_at {
            None => usize::MAX,
            // A merged body is never longer than a caller's own may be, so the API
            // gets no size that it would not get without the gateway.
            Some(IdsAt::Body(range)) => {
                SCAN_LIMIT.saturating_sub(self.body.len() - range.len() + "[]".len())
            }
            Some(IdsAt::Query(range)) => {
                let target = self.head.uri.path_and_query();
                let length = target.map_or(0, |target| target.as_str().len());
                MAX_TARGET.saturating_sub(length - range.len() + "%5B%5D".len())
            }
        }
    }

    /// How a merged request made from this one writes ids.
    pub(crate) fn form(&self) -> Form {
        match &self.ids_at {
            Some(IdsAt::Query(_)) => Form::Query,
            _ => Form::Body,
        }
    }

    /// The caller's request with these ids instead of its own.
    pub(crate) fn merged_request<'i>(&self, ids: impl Iterator<Item = &'i str>) -> UpstreamRequest {
        let Some(at) = &self.ids_at else {
            // Whole-chat receipts of one key are the same request.
            return self.own_request();
        };
        let list = ids::json_list(ids);
        let mut head = self.head.clone();
        let body = match at {
            IdsAt::Body(range) => {
                let body = splice(&self.body, range, list.as_bytes());
                // A chunked body has no length field; the connection frames it.
                if head.headers.contains_key(http::header::CONTENT_LENGTH) {
                    let length = HeaderValue::from(body.len());
                    head.headers.insert(http::header::CONTENT_LENGTH, length);
                }
                Bytes::from(body)
            }
            IdsAt::Query(range) => {
                // Rebuilt from bytes, not from parsed pairs: the other fields must keep
                // their encoding (rule: transparency).
                let query = head.uri.query().unwrap_or_default();
                let query = splice(query.as_bytes(), range, ids::encode(&list).as_bytes());
                let mut target = head.uri.path().as_bytes().to_vec();
                target.push(b'?');
                target.extend_from_slice(&query);
                let target = PathAndQuery::from_maybe_shared(Bytes::from(target))
                    .expect("a target stays one when percent-encoded text is put in");
                head.uri = Uri::from(target);
                self.body.clone()
            }
        };
        UpstreamRequest {
            head,
            body: RequestBody::whole(body),
        }
    }
}

fn splice(text: &[u8], range: &Range<usize>, middle: &[u8]) -> Vec<u8> {
    let mut spliced = Vec::with_capacity(text.len() - range.len() + middle.len());
    spliced.extend_from_slice(&text[..range.start]);
    spliced.extend_from_slice(middle);
    spliced.extend_from_slice(&text[range.end..]);
    spliced
}
