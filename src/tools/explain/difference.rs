//! The parts of merge keys, and in which of them two receipts differ.
//!
//! Invariant: the serving code lists the parts; two keys are equal if all parts are.

use crate::config;
use crate::receipt::Receipt;
use crate::receipt::key::{KeyPart, KeySink};

/// A part of a key with a copy of its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    kind: Kind,
    name: Vec<u8>,
    /// `None` for a key without a value.
    pub(super) values: Vec<Option<Vec<u8>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Path,
    Carrier,
    IdsForm,
    Ids,
    Query,
    Body,
    Header,
}

impl Part {
    /// What the part is.
    pub(super) fn part(&self) -> KeyPart<'_> {
        match self.kind {
            Kind::Path => KeyPart::Path,
            Kind::Carrier => KeyPart::Carrier,
            Kind::IdsForm => KeyPart::IdsForm,
            Kind::Ids => KeyPart::Ids,
            Kind::Query => KeyPart::Query(&self.name),
            Kind::Body => KeyPart::Body(&self.name),
            // The names of headers are ASCII.
            Kind::Header => KeyPart::Header(std::str::from_utf8(&self.name).unwrap_or_default()),
        }
    }

    fn is_same_part(&self, other: &Self) -> bool {
        self.kind == other.kind && self.name == other.name
    }
}

/// The parts of the merge key of a receipt, in their order.
pub(super) fn parts(receipt: &Receipt, settings: &config::Batch) -> Vec<Part> {
    let mut parts = Parts(Vec::new());
    receipt.list_key(settings, &mut parts);
    parts.0
}

/// A part in which two receipts differ, and what each of them has there.
pub(super) type Difference<'p> = (Option<&'p Part>, Option<&'p Part>);

/// The parts in which two keys differ.
pub(super) fn differences<'p>(one: &'p [Part], other: &'p [Part]) -> Vec<Difference<'p>> {
    let find = |parts: &'p [Part], wanted: &Part| -> Option<&'p Part> {
        parts.iter().find(|part| part.is_same_part(wanted))
    };
    let changed = one.iter().map(|part| (Some(part), find(other, part)));
    let added = other.iter().filter(|part| find(one, part).is_none());
    let mut differences: Vec<Difference<'p>> = changed
        .chain(added.map(|part| (None, Some(part))))
        .filter(|(one, other)| one != other)
        .collect();
    // Only a form that is never extended has its ids in the key: that follows from the form.
    let is_of =
        |kind, (one, other): &Difference<'_>| one.or(*other).is_some_and(|part| part.kind == kind);
    if differences.iter().any(|it| is_of(Kind::IdsForm, it)) {
        differences.retain(|it| !is_of(Kind::Ids, it));
    }
    differences
}

struct Parts(Vec<Part>);

impl KeySink for Parts {
    fn part(&mut self, part: KeyPart<'_>) {
        let (kind, name): (_, &[u8]) = match part {
            KeyPart::Path => (Kind::Path, b""),
            KeyPart::Carrier => (Kind::Carrier, b""),
            KeyPart::IdsForm => (Kind::IdsForm, b""),
            KeyPart::Ids => (Kind::Ids, b""),
            KeyPart::Query(name) => (Kind::Query, name),
            KeyPart::Body(name) => (Kind::Body, name),
            KeyPart::Header(name) => (Kind::Header, name.as_bytes()),
        };
        self.0.push(Part {
            kind,
            name: name.to_vec(),
            values: Vec::new(),
        });
    }

    fn value(&mut self, value: Option<&[u8]>) {
        if let Some(part) = self.0.last_mut() {
            part.values.push(value.map(<[u8]>::to_vec));
        }
    }
}
