//! A read receipt that was understood completely (design §3.2).
//!
//! Owns what may be merged, with what, and how a merged request is written.
//! Invariants: what is not understood to the last key is not a receipt; two
//! receipts with one [`MergeKey`] differ in nothing but their message ids; a
//! merged request is the first caller's, byte for byte, but for the ids.

mod ids;
mod key;
pub(crate) mod parse;

#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};

pub(crate) use ids::MessageId;
pub(crate) use key::MergeKey;

use crate::body::{LOOK, RequestBody, UpstreamRequest};
use crate::http::request_head::RequestHead;
use crate::identity::{CredentialSource, Findings, Identity};

/// The longest target of a merged request, in bytes. Some clients fear 414 or
/// 502 beyond 7,000 (wawp-api §3); common servers take 8 KiB (nginx' default).
const MAX_TARGET: usize = 8000;

/// One caller's read receipt.
pub(crate) struct Receipt {
    /// The request as it came, hop-by-hop fields apart.
    head: RequestHead,
    body: Bytes,
    /// Where the ids stand in the request; `None` for the whole-chat form.
    ids_at: Option<IdsAt>,
    /// The ids asked for, in the caller's order; empty means the whole chat.
    pub(crate) ids: Vec<MessageId>,
    /// Equal for receipts that may share a call.
    pub(crate) key: MergeKey,
    /// Who calls.
    pub(crate) identity: Identity,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum IdsAt {
    /// A range of the body.
    Body(Range<usize>),
    /// A range of the query.
    Query(Range<usize>),
}

/// How ids are spelt in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As JSON.
    Body,
    /// As JSON, percent-encoded.
    Query,
}

impl Form {
    /// Bytes that an id takes in a merged request, with its quotes and comma.
    pub(crate) fn cost(self, id: &MessageId) -> usize {
        match self {
            Self::Query => ids::encode(id.as_str()).len() + "%22%22%2C".len(),
            Self::Body => id.as_str().len() + "\"\",".len(),
        }
    }
}

impl Receipt {
    /// Understands a request, or gives its parts back untouched.
    pub(crate) fn read(
        head: impl Into<RequestHead>,
        body: Bytes,
    ) -> Result<Self, Box<RequestHead>> {
        let head = head.into();
        let Some(fields) = parse::understand(&head, &body) else {
            return Err(Box::new(head));
        };
        let mut findings = Findings::of_head(&head);
        if let Some(name) = fields.body_instance(&body) {
            findings.instance(&name);
        }
        if let Some(token) = fields.body_token(&body) {
            findings.credential(CredentialSource::Body, token.as_bytes());
        }
        let key = MergeKey::new(&head, &body, &fields);
        Ok(Self {
            ids_at: fields.ids_at,
            ids: fields.ids,
            key,
            identity: findings.identity(),
            head,
            body,
        })
    }

    /// The method, target and fields of the request.
    pub(crate) fn head(&self) -> &Parts {
        &self.head
    }

    /// Bytes that the ids of a merged request may take in this one's form:
    /// beyond them the body would be no receipt to read, or the target too long.
    pub(crate) fn room(&self) -> usize {
        match &self.ids_at {
            None => usize::MAX,
            Some(IdsAt::Body(range)) => {
                LOOK.saturating_sub(self.body.len() - range.len() + "[]".len())
            }
            Some(IdsAt::Query(range)) => {
                let target = self
                    .head
                    .uri
                    .path_and_query()
                    .map_or(0, |target| target.as_str().len());
                MAX_TARGET.saturating_sub(target - range.len() + "%5B%5D".len())
            }
        }
    }

    /// How a merged request of this one's form spells ids.
    pub(crate) fn form(&self) -> Form {
        match &self.ids_at {
            Some(IdsAt::Query(_)) => Form::Query,
            _ => Form::Body,
        }
    }

    /// The caller's own request, unchanged.
    pub(crate) fn into_request(self) -> UpstreamRequest {
        UpstreamRequest {
            head: self.head,
            body: RequestBody::whole(self.body),
        }
    }

    /// A copy of the caller's own request, unchanged.
    pub(crate) fn own_request(&self) -> UpstreamRequest {
        UpstreamRequest {
            head: self.head.clone(),
            body: RequestBody::whole(self.body.clone()),
        }
    }

    /// The caller's request with these ids in place of its own.
    pub(crate) fn merged_request<'i>(
        &self,
        ids: impl Iterator<Item = &'i MessageId>,
    ) -> UpstreamRequest {
        let Some(at) = &self.ids_at else {
            return self.own_request();
        };
        let ids: Vec<&str> = ids.map(MessageId::as_str).collect();
        let text = serde_json::to_string(&ids).expect("a list of strings is JSON");
        let mut head = self.head.clone();
        let body = match at {
            IdsAt::Body(range) => {
                let body = splice(&self.body, range, text.as_bytes());
                if head.headers.contains_key(http::header::CONTENT_LENGTH) {
                    head.headers
                        .insert(http::header::CONTENT_LENGTH, HeaderValue::from(body.len()));
                }
                Bytes::from(body)
            }
            IdsAt::Query(range) => {
                let query = head.uri.query().unwrap_or_default();
                let query = splice(query.as_bytes(), range, ids::encode(&text).as_bytes());
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

impl fmt::Debug for Receipt {
    /// Without the request: its target, fields and body hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt")
            .field("ids", &self.ids)
            .finish_non_exhaustive()
    }
}

fn splice(text: &[u8], range: &Range<usize>, middle: &[u8]) -> Vec<u8> {
    let mut spliced = Vec::with_capacity(text.len() + middle.len());
    spliced.extend_from_slice(&text[..range.start]);
    spliced.extend_from_slice(middle);
    spliced.extend_from_slice(&text[range.end..]);
    spliced
}
