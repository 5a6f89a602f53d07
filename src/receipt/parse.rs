//! Reads a request as a read receipt.
//!
//! Owns what must be equal in two receipts that merge, and in what a request may not
//! be one. Invariant: a request is understood completely or is not merged, with a
//! reason.

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CONTENT_TYPE, COOKIE, ORIGIN,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method};
use smallvec::SmallVec;

use super::fields::{self, Carrier, Field, Place, Value};
use super::ids::Ids;
use super::key::{KeyPart, KeySink};
use super::list::{self, List};
use super::list_form::Site;
use super::media::{Media, comparable_type};
use super::{NotMerged, json, pairs, parts};
use crate::body::{SCAN_LIMIT, is_body_digest};
use crate::config;
use crate::http::hop_by_hop::expects_continue;
use crate::http::method::is_overridden;
use crate::http::raw_target::RawTarget;
use crate::identity::names::{FieldName, is_header};
use crate::identity::{
    Certainty, CredentialSource, Findings, INSTANCE_HEADER, Identity, TOKEN_HEADER,
};

/// The field with the chat.
const CHAT_FIELD: &[u8] = b"chatId";

/// End-to-end fields that can change the response, in the order of the key.
pub(crate) static HEADERS: [HeaderName; 7] = [
    AUTHORIZATION,
    COOKIE,
    ACCEPT,
    ACCEPT_LANGUAGE,
    ACCEPT_ENCODING,
    CONTENT_TYPE,
    ORIGIN,
];

/// The vendor's own fields.
pub(crate) const VENDOR_PREFIX: &str = "x-wawp-";

/// A request that was understood as a receipt, without a copy of it.
pub(crate) struct Parsed<'r> {
    head: &'r Parts,
    settings: &'r config::Batch,
    carrier: Carrier,
    /// Everything except the ids, in the order of the key.
    pub(super) fields: Vec<Field<'r>>,
    /// The query and the body, which the fields are in.
    texts: [&'r [u8]; 2],
    /// `None` for a receipt about the whole chat.
    pub(super) list: Option<List>,
    pub(crate) identity: Identity,
}

/// Reads a request to one of `batch.paths`, whose head is not [`excluded_by_head`].
///
/// # Errors
/// The reason for which it is not merged.
pub(crate) fn parse<'r>(
    settings: &'r config::Batch,
    head: &'r Parts,
    body: &'r Bytes,
) -> Result<Parsed<'r>, NotMerged> {
    debug_assert_eq!(
        excluded_by_head(head),
        None,
        "checked before the body is read"
    );
    if body.len() > SCAN_LIMIT {
        return Err(NotMerged::TooLarge);
    }
    let query = head.uri.query().unwrap_or_default().as_bytes();
    // Most receipts have four.
    let mut fields = Vec::with_capacity(4);
    pairs::scan(Place::Query, query, &mut fields)?;
    let carrier = scan_body(&head.headers, body, &mut fields)?;
    // The same rules as for every other request, so a receipt and a request of one
    // instance use the same bucket (rule: identity).
    let identity = identity(head, &fields);
    if identity.certainty == Certainty::Ambiguous {
        return Err(NotMerged::AmbiguousInstance);
    }
    let texts = [query, &**body];
    let site = |place| match (place, carrier) {
        (Place::Query, _) => Site::Query,
        (Place::Body, Carrier::Form) => Site::FormBody,
        (Place::Body, Carrier::Multipart) => Site::PartBody,
        (Place::Body, _) => Site::JsonBody,
    };
    let list = list::take(&mut fields, site, texts)?;
    fields::sort(&mut fields)?;
    if !fields.iter().any(names_a_chat) {
        return Err(NotMerged::NoChat);
    }
    Ok(Parsed {
        head,
        settings,
        carrier,
        fields,
        texts,
        list,
        identity,
    })
}

/// Why a request with this head cannot be a receipt that merges, whatever its body is.
pub(crate) fn excluded_by_head(head: &Parts) -> Option<NotMerged> {
    // A header that overrides the method is no part of the key.
    if head.method != Method::POST || is_overridden(head) {
        return Some(NotMerged::Method);
    }
    // A merged request could not be written with the raw bytes of a target.
    if RawTarget::of(head).is_some() {
        return Some(NotMerged::RawTarget);
    }
    let mut reasons = head.headers.keys().filter_map(prevents_merging);
    reasons.find(|reason| {
        // The gateway itself asks for the body of a receipt.
        *reason != NotMerged::Protocol
            || !expects_continue(&head.headers)
            || has_other_protocol(&head.headers)
    })
}

/// Why a request with this field cannot be merged: the field is a digest of
/// the body, which merging changes, or asks for a response meant for one caller.
fn prevents_merging(field: &HeaderName) -> Option<NotMerged> {
    match field.as_str() {
        "content-encoding" => Some(NotMerged::UnknownEncoding),
        "idempotency-key" => Some(NotMerged::Idempotent),
        "if-match"
        | "if-modified-since"
        | "if-none-match"
        | "if-range"
        | "if-unmodified-since"
        | "range" => Some(NotMerged::Conditional),
        "expect" | "trailer" | "upgrade" => Some(NotMerged::Protocol),
        other => is_body_digest(other).then_some(NotMerged::Digest),
    }
}

fn has_other_protocol(headers: &HeaderMap) -> bool {
    ["trailer", "upgrade"]
        .iter()
        .any(|name| headers.contains_key(*name))
        || headers.get_all("expect").iter().count() > 1
}

/// Adds the fields of a body, if it is what its type says.
fn scan_body<'r>(
    headers: &HeaderMap,
    body: &'r [u8],
    fields: &mut Vec<Field<'r>>,
) -> Result<Carrier, NotMerged> {
    let mut types = headers.iter().filter(|(name, _)| *name == CONTENT_TYPE);
    let content_type = types.next().map(|(_, value)| value);
    // Of two types a backend may use either.
    if types.next().is_some() {
        return Err(NotMerged::ContentType);
    }
    if body.is_empty() {
        return Ok(Carrier::None);
    }
    let looks_like_json = matches!(body.trim_ascii_start().first(), Some(b'{' | b'['));
    match Media::of(content_type)? {
        // As most clients write it, and clients that send JSON as text.
        Media::Json | Media::Text if body.trim_ascii_start().starts_with(b"{") => {
            json::scan(body, fields)?;
            Ok(Carrier::Json)
        }
        Media::Json => Err(NotMerged::Malformed),
        // JSON that is declared a form: backends differ in which of the two they read.
        Media::Form if !looks_like_json => {
            pairs::scan(Place::Body, body, fields)?;
            Ok(Carrier::Form)
        }
        Media::Multipart => {
            let boundary = parts::boundary(headers).ok_or(NotMerged::Malformed)?;
            parts::scan(&boundary, body, fields)?;
            Ok(Carrier::Multipart)
        }
        Media::Form | Media::Text | Media::Other => Err(NotMerged::ContentType),
    }
}

fn identity(head: &Parts, fields: &[Field<'_>]) -> Identity {
    let mut findings = Findings::default();
    // In any order: of two different instances none counts, because such a request is
    // no receipt.
    findings.add_headers(&head.headers);
    for field in fields {
        match (&field.value, field.place) {
            (Value::Json(text), _) => json_identity(&field.name, text, &mut findings),
            (_, Place::Query) => {
                findings.add_named(CredentialSource::Query, &field.name, field.text());
            }
            (_, Place::Body) => {
                findings.add_named(CredentialSource::Body, &field.name, field.text());
            }
        }
    }
    findings.identity()
}

/// Adds what a member of a JSON object says about the identity.
fn json_identity(name: &[u8], value: &str, findings: &mut Findings) {
    let Some(name) = FieldName::of_json(name) else {
        return;
    };
    let text = match value.as_bytes()[0] {
        b'"' => json::text(value),
        b'0'..=b'9' | b'-' => Some(value.into()),
        // `null`, `true` and `false` name nothing.
        b'n' | b't' | b'f' => return,
        // Some languages convert a list with one string into that string.
        _ => None,
    };
    match (text, name) {
        (None, _) => findings.set_ambiguous(),
        (Some(text), FieldName::Instance) => findings.add_instance(&text),
        (Some(text), FieldName::Token) => {
            findings.add_credential(CredentialSource::Body, text.as_bytes());
        }
    }
}

/// Whether a field is the chat. In JSON only a text is one.
fn names_a_chat(field: &Field<'_>) -> bool {
    let is_text = match &field.value {
        Value::Json(json) => json.starts_with('"'),
        _ => true,
    };
    is_text && field.base() == CHAT_FIELD
}

impl Parsed<'_> {
    /// How many ids there are, repeated ones included; 0 means the whole chat.
    pub(crate) fn id_count(&self) -> usize {
        self.list.as_ref().map_or(0, |list| list.count)
    }

    /// Why this receipt is not merged if no other one comes that may share its call.
    pub(crate) fn reason_if_alone(&self) -> NotMerged {
        list::reason_if_alone(self.list.as_ref())
    }

    /// Lists the parts of the merge key, in a fixed order.
    pub(crate) fn key_parts(&self, sink: &mut impl KeySink) {
        sink.part(KeyPart::Path);
        // As received, not normalised: the merged request has one caller's path.
        sink.value(Some(self.head.uri.path().as_bytes()));
        sink.part(KeyPart::Carrier);
        sink.value(Some(&[self.carrier as u8]));
        // A whole-chat receipt never merges with a list: neither includes the other.
        sink.part(KeyPart::IdsForm);
        if let Some(list) = &self.list {
            sink.value(Some(&[
                list.form as u8,
                list.site as u8,
                u8::from(list.is_extensible),
            ]));
            let text = self.texts[usize::from(list.site != Site::Query)];
            if list.site == Site::PartBody {
                // The same in all of its parts, and in those that are added.
                let lines = parts::other_lines(&text[list.last.range()]);
                lines.for_each(|line| sink.value(Some(line)));
            }
            if !list.is_extensible {
                sink.part(KeyPart::Ids);
                Ids::of(list, text)
                    .iter()
                    .for_each(|id| sink.value(Some(&id)));
            }
        }
        self.field_parts(sink);
        self.header_parts(sink);
    }

    fn field_parts(&self, sink: &mut impl KeySink) {
        let mut last = None;
        for field in &self.fields {
            let base = field.base();
            if self.ignores_field(base) {
                continue;
            }
            if last != Some((field.place, base)) {
                last = Some((field.place, base));
                sink.part(match field.place {
                    Place::Query => KeyPart::Query(base),
                    Place::Body => KeyPart::Body(base),
                });
            }
            // The name itself where it says more than the name of the variable.
            if field.is_element() || !field.is_plainly_named() {
                sink.value(Some(&field.name));
            }
            match &field.value {
                Value::None => sink.value(None),
                Value::Text(text) => sink.value(Some(text)),
                Value::Json(text) => sink.value(Some(json::canonical(text).as_bytes())),
                Value::Part(text, others) => {
                    sink.value(Some(text));
                    others.iter().for_each(|line| sink.value(Some(line)));
                }
            }
        }
    }

    fn header_parts(&self, sink: &mut impl KeySink) {
        // One pass over the fields instead of one search for each name.
        let mut found = SmallVec::<[_; HEADERS.len()]>::new();
        for (name, value) in &self.head.headers {
            let rank = HEADERS.iter().position(|field| field == name);
            let rank = rank.or_else(|| is_vendors(name.as_str()).then_some(HEADERS.len()));
            if let Some(rank) = rank
                && !self.ignores_header(name)
            {
                found.push((rank, name.as_str(), value));
            }
        }
        // A stable sort: the order of one name's values matters.
        found.sort_by_key(|(rank, name, _)| (*rank, *name));
        let mut last = "";
        for (_, name, value) in found {
            if name != last {
                last = name;
                sink.part(KeyPart::Header(name));
            }
            match name == CONTENT_TYPE.as_str() {
                true => sink.value(Some(comparable_type(value))),
                false => sink.value(Some(value.as_bytes())),
            }
        }
    }

    fn ignores_field(&self, name: &[u8]) -> bool {
        let mut ignored = self.settings.ignore_fields.iter();
        ignored.any(|ignored| ignored.as_bytes() == name)
    }

    fn ignores_header(&self, name: &HeaderName) -> bool {
        let mut ignored = self.settings.ignore_headers.iter();
        ignored.any(|ignored| name.as_str() == ignored)
    }
}

/// Whether a header holds credential or instance in a spelling that a backend may
/// accept, or is one of the vendor's own.
fn is_vendors(name: &str) -> bool {
    let prefix = name.get(..VENDOR_PREFIX.len());
    is_header(name, TOKEN_HEADER)
        || is_header(name, INSTANCE_HEADER)
        || prefix.is_some_and(|prefix| is_header(prefix, VENDOR_PREFIX))
}
