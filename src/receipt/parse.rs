//! Reads a request as a read receipt.
//!
//! Owns the two forms of a receipt: in a JSON body, and in the query. Invariant:
//! a request is understood completely or is no receipt. `serde_json` reads the
//! body, so the gateway and a JSON upstream cannot understand it differently.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use http::HeaderName;
use http::request::Parts;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::IdsAt;
use super::ids::IdCount;
use crate::body::{SCAN_LIMIT, is_body_digest};
use crate::http::has_byte;
use crate::http::raw_target::RawTarget;
use crate::identity::{INSTANCE_FIELD, TOKEN_FIELD, pairs};

/// The field with the chat.
const CHAT_FIELD: &str = "chatId";
/// The field with the message ids.
const IDS_FIELD: &str = "messageIds";
/// The field with a group message's sender.
const PARTICIPANT_FIELD: &str = "participant";

/// The positions of the raw values.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    /// Everything in the query except the ids, in alphabetical order of names.
    pub(super) query: Vec<(&'static str, Range<usize>)>,
    /// `instance_id`, `access_token`, `chatId`, `participant` in the body.
    pub(super) body: [Option<Range<usize>>; 4],
    /// The list of ids; `None` where it is absent or empty.
    pub(super) ids_at: Option<IdsAt>,
    pub(super) id_count: usize,
}

/// A receipt in the body. serde refuses repeated and unknown keys: backends differ
/// in which of two values they take.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Object<'a> {
    #[serde(borrow, default, rename = "instance_id")]
    instance: Present<&'a RawValue>,
    #[serde(borrow, default, rename = "access_token")]
    token: Present<&'a RawValue>,
    #[serde(borrow)]
    chat_id: &'a RawValue,
    #[serde(borrow, default)]
    message_ids: Present<&'a RawValue>,
    #[serde(borrow, default)]
    participant: Present<&'a RawValue>,
}

/// A field that may be absent. Unlike `Option`, it keeps `null` apart from an
/// absent field.
#[derive(Default)]
enum Present<T> {
    #[default]
    No,
    Yes(T),
}

impl Present<&RawValue> {
    /// The outer `None`: the value is not as expected. The inner one: the field is
    /// absent.
    fn range_if(
        &self,
        expected: impl Fn(&RawValue) -> bool,
        range: impl Fn(&RawValue) -> Range<usize>,
    ) -> Option<Option<Range<usize>>> {
        match self {
            Self::No => Some(None),
            Self::Yes(raw) => expected(raw).then(|| Some(range(raw))),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Present<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self::Yes)
    }
}

/// Reads a request to one of `batch.paths`; `None` unless all of it is understood.
pub(crate) fn understand(head: &Parts, body: &Bytes) -> Option<Fields> {
    if !may_be_receipt(head) || body.len() > SCAN_LIMIT {
        return None;
    }
    let mut fields = query_fields(head.uri.query().unwrap_or_default())?;
    let in_query = fields.query.iter().any(|(name, _)| *name == CHAT_FIELD);
    if in_query {
        // A body beside it could name another chat. `{}` is what some HTTP clients
        // send for no body.
        let empty = body.is_empty() || body.trim_ascii() == b"{}";
        return empty.then_some(fields);
    }
    // With the chat in the body, ids or a participant in the query would be a
    // mixture that backends may read in two ways.
    let mut query = fields.query.iter();
    let credentials_only = fields.ids_at.is_none()
        && query.all(|(name, _)| [INSTANCE_FIELD, TOKEN_FIELD].contains(name));
    if !credentials_only {
        return None;
    }
    body_fields(&mut fields, body)?;
    Some(fields)
}

/// Whether a request with this field cannot be merged: the field is a digest of
/// the body, which merging changes, or asks for a response meant for one caller.
fn prevents_merging(field: &HeaderName) -> bool {
    const FIELDS: [&str; 11] = [
        "content-encoding",
        "expect",
        "idempotency-key",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "range",
        "trailer",
        "upgrade",
    ];
    let field = field.as_str();
    FIELDS.contains(&field) || is_body_digest(field)
}

/// Whether a request with this head may be a receipt. A merged request could not
/// be written with the raw bytes of a target.
pub(crate) fn may_be_receipt(head: &Parts) -> bool {
    head.method == http::Method::POST
        && RawTarget::of(head).is_none()
        && !head.headers.keys().any(prevents_merging)
}

fn body_fields(fields: &mut Fields, body: &Bytes) -> Option<()> {
    // Checked for UTF-8 once: with bytes, serde would check each field again.
    let text = std::str::from_utf8(body).ok()?;
    // serde would also accept a JSON array of the values in the order of the struct.
    if !text.trim_ascii_start().starts_with('{') {
        return None;
    }
    let object: Object<'_> = serde_json::from_str(text).ok()?;
    // `RawValue` borrows from `text`, so the distance of the pointers is the position
    // in the body.
    let range = |raw: &RawValue| {
        let start = raw.get().as_ptr() as usize - body.as_ptr() as usize;
        start..start + raw.get().len()
    };
    // serde has checked only the grammar of raw values. Half a surrogate pair
    // (`"\ud800"`) passes the grammar, but backends read it in different ways.
    let is_text = |raw: &RawValue| {
        let text = raw.get();
        text.starts_with('"')
            && (!has_byte(text.as_bytes(), |byte| byte == b'\\')
                || serde_json::from_str::<String>(text).is_ok())
    };
    let may_be_null = |raw: &RawValue| raw.get() == "null" || is_text(raw);
    if !is_text(object.chat_id) {
        return None;
    }
    fields.body = [
        object.instance.range_if(is_text, range)?,
        object.token.range_if(is_text, range)?,
        Some(range(object.chat_id)),
        object.participant.range_if(may_be_null, range)?,
    ];
    if let Present::Yes(raw) = object.message_ids {
        fields.id_count = count_ids(raw.get())?;
        fields.ids_at = (fields.id_count > 0).then(|| IdsAt::Body(range(raw)));
    }
    Some(())
}

/// Reads a query that has only the five fields, each at most once.
fn query_fields(query: &str) -> Option<Fields> {
    let mut fields = Fields::default();
    let mut ids_seen = false;
    for pair in pairs(query).filter(|_| !query.is_empty()) {
        let name = *[
            INSTANCE_FIELD,
            TOKEN_FIELD,
            CHAT_FIELD,
            PARTICIPANT_FIELD,
            IDS_FIELD,
        ]
        .iter()
        // The raw key: an encoded name is not merged but forwarded unchanged.
        .find(|name| **name == pair.key && pair.has_value)?;
        if pair.is_encoded && !is_well_encoded(pair.value) {
            return None;
        }
        if name == IDS_FIELD {
            if std::mem::replace(&mut ids_seen, true) {
                return None;
            }
            fields.id_count = count_ids(&pair.decoded())?;
            fields.ids_at = (fields.id_count > 0).then_some(IdsAt::Query(pair.value_at));
        } else {
            if fields.query.iter().any(|(seen, _)| *seen == name) {
                return None;
            }
            fields.query.push((name, pair.value_at));
        }
    }
    // `messageIds=[]` with the chat in the body mixes the two forms.
    let ids_without_chat = ids_seen && !fields.query.iter().any(|(name, _)| *name == CHAT_FIELD);
    fields.query.sort_unstable_by_key(|(name, _)| *name);
    (!ids_without_chat).then_some(fields)
}

/// Whether each `%` begins an escape (RFC 3986 §2.1). Backends read a malformed one
/// in different ways, so a merged request could name another message.
fn is_well_encoded(value: &str) -> bool {
    let mut escapes = value.split('%').skip(1).map(str::as_bytes);
    escapes.all(|text| text.len() >= 2 && text[..2].iter().all(u8::is_ascii_hexdigit))
}

/// How many ids are in a JSON list of texts that all look like ids.
fn count_ids(json: &str) -> Option<usize> {
    let IdCount(count) = serde_json::from_str(json).ok()?;
    Some(count)
}

impl Fields {
    /// The instance that the body names.
    pub(super) fn body_instance<'b>(&self, body: &'b Bytes) -> Option<Cow<'b, str>> {
        self.body_text(0, body)
    }

    /// The access token that the body holds.
    pub(super) fn body_token<'b>(&self, body: &'b Bytes) -> Option<Cow<'b, str>> {
        self.body_text(1, body)
    }

    fn body_text<'b>(&self, field: usize, body: &'b Bytes) -> Option<Cow<'b, str>> {
        let raw = &body[self.body[field].clone()?];
        match raw {
            // Without escapes, the text lies between the quotes as it is.
            [b'"', text @ .., b'"'] if !has_byte(text, |byte| byte == b'\\') => {
                std::str::from_utf8(text).ok().map(Cow::Borrowed)
            }
            _ => serde_json::from_slice(raw).ok().map(Cow::Owned),
        }
    }
}
