//! A read receipt that was understood completely (rule: merge equality).
//!
//! Owns which receipts may merge and how a merged request is written.
//! Invariants: two receipts with equal [`MergeKey`]s differ in nothing but their
//! message ids; a merged request is the first caller's, byte for byte, except for the
//! ids; a request that is not understood is not merged, and has a reason.
//!
//! - [`fields`]: what every carrier yields: the flat sequence of a request's fields;
//!   [`pairs`], [`json`], [`parts`]: the carriers;
//! - [`message_id`]: what looks like a message id; [`list_form`]: the forms of a list of ids;
//!   [`list`]: the ids among the fields; [`ids`]: the ids of a list, one by one;
//! - [`media`]: what the type of a body says;
//! - [`parse`]: from a request to its parts, or to the reason why it is not merged;
//! - [`key`]: what receipts must have in common to be merged;
//! - [`merged`]: how the merged request is written;
//! - [`shown`]: a receipt as people see it.

mod fields;
mod ids;
mod json;
pub(crate) mod key;
mod list;
mod list_form;
mod media;
mod merged;
mod message_id;
mod pairs;
pub(crate) mod parse;
mod parts;
pub(crate) mod shown;

#[cfg(test)]
mod tests;

use std::fmt;

use bytes::Bytes;
use http::request::Parts;

pub(crate) use ids::{IdHash, Ids};
pub(crate) use key::MergeKey;
pub(crate) use merged::merge;
pub(crate) use message_id::is_message_id;

use crate::body::{RequestBody, UpstreamRequest};
use crate::config;
use crate::http::request_head::RequestHead;
use crate::identity::Identity;
pub(crate) use crate::observe::metrics::NotMerged;
use list::List;
use list_form::Site;
use parse::Parsed;

/// One caller's read receipt.
pub(crate) struct Receipt {
    /// The request as received, without hop-by-hop headers.
    head: RequestHead,
    body: Bytes,
    /// `None` for a whole-chat receipt.
    list: Option<List>,
    /// Equal for receipts that may share an upstream call.
    pub(crate) key: MergeKey,
    /// Instance and credential.
    pub(crate) identity: Identity,
}

impl Receipt {
    /// Reads a request as a receipt, and takes its head, which is not
    /// [`excluded_by_head`](parse::excluded_by_head). It is boxed, because it is large and
    /// moved often.
    ///
    /// # Errors
    /// The reason why it is not one. Its head stays as it is, to be forwarded.
    pub(crate) fn read(
        settings: &config::Batch,
        head: &mut RequestHead,
        body: Bytes,
    ) -> Result<Box<Self>, NotMerged> {
        let parsed = parse::parse(settings, head, &body)?;
        let key = MergeKey::new(|writer| parsed.key_parts(writer));
        let Parsed { list, identity, .. } = parsed;
        Ok(Box::new(Self {
            head: std::mem::take(head),
            body,
            list,
            key,
            identity,
        }))
    }

    /// The method, target and headers of the request.
    pub(crate) fn head(&self) -> &Parts {
        &self.head
    }

    /// How many ids the list has, repeated ones included; 0 means the whole chat.
    pub(crate) fn id_count(&self) -> usize {
        self.list.as_ref().map_or(0, |list| list.count)
    }

    /// Why this receipt is not merged if no other one comes that may share its call.
    pub(crate) fn reason_if_alone(&self) -> NotMerged {
        list::reason_if_alone(self.list.as_ref())
    }

    /// The ids in the caller's order.
    ///
    /// They are read from the request each time, so a waiting receipt holds its
    /// request and no second copy of it (rule: bounds).
    pub(crate) fn ids(&self) -> Ids<'_> {
        let list = self.list.as_ref();
        list.map_or_else(Ids::default, |list| Ids::of(list, self.text()))
    }

    /// The text that the list is in.
    fn text(&self) -> &[u8] {
        match self.list.as_ref().map(|list| list.site) {
            Some(Site::Query) => self.head.uri.query().unwrap_or_default().as_bytes(),
            _ => &self.body,
        }
    }

    /// A copy of the caller's own request, unchanged.
    pub(crate) fn own_request(&self) -> UpstreamRequest {
        UpstreamRequest {
            head: Box::new(self.head.clone()),
            body: RequestBody::whole(self.body.clone()),
        }
    }
}

impl fmt::Debug for Receipt {
    /// Without the request: its target, fields and body hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt")
            .field("id_count", &self.id_count())
            .finish_non_exhaustive()
    }
}
