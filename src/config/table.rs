//! The table of settings, in the order of `default.toml`: one row for each setting.
//!
//! The rows drive everything: which keys, variables and flags exist, what a value may be, how it
//! is shown, and whether a changed value needs a restart. A new setting is one row here, one field
//! in `settings.rs` and one line in `default.toml`.

use std::sync::LazyLock;

use super::ignored::{ignored_field, ignored_header};
use super::kind::Kind::{
    self, Address, ClusterServer, Count, Duration, Key, List, Proxy, Rate, Switch, Text, Timeout,
    Tokens, Url, Word,
};
use super::kind::{
    batch_path, file, host, instance, method, name, network, parsed, tenant_name, words,
};
use super::path_pattern::PathPattern;
use super::quota::MAX_BURST;
use super::settings::{
    BatchEdge, BatchMode, HttpVersion, Instances, LimitMode, LogAccess, LogFormat, LogLevel,
};

/// How every variable of the gateway begins.
pub(super) const PREFIX: &str = "WAWP_GATEWAY_";
/// The variable that names the settings file; it is not a setting.
pub const FILE_VARIABLE: &str = "WAWP_GATEWAY_CONFIG";

const BURST: Kind = Count(0, MAX_BURST as i64);
/// For `key` and `keys`, whose values are compared with each other.
const A_NEW_KEY: &str = "a key that is not listed before, here or in another tenant";
const NETWORKS: Kind = List(&Text(network));

/// One setting.
pub(super) struct Row {
    /// Its key within the section; `tls.cert` is the key `cert` of the table `tls`.
    pub(super) key: &'static str,
    /// What its value may be.
    pub(super) kind: Kind,
    /// A changed value takes effect at the next start, not on reload.
    pub(super) needs_restart: bool,
    /// It has no default, and an item of its list must set it.
    pub(super) required: bool,
    /// An empty list is a mistake: it could mean all or none.
    pub(super) not_empty: bool,
    /// Its value must not occur twice in all items of the list; this says what is allowed.
    pub(super) unique: Option<&'static str>,
}

/// Every section and its settings.
pub(super) static SECTIONS: [(&str, &[Row]); 11] = [
    ("server", SERVER),
    ("upstream", UPSTREAM),
    ("batch", BATCH),
    ("limit", LIMIT),
    ("limit.class", CLASS),
    (
        "egress",
        &[reloadable("rate", Rate), reloadable("burst", BURST)],
    ),
    ("tenant", TENANT),
    ("cluster", CLUSTER),
    ("access", ACCESS),
    // Each named instance has about a dozen series, and every scrape transfers all of them.
    (
        "metrics",
        &[restart_only("max_instances", Count(1, 10_000))],
    ),
    ("log", LOG),
];
/// The sections that are written `[[name]]`, any number of times.
pub(super) const LISTS: [&str; 2] = ["limit.class", "tenant"];

const SERVER: &[Row] = &[
    restart_only("listen", Address),
    restart_only("admin", Address),
    restart_only("max_connections", Count(1, 1_000_000)),
    restart_only("max_in_flight", Count(1, 1_000_000)),
    restart_only("header_timeout", Timeout),
    restart_only("body_timeout", Timeout),
    restart_only("idle_timeout", Timeout),
    restart_only("drain_delay", Duration),
    restart_only("drain_timeout", Timeout),
    restart_only("timing_header", Switch),
    restart_only("max_headers", Count(1, 1000)),
    // At least hyper's smallest read buffer: a smaller bound could not be kept.
    restart_only("max_header_bytes", Count(8192, 1024 * 1024)),
    restart_only("names", List(&Text(host))),
    restart_only("tls.cert", Text(file)),
    restart_only("tls.key", Text(file)),
];

const UPSTREAM: &[Row] = &[
    restart_only("url", Url),
    restart_only("http", Word(words::<HttpVersion>)),
    // A password must be reloadable: one that changes is not seen in what is shown.
    reloadable("proxy", Proxy),
    restart_only("connect_timeout", Timeout),
    restart_only("response_timeout", Timeout),
    restart_only("idle_timeout", Timeout),
    restart_only("max_idle", Count(0, 1_000_000)),
    restart_only("max_age", Duration),
    restart_only("ca", Text(file)),
];

const BATCH: &[Row] = &[
    reloadable("mode", Word(words::<BatchMode>)),
    reloadable("paths", List(&Text(batch_path))),
    reloadable("window", Duration),
    reloadable("edge", Word(words::<BatchEdge>)),
    reloadable("max_delay", Duration),
    reloadable("max_ids", Count(1, 10_000)),
    reloadable("max_callers", Count(1, 100_000)),
    reloadable("quarantine", Duration),
    reloadable("ignore_headers", List(&Text(ignored_header))),
    reloadable("ignore_fields", List(&Text(ignored_field))),
];

const LIMIT: &[Row] = &[
    reloadable("mode", Word(words::<LimitMode>)),
    reloadable("rate", Rate),
    reloadable("burst", BURST),
    reloadable("max_wait", Duration),
    reloadable("max_queue", Count(1, 1_000_000)),
    reloadable("headers", Switch),
];

const CLASS: &[Row] = &[
    reloadable("name", Text(name))
        .required()
        .unique("a name that no class before has"),
    reloadable("paths", List(&Text(parsed::<PathPattern>))).not_empty(),
    reloadable("methods", List(&Text(method))),
    reloadable("instances", List(&Text(instance))).not_empty(),
    reloadable("tenants", List(&Text(tenant_name))).not_empty(),
    reloadable("rate", Rate).required(),
    reloadable("burst", BURST),
    reloadable("max_in_flight", Count(1, 100_000)),
];

const TENANT: &[Row] = &[
    reloadable("name", Text(tenant_name))
        .required()
        .unique("a name that no tenant before has"),
    reloadable("instances", List(&Text(instance)))
        .required()
        .not_empty()
        .unique("an instance that is not listed before, here or in another tenant"),
    // Shares that differ by a factor of a thousand are far enough apart, and sums stay small.
    reloadable("weight", Count(1, 1000)),
    reloadable("rate", Rate),
    reloadable("burst", BURST),
    reloadable("networks", NETWORKS),
    reloadable("key", Key).unique(A_NEW_KEY),
    reloadable("keys", List(&Key)).unique(A_NEW_KEY),
    reloadable("tokens", Tokens),
];

const CLUSTER: &[Row] = &[
    restart_only("url", ClusterServer),
    restart_only("ca", Text(file)),
    restart_only("name", Text(name)),
    restart_only("replicas", Count(1, 1000)),
    restart_only("timeout", Timeout),
    restart_only("merge", Switch),
];

const ACCESS: &[Row] = &[
    reloadable("networks", NETWORKS),
    reloadable("instances", Word(words::<Instances>)),
    reloadable("trusted_proxies", NETWORKS),
];

const LOG: &[Row] = &[
    restart_only("format", Word(words::<LogFormat>)),
    restart_only("level", Word(words::<LogLevel>)),
    reloadable("access", Word(words::<LogAccess>)),
    reloadable("access_sample", Count(1, 1_000_000)),
];

/// A setting that changes on reload.
const fn reloadable(key: &'static str, kind: Kind) -> Row {
    Row {
        key,
        kind,
        needs_restart: false,
        required: false,
        not_empty: false,
        unique: None,
    }
}

/// A setting whose change needs a restart.
const fn restart_only(key: &'static str, kind: Kind) -> Row {
    Row {
        needs_restart: true,
        ..reloadable(key, kind)
    }
}

impl Row {
    const fn required(self) -> Self {
        Self {
            required: true,
            ..self
        }
    }

    const fn not_empty(self) -> Self {
        Self {
            not_empty: true,
            ..self
        }
    }

    const fn unique(self, allowed: &'static str) -> Self {
        Self {
            unique: Some(allowed),
            ..self
        }
    }
}

/// The flags of `serve` that are settings.
pub(super) const FLAGS: [(&str, &str); 6] = [
    ("--listen", "server.listen"),
    ("--admin", "server.admin"),
    ("--upstream", "upstream.url"),
    ("--window", "batch.window"),
    ("--rate", "limit.rate"),
    ("--burst", "limit.burst"),
];

/// Every setting with its path, those of lists without an index: `limit.class.name`.
pub(super) static SETTINGS: LazyLock<Vec<(String, &Row)>> = LazyLock::new(|| {
    let path = |section: &str, row: &Row| format!("{section}.{}", row.key);
    let rows = SECTIONS
        .iter()
        .flat_map(|(name, rows)| rows.iter().map(move |row| (*name, row)));
    rows.map(|(section, row)| (path(section, row), row))
        .collect()
});

/// The keys directly within a section, tables included; within `""` the sections. Empty for a path
/// that is not a section.
pub(super) fn children(section: &str) -> Vec<String> {
    let prefix = join(section, "");
    let mut keys: Vec<String> = Vec::new();
    for (path, _) in SETTINGS.iter() {
        let rest = path.strip_prefix(&prefix);
        // `tls.cert` and `tls.key` both have the first key `tls`, which must appear once.
        let key = rest.and_then(|rest| rest.split('.').next());
        if let Some(key) = key.filter(|key| !keys.iter().any(|known| known == key)) {
            keys.push(key.to_owned());
        }
    }
    keys
}

/// The path of a key in a section; without a section, the key alone.
pub(super) fn join(section: &str, key: &str) -> String {
    if section.is_empty() {
        key.to_owned()
    } else {
        format!("{section}.{key}")
    }
}
