//! What operators see: [`metrics`], the access log and the admin listener.

pub(crate) mod access_log;
pub(crate) mod admin;
pub mod metrics;
