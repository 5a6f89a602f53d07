//! Understanding a request as a read receipt, or not at all.
//!
//! Owns the two spellings of design §3.2. serde_json says what a body means,
//! so the gateway and a JSON upstream cannot read it differently.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use http::HeaderName;
use http::request::Parts;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::IdsAt;
use super::ids::MessageId;
use crate::body::{LOOK, is_seal};
use crate::identity::{INSTANCE_FIELD, TOKEN_FIELD, pairs};

/// The field with the chat.
const CHAT_FIELD: &str = "chatId";
/// The field with the message ids.
const IDS_FIELD: &str = "messageIds";
/// The field with a group message's sender.
const PARTICIPANT_FIELD: &str = "participant";

/// The raw text of each field, by where it stands.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    /// Everything in the query but the ids, in alphabetical order of keys.
    pub(super) query: Vec<(&'static str, Range<usize>)>,
    /// `instance_id`, `access_token`, `chatId`, `participant` in the body.
    pub(super) body: [Option<Range<usize>>; 4],
    pub(super) ids_at: Option<IdsAt>,
    pub(super) ids: Vec<MessageId>,
}

/// The body spelling. serde refuses a key that comes twice.
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

/// A field that may be absent but, where present, is taken as it stands: a
/// plain `Option` would turn `null` into absence.
#[derive(Default)]
enum Present<T> {
    #[default]
    No,
    Yes(T),
}

impl Present<&RawValue> {
    /// Where the value stands, if it stands there; `None` if it is not of the
    /// expected kind.
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

/// Understands a request to one of `batch.paths` completely, or not at all.
pub(crate) fn understand(head: &Parts, body: &Bytes) -> Option<Fields> {
    if !may_be_receipt(head) || body.len() > LOOK {
        return None;
    }
    let mut fields = query_fields(head.uri.query().unwrap_or_default())?;
    let in_query = fields.query.iter().any(|(name, _)| *name == CHAT_FIELD);
    if in_query {
        let empty = body.is_empty() || body.trim_ascii() == b"{}";
        return empty.then_some(fields);
    }
    let credentials_only = fields.ids_at.is_none()
        && fields.ids.is_empty()
        && fields
            .query
            .iter()
            .all(|(name, _)| [INSTANCE_FIELD, TOKEN_FIELD].contains(name));
    if !credentials_only {
        return None;
    }
    body_fields(&mut fields, body)?;
    Some(fields)
}

/// Whether a request with this field is no receipt, or one that nobody can
/// share: it seals a body that merging would change, or asks for something that
/// its caller alone may have.
fn tells_otherwise(field: &HeaderName) -> bool {
    const TELLING: [&str; 11] = [
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
    TELLING.contains(&field) || is_seal(field)
}

/// Whether the head leaves it open that this is a receipt.
pub(crate) fn may_be_receipt(head: &Parts) -> bool {
    head.method == http::Method::POST && !head.headers.keys().any(tells_otherwise)
}

fn body_fields(fields: &mut Fields, body: &Bytes) -> Option<()> {
    // As text at once, or every field would be looked through again for being some.
    let text = std::str::from_utf8(body).ok()?;
    // serde would take a list for an object whose fields stand in their order.
    if !text.trim_ascii_start().starts_with('{') {
        return None;
    }
    let object: Object<'_> = serde_json::from_str(text).ok()?;
    let range = |raw: &RawValue| {
        let start = raw.get().as_ptr() as usize - body.as_ptr() as usize;
        start..start + raw.get().len()
    };
    // The raw text is checked for its grammar only; half a surrogate pair fits
    // it and yet is no text.
    let is_text = |raw: &RawValue| {
        let text = raw.get();
        text.starts_with('"')
            && (!text.contains('\\') || serde_json::from_str::<String>(text).is_ok())
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
        fields.ids = message_ids(raw.get())?;
        fields.ids_at = (!fields.ids.is_empty()).then(|| IdsAt::Body(range(raw)));
    }
    Some(())
}

/// Reads a query of our five fields and no others, none of them twice.
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
        .find(|name| **name == pair.key && pair.has_value)?;
        if name == IDS_FIELD {
            if std::mem::replace(&mut ids_seen, true) {
                return None;
            }
            fields.ids = message_ids(&pair.decoded())?;
            fields.ids_at = (!fields.ids.is_empty()).then_some(IdsAt::Query(pair.value_at));
        } else {
            if fields.query.iter().any(|(seen, _)| *seen == name) {
                return None;
            }
            fields.query.push((name, pair.value_at));
        }
    }
    // `messageIds=[]` beside a body would be the whole chat twice over.
    let ids_without_chat = ids_seen && !fields.query.iter().any(|(name, _)| *name == CHAT_FIELD);
    fields.query.sort_unstable_by_key(|(name, _)| *name);
    (!ids_without_chat).then_some(fields)
}

/// A JSON list of texts that all look like ids.
fn message_ids(json: &str) -> Option<Vec<MessageId>> {
    serde_json::from_str(json).ok()
}

impl Fields {
    /// The instance the body names.
    pub(super) fn body_instance<'b>(&self, body: &'b Bytes) -> Option<Cow<'b, str>> {
        self.body_text(0, body)
    }

    /// The token the body holds.
    pub(super) fn body_token<'b>(&self, body: &'b Bytes) -> Option<Cow<'b, str>> {
        self.body_text(1, body)
    }

    fn body_text<'b>(&self, field: usize, body: &'b Bytes) -> Option<Cow<'b, str>> {
        let raw = &body[self.body[field].clone()?];
        match raw {
            // Nothing is escaped: what stands between the quotes is the text.
            [b'"', text @ .., b'"'] if !text.contains(&b'\\') => {
                std::str::from_utf8(text).ok().map(Cow::Borrowed)
            }
            _ => serde_json::from_slice(raw).ok().map(Cow::Owned),
        }
    }
}
