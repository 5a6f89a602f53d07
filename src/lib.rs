//! A reverse proxy in front of the WhatsApp API at api.wawp.net.
//!
//! Apps change one base URL. From then on concurrent read receipts for one chat become
//! one upstream call, a token bucket limits each WhatsApp instance, and Prometheus metrics
//! count all of it. `src/README.md` holds the rules of behaviour that comments cite by
//! name.
//!
//! # Life of a request
//!
//! ```text
//! client ── server ── proxy ── receipt? ──yes──► batch (window) ─┐
//!                       │                                        ├─► limit (token) ─► upstream
//!                    identity ─────────────────────────────────► ┘                       │
//! client ◄───────────── settle: each caller gets its verdict ◄───────────────────────────┘
//! ```
//!
//! # Layers, from the highest to the lowest
//!
//! - [`cli`], `tools`: the command line; sandbox, demo, estimate, explain, init, health
//! - [`app`]: start, workers, reload, drain; `observe::admin`: the admin pages
//! - [`gateway`]: all layers below, wired together
//! - `server`: listener, TLS, HTTP/1.1 and HTTP/2 with clients
//! - `proxy`: one request, from its head to its response
//! - `observe::access_log`: one line per request
//! - `batch`: open batches, verdicts, splits
//! - `limit`: accounts and their buckets; `tenant`: access and keys; `upstream`: connections to the upstream
//! - `queue`: requests that wait for tokens, and which of them is next
//! - `tokens`: when a bucket has its next token, by its own clock or reserved with other gateways
//! - `receipt`: what may merge; `identity`: which instance and credential a request names
//! - `body`: request and response bodies; `conn`: the state of one client connection
//! - `cluster`: what several gateways share through a server
//! - [`metrics`], `http`: fields and codecs, `redact`: secrets in text
//! - [`config`], `address_race`, `descriptors`, `grouped`, `keepalive`, `sharded`, `yield_now`: what all
//!   others use
//!
//! `tests/layers.rs` fails on an import to the same or a higher layer.

mod address_race;
pub mod app;
mod batch;
mod body;
pub mod cli;
mod cluster;
pub mod config;
mod conn;
mod descriptors;
pub mod gateway;
mod grouped;
mod http;
mod identity;
mod keepalive;
mod limit;
mod observe;
mod proxy;
mod queue;
mod receipt;
mod redact;
mod server;
mod sharded;
mod tenant;
mod tokens;
mod tools;
mod upstream;
mod yield_now;

pub use observe::metrics;
#[doc(hidden)]
pub use tools::testing;
pub use tools::{demo, estimate, explain, health, init, sandbox};
pub use upstream::{Dial, Io};
