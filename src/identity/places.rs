//! Every place in which a request names an instance or a credential, for people.
//!
//! Invariant: the fields are found by the code that finds them for the identity. Credentials
//! are kept as text, so that they can be removed from what is shown; `Debug` shows none.

use std::fmt;

use bytes::Bytes;
use http::request::Parts;

use super::credential::CredentialSource;
use super::head::{self, HeadSink, InstanceSource};
use super::names::Field;
use super::scan::{self, FieldSink, Position};
use crate::http::raw_target::RawTarget;

/// The places in which a request names an instance or a credential, in their order.
#[derive(Default)]
pub(crate) struct Places {
    pub(crate) instances: Vec<(InstanceSource, String)>,
    /// The text may be a secret.
    pub(crate) credentials: Vec<(CredentialSource, String)>,
    /// One of the fields is a list or an object, which backends read in different ways.
    pub(crate) has_list: bool,
}

impl Places {
    /// Reads a head, and a body of at most 64 KiB.
    pub(crate) fn of(head: &Parts, body: Bytes) -> Self {
        let mut places = Self::default();
        head::read(head, &mut places);
        if RawTarget::of(head).is_some() {
            // Its query was read twice.
            places.instances.dedup();
            places.credentials.dedup();
        }
        if !body.is_empty() {
            scan::scan_pieces(&mut places, &head.headers, [body]);
        }
        places
    }
}

impl HeadSink for Places {
    fn instance(&mut self, source: InstanceSource, name: &str) {
        self.instances.push((source, name.trim().to_owned()));
    }

    fn credential(&mut self, source: CredentialSource, credential: &[u8]) {
        let text = String::from_utf8_lossy(credential).into_owned();
        self.credentials.push((source, text));
    }

    fn list_element(&mut self) {
        self.has_list = true;
    }
}

impl FieldSink for Places {
    fn field(&mut self, field: Field, _: Position) {
        match field {
            Field::Instance(name) => self.instance(InstanceSource::Body, &name),
            Field::Token(token) => self.credential(CredentialSource::Body, token.as_bytes()),
            Field::Unclear => self.has_list = true,
        }
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places")
            .field("instances", &self.instances.len())
            .field("credentials", &self.credentials.len())
            .finish_non_exhaustive()
    }
}
