//! A receipt as people see it: the parts of its key in words, its body with masks.
//!
//! Invariant: a receipt is read by the parser that reads it for merging.

use bytes::Bytes;
use http::request::Parts;

use super::Receipt;
use super::fields::{Carrier, Place, Value};
use super::key::{KeyPart, KeySink};
use super::list_form::{ListForm, Site};

use super::parse::{excluded_by_head, parse};
use crate::config;

const CARRIERS: [(Carrier, &str); 4] = [
    (Carrier::None, "none"),
    (Carrier::Json, "JSON"),
    (Carrier::Form, "urlencoded form"),
    (Carrier::Multipart, "multipart form"),
];

const FORMS: [(ListForm, &str); 9] = [
    (ListForm::Json, "\"messageIds\": [\"…\"]"),
    (ListForm::JsonText, "messageIds=[\"…\"]"),
    (ListForm::Commas, "messageIds=…,…"),
    (ListForm::Repeated, "messageIds=…&messageIds=…"),
    (ListForm::Brackets, "messageIds[]=…"),
    (ListForm::Indices, "messageIds[0]=…"),
    (ListForm::BracketsAndIndices, "messageIds[][0]=…"),
    (ListForm::Single, "messageIds=…"),
    (ListForm::OldSingle, "messageId=…"),
];

const SITES: [(Site, &str); 4] = [
    (Site::Query, "in the query"),
    (Site::JsonBody, "in the body"),
    (Site::FormBody, "in the body"),
    (Site::PartBody, "in the body"),
];

impl Receipt {
    /// Lists the parts of its merge key.
    pub(crate) fn list_key(&self, settings: &config::Batch, sink: &mut impl KeySink) {
        // It was understood before, so it is now.
        if let Ok(parsed) = parse(settings, &self.head, &self.body) {
            parsed.key_parts(sink);
        }
    }
}

/// A value of the key that is no text of the request, in words.
pub(crate) fn in_words(part: KeyPart<'_>, value: &[u8]) -> Option<String> {
    fn find<T: Copy>(
        names: &[(T, &'static str)],
        number: u8,
        of: impl Fn(T) -> u8,
    ) -> Option<&'static str> {
        let mut names = names.iter();
        names.find_map(|(it, name)| (of(*it) == number).then_some(*name))
    }
    match (part, value) {
        (KeyPart::Carrier, [carrier]) => {
            find(&CARRIERS, *carrier, |carrier| carrier as u8).map(str::to_owned)
        }
        (KeyPart::IdsForm, [form, site, is_extensible]) => {
            let form = find(&FORMS, *form, |form| form as u8)?;
            let site = find(&SITES, *site, |site| site as u8)?;
            let end = match is_extensible {
                0 => " (never extended)",
                _ => "",
            };
            Some(format!("{form} {site}{end}"))
        }
        _ => None,
    }
}

/// The body of a receipt with a mask in place of each value whose name is not shown;
/// `None` if the request is no receipt that could merge.
pub(crate) fn masked_body(
    settings: &config::Batch,
    head: &Parts,
    body: &Bytes,
    is_shown: impl Fn(&[u8]) -> bool,
    mask: &str,
) -> Option<Vec<u8>> {
    if excluded_by_head(head).is_some() {
        return None;
    }
    let parsed = parse(settings, head, body).ok()?;
    let mut hidden: Vec<_> = parsed
        .fields
        .iter()
        .filter(|field| field.place == Place::Body && !is_shown(field.base()))
        .collect();
    hidden.sort_by_key(|field| field.value_at.range().start);
    let (mut masked, mut end) = (Vec::with_capacity(body.len()), 0);
    for field in hidden {
        let quote = match &field.value {
            Value::None => continue,
            Value::Json(_) => "\"",
            Value::Text(_) | Value::Part(..) => "",
        };
        let at = field.value_at.range();
        masked.extend_from_slice(&body[end..at.start]);
        masked.extend_from_slice(format!("{quote}{mask}{quote}").as_bytes());
        end = at.end;
    }
    masked.extend_from_slice(&body[end..]);
    Some(masked)
}
