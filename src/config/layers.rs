//! The layers: defaults, settings file, environment, flags, from the weakest to the strongest.
//!
//! The layers are not merged: each value is taken out of its layer and checked. So a mistake in the
//! file is found even if a flag sets the same key, and the keys that are left are unknown.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use toml::de::DeTable;

use super::mistakes::Mistakes;
use super::table::{FILE_VARIABLE, PREFIX};
use super::value::{Entry, Origin, Tree, Value, printable, tree};
use super::{files, proxy_url, table};

/// A thousand classes fit. A log file that is given by mistake must not fill the memory.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// The values of all layers that have not been taken yet.
pub(super) struct Layers {
    /// Flags, then variables.
    typed: Vec<Typed>,
    file: Tree,
    defaults: Tree,
}

/// A flag or a variable.
pub(super) struct Typed {
    pub(super) path: String,
    pub(super) origin: Origin,
    pub(super) text: String,
}

impl Layers {
    /// Begins with the defaults and, stronger, a file.
    pub(super) fn new(defaults: &str, file: Tree) -> Self {
        let defaults = parse(None, defaults.as_bytes(), &mut Mistakes::default());
        Self {
            typed: Vec::new(),
            file,
            defaults,
        }
    }

    /// Adds the flags that were given.
    pub(super) fn add_flags(&mut self, flags: &[(&'static str, Option<&String>)]) {
        for (flag, path) in table::FLAGS {
            let given = flags.iter().find(|(name, _)| *name == flag);
            if let Some((name, Some(text))) = given {
                let (path, origin) = (path.to_owned(), Origin::Flag(name));
                self.typed.push(Typed {
                    path,
                    origin,
                    text: (*text).clone(),
                });
            }
        }
    }

    /// Adds the variables of the gateway. An empty variable counts as unset: with Compose's
    /// `${NETWORKS:-}` it would otherwise empty a list, and remove a protection.
    pub(super) fn add_environment(
        &mut self,
        variables: &[(OsString, OsString)],
        mistakes: &mut Mistakes,
    ) {
        for (name, value) in variables {
            let name = name.to_string_lossy();
            let Some(key) = name.strip_prefix(PREFIX) else {
                continue;
            };
            let is_ours = name != FILE_VARIABLE && !is_service_link(key, &value.to_string_lossy());
            if value.is_empty() || !is_ours {
                continue;
            }
            // A control character in the name must not break the line on which it is printed.
            let origin = Origin::Env(printable(&name));
            let path = printable(&key.to_ascii_lowercase().replace("__", "."));
            let text = value.to_str().map(str::to_owned);
            match text {
                // Only capitals: a dot would be read as the end of a section.
                _ if key.contains(|letter: char| letter.is_ascii_lowercase() || letter == '.') => {
                    mistakes.unknown_variable(&path, &origin);
                }
                Some(text) => self.typed.push(Typed { path, origin, text }),
                None => mistakes.add(&origin, "", None, "the value is not UTF-8"),
            }
        }
    }

    /// Adds the proxy that a variable of all programs names (`HTTPS_PROXY`), if no layer sets
    /// `upstream.proxy`.
    pub(super) fn add_proxy_variable(&mut self, variables: &[(OsString, OsString)]) {
        const PATH: &str = "upstream.proxy";
        if self.typed.iter().any(|typed| typed.path == PATH) || get(&self.file, PATH).is_some() {
            return;
        }
        // A URL that cannot be read is a mistake already.
        let Some(Ok(url)) = self.text("upstream.url").map(str::parse) else {
            return;
        };
        if let Some((name, value)) = proxy_url::variable(&url, variables) {
            self.typed.push(Typed {
                path: PATH.to_owned(),
                origin: Origin::Env(name.to_owned()),
                // A text that is not UTF-8 is no proxy with U+FFFD in it either.
                text: value.to_string_lossy().into_owned(),
            });
        }
    }

    /// The text of the strongest layer at a path.
    fn text(&self, path: &str) -> Option<&str> {
        let typed = self.typed.iter().find(|typed| typed.path == path);
        let of_tree = |tree| get(tree, path)?.value.text();
        typed
            .map(|typed| &*typed.text)
            .or_else(|| of_tree(&self.file))
            .or_else(|| of_tree(&self.defaults))
    }

    /// Takes the value of every layer at a path, the strongest first.
    pub(super) fn take(&mut self, path: &str) -> Vec<Entry> {
        // Flags come first in the list, so they are stronger than variables.
        let typed = self.typed.extract_if(.., |typed| typed.path == path);
        let entry = |Typed { origin, text, .. }| Entry {
            origin,
            value: Value::Typed(text),
        };
        let mut entries: Vec<Entry> = typed.map(entry).collect();
        entries.extend(take(&mut self.file, path));
        entries.extend(take(&mut self.defaults, path));
        entries
    }

    /// Returns what is left of flags, variables and file.
    pub(super) fn into_rest(self) -> (Vec<Typed>, Tree) {
        (self.typed, self.file)
    }
}

/// Finds the value at a path such as `upstream.url` in a tree.
fn get<'t>(tree: &'t Tree, path: &str) -> Option<&'t Entry> {
    match path.split_once('.') {
        None => tree.get(path),
        Some((first, rest)) => match &tree.get(first)?.value {
            Value::Table(inner) => get(inner, rest),
            _ => None,
        },
    }
}

/// Takes the value at a path such as `tls.cert` out of a tree.
pub(super) fn take(tree: &mut Tree, path: &str) -> Option<Entry> {
    let Some((first, rest)) = path.split_once('.') else {
        // `shift_remove` keeps the order of the rest, in which unknown keys are reported.
        return tree.shift_remove(path);
    };
    match &mut tree.get_mut(first)?.value {
        Value::Table(inner) => take(inner, rest),
        _ => None,
    }
}

/// Reads a settings file. Blocks.
pub(super) fn read(path: &Path, mistakes: &mut Mistakes) -> Tree {
    let name: Arc<str> = printable(&path.display().to_string()).into();
    match files::read(path, MAX_FILE_BYTES, "a settings file has at most 1 MiB") {
        Ok(bytes) => parse(Some(&name), &bytes, mistakes),
        Err(problem) => {
            mistakes.add(
                &Origin::File {
                    name,
                    line: 0,
                    column: 0,
                },
                "",
                None,
                problem,
            );
            Tree::new()
        }
    }
}

/// Reads the text of a settings file, or of the defaults where it has no name, as far as it can be
/// read.
pub(super) fn parse(name: Option<&Arc<str>>, bytes: &[u8], mistakes: &mut Mistakes) -> Tree {
    let at = |line, column| match name.map(Arc::clone) {
        Some(name) => Origin::File { name, line, column },
        None => Origin::Default,
    };
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let before = &bytes[..error.valid_up_to()];
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
            mistakes.add(
                &at(line, 0),
                "",
                None,
                "settings files are UTF-8; this byte is not",
            );
            return Tree::new();
        }
    };
    // An empty file is more often a failed mount or template than a wish for the defaults.
    if text.trim().is_empty() {
        let allowed = "the file is empty; one comment in it says that the defaults are meant";
        mistakes.add(&at(0, 0), "", None, allowed);
        return Tree::new();
    }
    // Spans count bytes; an index of line beginnings makes each lookup cheap.
    let lines: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).collect();
    let line_of = |offset: usize| 1 + lines.partition_point(|start| *start <= offset);
    // Goes on after a syntax error, so that one run reports all of them, and wrong values too.
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let offset = error.span().map_or(text.len(), |span| span.start);
        let line = line_of(offset);
        let start = if line == 1 { 0 } else { lines[line - 2] };
        let column = 1 + text
            .get(start..offset)
            .map_or(0, |before| before.chars().count());
        // The parser's `Display` quotes the line, which may contain a secret; its message does not.
        mistakes.syntax(at(line, 0), &at(line, column), error.message());
        for line in misread_below(text, line) {
            mistakes.consequence(at(line, 0));
        }
    }
    tree(table.get_ref(), &|span| at(line_of(span.start), 0))
}

/// The lines that the parser misreads after a syntax error in this line: if it is a heading, the
/// keys below it are read as those of another section, and behind `[[` the next section as a list.
fn misread_below(text: &str, line: usize) -> Vec<usize> {
    let mut lines = (1..).zip(text.lines().map(str::trim_start)).skip(line - 1);
    let mut sections = match lines.next() {
        Some((_, broken)) if broken.starts_with("[[") => 2,
        Some((_, broken)) if broken.starts_with('[') => 1,
        _ => 0,
    };
    let misread = lines.take_while(|(_, text)| {
        sections -= i32::from(text.starts_with('['));
        sections > 0
    });
    misread.map(|(line, _)| line).collect()
}

/// Says whether a variable is one that Kubernetes or Docker sets in every container next to a
/// service of our name, such as `WAWP_GATEWAY_SERVICE_HOST` or `WAWP_GATEWAY_PORT_8080_TCP_ADDR`.
fn is_service_link(key: &str, value: &str) -> bool {
    let words: Vec<&str> = key.split('_').collect();
    let starts = |at: usize| match words[at..] {
        ["SERVICE", "HOST"] | ["SERVICE", "PORT", ..] => true,
        // `WAWP_GATEWAY_PORT=8080` is a mistake; the link's value is `tcp://10.0.0.1:8080`.
        ["PORT"] => value.contains("://"),
        ["PORT", port, "TCP" | "UDP" | "SCTP", ref last @ ..] => {
            port.bytes().all(|byte| byte.is_ascii_digit())
                && matches!(last, [] | ["PROTO" | "PORT" | "ADDR"])
        }
        _ => false,
    };
    !words.contains(&"") && (0..words.len()).any(starts)
}
