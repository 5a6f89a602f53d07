//! Tenants: whose an instance is, and what that opens.
//!
//! Owns what a tenant's key opens ([`key`]). Invariant: an instance belongs to
//! one tenant at most.

pub(crate) mod key;
