//! The settings as types, for the rest of the gateway.
//!
//! Defaults and bounds are not here: `default.toml` and the table of settings own them. Invariant: a
//! [`Config`] that `load` returns is within every bound that `default.toml` documents. (Fields are
//! public, so that tests can build others.)

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

use super::cluster_url::ClusterUrl;
use super::path_pattern::PathPattern;
use super::proxy_url::ProxyUrl;
use super::quota::Quota;
use super::secret::Secret;
use super::upstream_url::UpstreamUrl;

/// All settings.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Config {
    /// The listeners, and the limits on clients.
    pub server: Server,
    /// Where requests are sent.
    pub upstream: Upstream,
    /// How read receipts are merged.
    pub batch: Batch,
    /// The rate limit of each WhatsApp instance.
    pub limit: Limit,
    /// The rate limit of all instances together.
    pub egress: Egress,
    /// Groups of instances with their own share, budget, networks and key.
    // Singular in TOML, where each item is one table: `[[tenant]]`.
    #[serde(default, rename = "tenant")]
    pub tenants: Vec<Tenant>,
    /// What gateways share; `None` is a gateway that shares nothing.
    pub cluster: Option<Cluster>,
    /// Which requests are accepted at all.
    pub access: Access,
    /// What is counted.
    pub metrics: Metrics,
    /// What is written to stderr and stdout.
    pub log: Log,
}

/// `[server]`: the listeners, and the limits on slow or greedy clients.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Server {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where metrics, health checks and the admin page are served.
    pub admin: SocketAddr,
    /// Client connections open at once.
    pub max_connections: usize,
    /// Requests in progress at once, waiting ones included; beyond it 503.
    pub max_in_flight: usize,
    /// Longest time for a request head to arrive.
    pub header_timeout: Duration,
    /// Longest pause between two parts of a request body; also how long a client may
    /// read nothing of a response.
    pub body_timeout: Duration,
    /// How long a client connection may be idle.
    pub idle_timeout: Duration,
    /// How long new connections are accepted after the signal to stop.
    pub drain_delay: Duration,
    /// Longest time between the signal to stop and the exit.
    pub drain_timeout: Duration,
    /// Whether responses to merged and queued requests carry `Server-Timing`.
    pub timing_header: bool,
    /// Header fields in one request.
    pub max_headers: usize,
    /// Bytes of one request head.
    pub max_header_bytes: usize,
    /// Further names of this gateway (`host` or `host:port`, lower case).
    pub names: Vec<String>,
    /// Certificate and key for clients; `None` serves cleartext.
    pub tls: Option<Tls>,
}

/// `[server.tls]`: PEM files, opened by the listener.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Tls {
    /// The certificate chain, leaf first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// `[upstream]`: where requests are sent, and how long that may take.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Upstream {
    /// The base URL of the API.
    pub url: UpstreamUrl,
    /// The versions of HTTP that it may speak.
    pub http: HttpVersion,
    /// The proxy through which it is reached.
    pub proxy: Option<ProxyUrl>,
    /// Longest time to connect, TLS handshake included.
    pub connect_timeout: Duration,
    /// Longest time from the end of the request to the head of the response.
    pub response_timeout: Duration,
    /// How long an idle connection is kept for the next request.
    pub idle_timeout: Duration,
    /// Idle HTTP/1.1 connections of all workers; further ones replace the oldest.
    pub max_idle: usize,
    /// The age at which a connection takes no further request; zero is no bound.
    pub max_age: Duration,
    /// PEM file of authorities to trust in addition to the built-in ones.
    pub ca: Option<PathBuf>,
}

/// The versions of HTTP that are spoken with the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
pub enum HttpVersion {
    /// Over TLS the one that the upstream prefers; in cleartext HTTP/1.1.
    #[serde(rename = "auto")]
    Auto,
    /// HTTP/1.1 alone.
    #[serde(rename = "1.1")]
    #[value(name = "1.1")]
    Http1,
    /// HTTP/2 alone, in cleartext with prior knowledge (RFC 9113 §3.3).
    #[serde(rename = "2")]
    #[value(name = "2")]
    Http2,
}

/// `[batch]`: how read receipts are merged.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Batch {
    /// Whether receipts are merged, or only counted as if they were.
    pub mode: BatchMode,
    /// The paths whose `POST` may be merged: without wildcards, beginning with `/`.
    pub paths: Vec<String>,
    /// How long a batch stays open after its first caller; zero turns merging off.
    pub window: Duration,
    /// Whether the first receipt of an idle key waits for the window too.
    pub edge: BatchEdge,
    /// The age at which a waiting batch no longer yields to other requests.
    pub max_delay: Duration,
    /// Distinct message ids in one batch.
    pub max_ids: usize,
    /// Callers in one batch.
    pub max_callers: usize,
    /// How long a caller stays out of batches after its own request failed.
    pub quarantine: Duration,
    /// Headers in which merged receipts may differ, in lower case.
    pub ignore_headers: Vec<String>,
    /// Fields of query and body in which merged receipts may differ.
    pub ignore_fields: Vec<String>,
}

/// What happens to receipts that could share an upstream call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BatchMode {
    /// They share it.
    Merge,
    /// Each is forwarded as it came; what merging would have saved is counted.
    Observe,
}

/// At which end of a window the first receipt is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BatchEdge {
    /// At its end, with those that followed.
    Trailing,
    /// At once, where no call for such receipts is in flight or was sent within the
    /// last window. Those that follow share the next call.
    Leading,
}

/// `[limit]`: the rate limit of each WhatsApp instance.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Limit {
    /// Whether the limit is enforced, or only counted as if it were.
    pub mode: LimitMode,
    /// The budget of each instance; `None` is unlimited.
    pub quota: Option<Quota>,
    /// How long a request may wait for a bucket token.
    pub max_wait: Duration,
    /// Upstream calls that may wait in one queue.
    pub max_queue: usize,
    /// Whether every response carries `RateLimit` and `RateLimit-Policy`.
    pub headers: bool,
    /// Groups of requests with their own budget per instance; the first match wins.
    #[serde(default, rename = "class")]
    pub classes: Vec<Class>,
}

/// What happens to requests beyond a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LimitMode {
    /// They wait, or are refused.
    Enforce,
    /// They are forwarded as they came; what enforcing would have done is counted.
    Observe,
}

/// `[[limit.class]]`: requests that have a bucket of their own per instance.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Class {
    /// Its name in messages and on the admin page.
    pub name: String,
    /// One of them must match the path; empty means every path.
    #[serde(default)]
    pub paths: Vec<PathPattern>,
    /// One of them must match the method; empty means every method.
    #[serde(default, deserialize_with = "methods")]
    pub methods: Vec<http::Method>,
    /// The instances that it holds for, with those of `tenants`; both empty means all.
    #[serde(default)]
    pub instances: Vec<String>,
    /// The tenants whose instances it holds for.
    #[serde(default)]
    pub tenants: Vec<String>,
    /// The budget; `None` is unlimited.
    pub quota: Option<Quota>,
    /// Upstream calls of one instance in flight at once; `None` is unlimited.
    pub max_in_flight: Option<NonZeroU32>,
}

/// `[egress]`: one budget for all upstream calls together.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Egress {
    /// The budget, shared by weight when it is scarce; `None` is unlimited.
    pub quota: Option<Quota>,
}

/// `[[tenant]]`: instances that share one part of the egress.
///
/// No two tenants have the same name, key, or instance.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Tenant {
    /// Its name in metrics and messages, never `other` or `none`.
    pub name: String,
    /// Its instances, at least one.
    pub instances: Vec<String>,
    /// Its share of a scarce egress, relative to the other tenants; at most 1000.
    #[serde(default = "weight")]
    pub weight: NonZeroU32,
    /// The budget of all its instances together; `None` is unlimited.
    pub quota: Option<Quota>,
    /// The networks from which its instances may be used; empty means every network that
    /// `[access]` allows.
    #[serde(default)]
    pub networks: Vec<IpNet>,
    /// What its apps send instead of an access token. It is valid for the instances in `tokens`.
    pub key: Option<Secret>,
    /// Further keys, for rotation.
    #[serde(default)]
    pub keys: Vec<Secret>,
    /// The access token that replaces the key, for each of these instances.
    #[serde(default)]
    pub tokens: BTreeMap<String, Secret>,
}

/// `[cluster]`: several gateways that share one budget.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Cluster {
    /// The server through which they share it.
    pub url: ClusterUrl,
    /// PEM file of authorities to trust in addition to the built-in ones.
    pub ca: Option<PathBuf>,
    /// Gateways with the same name form one cluster; prefix of every key on the server.
    pub name: String,
    /// The minimum number of gateways; without the server each takes its share of the rate.
    pub replicas: NonZeroU32,
    /// Longest time that one operation on the server may take.
    pub timeout: Duration,
    /// Receipts that arrive at different gateways share upstream calls.
    pub merge: bool,
}

/// `[access]`: which requests are accepted.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Access {
    /// The networks from which requests are accepted; empty means every network.
    pub networks: Vec<IpNet>,
    /// The instances that requests may name.
    pub instances: Instances,
    /// The proxies whose statement of the client's address is trusted; empty means none.
    pub trusted_proxies: Vec<IpNet>,
}

/// The instances that requests may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Instances {
    /// Every instance.
    Any,
    /// Instances of a tenant.
    Listed,
}

/// `[metrics]`: what is counted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Metrics {
    /// Instances that have labels of their own; all others share the label `other`.
    pub max_instances: usize,
}

/// `[log]`: events go to stderr, the access log to stdout.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// The least severe event that is written.
    pub level: LogLevel,
    /// Whether there is an access log.
    pub access: LogAccess,
    /// One request in this many is logged; failures always are.
    pub access_sample: NonZeroU32,
}

/// Whether there is an access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogAccess {
    /// One line for each request.
    On,
    /// No lines.
    Off,
}

/// How an event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// The least severe event that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Nothing at all.
    Off,
    /// An operator is needed.
    Error,
    /// The gateway goes on, but an operator should check it.
    Warn,
    /// Start, stop, drain.
    Info,
    /// What happened to single requests.
    Debug,
    /// Everything.
    Trace,
}

impl Tenant {
    /// Every key of the tenant.
    pub fn all_keys(&self) -> impl Iterator<Item = &Secret> {
        self.key.iter().chain(&self.keys)
    }
}

/// A tenant that sets no weight counts like an instance without a tenant.
fn weight() -> NonZeroU32 {
    NonZeroU32::MIN
}

/// `http::Method` does not implement `Deserialize`.
fn methods<'de, D: Deserializer<'de>>(methods: D) -> Result<Vec<http::Method>, D::Error> {
    let names = Vec::<String>::deserialize(methods)?;
    let methods = names
        .iter()
        .map(|name| http::Method::from_bytes(name.as_bytes()));
    methods
        .collect::<Result<_, _>>()
        .map_err(serde::de::Error::custom)
}
