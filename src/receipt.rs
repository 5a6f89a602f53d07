//! A read receipt that was understood completely (rule: merge equality).
//!
//! Owns what may be merged, with what, and how a merged request is written.
//! Invariants: a request with one key that is not understood is not a receipt;
//! two receipts with one [`MergeKey`] differ in nothing but their message ids; a
//! merged request is the first caller's, byte for byte, except for the ids.
//!
//! - [`parse`]: from a request to its fields;
//! - [`ids`]: what looks like a message id, and lists of them;
//! - [`key`]: what receipts must have in common to be merged.

mod ids;
mod key;
pub(crate) mod parse;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::ops::Range;
use std::sync::LazyLock;

use bytes::Bytes;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};

pub(crate) use ids::{IdHash, Ids};
pub(crate) use key::MergeKey;

use crate::body::{LOOK, RequestBody, UpstreamRequest};
use crate::http::request_head::RequestHead;
use crate::identity::{CredentialSource, Findings, Identity};

/// The longest target of a merged request, in bytes. Some clients fear 414 or
/// 502 beyond 7,000; common servers take 8 KiB (nginx' default).
const MAX_TARGET: usize = 8000;

/// Hashes keys and ids. Its secret is drawn at start, so that no client can
/// choose texts whose hashes coincide.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// One caller's read receipt.
pub(crate) struct Receipt {
    /// The request as it came, without hop-by-hop fields.
    head: RequestHead,
    body: Bytes,
    /// Where the list of ids stands; `None` for the whole-chat form.
    ids_at: Option<IdsAt>,
    /// How many ids the list has, repeated ones included.
    id_count: usize,
    /// Equal for receipts that may share an upstream call.
    pub(crate) key: MergeKey,
    /// Instance and credential.
    pub(crate) identity: Identity,
}

/// The carrier of a list of ids, and where the list stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
enum IdsAt {
    /// A range of the body.
    Body(Range<usize>),
    /// A range of the query.
    Query(Range<usize>),
}

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
    /// Understands a request, or returns its head untouched.
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
            id_count: fields.id_count,
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

    /// How many ids the list has, repeated ones included; 0 means the whole chat.
    pub(crate) fn id_count(&self) -> usize {
        self.id_count
    }

    /// The ids in the caller's order.
    ///
    /// They are read from the request each time, so a waiting receipt holds its
    /// request and no second copy of it (rule: bounds).
    pub(crate) fn ids(&self) -> Ids<'_> {
        Ids::of_json(match &self.ids_at {
            None => Cow::Borrowed(""),
            // The body was read as text before.
            Some(IdsAt::Body(range)) => {
                let text = std::str::from_utf8(&self.body[range.clone()]);
                Cow::Borrowed(text.unwrap_or_default())
            }
            Some(IdsAt::Query(range)) => {
                let query = self.head.uri.query().unwrap_or_default();
                crate::identity::decode(&query[range.clone()])
            }
        })
    }

    /// Bytes that the ids of a merged request may take in this request's form.
    /// Above that, the body would be too long for a receipt, or the target too
    /// long for servers.
    pub(crate) fn room(&self) -> usize {
        match &self.ids_at {
            None => usize::MAX,
            Some(IdsAt::Body(range)) => {
                LOOK.saturating_sub(self.body.len() - range.len() + "[]".len())
            }
            Some(IdsAt::Query(range)) => {
                let target = self.head.uri.path_and_query();
                let length = target.map_or(0, |target| target.as_str().len());
                MAX_TARGET.saturating_sub(length - range.len() + "%5B%5D".len())
            }
        }
    }

    /// How a merged request of this request's form writes ids.
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
    pub(crate) fn merged_request<'i>(&self, ids: impl Iterator<Item = &'i str>) -> UpstreamRequest {
        let Some(at) = &self.ids_at else {
            return self.own_request();
        };
        let list = ids::json_list(ids);
        let mut head = self.head.clone();
        let body = match at {
            IdsAt::Body(range) => {
                let body = splice(&self.body, range, list.as_bytes());
                // A body sent in chunks has no length to adjust.
                if head.headers.contains_key(http::header::CONTENT_LENGTH) {
                    let length = HeaderValue::from(body.len());
                    head.headers.insert(http::header::CONTENT_LENGTH, length);
                }
                Bytes::from(body)
            }
            IdsAt::Query(range) => {
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

impl fmt::Debug for Receipt {
    /// Without the request: its target, fields and body hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt")
            .field("id_count", &self.id_count)
            .finish_non_exhaustive()
    }
}

fn splice(text: &[u8], range: &Range<usize>, middle: &[u8]) -> Vec<u8> {
    let mut spliced = Vec::with_capacity(text.len() - range.len() + middle.len());
    spliced.extend_from_slice(&text[..range.start]);
    spliced.extend_from_slice(middle);
    spliced.extend_from_slice(&text[range.end..]);
    spliced
}
