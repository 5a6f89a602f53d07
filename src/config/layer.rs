//! The layers as one tree: every value knows where it was written and which value it covers.
//!
//! Knows nothing of what a key means. Covered values stay in the tree, so that a mistake in the file is found even
//! where a flag hides it, and a bad value has a good one beneath it.

use std::{
    ffi::OsString,
    fmt,
    fs::File,
    io::{self, Read},
    ops::Range,
    os::unix::fs::FileTypeExt as _,
    path::Path,
    sync::Arc,
};

use indexmap::IndexMap;
use toml::de::{DeTable, DeValue};

use super::{Overrides, report::Report, show::printable};

/// What every variable of the gateway begins with.
pub(super) const PREFIX: &str = "WAWP_GATEWAY_";
/// The largest file that is read: a thousand classes fit, a log file named by mistake does not fill the memory.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// `SERVER__TLS__CERT`: no setting lies deeper, and the tree must not grow as deep as a variable is long.
const MAX_DEPTH: usize = 3;

const A_DIRECTORY: &str = "this is a directory, not a file";

/// Where a value was written, from the weakest layer to the strongest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// `default.toml`.
    Default,
    /// A file; line and column count from 1, 0 says that there is none.
    File {
        name: Arc<str>,
        line: usize,
        column: usize,
    },
    /// A variable, by its whole name.
    Env(String),
    /// A flag, with its dashes.
    Flag(&'static str),
}

/// Keys and what stands there.
pub(super) type Table = IndexMap<String, Entry>;

/// A value, where it was written, and what it covers. No `Debug`: a value may be a secret.
pub(super) struct Entry {
    pub(super) origin: Origin,
    pub(super) value: Value,
    pub(super) below: Option<Box<Entry>>,
}

/// A value as it was written.
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    List(Vec<Entry>),
    Table(Table),
    /// From a variable or a flag: it takes the type that the key asks for.
    Typed(String),
    /// A date, or a number beyond 64 bits: no setting takes one.
    Other(String),
}

// === impl Origin ===

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

// === impl Entry ===

impl Entry {
    pub(super) fn new(origin: Origin, value: Value) -> Self {
        Self {
            origin,
            value,
            below: None,
        }
    }

    /// Puts a stronger layer's entry over this one: tables mix, anything else covers.
    fn cover(&mut self, over: Self) {
        match (self.table_mut(), over) {
            (
                Some(mine),
                Self {
                    value: Value::Table(theirs),
                    ..
                },
            ) => lay(mine, theirs),
            (_, over) => {
                let below = std::mem::replace(self, over);
                self.below = Some(Box::new(below));
            }
        }
    }

    fn table_mut(&mut self) -> Option<&mut Table> {
        match &mut self.value {
            Value::Table(table) => Some(table),
            _ => self.below.as_mut()?.table_mut(),
        }
    }
}

/// Puts a stronger layer over a weaker one.
pub(super) fn lay(under: &mut Table, over: Table) {
    for (key, entry) in over {
        match under.get_mut(&key) {
            Some(mine) => mine.cover(entry),
            None => drop(under.insert(key, entry)),
        }
    }
}

// === the four layers ===

/// Returns `default.toml`.
pub(super) fn defaults() -> Table {
    let (table, _) = DeTable::parse_recoverable(super::DEFAULTS);
    tree(table.get_ref(), &|_| Origin::Default)
}

/// Reads a settings file, as far as it can be read.
pub(super) fn file(path: &Path, report: &mut Report) -> Table {
    // A control character in the name must not break the line it is printed on.
    let name: Arc<str> = printable(&path.display().to_string()).into();
    match bytes(path, MAX_FILE_BYTES, "a settings file has at most 1 MiB") {
        Ok(bytes) => text(&name, &bytes, report),
        Err(problem) => {
            let (line, column) = (0, 0);
            report.general(Origin::File { name, line, column }, problem);
            Table::new()
        }
    }
}

/// Reads the text of a settings file, as far as it can be read.
pub(super) fn text(name: &Arc<str>, bytes: &[u8], report: &mut Report) -> Table {
    let at = |line, column| Origin::File {
        name: Arc::clone(name),
        line,
        column,
    };
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let line = 1 + bytes[..error.valid_up_to()]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count();
            report.general(
                at(line, 0),
                "settings files are UTF-8; this byte is not".to_owned(),
            );
            return Table::new();
        }
    };
    if text.trim().is_empty() {
        let allowed = "the file is empty; one comment in it says that the defaults are meant";
        report.general(at(0, 0), allowed.to_owned());
        return Table::new();
    }
    let lines: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).collect();
    let line_of = |offset: usize| 1 + lines.partition_point(|start| *start <= offset);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let offset = error.span().map_or(text.len(), |span| span.start);
        let line = line_of(offset);
        if report.breaks(at(line, 0)) {
            let start = if line == 1 { 0 } else { lines[line - 2] };
            let column = 1 + text
                .get(start..offset)
                .map_or(0, |before| before.chars().count());
            // The parser's own Display quotes the line, which may hold a secret; its message does not.
            report.general(
                at(line, column),
                format!("this is not TOML: {}", error.message()),
            );
        }
    }
    tree(table.get_ref(), &|span| at(line_of(span.start), 0))
}

/// Reads the bytes of a file, or says what is wrong with it; `too_large` is said of one beyond `max` bytes.
pub(super) fn bytes(path: &Path, max: u64, too_large: &str) -> Result<Vec<u8>, String> {
    let describe = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::IsADirectory => A_DIRECTORY.to_owned(),
        io::ErrorKind::PermissionDenied => "the file may not be read by this user".to_owned(),
        _ => format!("the file cannot be read: {error}"),
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(describe)?;
    file.take(max + 1)
        .read_to_end(&mut bytes)
        .map_err(describe)?;
    if bytes.len() as u64 > max {
        return Err(too_large.to_owned());
    }
    Ok(bytes)
}

/// Refuses what is there and is no regular file: reading a pipe may never end, and what it held is gone after.
pub(crate) fn regular(path: &Path) -> Result<(), String> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(A_DIRECTORY.to_owned()),
        Ok(found) if found.file_type().is_fifo() => {
            Err("this is a named pipe, not a file".to_owned())
        }
        Ok(found) if !found.is_file() => Err("this is a device or a socket, not a file".to_owned()),
        // What is not there is told by whoever opens it.
        _ => Ok(()),
    }
}

/// Lays the gateway's variables over the tree.
pub(super) fn environment(
    tree: &mut Table,
    variables: &[(OsString, OsString)],
    report: &mut Report,
) {
    let mut ours: Vec<(String, &OsString)> = variables
        .iter()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
        .filter(|(name, value)| {
            let rest = name.strip_prefix(PREFIX);
            rest.is_some_and(|rest| !is_service_link(rest, &value.to_string_lossy()))
        })
        .collect();
    ours.sort();
    for (name, value) in ours {
        let key = name[PREFIX.len()..].to_ascii_lowercase();
        let path: Vec<&str> = key.split("__").collect();
        let is_name = !name[PREFIX.len()..].contains(|letter: char| letter.is_ascii_lowercase());
        // A control character in the name must not break the line it is printed on.
        let origin = Origin::Env(printable(&name));
        if !is_name || path.len() > MAX_DEPTH || path.contains(&"") {
            report.unknown(printable(&key).replace("__", "."), origin);
            continue;
        }
        match value.to_str() {
            Some(text) => put(tree, &path, &origin, text.to_owned()),
            None => report.general(origin, "the value is not UTF-8".to_owned()),
        }
    }
}

/// Says whether a variable is one that Kubernetes or Docker sets in every container beside a service of our name, such
/// as `WAWP_GATEWAY_SERVICE_HOST` and `WAWP_GATEWAY_PORT_8080_TCP_ADDR`: not meant for us, and no mistake.
fn is_service_link(rest: &str, value: &str) -> bool {
    let words: Vec<&str> = rest.split('_').collect();
    let starts = |at: usize| match words[at..] {
        ["SERVICE", "HOST"] | ["SERVICE", "PORT", ..] => true,
        // `WAWP_GATEWAY_PORT=8080` is somebody's mistake; the link is `tcp://10.0.0.1:8080`.
        ["PORT"] => value.contains("://"),
        ["PORT", port, "TCP" | "UDP" | "SCTP", ref last @ ..] => {
            port.bytes().all(|byte| byte.is_ascii_digit())
                && matches!(last, [] | ["PROTO" | "PORT" | "ADDR"])
        }
        _ => false,
    };
    !words.contains(&"") && (0..words.len()).any(starts)
}

/// Lays the flags over the tree.
pub(super) fn flags(tree: &mut Table, flags: &Overrides) {
    let written = [
        ("--listen", ["server", "listen"], &flags.listen),
        ("--admin", ["server", "admin"], &flags.admin),
        ("--upstream", ["upstream", "url"], &flags.upstream),
        ("--window", ["batch", "window"], &flags.window),
        ("--rate", ["limit", "rate"], &flags.rate),
        ("--burst", ["limit", "burst"], &flags.burst),
    ];
    for (name, path, value) in written {
        if let Some(text) = value {
            put(tree, &path, &Origin::Flag(name), text.clone());
        }
    }
}

/// Lays one typed value over the tree, making the tables on its way.
fn put(tree: &mut Table, path: &[&str], origin: &Origin, text: String) {
    let value = Value::Typed(text);
    let nested = path.iter().rev().fold(value, |value, key| {
        let entry = Entry::new(origin.clone(), value);
        Value::Table(Table::from([((*key).to_owned(), entry)]))
    });
    if let Value::Table(over) = nested {
        lay(tree, over);
    }
}

/// Reads a variable's text as a TOML value.
pub(super) fn typed(text: &str, origin: &Origin) -> Option<Value> {
    let parsed = DeValue::parse(text).ok()?;
    Some(value(parsed.get_ref(), &|_| origin.clone()))
}

/// Turns the parser's table into ours; a key's line is where the key stands.
fn tree(table: &DeTable<'_>, at: &dyn Fn(Range<usize>) -> Origin) -> Table {
    let mut tree = Table::new();
    for (key, written) in table {
        let entry = Entry::new(at(key.span()), value(written.get_ref(), at));
        drop(tree.insert(key.get_ref().clone().into_owned(), entry));
    }
    tree
}

fn value(written: &DeValue<'_>, at: &dyn Fn(Range<usize>) -> Origin) -> Value {
    match written {
        DeValue::String(text) => Value::Text(text.clone().into_owned()),
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
        DeValue::Array(items) => Value::List(
            items
                .iter()
                .map(|item| Entry::new(at(item.span()), value(item.get_ref(), at)))
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(tree(table, at)),
    }
}
