//! A reverse proxy in front of the WhatsApp API at api.wawp.net.
//!
//! Apps change one base URL. From then on concurrent "mark as seen" calls for
//! one chat leave as one call, every WhatsApp instance is held to its token
//! bucket, and Prometheus shows all of it.
//!
//! # The life of a request
//!
//! ```text
//! client ── front ── proxy ── receipt? ──yes──► batch (window) ─┐
//!                      │                                        ├─► limit (token) ─► upstream
//!                   identity ─────────────────────────────────► ┘                       │
//! client ◄───────────── settle: every caller gets its verdict ◄─────────────────────────┘
//! ```
//!
//! # The rooms
//!
//! - [`app`]: sockets, workers, drain; [`gateway`]: everything wired up
//! - `front`: connections of clients; `proxy`: the story of one request
//! - `plain`: HTTP/1.1 in its plain case, without hyper; `hop`: fields that end here
//! - `identity`: who calls; `receipt`: what may be merged, and with what
//! - `tenant`: whose an instance is, and what a tenant's key opens
//! - `batch`: windows, verdicts, splits; `limit`: buckets and queues
//! - `upstream`: connections to the upstream, one call sent at most once
//! - `alarm`: windows end on time; `turn`: calls that are ready together write together;
//!   `sharded`: tables under many locks
//! - [`metrics`], `admin`, `access_log`, [`telemetry`]: what operators see
//! - [`config`], [`cli`], [`shutdown`], `drain`, [`systemd`]: how the program is steered
//! - [`estimate`]: what the gateway would do to the traffic of an access log
//! - [`sandbox`]: a local stand-in for api.wawp.net; [`demo`]: it, the gateway and apps together

pub mod app;
mod batch;
mod body;
pub mod cli;
pub mod config;
mod conn;
pub mod gateway;
mod http;
mod identity;
mod limit;
mod observe;
mod proxy;
mod receipt;
mod redact;
mod server;
mod sharded;
mod tenant;
mod tools;
mod upstream;
mod window_timer;
mod yield_now;

pub use observe::metrics;
#[doc(hidden)]
pub use tools::testing;
pub use tools::{demo, estimate, sandbox};
pub use upstream::{Dial, Io};
