//! A read receipt that was understood completely (rule: merge equality).
//!
//! Owns which receipts may merge and how a merged request is written.
//! Invariants: a request with a single unknown key is not a receipt; two receipts
//! with equal [`MergeKey`]s differ in nothing but their message ids; a merged
//! request is the first caller's, byte for byte, except for the ids.
//!
//! - [`parse`]: from a request to its fields;
//! - [`ids`]: what looks like a message id, and lists of them;
//! - [`key`]: what receipts must have in common to be merged;
//! - [`merged`]: how the merged request is written.

mod ids;
mod key;
mod merged;
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

pub(crate) use ids::{IdHash, Ids};
pub(crate) use key::MergeKey;

use crate::body::{RequestBody, UpstreamRequest};
use crate::http::request_head::RequestHead;
use crate::identity::{CredentialSource, Findings, Identity};

/// Hashes keys and ids. Its secret is random, so no client can construct texts
/// with equal hashes.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// One caller's read receipt.
pub(crate) struct Receipt {
    /// The request as received, without hop-by-hop fields.
    head: RequestHead,
    body: Bytes,
    /// The position of the list of ids; `None` for a whole-chat receipt.
    ids_at: Option<IdsAt>,
    /// How many ids the list has, repeated ones included.
    id_count: usize,
    /// Equal for receipts that may share an upstream call.
    pub(crate) key: MergeKey,
    /// Instance and credential.
    pub(crate) identity: Identity,
}

/// Where a request carries its list of ids.
#[derive(Clone, Debug, PartialEq, Eq)]
enum IdsAt {
    /// A range of the body.
    Body(Range<usize>),
    /// A range of the query.
    Query(Range<usize>),
}

impl Receipt {
    /// Reads a request as a receipt.
    ///
    /// # Errors
    /// It is not one. Its head is returned unchanged, to be forwarded.
    pub(crate) fn read(
        head: impl Into<RequestHead>,
        body: Bytes,
    ) -> Result<Self, Box<RequestHead>> {
        let head = head.into();
        let Some(fields) = parse::understand(&head, &body) else {
            return Err(Box::new(head));
        };
        // The same search as for every other request, so a receipt and a request of
        // one instance use the same bucket (rule: identity).
        let mut findings = Findings::of_head(&head);
        if let Some(name) = fields.body_instance(&body) {
            findings.add_instance(&name);
        }
        if let Some(token) = fields.body_token(&body) {
            findings.add_credential(CredentialSource::Body, token.as_bytes());
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
            // `parse` has checked that the body is UTF-8.
            Some(IdsAt::Body(range)) => {
                let text = std::str::from_utf8(&self.body[range.clone()]);
                Cow::Borrowed(text.unwrap_or_default())
            }
            Some(IdsAt::Query(range)) => {
                let query = self.head.uri.query().unwrap_or_default();
                // Copies the list, but only while the ids are read.
                crate::identity::decode(&query[range.clone()])
            }
        })
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
}

impl fmt::Debug for Receipt {
    /// Without the request: its target, fields and body hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt")
            .field("id_count", &self.id_count)
            .finish_non_exhaustive()
    }
}
