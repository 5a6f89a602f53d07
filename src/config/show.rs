//! How settings and mistakes are printed: as TOML with the origin of each, and one mistake a line.
//!
//! Everything printed has come through [`Show`], so a type that holds a secret decides here, once, what may be seen.

use std::{
    collections::BTreeMap, fmt, net::SocketAddr, num::NonZeroU32, path::PathBuf, time::Duration,
};

use ipnet::IpNet;

use super::{
    BatchMode, Effective, Instances, LimitMode, LogAccess, LogFormat, LogLevel, Mistakes,
    PathPattern, Secret, UpstreamUrl,
    layer::{Origin, Value},
};

/// The longest piece of somebody's text that a message repeats, in characters.
const MAX_EXCERPT: usize = 60;
/// What stands for a secret. No key and no token may hold it, so what is printed is never taken for the real one.
pub(super) const MASK: &str = "…";
/// The mistakes that are printed: a file that is something else altogether has thousands.
const MAX_PRINTED: usize = 100;

/// A setting's type, as far as printing goes.
pub(super) trait Show {
    /// Returns the value as TOML; a secret returns a mask.
    fn toml(&self) -> String;

    /// Returns a short piece of what was written instead; a secret returns a mask, since a mistyped one is still one.
    fn excerpt(written: &Value) -> String {
        excerpt(written)
    }
}

/// A line of the settings as they stand.
#[derive(Clone, Debug)]
pub(super) enum Shown {
    /// `[section]` or `[[section.list]]`.
    Header(String),
    /// `key = toml`.
    Setting(Setting),
    /// What will stand in a setting's place after a restart.
    Waiting(Setting),
    /// After a restart this will not be set.
    Gone(Setting),
}

/// A setting and its value, which is safe to print.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) path: String,
    /// As it is written in its section.
    pub(super) key: String,
    pub(super) toml: String,
    pub(super) origin: Origin,
}

/// One thing that is wrong: where, what, and what is allowed.
#[derive(Clone, Debug)]
pub(super) struct Mistake {
    pub(super) origin: Origin,
    pub(super) path: String,
    pub(super) value: Option<String>,
    pub(super) allowed: String,
}

// === impl Show ===

macro_rules! show {
    ($turn:expr => $($type:ty)*) => {
        $(impl Show for $type {
            fn toml(&self) -> String {
                $turn(self)
            }
        })*
    };
}

show!(ToString::to_string => usize u32 NonZeroU32 f64 bool);
show!(|value: &_| quoted(&ToString::to_string(value)) => SocketAddr IpNet String PathPattern http::Method);
show!(|value: &_| quoted(&ToString::to_string(value)) => BatchMode Instances LimitMode LogAccess LogFormat LogLevel);
show!(|value: &PathBuf| quoted(&value.display().to_string()) => PathBuf);

impl Show for Duration {
    /// In one unit, as `default.toml` has them: `75s`, not `1m 15s`.
    fn toml(&self) -> String {
        let nanos = self.as_nanos();
        let units = [
            (1_000_000_000, "s"),
            (1_000_000, "ms"),
            (1000, "us"),
            (1, "ns"),
        ];
        let whole = units
            .into_iter()
            .find(|(unit, _)| nanos.is_multiple_of(*unit));
        let (unit, name) = whole.unwrap_or((1, "ns"));
        format!("\"{}{name}\"", nanos / unit)
    }
}

impl<T: Show> Show for Vec<T> {
    fn toml(&self) -> String {
        let items: Vec<String> = self.iter().map(Show::toml).collect();
        format!("[{}]", items.join(", "))
    }
}

impl Show for Secret {
    fn toml(&self) -> String {
        quoted(MASK)
    }

    fn excerpt(written: &Value) -> String {
        masked(written)
    }
}

impl Show for BTreeMap<String, Secret> {
    fn toml(&self) -> String {
        let masks: toml::Table = self
            .keys()
            .map(|name| (name.clone(), MASK.into()))
            .collect();
        toml::Value::Table(masks).to_string()
    }
}

impl Show for UpstreamUrl {
    fn toml(&self) -> String {
        quoted(&self.to_string())
    }

    fn excerpt(written: &Value) -> String {
        match written {
            // A user or a query is refused, but may hold a password or a token all the same.
            Value::Text(text) | Value::Typed(text) if text.contains(['@', '?', '#']) => {
                masked(written)
            }
            other => excerpt(other),
        }
    }
}

// === impl Shown, Effective ===

impl Shown {
    /// Returns the setting, where this is one that has a value.
    pub(super) fn setting(&self) -> Option<&Setting> {
        match self {
            Self::Setting(setting) => Some(setting),
            Self::Header(_) | Self::Waiting(_) | Self::Gone(_) => None,
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.key, self.toml)?;
        match &self.origin {
            Origin::Default => Ok(()),
            origin => write!(f, "  # {origin}"),
        }
    }
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_shown(&self.shown, f)
    }
}

/// Writes settings as TOML.
pub(super) fn write_shown(shown: &[Shown], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (index, shown) in shown.iter().enumerate() {
        match shown {
            Shown::Header(text) if index == 0 => writeln!(f, "{text}")?,
            Shown::Header(text) => writeln!(f, "\n{text}")?,
            Shown::Setting(setting) => writeln!(f, "{setting}")?,
            Shown::Waiting(setting) => writeln!(f, "# after a restart: {setting}")?,
            Shown::Gone(setting) => writeln!(f, "# after a restart {} is not set", setting.key)?,
        }
    }
    Ok(())
}

// === impl Mistakes ===

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in self.0.iter().take(MAX_PRINTED) {
            writeln!(f, "{mistake}")?;
        }
        if let Some(more @ 1..) = self.0.len().checked_sub(MAX_PRINTED) {
            writeln!(f, "... and {more} more")?;
        }
        match self.0.len() {
            1 => f.write_str("1 mistake in the settings"),
            count => write!(f, "{count} mistakes in the settings"),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        match &self.value {
            Some(value) => write!(f, "{} = {value}: ", self.path)?,
            None if self.path.is_empty() => {}
            None => write!(f, "{}: ", self.path)?,
        }
        f.write_str(&self.allowed)
    }
}

// === pieces of text ===

/// Returns a short piece of a value that is no secret.
pub(super) fn excerpt(value: &Value) -> String {
    match value {
        Value::Text(text) | Value::Typed(text) => format!("\"{}\"", piece(text)),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Bool(on) => on.to_string(),
        Value::Other(text) => piece(text),
        Value::List(_) => "[...]".to_owned(),
        Value::Table(_) => "{...}".to_owned(),
    }
}

/// Returns what kind of thing a value is, without its text: for a secret, or a table that may hold one.
pub(super) fn masked(value: &Value) -> String {
    match value {
        Value::Text(_) | Value::Typed(_) | Value::Other(_) => quoted(MASK),
        // Digits without their quotes may be one, too.
        Value::Integer(_) | Value::Float(_) | Value::Bool(_) => MASK.to_owned(),
        Value::List(_) | Value::Table(_) => excerpt(value),
    }
}

/// Returns a key as a path shows it.
pub(super) fn word(key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if bare {
        piece(key)
    } else {
        format!("\"{}\"", piece(key))
    }
}

/// Returns text that keeps to its line and moves no cursor.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|letter| {
            if letter.is_control() {
                letter.escape_default().collect()
            } else {
                vec![letter]
            }
        })
        .collect()
}

fn piece(text: &str) -> String {
    match text.char_indices().nth(MAX_EXCERPT) {
        Some((end, _)) => format!("{}...", printable(&text[..end])),
        None => printable(text),
    }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
