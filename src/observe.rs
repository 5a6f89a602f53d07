//! For operators: [`metrics`], the access log and the admin pages.

pub(crate) mod access_log;
pub(crate) mod admin;
pub mod metrics;
