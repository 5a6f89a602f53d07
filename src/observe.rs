//! What operators see: [`metrics`], the access log, the admin pages.

pub(crate) mod access_log;
pub(crate) mod admin;
pub mod metrics;
