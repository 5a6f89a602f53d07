//! What the settings mean: the types that the rest of the gateway is configured by.
//!
//! Owns every setting, its default (`default.toml`, nowhere else), its bounds and the order of the layers: defaults,
//! file, environment, flags. Refuses to open anything that a setting names (certificates, sockets), secrets apart:
//! whoever uses the thing opens it. Invariant: a [`Config`] that exists obeys every bound written in `default.toml`.

use std::{
    ffi::OsString,
    fmt,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

mod in_force;
mod kind;
mod layer;
mod pattern;
mod quota;
mod read;
mod report;
mod schema;
mod secret;
mod show;
mod tenant;
mod upstream_url;

#[cfg(test)]
mod tests;

pub use self::{
    in_force::InForce,
    pattern::{PathPattern, PatternError},
    quota::{Quota, QuotaError},
    secret::Secret,
    tenant::{Access, Egress, Instances, Tenant},
    upstream_url::{UpstreamUrl, UrlError},
};
pub(crate) use self::{kind::read_address, layer::regular};

/// The one place where defaults are written, and the reference for people.
pub const DEFAULTS: &str = include_str!("config/default.toml");

/// Everything that can be set, read and within its bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The listeners and what a client may do to them.
    pub server: Server,
    /// Where calls go.
    pub upstream: Upstream,
    /// How read receipts are merged.
    pub batch: Batch,
    /// How fast one WhatsApp instance may be driven.
    pub limit: Limit,
    /// How fast all instances together may be driven.
    pub egress: Egress,
    /// Who shares the egress, and with which budgets and keys.
    pub tenants: Vec<Tenant>,
    /// Who may use the gateway at all.
    pub access: Access,
    /// What is counted.
    pub metrics: Metrics,
    /// What is written to stderr and stdout.
    pub log: Log,
}

/// `[server]`: the listeners and the limits against slow or greedy clients.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where metrics, probes and the page for people are served.
    pub admin: SocketAddr,
    /// Certificate and key for clients; `None` serves cleartext.
    pub tls: Option<Tls>,
    /// Client connections held open at once.
    pub max_connections: usize,
    /// Calls being worked on at once, waiting ones included; beyond it 503.
    pub max_in_flight: usize,
    /// Longest time a client may take to send a request head.
    pub header_timeout: Duration,
    /// Longest pause between two pieces of a request body.
    pub body_timeout: Duration,
    /// How long a client connection may lie idle.
    pub idle_timeout: Duration,
    /// Longest time between the signal to stop and the exit.
    pub drain_timeout: Duration,
    /// Whether merged and queued answers carry `Server-Timing`.
    pub timing_header: bool,
    /// Header fields in one request.
    pub max_headers: usize,
    /// Bytes of one request head.
    pub max_header_bytes: usize,
    /// Further hosts (`host` or `host:port`, lower case) that mean this gateway.
    pub names: Vec<String>,
}

/// `[server.tls]`: PEM files, opened by the listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificate chain, leaf first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// `[upstream]`: where calls go and how long that may take.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// The API's base.
    pub url: UpstreamUrl,
    /// Longest time for a connection to stand, TLS included.
    pub connect_timeout: Duration,
    /// Longest wait for an answer's head once the request is written.
    pub response_timeout: Duration,
    /// How long an unused connection is kept for the next call.
    pub idle_timeout: Duration,
    /// PEM file of authorities to trust beside the built-in ones.
    pub ca: Option<PathBuf>,
}

/// `[batch]`: how read receipts are merged.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Whether receipts are merged, or only counted as if they were.
    pub mode: BatchMode,
    /// The paths whose `POST` may be merged: literal, beginning with `/`.
    pub paths: Vec<String>,
    /// How long a batch stays open from its first caller; zero turns merging off.
    pub window: Duration,
    /// The age at which a waiting batch no longer yields to other calls.
    pub max_delay: Duration,
    /// Distinct message ids in one batch.
    pub max_ids: usize,
    /// Callers in one batch.
    pub max_callers: usize,
    /// How long a caller whose request failed alone stays out of batches.
    pub quarantine: Duration,
}

/// What is done with receipts that could share a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchMode {
    /// They share it.
    Merge,
    /// Each goes as it came; what merging would have saved is counted.
    Observe,
}

/// What is done with calls beyond a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitMode {
    /// They wait, or are refused.
    Enforce,
    /// They go as they came; what enforcing would have done is counted.
    Observe,
}

/// `[limit]`: how fast one WhatsApp instance may be driven.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// Whether calls are held to the budgets, or only counted as if they were.
    pub mode: LimitMode,
    /// Each instance's budget; `None` is unlimited.
    pub quota: Option<Quota>,
    /// How long a call may wait for its turn.
    pub max_wait: Duration,
    /// Upstream calls that may wait in one queue.
    pub max_queue: usize,
    /// Whether every answer carries `RateLimit` and `RateLimit-Policy`.
    pub headers: bool,
    /// Groups of paths with a budget of their own; the first that matches wins.
    pub classes: Vec<Class>,
}

/// `[[limit.class]]`: paths that have a bucket of their own per instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    /// What it is called in messages and on the admin page.
    pub name: String,
    /// Any of them may match.
    pub paths: Vec<PathPattern>,
    /// Any of them may match; empty means all.
    pub methods: Vec<http::Method>,
    /// The budget; `None` is unlimited.
    pub quota: Option<Quota>,
}

/// `[metrics]`: what is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Instances that are named in labels; the rest are `other`.
    pub max_instances: usize,
}

/// `[log]`: what is written to stderr, and of calls to stdout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// The least severe event that is written.
    pub level: LogLevel,
    /// Whether calls are written, one line each.
    pub access: LogAccess,
    /// One call in how many is written; failures always are.
    pub access_sample: NonZeroU32,
}

/// Whether calls are written to stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogAccess {
    /// One line for each call.
    On,
    /// None at all.
    Off,
}

/// How an event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One line for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The least severe event that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Nothing at all.
    Off,
    /// A person is needed.
    Error,
    /// Survived, but worth a look.
    Warn,
    /// Start, stop, drain.
    Info,
    /// What happened to single calls.
    Debug,
    /// Everything.
    Trace,
}

impl Limit {
    /// Finds the first class that a call belongs to, as an index into `classes`; `None` is the base limit.
    ///
    /// `path` is normalized: no spelling of a path leads around its class.
    /// `is_batch_path` says that the path is one of `batch.paths`: wildcards never match those, so that a class for
    /// sends (`/v2/send/*`) does not take the read receipts with it.
    pub fn class_of(
        &self,
        method: &http::Method,
        path: &str,
        is_batch_path: bool,
    ) -> Option<usize> {
        if self.classes.is_empty() {
            return None;
        }
        // To many servers a trailing slash means nothing.
        let bare = path.strip_suffix('/').unwrap_or(path);
        self.classes.iter().position(|class| {
            (class.methods.is_empty() || class.methods.contains(method))
                && class.paths.iter().any(|pattern| {
                    (pattern.is_literal() || !is_batch_path)
                        && (pattern.matches(path) || pattern.matches(bare))
                })
        })
    }
}

/// The settings that have a flag, as they were typed; read and checked like those of any other layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--listen`: `server.listen`.
    pub listen: Option<String>,
    /// `--admin`: `server.admin`.
    pub admin: Option<String>,
    /// `--upstream`: `upstream.url`.
    pub upstream: Option<String>,
    /// `--window`: `batch.window`.
    pub window: Option<String>,
    /// `--rate`: `limit.rate`.
    pub rate: Option<String>,
    /// `--burst`: `limit.burst`.
    pub burst: Option<String>,
}

/// The settings as they stand after all layers; displays as TOML, each value that is no default with its origin.
#[derive(Clone, Debug)]
pub struct Effective {
    /// What the rest of the gateway reads.
    pub config: Config,
    shown: Vec<show::Shown>,
}

/// Everything that is wrong with the settings; displays one mistake a line and a closing count, never a secret.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Mistakes(Vec<show::Mistake>);

/// Reads the settings: defaults, then the file, the environment (`WAWP_GATEWAY_<SECTION>__<KEY>`) and the flags.
///
/// Blocks while it reads the file, and those that hold secrets.
///
/// # Errors
/// Returns every mistake of every layer at once, also in values that a stronger layer covers.
pub fn load(
    file: Option<&Path>,
    env: impl Iterator<Item = (OsString, OsString)>,
    flags: &Overrides,
) -> Result<Effective, Mistakes> {
    let mut report = report::Report::default();
    let file = file.map(|path| layer::file(path, &mut report));
    lay(file, env, flags, report)
}

/// As [`load`], of a file's text that is at hand: for the fuzz targets.
pub(crate) fn load_text(
    text: &[u8],
    env: impl Iterator<Item = (OsString, OsString)>,
    flags: &Overrides,
) -> Result<Effective, Mistakes> {
    let mut report = report::Report::default();
    let file = layer::text(&"settings.toml".into(), text, &mut report);
    lay(Some(file), env, flags, report)
}

/// Lays the layers over each other and reads what is then uppermost.
fn lay(
    file: Option<layer::Table>,
    env: impl Iterator<Item = (OsString, OsString)>,
    flags: &Overrides,
    mut report: report::Report,
) -> Result<Effective, Mistakes> {
    let mut tree = layer::defaults();
    if let Some(file) = file {
        layer::lay(&mut tree, file);
    }
    let variables: Vec<(OsString, OsString)> = env.collect();
    layer::environment(&mut tree, &variables, &mut report);
    layer::flags(&mut tree, flags);
    let sources = secret::Sources::new(&variables);
    let config = schema::config(tree, &sources, &mut report);
    report.excuse(&sources.named());
    report.decide(config)
}

/// Reads a file as `serve` would here, with this process's environment.
///
/// # Errors
/// As [`load`].
pub fn check(file: &Path) -> Result<Effective, Mistakes> {
    load(Some(file), std::env::vars_os(), &Overrides::default())
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        schema::config(
            layer::defaults(),
            &secret::Sources::default(),
            &mut report::Report::default(),
        )
    }
}

// === impl BatchMode, LimitMode ===

impl fmt::Display for BatchMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Merge => "merge",
            Self::Observe => "observe",
        })
    }
}

impl fmt::Display for LimitMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        })
    }
}

// === impl LogFormat, LogAccess, LogLevel ===

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

impl fmt::Display for LogAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        })
    }
}

// === impl Mistakes ===

impl Mistakes {
    /// Returns how many there are; never 0.
    #[allow(clippy::len_without_is_empty)] // an empty one is never made
    pub fn len(&self) -> usize {
        self.0.len()
    }
}
