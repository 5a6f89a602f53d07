//! The caller of a request: its WhatsApp instance and its credential.
//!
//! Owns every spelling of both and their precedence: query, then header, then
//! a bounded scan of the body (rule: identity). Invariants: a credential is
//! read for keys only; nothing that is read is changed.
//!
//! - [`names`]: which fields count; [`query`], [`form`], [`json`], [`scan`]: where they stand;
//! - [`instance`], [`credential`]: their values;
//! - [`findings`]: what they add up to; [`verification`]: what a response says about them.

mod credential;
mod findings;
mod form;
mod instance;
pub(crate) mod json;
mod multipart;
pub(crate) mod names;
pub(crate) mod query;
pub(crate) mod scan;
pub(crate) mod verification;

#[cfg(test)]
mod tests;

pub(crate) use crate::http::{INSTANCE_HEADER, TOKEN_HEADER};
pub(crate) use credential::{CredentialSource, Fingerprint};
pub(crate) use findings::{Certainty, Findings, Identity};
pub(crate) use instance::InstanceId;
pub(crate) use names::{INSTANCE_FIELD, TOKEN_FIELD};
pub(crate) use query::{decode, pairs};
