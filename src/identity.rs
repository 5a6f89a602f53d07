//! The caller of a request: its WhatsApp instance and its credential.
//!
//! Owns every spelling of both and their precedence: query, then header, then
//! a bounded scan of the body (rule: identity). Invariants: a credential is only
//! hashed, never kept; a request is read and not changed.
//!
//! - [`names`]: the names of the fields;
//! - [`head`]: the headers of a head; [`query`], [`form`], [`json`], [`multipart`]: finding the fields; [`scan`]: in a body
//!   of any of these types;
//! - [`instance`], [`credential`]: the values;
//! - [`findings`]: all values of a request, and the identity that follows from them;
//! - [`places`]: every place that names one, for people;
//! - [`verification`]: whether the response says if the credential is valid.

mod credential;
mod findings;
mod form;
mod head;
mod instance;
pub(crate) mod json;
mod multipart;
pub(crate) mod names;
mod places;
pub(crate) mod query;
pub(crate) mod scan;
pub(crate) mod verification;
mod verified;

#[cfg(test)]
mod tests;

pub(crate) use crate::http::{INSTANCE_HEADER, TOKEN_HEADER};
pub(crate) use credential::{CredentialSource, Fingerprint};
pub(crate) use findings::{Certainty, Findings, Identity};
pub(crate) use head::InstanceSource;
pub(crate) use instance::InstanceId;
pub(crate) use places::Places;
pub(crate) use query::{decode, pairs};
pub(crate) use verified::{MAX_CREDENTIALS, Verified};
