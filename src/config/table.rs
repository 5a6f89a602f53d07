//! The table of settings, in the order of `default.toml`: one row for each setting.
//!
//! The rows drive everything: which keys, variables and flags exist, what a value may be, how it
//! is shown, and whether a changed value needs a restart. A new setting is one row here, one field
//! in `settings.rs` and one line in `default.toml`.

use std::sync::LazyLock;

use super::kind::Kind::{
    self, Address, Count, Duration, Key, List, Rate, Switch, Text, Timeout, Tokens, Url, Word,
};
use super::kind::{
    batch_path, file, host, instance, method, name, network, path_pattern, tenant_name, words,
};
use super::quota::MAX_BURST;
use super::settings::{BatchMode, Instances, LimitMode, LogAccess, LogFormat, LogLevel};

/// How every variable of the gateway begins.
pub(super) const PREFIX: &str = "WAWP_GATEWAY_";
/// The variable that names the settings file; it is not a setting.
pub const FILE_VARIABLE: &str = "WAWP_GATEWAY_CONFIG";

const BURST: Kind = Count(0, MAX_BURST as i64);
const NETWORKS: Kind = List(&Text(network));

/// A section and its settings.
pub(super) struct Section {
    /// `limit`, or `limit.class` for `[[limit.class]]`.
    pub(super) name: &'static str,
    /// Written `[[name]]`, any number of times.
    pub(super) is_list: bool,
    pub(super) rows: &'static [Row],
}

/// One setting.
pub(super) struct Row {
    /// Its key within the section; `tls.cert` is the key `cert` of the table `tls`.
    pub(super) key: &'static str,
    /// What its value may be.
    pub(super) kind: Kind,
    /// The flag of `serve` that sets it.
    pub(super) flag: Option<&'static str>,
    /// A changed value takes effect at the next start, not on reload.
    pub(super) at_start: bool,
    /// It has no default, and an item of its list must set it.
    pub(super) required: bool,
    /// Its value must not occur twice in all items of the list; this says what is allowed.
    pub(super) unique: Option<&'static str>,
}

/// Every setting.
pub(super) static SECTIONS: [Section; 10] = [
    section("server", SERVER),
    section("upstream", UPSTREAM),
    section("batch", BATCH),
    section("limit", LIMIT),
    list("limit.class", CLASS),
    section("egress", &[row("rate", Rate), row("burst", BURST)]),
    list("tenant", TENANT),
    section("access", ACCESS),
    section(
        "metrics",
        &[row("max_instances", Count(1, 10_000)).at_start()],
    ),
    section("log", LOG),
];

const SERVER: &[Row] = &[
    row("listen", Address).at_start().flag("--listen"),
    row("admin", Address).at_start().flag("--admin"),
    row("max_connections", Count(1, 1_000_000)).at_start(),
    row("max_in_flight", Count(1, 1_000_000)).at_start(),
    row("header_timeout", Timeout).at_start(),
    row("body_timeout", Timeout).at_start(),
    row("idle_timeout", Timeout).at_start(),
    row("drain_timeout", Timeout).at_start(),
    row("timing_header", Switch).at_start(),
    row("max_headers", Count(1, 1000)).at_start(),
    // At least hyper's smallest read buffer: a smaller bound could not be kept.
    row("max_header_bytes", Count(8192, 1024 * 1024)).at_start(),
    row("names", List(&Text(host))).at_start(),
    row("tls.cert", Text(file)).at_start(),
    row("tls.key", Text(file)).at_start(),
];

const UPSTREAM: &[Row] = &[
    row("url", Url).at_start().flag("--upstream"),
    row("connect_timeout", Timeout).at_start(),
    row("response_timeout", Timeout).at_start(),
    row("idle_timeout", Timeout).at_start(),
    row("ca", Text(file)).at_start(),
];

const BATCH: &[Row] = &[
    row("mode", Word(words::<BatchMode>)),
    row("paths", List(&Text(batch_path))),
    row("window", Duration).flag("--window"),
    row("max_delay", Duration),
    row("max_ids", Count(1, 10_000)),
    row("max_callers", Count(1, 100_000)),
    row("quarantine", Duration),
];

const LIMIT: &[Row] = &[
    row("mode", Word(words::<LimitMode>)),
    row("rate", Rate).flag("--rate"),
    row("burst", BURST).flag("--burst"),
    row("max_wait", Duration),
    row("max_queue", Count(1, 1_000_000)),
    row("headers", Switch),
];

const CLASS: &[Row] = &[
    row("name", Text(name))
        .required()
        .unique("a name that no class before has"),
    row("paths", List(&Text(path_pattern))).required(),
    row("methods", List(&Text(method))),
    row("rate", Rate).required(),
    row("burst", BURST),
];

const TENANT: &[Row] = &[
    row("name", Text(tenant_name))
        .required()
        .unique("a name that no tenant before has"),
    row("instances", List(&Text(instance)))
        .required()
        .unique("an instance that is not listed before, here or in another tenant"),
    // Shares that differ by a factor of a thousand are far enough apart, and sums stay small.
    row("weight", Count(1, 1000)),
    row("rate", Rate),
    row("burst", BURST),
    row("networks", NETWORKS),
    row("key", Key).unique("a key that no tenant before has"),
    row("tokens", Tokens),
];

const ACCESS: &[Row] = &[
    row("networks", NETWORKS),
    row("instances", Word(words::<Instances>)),
    row("trusted_proxies", NETWORKS),
];

const LOG: &[Row] = &[
    row("format", Word(words::<LogFormat>)).at_start(),
    row("level", Word(words::<LogLevel>)).at_start(),
    row("access", Word(words::<LogAccess>)),
    row("access_sample", Count(1, 1_000_000)),
];

const fn section(name: &'static str, rows: &'static [Row]) -> Section {
    Section {
        name,
        is_list: false,
        rows,
    }
}

const fn list(name: &'static str, rows: &'static [Row]) -> Section {
    Section {
        name,
        is_list: true,
        rows,
    }
}

const fn row(key: &'static str, kind: Kind) -> Row {
    Row {
        key,
        kind,
        flag: None,
        at_start: false,
        required: false,
        unique: None,
    }
}

impl Row {
    const fn flag(self, name: &'static str) -> Self {
        Self {
            flag: Some(name),
            ..self
        }
    }

    const fn at_start(self) -> Self {
        Self {
            at_start: true,
            ..self
        }
    }

    const fn required(self) -> Self {
        Self {
            required: true,
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

/// Every setting with its path, those of lists without an index: `limit.class.name`.
pub(super) static SETTINGS: LazyLock<Vec<(String, &Row)>> = LazyLock::new(|| {
    let rows = |section: &'static Section| section.rows.iter().map(move |row| (section.name, row));
    let settings = SECTIONS.iter().flat_map(rows);
    settings
        .map(|(section, row)| (format!("{section}.{}", row.key), row))
        .collect()
});

/// The keys directly within a section, tables included; within `""` the sections. Empty for a path
/// that is not a section.
pub(super) fn children(section: &str) -> Vec<String> {
    let prefix = if section.is_empty() {
        String::new()
    } else {
        format!("{section}.")
    };
    let mut keys: Vec<String> = Vec::new();
    for (path, _) in SETTINGS.iter() {
        let key = path
            .strip_prefix(&prefix)
            .and_then(|rest| rest.split('.').next());
        if let Some(key) = key.filter(|key| !keys.iter().any(|known| known == key)) {
            keys.push(key.to_owned());
        }
    }
    keys
}
