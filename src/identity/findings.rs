//! The instances and credentials that a request names, collected field by field.
//!
//! Owns the precedence: query, then header, then body; the first instance
//! counts. Invariant: a request that names two instances, or two credentials in one
//! source, is ambiguous in any spelling (rule: ambiguous requests).

use std::borrow::Cow;

use http::HeaderMap;
use http::request::Parts;

use super::credential::{CredentialSource, Credentials, Fingerprint};
use super::head::{self, HeadSink, InstanceSource};
use super::instance::InstanceId;
use super::names::{Field, FieldName, Named};

/// The caller of a request, as far as the request states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The WhatsApp instance.
    pub(crate) instance: Option<InstanceId>,
    /// The credentials from all sources; `None` if ambiguous.
    pub(crate) credential: Option<Fingerprint>,
    /// Whether the request may name another identity.
    pub(crate) certainty: Certainty,
}

/// Whether a request may name another identity than the one that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Certainty {
    /// No: the whole request was read, and it names one identity.
    Certain,
    /// Yes: part of the body was not read, and may name another one.
    Partial,
    /// Yes: it names several identities, and a backend may use any of them.
    Ambiguous,
}

impl Identity {
    /// Whether the instance id is the text of the credential: then it must not be
    /// logged.
    pub(crate) fn shows_its_credential(&self) -> bool {
        let named = self.instance.as_ref().zip(self.credential);
        named.is_some_and(|(instance, credential)| credential.is_of(instance))
    }

    /// Whether no identity was found, but the request may name one.
    pub(crate) fn may_be_hidden(&self) -> bool {
        self.instance.is_none() && self.credential.is_none() && self.certainty != Certainty::Certain
    }
}

/// What was found in a request so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    instance: Option<InstanceId>,
    credentials: Credentials,
    is_ambiguous: bool,
    is_partial: bool,
}

impl Findings {
    /// Reads the query and the headers.
    pub(crate) fn of_head(head: &Parts) -> Self {
        let mut findings = Self::default();
        head::read(head, &mut findings);
        findings
    }

    /// Adds the headers.
    pub(crate) fn add_headers(&mut self, headers: &HeaderMap) {
        head::read_headers(headers, self);
    }

    /// Adds an instance; the first one counts.
    pub(crate) fn add_instance(&mut self, name: &str) {
        let Some(name) = InstanceId::new(name) else {
            return;
        };
        match &self.instance {
            None => self.instance = Some(name),
            Some(first) => self.is_ambiguous |= *first != name,
        }
    }

    /// Adds a credential.
    pub(crate) fn add_credential(&mut self, source: CredentialSource, credential: &[u8]) {
        self.credentials.add(source, credential);
    }

    /// Adds a field of the body.
    pub(crate) fn body_field(&mut self, field: Field) {
        match field {
            Field::Instance(name) => self.add_instance(&name),
            Field::Token(token) => self.add_credential(CredentialSource::Body, token.as_bytes()),
            Field::Unclear => self.is_ambiguous = true,
        }
    }

    /// Adds a field of a query or a form, if its name counts. In `source` are credentials.
    pub(crate) fn add_named(&mut self, source: CredentialSource, name: &[u8], value: &[u8]) {
        let Some(named) = Named::read(name) else {
            return;
        };
        // Some backends use the element of a list, others ignore it.
        self.is_ambiguous |= named.is_list;
        match named.name {
            FieldName::Instance => {
                // Not `from_utf8_lossy` at once, which reads byte by byte.
                let name = std::str::from_utf8(value)
                    .map_or_else(|_| String::from_utf8_lossy(value), Cow::Borrowed);
                self.add_instance(&name);
            }
            FieldName::Token => self.add_credential(source, value),
        }
    }

    /// Notes that the request may name several identities.
    pub(crate) fn set_ambiguous(&mut self) {
        self.is_ambiguous = true;
    }

    /// Notes that part of the body was not read.
    pub(crate) fn set_partial(&mut self) {
        self.is_partial = true;
    }

    /// The instance found, the first if there are several.
    pub(crate) fn found_instance(&self) -> Option<&InstanceId> {
        self.instance.as_ref()
    }

    /// Whether both an instance and a credential were found.
    pub(crate) fn is_complete(&self) -> bool {
        self.instance.is_some() && self.credentials.fingerprint().is_some()
    }

    /// Whether the request names several identities.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.is_ambiguous || self.credentials.is_ambiguous
    }

    /// The identity that follows from the findings.
    pub(crate) fn identity(self) -> Identity {
        // Ambiguous outweighs partial: it is known, not merely possible.
        let certainty = match (self.is_ambiguous(), self.is_partial) {
            (true, _) => Certainty::Ambiguous,
            (false, true) => Certainty::Partial,
            (false, false) => Certainty::Certain,
        };
        let credential = self.credentials.fingerprint();
        Identity {
            instance: self.instance,
            // An ambiguous credential may belong to another instance than the one that
            // counts, whose bucket it must not use.
            credential: credential.filter(|_| certainty != Certainty::Ambiguous),
            certainty,
        }
    }
}

impl HeadSink for Findings {
    fn instance(&mut self, _: InstanceSource, name: &str) {
        self.add_instance(name);
    }

    fn credential(&mut self, source: CredentialSource, credential: &[u8]) {
        self.add_credential(source, credential);
    }

    fn list_element(&mut self) {
        self.set_ambiguous();
    }
}
