//! The table of settings, in the order of `default.toml`: one row for each setting.
//!
//! The rows drive everything: which keys, variables and flags exist, what a value may be, how it
//! is shown, and whether a changed value needs a restart. A new setting is one row here, one field
//! in `settings.rs` and one line in `default.toml`.

use super::kind::{Kind, words};
use super::quota::MAX_BURST;
use super::settings::{BatchMode, Instances, LimitMode, LogAccess, LogFormat, LogLevel};

/// How every variable of the gateway begins.
pub(super) const PREFIX: &str = "WAWP_GATEWAY_";
/// The variable that names the settings file; it is not a setting.
pub const FILE_VARIABLE: &str = "WAWP_GATEWAY_CONFIG";
/// The smallest read buffer of hyper; a smaller bound could not be kept.
const MIN_HEADER_BYTES: i64 = 8192;
const MAX_HEADER_BYTES: i64 = 1024 * 1024;
/// Shares that differ by a factor of a thousand are far enough apart, and sums stay small.
const MAX_WEIGHT: i64 = 1000;

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

const BURST: Kind = Kind::Count(0, MAX_BURST as i64);

/// Every setting.
pub(super) static SECTIONS: [Section; 10] = [
    section(
        "server",
        &[
            row("listen", Kind::Address).at_start().flag("--listen"),
            row("admin", Kind::Address).at_start().flag("--admin"),
            row("max_connections", Kind::Count(1, 1_000_000)).at_start(),
            row("max_in_flight", Kind::Count(1, 1_000_000)).at_start(),
            row("header_timeout", Kind::Timeout).at_start(),
            row("body_timeout", Kind::Timeout).at_start(),
            row("idle_timeout", Kind::Timeout).at_start(),
            row("drain_timeout", Kind::Timeout).at_start(),
            row("timing_header", Kind::Switch).at_start(),
            row("max_headers", Kind::Count(1, 1000)).at_start(),
            row(
                "max_header_bytes",
                Kind::Count(MIN_HEADER_BYTES, MAX_HEADER_BYTES),
            )
            .at_start(),
            row("names", Kind::List(&Kind::Host)).at_start(),
            row("tls.cert", Kind::File).at_start(),
            row("tls.key", Kind::File).at_start(),
        ],
    ),
    section(
        "upstream",
        &[
            row("url", Kind::Url).at_start().flag("--upstream"),
            row("connect_timeout", Kind::Timeout).at_start(),
            row("response_timeout", Kind::Timeout).at_start(),
            row("idle_timeout", Kind::Timeout).at_start(),
            row("ca", Kind::File).at_start(),
        ],
    ),
    section(
        "batch",
        &[
            row("mode", Kind::Word(words::<BatchMode>)),
            row("paths", Kind::List(&Kind::BatchPath)),
            row("window", Kind::Duration).flag("--window"),
            row("max_delay", Kind::Duration),
            row("max_ids", Kind::Count(1, 10_000)),
            row("max_callers", Kind::Count(1, 100_000)),
            row("quarantine", Kind::Duration),
        ],
    ),
    section(
        "limit",
        &[
            row("mode", Kind::Word(words::<LimitMode>)),
            row("rate", Kind::Rate).flag("--rate"),
            row("burst", BURST).flag("--burst"),
            row("max_wait", Kind::Duration),
            row("max_queue", Kind::Count(1, 1_000_000)),
            row("headers", Kind::Switch),
        ],
    ),
    list(
        "limit.class",
        &[
            row("name", Kind::Name)
                .required()
                .unique("a name that no class before has"),
            row("paths", Kind::List(&Kind::PathPattern)).required(),
            row("methods", Kind::List(&Kind::Method)),
            row("rate", Kind::Rate).required(),
            row("burst", BURST),
        ],
    ),
    section("egress", &[row("rate", Kind::Rate), row("burst", BURST)]),
    list(
        "tenant",
        &[
            row("name", Kind::TenantName)
                .required()
                .unique("a name that no tenant before has"),
            row("instances", Kind::List(&Kind::Instance))
                .required()
                .unique("an instance that is not listed before, here or in another tenant"),
            row("weight", Kind::Count(1, MAX_WEIGHT)),
            row("rate", Kind::Rate),
            row("burst", BURST),
            row("networks", Kind::List(&Kind::Network)),
            row("key", Kind::Key).unique("a key that no tenant before has"),
            row("tokens", Kind::Tokens),
        ],
    ),
    section(
        "access",
        &[
            row("networks", Kind::List(&Kind::Network)),
            row("instances", Kind::Word(words::<Instances>)),
            row("trusted_proxies", Kind::List(&Kind::Network)),
        ],
    ),
    section(
        "metrics",
        &[row("max_instances", Kind::Count(1, 10_000)).at_start()],
    ),
    section(
        "log",
        &[
            row("format", Kind::Word(words::<LogFormat>)).at_start(),
            row("level", Kind::Word(words::<LogLevel>)).at_start(),
            row("access", Kind::Word(words::<LogAccess>)),
            row("access_sample", Kind::Count(1, 1_000_000)),
        ],
    ),
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
    const fn flag(mut self, name: &'static str) -> Self {
        self.flag = Some(name);
        self
    }

    const fn at_start(mut self) -> Self {
        self.at_start = true;
        self
    }

    const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    const fn unique(mut self, allowed: &'static str) -> Self {
        self.unique = Some(allowed);
        self
    }
}

/// Every setting's path, those of lists without an index: `server.tls.cert`, `limit.class.name`.
pub(super) fn paths() -> impl Iterator<Item = String> {
    let path = |section: &Section, row: &Row| format!("{}.{}", section.name, row.key);
    SECTIONS
        .iter()
        .flat_map(move |section| section.rows.iter().map(move |row| path(section, row)))
}

/// Says whether settings are written below this path, as below `server` and `server.tls`.
pub(super) fn is_group(path: &str) -> bool {
    paths().any(|setting| {
        setting
            .strip_prefix(path)
            .is_some_and(|rest| rest.starts_with('.'))
    })
}

/// The keys directly within a section, tables included; within `""` the sections.
pub(super) fn children(section: &str) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for path in paths() {
        let rest = match section {
            "" => Some(&*path),
            section => path
                .strip_prefix(section)
                .and_then(|rest| rest.strip_prefix('.')),
        };
        let key = rest.and_then(|rest| rest.split('.').next());
        if let Some(key) = key.filter(|key| !keys.iter().any(|known| known == key)) {
            keys.push(key.to_owned());
        }
    }
    keys
}

/// Says whether a changed value takes effect only at the next start.
pub(super) fn is_read_at_start(section: &str, key: &str) -> bool {
    let section = SECTIONS.iter().find(|known| known.name == section);
    let row = section.and_then(|section| section.rows.iter().find(|row| row.key == key));
    row.is_some_and(|row| row.at_start)
}
