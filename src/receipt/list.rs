//! The list of message ids among the fields of a receipt.
//!
//! Owns the forms in which clients write a list, and which of them may be extended
//! (rule: merge equality). Invariant: only a form that already is a list is extended;
//! a single value never becomes one.

use std::borrow::Cow;
use std::collections::HashSet;

use smallvec::SmallVec;

use super::NotMerged;
use super::fields::{Field, Place, Span, Value};
use super::list_form::{ID, IDS, ListForm, Site};
use super::message_id::{self, is_message_id};
use super::{json, pairs, parts};

/// A list of ids that was understood.
#[derive(Clone, Debug)]
pub(crate) struct List {
    pub(super) form: ListForm,
    pub(super) site: Site,
    /// Whether ids may be added.
    pub(super) is_extensible: bool,
    /// How many ids it has, repeated ones included.
    pub(super) count: usize,
    /// The values that hold the ids: one with all of them, or one for each.
    pub(super) values: SmallVec<[Span; 1]>,
    /// The last field of the list, behind which ids are added.
    pub(super) last: Span,
    /// Bytes that its fields take, each with its separator.
    pub(super) length: usize,
    /// Fields of the request that are not in the list.
    pub(super) other_fields: usize,
}

/// Takes the fields of the ids out of a request; `None` for a receipt without ids,
/// which is about the whole chat.
///
/// # Errors
/// They are not understood, or backends may read them in different ways.
pub(super) fn take(
    fields: &mut Vec<Field<'_>>,
    site: impl Fn(Place) -> Site,
    texts: [&[u8]; 2],
) -> Result<Option<List>, NotMerged> {
    let total = fields.len();
    // Most receipts have one such field.
    let mut found = SmallVec::<[_; 1]>::new();
    let mut error = None;
    fields.retain_mut(|field| {
        let form = match (&field.value, &*field.name) {
            (Value::Json(_), IDS) => Some(Ok((ListForm::Json, 0))),
            (Value::Json(_), ID) => Some(Ok((ListForm::OldSingle, 0))),
            // A JSON key is only itself, for every backend.
            (Value::Json(_), _) => return true,
            (_, name) if field.is_plainly_named() => ListForm::of_name(name),
            _ => None,
        };
        match form {
            Some(Ok((form, index))) => {
                found.push(IdsField::new(field, form, index));
                false
            }
            Some(Err(why)) => {
                error = Some(why);
                false
            }
            // ` messageIds`, which PHP reads as `messageIds`, or an element of `messageId`.
            None if [IDS, ID].contains(&field.base()) => {
                error = Some(NotMerged::AmbiguousKey);
                false
            }
            None => true,
        }
    });
    match (error, found.first()) {
        (Some(why), _) => Err(why),
        (None, None) => Ok(None),
        (None, Some(first)) => {
            let (site, text) = (site(first.place), texts[first.place as usize]);
            List::read(&found, site, text, total - found.len())
        }
    }
}

/// Why a receipt with this list is not merged if no other one comes that may share its
/// call.
pub(super) fn reason_if_alone(list: Option<&List>) -> NotMerged {
    match list {
        Some(list) if !list.is_extensible => NotMerged::ListForm,
        _ => NotMerged::Alone,
    }
}

/// A field with ids.
struct IdsField<'r> {
    place: Place,
    form: ListForm,
    index: usize,
    at: Span,
    value_at: Span,
    /// Of a part, the lines of its head that are neither its name nor its length.
    lines: Vec<&'r [u8]>,
    /// How many ids its value has; 0 for none.
    read: Result<(ListForm, usize), NotMerged>,
}

impl<'r> IdsField<'r> {
    fn new(field: &mut Field<'r>, form: ListForm, index: usize) -> Self {
        let lines = match &mut field.value {
            Value::Part(_, lines) => std::mem::take(lines),
            _ => Vec::new(),
        };
        let read = match &field.value {
            Value::None => Err(NotMerged::IdsShape),
            Value::Json(json) => read_json(json, form),
            _ => read_text(field.text(), form),
        };
        Self {
            place: field.place,
            form,
            index,
            at: field.at,
            value_at: field.value_at,
            lines,
            read,
        }
    }
}

/// Reads a JSON value; returns its form and how many ids it has.
fn read_json(json: &str, form: ListForm) -> Result<(ListForm, usize), NotMerged> {
    if form == ListForm::Json && json.starts_with('[') {
        return Ok((form, message_id::count(json)?));
    }
    let id = json::text(json).ok_or(NotMerged::IdsShape)?;
    let single = if form == ListForm::Json {
        ListForm::Single
    } else {
        form
    };
    match is_message_id(&id) && !id.contains(',') {
        true => Ok((single, 1)),
        false => Err(NotMerged::IdsShape),
    }
}

/// Reads the text of a field.
fn read_text(text: &[u8], form: ListForm) -> Result<(ListForm, usize), NotMerged> {
    let text = std::str::from_utf8(text).map_err(|_| NotMerged::UnknownEncoding)?;
    let is_list = form == ListForm::Single;
    if is_list && text.trim_ascii_start().starts_with('[') {
        return Ok((ListForm::JsonText, message_id::count(text)?));
    }
    if is_list && text.contains(',') {
        let all = text.split(',').all(is_message_id);
        let count = text.split(',').count();
        return all
            .then_some((ListForm::Commas, count))
            .ok_or(NotMerged::IdsShape);
    }
    // A backend that splits at commas must not find two ids in one.
    match is_message_id(text) && !text.contains(',') {
        true => Ok((form, 1)),
        false => Err(NotMerged::IdsShape),
    }
}

impl List {
    fn read(
        fields: &[IdsField<'_>],
        site: Site,
        text: &[u8],
        other_fields: usize,
    ) -> Result<Option<Self>, NotMerged> {
        let (place, name_form, lines) = (fields[0].place, fields[0].form, &fields[0].lines);
        let (mut form, mut count) = fields[0].read?;
        for (number, field) in fields.iter().enumerate() {
            // Ids in query and body, under two names, in two forms, or in parts of two types.
            if field.place != place || field.form != name_form || field.lines != *lines {
                return Err(NotMerged::AmbiguousKey);
            }
            if number > 0 {
                // Several values under one name: each must be one id.
                match field.read? {
                    // In JSON a repeated key is never a list.
                    (one, 1) if one == form && form.is_repeatable() && site != Site::JsonBody => {
                        count += 1;
                    }
                    _ => return Err(NotMerged::AmbiguousKey),
                }
            }
            let has_index = matches!(form, ListForm::Indices | ListForm::BracketsAndIndices);
            if has_index && field.index != number {
                return Err(NotMerged::IdsShape);
            }
        }
        if form == ListForm::Single && fields.len() > 1 {
            form = ListForm::Repeated;
        }
        // An empty list is the whole chat.
        if count == 0 {
            return Ok(None);
        }
        let last = &fields[fields.len() - 1];
        let mut list = Self {
            form,
            site,
            is_extensible: !matches!(form, ListForm::Single | ListForm::OldSingle),
            count,
            values: fields.iter().map(|field| field.value_at).collect(),
            last: last.at,
            length: fields.iter().map(|field| field.at.len() + 1).sum(),
            other_fields,
        };
        list.is_extensible &= list.can_be_written(text);
        Ok(Some(list))
    }

    /// Whether ids can be added in the spelling that the list has: its name in plain
    /// letters, no id twice where the list is not rewritten, no length stated for its
    /// value.
    fn can_be_written(&self, text: &[u8]) -> bool {
        if self.is_rewritten() {
            return self.site != Site::PartBody || !parts::has_length(&text[self.last.range()]);
        }
        let is_spelt = match (self.form, self.site) {
            (ListForm::Commas, Site::PartBody) => !parts::has_length(&text[self.last.range()]),
            (ListForm::Commas, _) | (_, Site::PartBody) => true,
            _ => {
                let name = self.name(text);
                name.starts_with(IDS) && self.form.next_name(name, self.count - 1).is_some()
            }
        };
        is_spelt && (self.count == 1 || self.has_distinct_ids(text))
    }

    /// Whether no id is in the list twice.
    fn has_distinct_ids(&self, text: &[u8]) -> bool {
        let all = self.values.iter().map(|at| self.decoded(&text[at.range()]));
        let all: Vec<_> = all.flatten().collect();
        // One value of a list with commas, otherwise one for each id.
        let ids = all.iter().flat_map(|ids| ids.split(|byte| *byte == b','));
        let distinct: HashSet<_> = ids.collect();
        distinct.len() == self.count
    }

    /// Whether a merged list is written anew, in the place of the first caller's.
    pub(super) fn is_rewritten(&self) -> bool {
        matches!(self.form, ListForm::Json | ListForm::JsonText)
    }

    /// The name of the last field, as it is spelt in a query or a form.
    fn name<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        let field = &text[self.last.range()];
        // Between name and value lies the `=`.
        &field[..field
            .len()
            .saturating_sub(self.values[self.values.len() - 1].len() + 1)]
    }

    /// A value of the list, decoded.
    pub(super) fn decoded<'t>(&self, value: &'t [u8]) -> Option<Cow<'t, [u8]>> {
        match self.site {
            Site::Query | Site::FormBody => pairs::decode(value).ok(),
            Site::JsonBody | Site::PartBody => Some(Cow::Borrowed(value)),
        }
    }

    /// Writes the fields of more ids, each behind the last.
    pub(super) fn write_more<'i>(
        &self,
        text: &[u8],
        more: impl Iterator<Item = &'i [u8]>,
        to: &mut Vec<u8>,
    ) {
        let last = &text[self.last.range()];
        if self.form == ListForm::Commas {
            let value = &text[self.values[0].range()];
            // The comma as the client spells it.
            let encoded = value
                .windows(3)
                .find(|text| text.eq_ignore_ascii_case(b"%2C"));
            let comma = match value.contains(&b',') {
                true => b",",
                false => encoded.unwrap_or(b","),
            };
            for id in more {
                to.extend_from_slice(comma);
                self.write_id(id, to);
            }
            return;
        }
        if self.site == Site::PartBody {
            let old = self.part_name(self.count - 1);
            for (number, id) in (self.count..).zip(more) {
                parts::write_like(last, &old, &self.part_name(number), id, to);
            }
            return;
        }
        let mut name = self.name(text).to_vec();
        for (number, id) in (self.count..).zip(more) {
            if let Some(next) = self.form.next_name(&name, number - 1) {
                name = next;
            }
            to.push(b'&');
            to.extend_from_slice(&name);
            to.push(b'=');
            self.write_id(id, to);
        }
    }

    /// The name of a part. Unlike in a query it has one spelling.
    fn part_name(&self, number: usize) -> Vec<u8> {
        let end = match self.form {
            ListForm::Brackets => "[]".to_owned(),
            ListForm::Indices => format!("[{number}]"),
            ListForm::BracketsAndIndices => format!("[][{number}]"),
            _ => String::new(),
        };
        [IDS, end.as_bytes()].concat()
    }

    fn write_id(&self, id: &[u8], to: &mut Vec<u8>) {
        match self.site {
            Site::Query | Site::FormBody => {
                message_id::encode(id).for_each(|piece| to.extend_from_slice(piece.as_bytes()));
            }
            Site::JsonBody | Site::PartBody => to.extend_from_slice(id),
        }
    }
}
