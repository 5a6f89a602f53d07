//! A read receipt that was understood completely (design §3.2).
//!
//! Owns what may be merged, with what, and how a merged request is written.
//! Invariants: what is not understood to the last key is not a receipt; two
//! receipts with one [`MergeKey`] differ in nothing but their message ids; a
//! merged request is the first caller's, byte for byte, but for the ids.

mod ids;
mod key;
mod parse;

use std::ops::Range;

use bytes::Bytes;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Uri};

pub(crate) use ids::MessageId;
pub(crate) use key::MergeKey;

use crate::body::{LOOK, RequestBody};
use crate::identity::{Identity, Place};

/// The longest target of a merged request. One client goes to 7,000 bytes and
/// has met 414 and 502 beyond (wawp-api §3).
const MAX_TARGET: usize = 7000;

/// One caller's read receipt.
#[derive(Debug)]
pub(crate) struct Receipt {
    /// The request as it came, hop-by-hop fields apart.
    head: Parts,
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

impl Receipt {
    /// Understands a request, or gives its parts back untouched.
    pub(crate) fn read(head: Parts, body: Bytes) -> Result<Self, Box<Parts>> {
        let Some(fields) = parse::understand(&head, &body) else {
            return Err(Box::new(head));
        };
        let mut findings = crate::identity::Findings::of_head(&head);
        if let Some(name) = fields.body_instance(&body) {
            findings.instance(Some(&name));
        }
        if let Some(token) = fields.body_token(&body) {
            findings.credential(Place::Body, token.as_bytes());
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

    /// Bytes that a list of ids may take in a merged request which this caller
    /// leads: the body stays within [`LOOK`], the target within [`MAX_TARGET`].
    pub(crate) fn room(&self) -> usize {
        let (most, whole, ids) = match &self.ids_at {
            None => return usize::MAX,
            Some(IdsAt::Body(range)) => (LOOK, self.body.len(), range.len()),
            Some(IdsAt::Query(range)) => {
                let target = self.head.uri.path_and_query();
                let whole = target.map_or(0, |target| target.as_str().len());
                (MAX_TARGET, whole, range.len())
            }
        };
        most.saturating_sub(whole - ids)
    }

    /// Bytes that one id takes in such a list, with its quotes, its comma and
    /// its share of the brackets: a bound, not a measure.
    pub(crate) fn length_of(&self, id: &MessageId) -> usize {
        match self.ids_at {
            Some(IdsAt::Query(_)) => ids::encode(id.as_str()).len() + "%22%22%2C%5B%5D".len(),
            _ => id.as_str().len() + "\"\",[]".len(),
        }
    }

    /// The caller's own request, unchanged.
    pub(crate) fn own_request(&self) -> Request<RequestBody> {
        Request::from_parts(self.head.clone(), RequestBody::whole(self.body.clone()))
    }

    /// The caller's request with these ids in place of its own.
    pub(crate) fn merged_request<'i>(
        &self,
        ids: impl Iterator<Item = &'i MessageId>,
    ) -> Request<RequestBody> {
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
        Request::from_parts(head, RequestBody::whole(body))
    }
}

fn splice(text: &[u8], range: &Range<usize>, middle: &[u8]) -> Vec<u8> {
    let mut spliced = Vec::with_capacity(text.len() + middle.len());
    spliced.extend_from_slice(&text[..range.start]);
    spliced.extend_from_slice(middle);
    spliced.extend_from_slice(&text[range.end..]);
    spliced
}
