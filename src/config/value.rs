//! A settings text as a tree: every value knows where it was written.
//!
//! Knows nothing of what a key means. A value may be a secret: `Value` has no `Debug`, and messages
//! use [`Value::excerpt`] or [`Value::masked`].

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use indexmap::IndexMap;
use toml::de::{DeTable, DeValue};

/// The longest part of a value that a message repeats, in characters.
const MAX_EXCERPT: usize = 60;
/// Replaces a secret in output. It is not allowed in keys and tokens, so printed settings that are
/// read again fail instead of using the mask as a secret.
pub(super) const MASK: &str = "…";

/// Where a value was written; ordered from the weakest layer to the strongest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// `default.toml`.
    Default,
    /// The settings file. Line and column count from 1; 0 means unknown.
    File {
        name: Arc<str>,
        line: usize,
        column: usize,
    },
    /// An environment variable, by its whole name.
    Env(String),
    /// A flag, with its dashes.
    Flag(&'static str),
}

/// Keys and their values, in the order of the text.
pub(super) type Tree = IndexMap<String, Entry>;

/// A value and its origin.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) origin: Origin,
    pub(super) value: Value,
}

/// A value as it was written.
#[derive(Clone)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    List(Vec<Entry>),
    Table(Tree),
    /// From a variable or a flag: it takes the type that the setting has.
    Typed(String),
    /// A date, or a number beyond 64 bits: no setting takes one.
    Other(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { name, line: 0, .. } => f.write_str(name),
            Self::File {
                name,
                line,
                column: 0,
            } => write!(f, "{name}:{line}"),
            Self::File { name, line, column } => write!(f, "{name}:{line}:{column}"),
            Self::Env(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

impl Value {
    /// The text, where the value is one.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Typed(text) => Some(text),
            _ => None,
        }
    }

    /// A variable's text as a TOML value, or `None` where it is not TOML.
    pub(super) fn parse(text: &str, origin: &Origin) -> Option<Self> {
        let parsed = DeValue::parse(text.trim()).ok()?;
        Some(value(parsed.get_ref(), &|_| origin.clone()))
    }

    /// A short part of a value that is not a secret.
    pub(super) fn excerpt(&self) -> String {
        match self {
            Self::Text(text) | Self::Typed(text) => format!("\"{}\"", shortened(text)),
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
            Self::Bool(on) => on.to_string(),
            Self::Other(text) => shortened(text),
            Self::List(_) => "[...]".to_owned(),
            Self::Table(_) => "{...}".to_owned(),
        }
    }

    /// The kind of a value without its text, for secrets and for tables that may contain one.
    pub(super) fn masked(&self) -> String {
        match self {
            Self::Text(_) | Self::Typed(_) | Self::Other(_) => quoted(MASK),
            // A secret made of digits, with its quotes forgotten, is read as a number.
            Self::Integer(_) | Self::Float(_) | Self::Bool(_) => MASK.to_owned(),
            // Their excerpt shows no content.
            Self::List(_) | Self::Table(_) => self.excerpt(),
        }
    }
}

/// Converts a parsed table. The origin of a value is the position of its key.
pub(super) fn tree(table: &DeTable<'_>, at: &dyn Fn(Range<usize>) -> Origin) -> Tree {
    let entry = |(key, written): (&toml::Spanned<std::borrow::Cow<'_, str>>, &toml::Spanned<_>)| {
        let value = value(written.get_ref(), at);
        (
            key.get_ref().clone().into_owned(),
            Entry {
                origin: at(key.span()),
                value,
            },
        )
    };
    table.iter().map(entry).collect()
}

/// Converts a parsed value.
fn value(written: &DeValue<'_>, at: &dyn Fn(Range<usize>) -> Origin) -> Value {
    match written {
        DeValue::String(text) => Value::Text(text.clone().into_owned()),
        // TOML also has hexadecimal, octal and binary integers.
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Other(number.to_string()),
        },
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => Value::Float(number),
            Err(_) => Value::Other(number.to_string()),
        },
        DeValue::Boolean(on) => Value::Bool(*on),
        DeValue::Datetime(date) => Value::Other(date.to_string()),
        DeValue::Array(items) => {
            let entry = |item: &toml::Spanned<_>| Entry {
                origin: at(item.span()),
                value: value(item.get_ref(), at),
            };
            Value::List(items.iter().map(entry).collect())
        }
        DeValue::Table(table) => Value::Table(tree(table, at)),
    }
}

/// A key as a path shows it: quoted where TOML would quote it.
pub(super) fn word(key: &str) -> String {
    // The bare keys of TOML.
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if !key.is_empty() && key.bytes().all(is_bare) {
        shortened(key)
    } else {
        format!("\"{}\"", shortened(key))
    }
}

/// Text without control characters, so that it stays on its line and moves no cursor.
pub(super) fn printable(text: &str) -> String {
    let escaped = |letter: char| match letter.is_control() {
        true => letter.escape_default().collect(),
        false => letter.to_string(),
    };
    text.chars().map(escaped).collect()
}

/// A text as a TOML string.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// The beginning of a text, without control characters.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_EXCERPT) {
        // Cut between characters, not within one: the text may be any UTF-8.
        Some((end, _)) => format!("{}...", printable(&text[..end])),
        None => printable(text),
    }
}
