//! What several gateways share through a Redis or Valkey server (rule: cluster).
//!
//! Gateways never talk to each other. Each state that they share is one key of the server and is
//! changed by one script, so that a change is whole or absent. The clock of the server is the only
//! clock that scripts read; replies hold delays.
//!
//! Invariants: no credential reaches the server, only hashes with a key that the cluster shares.
//! No lock is held while the server is asked, and each question has an end.
//!
//! - [`script`]: the scripts, and how they are called.

mod script;

pub(crate) use script::{Call, Reply, Script};
