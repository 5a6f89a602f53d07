//! What a request states about its caller, collected field by field.
//!
//! Owns the precedence: query, then header, then body; the first instance
//! counts. Invariant: a request that states two things at once, in whatever
//! spelling, is ambiguous (rule: ambiguous requests).

use http::request::Parts;

use super::credential::{CredentialSource, Credentials, Fingerprint};
use super::instance::InstanceId;
use super::names::{self, Field, FieldName};
use super::query::pairs;
use crate::http::raw_target::RawTarget;
use crate::http::{INSTANCE_HEADER, TOKEN_HEADER};

/// The header with a token as HTTP defines it (RFC 9110 §11.6.2).
const AUTHORIZATION_HEADER: &str = "authorization";

/// The caller of a request, as far as the request states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The WhatsApp instance.
    pub(crate) instance: Option<InstanceId>,
    /// The credential, in whatever spelling; `None` if ambiguous.
    pub(crate) credential: Option<Fingerprint>,
    /// How far the two can be relied on.
    pub(crate) certainty: Certainty,
}

/// How far an identity can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Certainty {
    /// The whole request was read, and it states one identity.
    Certain,
    /// Part of the body was not read: it may state something else.
    Partial,
    /// The request states several identities, and a backend may take any.
    Ambiguous,
}

impl Identity {
    /// Whether the instance's name must not be shown: it is a credential.
    pub(crate) fn shows_its_credential(&self) -> bool {
        let named = self.instance.as_ref().zip(self.credential);
        named.is_some_and(|(instance, credential)| credential.is_of(instance))
    }

    /// Whether the request may state an identity that was not found.
    pub(crate) fn is_hidden(&self) -> bool {
        self.instance.is_none() && self.credential.is_none() && self.certainty != Certainty::Certain
    }
}

/// What was found so far.
#[derive(Debug)]
pub(crate) struct Findings {
    instance: Option<InstanceId>,
    credentials: Credentials,
    is_ambiguous: bool,
    is_partial: bool,
}

impl Findings {
    /// Reads the query and the headers.
    pub(crate) fn of_head(head: &Parts) -> Self {
        let mut findings = Self {
            instance: None,
            credentials: Credentials::default(),
            is_ambiguous: false,
            is_partial: false,
        };
        findings.query(head.uri.query().unwrap_or_default());
        // Backends differ in whether a query ends at `#`: both readings must name
        // the same (rule: ambiguous requests).
        if let Some(raw) = RawTarget::of(head) {
            findings.query(raw.query_before_fragment(head).unwrap_or_default());
        }
        // One pass over the fields instead of one search for each name.
        for (name, value) in &head.headers {
            let (name, value) = (name.as_str(), value.as_bytes());
            if name == AUTHORIZATION_HEADER {
                findings.credential(CredentialSource::Authorization, value);
            } else if names::is_header(name, INSTANCE_HEADER) {
                findings.instance(&String::from_utf8_lossy(value));
            } else if names::is_header(name, TOKEN_HEADER) {
                findings.credential(CredentialSource::Header, value);
            }
        }
        findings
    }

    fn query(&mut self, query: &str) {
        for pair in pairs(query) {
            let Some(named) = pair.named() else { continue };
            self.is_ambiguous |= named.is_list;
            match named.name {
                FieldName::Instance => self.instance(&pair.decoded()),
                FieldName::Token => {
                    self.credential(CredentialSource::Query, pair.decoded().as_bytes());
                }
            }
        }
    }

    /// Adds an instance; the first one counts.
    pub(crate) fn instance(&mut self, name: &str) {
        let Some(name) = InstanceId::new(name) else {
            return;
        };
        match &self.instance {
            None => self.instance = Some(name),
            Some(first) => self.is_ambiguous |= *first != name,
        }
    }

    /// Adds a credential.
    pub(crate) fn credential(&mut self, source: CredentialSource, credential: &[u8]) {
        self.credentials.add(source, credential);
    }

    /// Adds a field of the body.
    pub(crate) fn body_field(&mut self, field: Field) {
        match field {
            Field::Instance(name) => self.instance(&name),
            Field::Token(token) => self.credential(CredentialSource::Body, token.as_bytes()),
            Field::Unclear => self.is_ambiguous = true,
        }
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

    /// Whether the request states several identities.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.is_ambiguous || self.credentials.is_ambiguous
    }

    /// Concludes.
    pub(crate) fn identity(self) -> Identity {
        let certainty = match (self.is_ambiguous(), self.is_partial) {
            (true, _) => Certainty::Ambiguous,
            (false, true) => Certainty::Partial,
            (false, false) => Certainty::Certain,
        };
        let credential = self.credentials.fingerprint();
        Identity {
            instance: self.instance,
            // It may belong to another instance than the one that counts.
            credential: credential.filter(|_| certainty != Certainty::Ambiguous),
            certainty,
        }
    }
}
