//! The mistakes in the settings: where each is, and what was probably meant.
//!
//! Invariant: no mistake repeats a secret. Values arrive here as excerpts; a key that may be a
//! misplaced secret is masked here.

use std::collections::BTreeSet;
use std::fmt;

use super::table::{self, FILE_VARIABLE, LISTS, PREFIX, join};
use super::value::{MASK, Origin, Value, word};

/// How many mistakes are printed: a file that is not a settings file has thousands.
const MAX_PRINTED: usize = 100;
/// Beyond this many changed letters, a key is not a misspelling of another.
const MAX_DISTANCE: usize = 2;

/// Everything that is wrong with the settings; displays one mistake per line and a count, never a
/// secret.
#[derive(Clone, Debug, Default, thiserror::Error)]
pub struct Mistakes {
    list: Vec<Mistake>,
    /// Lines that are not TOML. Other mistakes in these lines are only consequences.
    broken: BTreeSet<Origin>,
}

/// One mistake: where it is, what was written, and what is allowed.
#[derive(Clone, Debug)]
struct Mistake {
    origin: Origin,
    path: String,
    excerpt: Option<String>,
    allowed: String,
}

impl Mistakes {
    /// Returns the number of mistakes.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Says whether there are none; an error always has at least one.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds a mistake. The excerpt of the value, where there is one, is safe to print. The path is
    /// empty where a whole file or variable is wrong.
    pub(super) fn add(
        &mut self,
        origin: &Origin,
        path: &str,
        excerpt: Option<String>,
        allowed: impl Into<String>,
    ) {
        if !self.broken.contains(origin) {
            let (origin, path, allowed) = (origin.clone(), path.to_owned(), allowed.into());
            self.list.push(Mistake {
                origin,
                path,
                excerpt,
                allowed,
            });
        }
    }

    /// Adds a value that may contain a secret.
    pub(super) fn add_masked(&mut self, origin: &Origin, path: &str, value: &Value, allowed: &str) {
        self.add(origin, path, Some(value.masked()), allowed);
    }

    /// Adds a setting that must be there.
    pub(super) fn missing(&mut self, origin: &Origin, path: &str) {
        self.add(origin, path, None, "must be there");
    }

    /// Adds a line that is not TOML. Only the first mistake of a line is reported.
    pub(super) fn syntax(&mut self, line: Origin, position: &Origin, problem: &str) {
        if self.broken.insert(line) {
            self.add(position, "", None, format!("this is not TOML: {problem}"));
        }
    }

    /// Ignores mistakes in this line from now on: they are consequences of one above.
    pub(super) fn consequence(&mut self, line: Origin) {
        self.broken.insert(line);
    }

    /// Adds a key that does not exist in a section of the file, such as `limit` or `tenant[0]`.
    pub(super) fn unknown_key(&mut self, section: &str, key: &str, origin: &Origin) {
        let what = if section.is_empty() {
            "unknown section"
        } else {
            "unknown key"
        };
        // `tenant[0]` has the keys of `tenant`.
        let name = section.split('[').next().unwrap_or_default();
        let siblings = table::children(name);
        let near = nearest(key, siblings.iter()).map(|near| join(section, near));
        // Or the right key in the wrong section.
        let mut paths = table::SETTINGS.iter().map(|(path, _)| path);
        let is_same_key = |path: &&String| path.rsplit('.').next() == Some(key);
        let meant = near.or_else(|| paths.find(is_same_key).cloned());
        if let Some(meant) = meant {
            let path = join(section, &word(key));
            let hint = format!("{what}; did you mean {meant}?");
            return self.add(origin, &path, None, hint);
        }
        // An unknown key may be a secret: in a tenant, if `key =` was forgotten, and anywhere after
        // text that is not TOML.
        let may_be_secret = !self.broken.is_empty() || name == "tenant";
        let path = join(section, &word(if may_be_secret { MASK } else { key }));
        let hint = format!("{what}; known here: {}", siblings.join(", "));
        self.add(origin, &path, None, hint);
    }

    /// Adds a variable that is not a setting; `path` is its name as a path, such as `limit.rate`.
    pub(super) fn unknown_variable(&mut self, path: &str, origin: &Origin) {
        let variable = |path: &str| format!("{PREFIX}{}", path.replace('.', "__").to_uppercase());
        let is_inside = |list: &&str| {
            path.strip_prefix(list)
                .is_some_and(|key| key.starts_with('.'))
        };
        let list = LISTS.into_iter().find(is_inside);
        let paths = table::SETTINGS.iter().map(|(path, _)| &**path).chain(LISTS);
        let names = paths.map(variable).chain([FILE_VARIABLE.to_owned()]);
        let names: Vec<String> = names.collect();
        let hint = match (list, nearest(&variable(path), names.iter())) {
            (Some(list), _) => format!("{} is a list: a TOML array of tables", variable(list)),
            (None, Some(near)) => format!("did you mean {near}?"),
            (None, None) => format!("settings are named {PREFIX}<SECTION>__<KEY>"),
        };
        self.add(origin, "", None, format!("unknown variable; {hint}"));
    }

    /// Says whether a setting is wrong by itself.
    pub(super) fn is_wrong(&self, path: &str) -> bool {
        self.list.iter().any(|mistake| mistake.path == path)
    }

    /// Puts the mistakes in the order of the file, then of the other layers.
    pub(super) fn sort(&mut self) {
        // Stable: mistakes of one line keep the order in which they were found.
        self.list.sort_by(|a, b| a.origin.cmp(&b.origin));
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in self.list.iter().take(MAX_PRINTED) {
            writeln!(f, "{mistake}")?;
        }
        if let Some(more @ 1..) = self.list.len().checked_sub(MAX_PRINTED) {
            writeln!(f, "... and {more} more")?;
        }
        match self.list.len() {
            1 => f.write_str("1 mistake in the settings"),
            count => write!(f, "{count} mistakes in the settings"),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        match &self.excerpt {
            Some(excerpt) => write!(f, "{} = {excerpt}: ", self.path)?,
            None if self.path.is_empty() => {}
            None => write!(f, "{}: ", self.path)?,
        }
        f.write_str(&self.allowed)
    }
}

/// Finds the name that a misspelled one is nearest to, if any is near.
fn nearest<'n>(written: &str, names: impl Iterator<Item = &'n String>) -> Option<&'n String> {
    names
        // A long text is not compared letter by letter.
        .filter(|name| name.len().abs_diff(written.len()) <= MAX_DISTANCE)
        .map(|name| (strsim::levenshtein(written, name), name))
        // In a short name, two changed letters are too many to recognise it.
        .filter(|(distance, name)| *distance <= MAX_DISTANCE && distance * 2 < name.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
