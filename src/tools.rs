//! Programs beside the gateway, and entry points for tests and benches.
//!
//! - [`sandbox`]: a local stand-in for api.wawp.net;
//! - [`demo`]: the sandbox, the gateway and apps together;
//! - [`estimate`]: what the gateway would do with the traffic of an access log;
//! - [`explain`]: what the gateway would do with a request, and which ones merge;
//! - [`backends`]: how backends read a request;
//! - [`init`]: a settings file to begin with;
//! - `input`: a file or the standard input;
//! - [`health`]: whether a running gateway accepts requests;
//! - [`testing`]: entry points for benches and fuzz targets.

#[doc(hidden)]
pub mod backends;
pub mod demo;
pub mod estimate;
pub mod explain;
pub mod health;
pub mod init;
mod input;
pub mod sandbox;
#[doc(hidden)]
pub mod testing;
