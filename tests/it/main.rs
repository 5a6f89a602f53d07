//! The gateway as its users meet it: whole, with clients before it and an upstream behind it.
//!
//! Most of it runs over in-memory streams in simulated time ([`support::World`], [`support::Stage`]): no sockets, no
//! waiting, and no test that depends on the speed of a machine. What only a process can show (signals, exit codes,
//! memory, what is written to stderr) runs the real program on ports of its own ([`support::Program`]), in real time.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

mod access;
mod access_log;
mod admin;
mod batches;
mod browsers;
mod cli;
mod clients;
mod connection_age;
mod counting;
mod drain;
mod early;
mod expect;
mod exposition;
mod fast_path;
mod identity;
mod idle;
mod in_flight;
mod init;
mod keys;
mod limits_on_clients;
mod memory;
mod observing;
mod once;
mod open_files;
mod pacing;
mod passing;
mod pool;
mod protocols;
mod proxies;
mod raw_targets;
mod reach;
mod reasons;
mod refusals;
mod reload;
mod secrets;
mod settling;
mod stalled_clients;
mod streaming;
mod support;
mod targets;
mod tls;
mod unreadable;
mod upstream_http2;
