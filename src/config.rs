//! The settings: read, checked and shown.
//!
//! Owns every setting, its default (`default.toml`), its bounds (the table) and the layers:
//! defaults, file, environment, flags. Of the files that settings name, it opens only those of
//! secrets. Invariant: a [`Config`] from [`load`] is within every bound that `default.toml`
//! documents.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;

mod check;
mod classes;
mod cluster_url;
mod described;
mod effective;
mod files;
mod ignored;
mod kind;
mod layers;
mod mistakes;
mod path_pattern;
pub(crate) mod pem;
mod proxy_url;
mod quota;
mod rules;
mod secret;
mod settings;
mod table;
mod upstream_url;
mod value;
mod warnings;

#[cfg(test)]
mod tests;

use self::check::Checks;
use self::layers::Layers;
use self::secret::Sources;
use self::value::Tree;

pub use self::classes::{Classes, Group, InstanceLimit};
pub use self::cluster_url::{ClusterCredentials, ClusterServer, ClusterUrl, ClusterUrlError};
pub(crate) use self::described::describe;
pub use self::effective::{Effective, InForce};
pub(crate) use self::kind::read_address;
pub use self::mistakes::Mistakes;
pub use self::path_pattern::{PathPattern, PatternError};
pub use self::proxy_url::{ProxyUrl, ProxyUrlError};
pub use self::quota::{Quota, QuotaError};
pub use self::secret::Secret;
pub use self::settings::{
    Access, Batch, BatchEdge, BatchMode, Class, Cluster, Config, Egress, HttpVersion, Instances,
    Limit, LimitMode, Log, LogAccess, LogFormat, LogLevel, Metrics, Server, Tenant, Tls, Upstream,
};
pub use self::table::FILE_VARIABLE;
pub use self::upstream_url::{UpstreamUrl, UrlError};

/// Every setting with its default and a comment. Defaults exist only here.
pub const DEFAULTS: &str = include_str!("config/default.toml");
/// The settings file that is read where none is named.
pub const DEFAULT_FILE: &str = "/etc/wawp-gateway/gateway.toml";

/// The settings that have a flag, as text. They are checked with those of the other layers.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Where clients connect [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Where metrics and pages are [default: 127.0.0.1:9464]
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<String>,
    /// Where requests go [default: https://api.wawp.net]
    #[allow(rustdoc::bare_urls)] // the text is the help too, where a link would be noise
    #[arg(long, value_name = "URL")]
    pub upstream: Option<String>,
    /// How long a batch is open; 0 is off [default: 50ms]
    #[arg(long, value_name = "DUR")]
    pub window: Option<String>,
    /// Requests/s per instance; 0 is no limit [default: 10]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub rate: Option<String>,
    /// Requests at once, per instance [default: 20]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub burst: Option<String>,
}

/// Reads the settings: defaults, file, environment (`WAWP_GATEWAY_<SECTION>__<KEY>`) and flags.
///
/// Blocks while it reads the file, and the files that contain secrets.
///
/// # Errors
/// Every mistake of every layer at once, also in values that a stronger layer overrides.
pub fn load(
    file: Option<&Path>,
    env: impl Iterator<Item = (OsString, OsString)>,
    flags: &Overrides,
) -> Result<Effective, Mistakes> {
    load_with(file, env, flags, |_| Vec::new())
}

/// As [`load`], and runs `check` on the files that settings name.
///
/// `check` runs even if there are mistakes: a wrong value is then replaced by that of the next
/// weaker layer. It returns problems, each with the path of its setting.
///
/// # Errors
/// As [`load`], and those problems.
pub fn load_with(
    file: Option<&Path>,
    env: impl Iterator<Item = (OsString, OsString)>,
    flags: &Overrides,
    check: impl FnOnce(&Config) -> Vec<(&'static str, String)>,
) -> Result<Effective, Mistakes> {
    let mut mistakes = Mistakes::default();
    let file = file.map(|path| layers::read(path, &mut mistakes));
    finish(file.unwrap_or_default(), env, flags, mistakes, check)
}

/// As [`load`], with the text of the file: for the fuzz targets.
pub(crate) fn load_text(
    text: &[u8],
    env: impl Iterator<Item = (OsString, OsString)>,
    flags: &Overrides,
) -> Result<Effective, Mistakes> {
    let mut mistakes = Mistakes::default();
    let file = layers::parse(Some(&"settings.toml".into()), text, &mut mistakes);
    finish(file, env, flags, mistakes, |_| Vec::new())
}

/// Adds the layers to the file, checks every setting, and makes the result.
fn finish(
    file: Tree,
    env: impl Iterator<Item = (OsString, OsString)>,
    flags: &Overrides,
    mut mistakes: Mistakes,
    check: impl FnOnce(&Config) -> Vec<(&'static str, String)>,
) -> Result<Effective, Mistakes> {
    // Kept, because a secret may be in any variable (`env:NAME`), not only in those of the gateway.
    let variables: Vec<(OsString, OsString)> = env.collect();
    let mut layers = Layers::new(DEFAULTS, file);
    layers.add_flags(&flags.by_name());
    layers.add_environment(&variables, &mut mistakes);
    layers.add_proxy_variable(&variables);
    let sources = Sources::new(&variables);
    let mut checks = Checks::new(&sources, mistakes);
    checks.walk(layers);
    let Checks {
        values,
        shown,
        mut mistakes,
        ..
    } = checks;
    let Ok(config) = values.try_into() else {
        // The error is not printed: it could quote a secret.
        unreachable!("the table of settings admits a value that its field cannot hold")
    };
    // The rules need the values of all layers together, so they run on the result.
    rules::check(&config, &shown, &mut mistakes);
    effective::add_problems(&mut mistakes, &shown, check(&config));
    if mistakes.is_empty() {
        Ok(Effective { config, shown })
    } else {
        Err(mistakes)
    }
}

/// Finds the settings file: the one that was named, else the one in `WAWP_GATEWAY_CONFIG`, else
/// `fallback` if it exists. An empty variable counts as unset.
pub fn find_file(
    named: Option<PathBuf>,
    variable: Option<OsString>,
    fallback: &Path,
) -> Option<PathBuf> {
    let variable = variable.filter(|name| !name.is_empty()).map(PathBuf::from);
    // A file that exists but may not be read is a mistake, which reading it reports.
    // The link itself, not its target: a dangling link is a mistake, not a missing file.
    let is_there = std::fs::symlink_metadata(fallback).is_ok();
    named
        .or(variable)
        .or_else(|| is_there.then(|| fallback.to_owned()))
}

impl Overrides {
    /// The flags with their texts; `None` for a flag that was not given.
    fn by_name(&self) -> [(&'static str, Option<&String>); 6] {
        // No `..`: the compiler reports a flag that is missing below.
        let Self {
            listen,
            admin,
            upstream,
            window,
            rate,
            burst,
        } = self;
        [
            ("--listen", listen.as_ref()),
            ("--admin", admin.as_ref()),
            ("--upstream", upstream.as_ref()),
            ("--window", window.as_ref()),
            ("--rate", rate.as_ref()),
            ("--burst", burst.as_ref()),
        ]
    }
}

impl Default for Config {
    /// The settings of `default.toml`.
    fn default() -> Self {
        match load_text(
            DEFAULTS.as_bytes(),
            std::iter::empty(),
            &Overrides::default(),
        ) {
            Ok(effective) => effective.config,
            Err(mistakes) => unreachable!("default.toml is wrong: {mistakes}"),
        }
    }
}
