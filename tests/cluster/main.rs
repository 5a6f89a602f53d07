//! A cluster with a real server, which stops, hangs, refuses and fails over: the connection of one
//! gateway, and three gateways behind HAProxy.
//!
//! Needs `redis-server` and `haproxy` (Debian: `apt-get install redis-server haproxy`), and only
//! 127.0.0.1.
//!
//! - [`connection`]: one gateway; [`servers`]: the servers;
//! - [`acceptance`]: what three gateways guarantee, whatever fails;
//! - [`receipts`]: what they guarantee for receipts; [`data_set`]: what they keep on the server;
//! - [`egress`]: how they share an egress; [`demo`]: `demo --replicas`;
//! - [`gateways`], [`load`], [`recorder`], [`relay`]: the gateways, their callers, their upstream, and
//!   the way to the server;
//! - [`laws`]: how the upstream's record is judged.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

mod acceptance;
mod connection;
mod data_set;
mod demo;
mod egress;
mod gateways;
mod laws;
mod load;
#[path = "../ports/mod.rs"]
mod ports;
mod receipts;
mod recorder;
mod relay;
mod servers;
