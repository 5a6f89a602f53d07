//! How a merged request is written.
//!
//! Invariant: it is the first caller's request, byte for byte, except for the
//! list of ids and the content length.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};

use super::fields::MAX_FIELDS;
use super::list::List;
use super::list_form::{ListForm, Site};
use super::{IdHash, Receipt, message_id};
use crate::body::{RequestBody, SCAN_LIMIT, UpstreamRequest};
use crate::sharded::hash_of;

/// The longest target of a merged request, in bytes. Common servers accept 8 KiB
/// (nginx' default) for the whole request line.
pub(super) const MAX_TARGET: usize = 8000;

impl Receipt {
    /// Bytes that an id takes at most in a merged request made from this one, with
    /// what separates it from others.
    pub(crate) fn id_cost(&self, id: impl AsRef<[u8]>) -> usize {
        let list = self.list.as_ref();
        list.map_or(0, |list| list.form.cost(list.site, id.as_ref()))
    }

    /// Calls `each` with each id, and with the bytes that it takes in a merged request.
    pub(crate) fn each_id(&self, mut each: impl FnMut(IdHash, usize)) {
        // The costs are in the form of this receipt. All receipts of a batch have the
        // same form, because it is part of the key.
        for (id, hash) in self.ids().hashed() {
            each(hash, self.id_cost(&id));
        }
    }

    /// Bytes that ids may take in a request made from this one. With more, the body
    /// would be too long for a receipt, the target too long for servers, or there
    /// would be more fields than backends read.
    pub(crate) fn max_id_bytes(&self) -> usize {
        let Some(list) = &self.list else {
            return usize::MAX;
        };
        let (most, length) = match list.site {
            Site::Query => {
                let target = self.head.uri.path_and_query();
                (MAX_TARGET, target.map_or(0, |target| target.as_str().len()))
            }
            // A merged body is never longer than a caller's own may be, so the API
            // gets no size that it would not get without the gateway.
            _ => (SCAN_LIMIT, self.body.len()),
        };
        let own = match list.is_rewritten() {
            true => list.rewritten_length(),
            false => list.kept_length(self.text()),
        };
        let rest = (most + own).saturating_sub(length);
        let fields = MAX_FIELDS.saturating_sub(list.other_fields);
        let least = list.form.least_cost(list.site, fields);
        least.map_or(rest, |least| rest.min(least))
    }

    /// The caller's request with these ids instead of its own. Its own must be the
    /// first of them.
    pub(crate) fn merged_request<'i>(
        &self,
        ids: impl Iterator<Item = &'i [u8]>,
    ) -> UpstreamRequest {
        let Some(list) = self.list.as_ref().filter(|list| list.is_extensible) else {
            // Receipts of one key are the same request.
            return self.own_request();
        };
        let mut head = Box::new(self.head.clone());
        let body = match list.site {
            Site::Query => {
                // Rebuilt from bytes, not from parsed pairs: the other fields must keep
                // their encoding (rule: transparency).
                let query = head.uri.query().unwrap_or_default();
                let query = list.with_ids(query.as_bytes(), ids);
                let mut target = head.uri.path().as_bytes().to_vec();
                target.push(b'?');
                target.extend_from_slice(&query);
                let target = PathAndQuery::from_maybe_shared(Bytes::from(target))
                    .expect("a target stays one when percent-encoded text is put in");
                head.uri = Uri::from(target);
                self.body.clone()
            }
            _ => {
                let body = list.with_ids(&self.body, ids);
                // A chunked body has no length field; the connection frames it.
                if head.headers.contains_key(http::header::CONTENT_LENGTH) {
                    let length = HeaderValue::from(body.len());
                    head.headers.insert(http::header::CONTENT_LENGTH, length);
                }
                Bytes::from(body)
            }
        };
        UpstreamRequest {
            head,
            body: RequestBody::whole(body),
        }
    }
}

impl List {
    /// Bytes of a list that stays as it is, without escapes that no id needs: what its ids cost is
    /// counted with the others, however long the caller has spelt them.
    fn kept_length(&self, text: &[u8]) -> usize {
        let length = match self.form {
            ListForm::Commas => self.values[0].len(),
            _ => self.length,
        };
        if self.site == Site::PartBody {
            return length;
        }
        let values = self.values.iter().map(|value| &text[value.range()]);
        length - values.map(message_id::needless).sum::<usize>()
    }

    /// Bytes of a list that is written anew, without its brackets as they are written.
    fn rewritten_length(&self) -> usize {
        let list = self.values[0].len();
        match self.site {
            Site::JsonBody | Site::PartBody => list - "[]".len(),
            Site::Query | Site::FormBody => list - "%5B%5D".len(),
        }
    }

    /// The query or body with these ids instead of those of the list.
    fn with_ids<'i>(&self, text: &[u8], ids: impl Iterator<Item = &'i [u8]>) -> Vec<u8> {
        if self.is_rewritten() {
            let list = message_id::json_list(ids);
            let list = match self.site {
                Site::Query | Site::FormBody => message_id::encode(&list).to_string().into_bytes(),
                Site::JsonBody | Site::PartBody => list,
            };
            return replace(text, &self.values[0].range(), &list);
        }
        // The caller's own list stays as it is, also where other fields lie within.
        let end = match self.form {
            ListForm::Commas => self.values[0].range().end,
            _ => self.last.range().end,
        };
        let mut more = Vec::new();
        self.write_more(text, ids.skip(self.count), &mut more);
        replace(text, &(end..end), &more)
    }
}

/// The one request for these receipts of one key, with the union of their ids and of `more` in
/// the order in which they were first seen, and how many distinct ids it has.
///
/// # Panics
/// There are no receipts.
pub(crate) fn merge<'r>(
    receipts: impl ExactSizeIterator<Item = &'r Receipt> + Clone,
    more: &[&'r [u8]],
) -> (UpstreamRequest, usize) {
    let first = receipts.clone().next().expect("a call has callers");
    let is_own = receipts.len() == 1 && more.is_empty();
    // The usual case needs no set: one id cannot be repeated.
    if is_own && first.id_count() < 2 {
        return (first.own_request(), first.id_count());
    }
    let lists: Vec<_> = receipts.map(Receipt::ids).collect();
    // First-seen order (rule: merge equality). A list of one caller may repeat ids:
    // it is sent as it is, and only counted here.
    let mut union = Union::with_capacity(lists.len());
    for (id, hash) in lists.iter().flat_map(|ids| ids.hashed()) {
        union.add(id, hash);
    }
    for id in more {
        union.add(Cow::Borrowed(*id), hash_of(id));
    }
    let request = match is_own {
        true => first.own_request(),
        false => first.merged_request(union.ids.iter().map(|id| &**id)),
    };
    (request, union.ids.len())
}

/// Distinct ids, in the order in which they were first seen.
struct Union<'i> {
    ids: Vec<Cow<'i, [u8]>>,
    /// The index of each id.
    indices: HashTable<usize>,
}

impl<'i> Union<'i> {
    fn with_capacity(capacity: usize) -> Self {
        Self {
            ids: Vec::with_capacity(capacity),
            indices: HashTable::with_capacity(capacity),
        }
    }

    fn add(&mut self, id: Cow<'i, [u8]>, hash: IdHash) {
        let ids = &self.ids;
        let is_equal = |index: &usize| ids[*index] == id;
        let entry = self
            .indices
            .entry(hash, is_equal, |index| hash_of(&ids[*index]));
        if let Entry::Vacant(entry) = entry {
            entry.insert(self.ids.len());
            self.ids.push(id);
        }
    }
}

fn replace(text: &[u8], range: &Range<usize>, middle: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(text.len() - range.len() + middle.len());
    replaced.extend_from_slice(&text[..range.start]);
    replaced.extend_from_slice(middle);
    replaced.extend_from_slice(&text[range.end..]);
    replaced
}
