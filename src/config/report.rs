//! What reading found: the mistakes, the keys that nobody knows, and the settings as they stand.

use std::collections::{BTreeSet, HashSet};

use super::{
    Config, Effective, Mistakes,
    in_force::find,
    layer::{Entry, Origin, PREFIX, Value},
    show::{MASK, Mistake, Setting, Shown, word},
};

/// Further off than this, a key is not a misspelling of another.
const MAX_DISTANCE: usize = 2;

/// Gathers while the tree is read, then decides.
#[derive(Default)]
pub(super) struct Report {
    mistakes: Vec<Mistake>,
    /// Lines that are not TOML: whatever else seems wrong there is a consequence.
    broken: BTreeSet<Origin>,
    unknown: Vec<(String, Origin)>,
    known: Vec<String>,
    shown: Vec<Shown>,
}

impl Report {
    /// Notes a value that is not allowed; the excerpt is safe to print.
    pub(super) fn wrong(&mut self, origin: Origin, path: &str, excerpt: String, allowed: String) {
        self.push(origin, path, Some(excerpt), allowed);
    }

    /// Notes that a key must be there.
    pub(super) fn missing(&mut self, origin: Origin, path: &str) {
        self.push(origin, path, None, "must be there".to_owned());
    }

    /// Notes a name that does not belong where it stands.
    pub(super) fn stranger(&mut self, origin: Origin, path: &str, problem: String) {
        self.push(origin, path, None, problem);
    }

    /// Says whether a setting is wrong by itself.
    pub(super) fn is_wrong(&self, path: &str) -> bool {
        self.mistakes.iter().any(|mistake| mistake.path == path)
    }

    /// Notes a mistake that belongs to a whole layer.
    pub(super) fn general(&mut self, origin: Origin, problem: String) {
        self.push(origin, "", None, problem);
    }

    /// Notes a line that is not TOML; says whether it is the first mistake there, which the others follow from.
    pub(super) fn breaks(&mut self, line: Origin) -> bool {
        self.broken.insert(line)
    }

    /// Notes settings that each are allowed, but not together, at the one from the strongest layer.
    ///
    /// Says nothing where one of them is wrong by itself: the value read is not the one that was meant.
    pub(super) fn forbid(&mut self, paths: &[&str], allowed: &str) {
        if paths.iter().any(|path| self.is_wrong(path)) {
            return;
        }
        let settings = self.shown.iter().filter_map(Shown::setting);
        let all = settings.filter(|setting| paths.contains(&&*setting.path));
        if let Some(setting) = all.max_by_key(|setting| &setting.origin).cloned() {
            let Setting {
                path, toml, origin, ..
            } = setting;
            self.push(origin, &path, Some(toml), allowed.to_owned());
        }
    }

    /// Notes a key that nobody took: a table as one, but each variable beneath it by its own name.
    pub(super) fn leftover(&mut self, path: String, entry: Entry) {
        let Entry {
            origin,
            value,
            below,
        } = entry;
        let mut inner = Vec::new();
        if let Value::Table(table) = value {
            for (key, entry) in table {
                inner.push((format!("{path}.{}", word(&key)), entry));
            }
        }
        // A list that one variable holds has no variables beneath it.
        let is_variable = |origin: &Origin| matches!(origin, Origin::Env(_)) && !path.contains('[');
        if inner.is_empty() || !is_variable(&origin) {
            self.unknown(path.clone(), origin);
        }
        for (inner, entry) in inner {
            if is_variable(&entry.origin) {
                self.leftover(inner, entry);
            }
        }
        if let Some(below) = below {
            self.leftover(path, *below);
        }
    }

    /// Notes a key that does not exist.
    pub(super) fn unknown(&mut self, path: String, origin: Origin) {
        self.unknown.push((path, origin));
    }

    /// Forgets unknown variables that are known after all: a secret is kept in them.
    pub(super) fn excuse(&mut self, variables: &HashSet<String>) {
        self.unknown
            .retain(|(_, origin)| !matches!(origin, Origin::Env(name) if variables.contains(name)));
    }

    /// Notes a key that exists.
    pub(super) fn know(&mut self, path: &str) {
        self.known.push(path.to_owned());
    }

    /// Notes a section's beginning in the effective settings.
    pub(super) fn header(&mut self, text: String) {
        self.shown.push(Shown::Header(text));
    }

    /// Notes a setting as it stands; `toml` is safe to print.
    pub(super) fn show(&mut self, path: &str, key: String, toml: String, origin: Origin) {
        self.shown.push(Shown::Setting(Setting {
            path: path.to_owned(),
            key,
            toml,
            origin,
        }));
    }

    /// Decides: the settings, or every mistake in the order of the file, then of the other layers.
    pub(super) fn decide(mut self, config: Config) -> Result<Effective, Mistakes> {
        for (path, origin) in std::mem::take(&mut self.unknown) {
            let (shown, hint) = match &origin {
                // A variable that holds a list of tables has keys of its own.
                Origin::Env(_) if !path.contains('[') => (String::new(), self.hint_variable(&path)),
                _ => self.hint_key(path),
            };
            self.push(origin, &shown, None, hint);
        }
        self.mistakes.sort_by(|a, b| a.origin.cmp(&b.origin));
        if self.mistakes.is_empty() {
            Ok(Effective {
                config,
                shown: self.shown,
            })
        } else {
            Err(Mistakes(self.mistakes))
        }
    }

    fn push(&mut self, origin: Origin, path: &str, value: Option<String>, allowed: String) {
        if !self.broken.contains(&origin) {
            self.mistakes.push(Mistake {
                origin,
                path: path.to_owned(),
                value,
                allowed,
            });
        }
    }

    fn hint_variable(&self, path: &str) -> String {
        let spelled = path.replace('.', "__");
        let variables = self
            .known
            .iter()
            .filter(|known| known.contains('.'))
            .map(|known| known.replace('.', "__"));
        match nearest(&spelled, variables) {
            Some(near) => format!(
                "unknown variable; did you mean {PREFIX}{}?",
                near.to_ascii_uppercase()
            ),
            None => format!("unknown variable; settings are named {PREFIX}<SECTION>__<KEY>"),
        }
    }

    /// Returns an unknown key's path as it may be shown, and what may have been meant.
    fn hint_key(&self, path: String) -> (String, String) {
        if let Some(hint) = self.likely(&path) {
            return (path, hint);
        }
        let path = self.cautious(path);
        let (section, _) = path.rsplit_once('.').unwrap_or(("", &path));
        let siblings = self.children(section).collect::<Vec<_>>().join(", ");
        let hint = format!("{}; known here: {siblings}", unknown(section));
        (path, hint)
    }

    /// Hides what looks like no key at all where it may be a secret: in a tenant, and wherever text that is no TOML
    /// came before, so that a value may pass for a key.
    fn cautious(&self, path: String) -> String {
        let is_section = |known: &&str| {
            path.strip_prefix(known)
                .is_some_and(|rest| rest.starts_with('.'))
        };
        let section = match path.split_once('.') {
            Some((tenant, _)) if tenant.starts_with("tenant[") => Some(tenant),
            _ if self.broken.is_empty() => return path,
            _ => self
                .known
                .iter()
                .map(String::as_str)
                .filter(is_section)
                .max_by_key(|known| known.len()),
        };
        match section {
            Some(section) => format!("{section}.{}", word(MASK)),
            None => word(MASK),
        }
    }

    /// Finds the key that may have been meant: a neighbour misspelled, or the right one in the wrong section.
    fn likely(&self, path: &str) -> Option<String> {
        let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
        let near = nearest(key, self.children(section)).map(|near| {
            let dot = if section.is_empty() { "" } else { "." };
            format!("{section}{dot}{near}")
        });
        let meant = near.or_else(|| {
            let is_last =
                |known: &&String| known.rsplit_once('.').is_some_and(|(_, last)| last == key);
            self.known.iter().find(is_last).cloned()
        });
        meant.map(|meant| format!("{}; did you mean {meant}?", unknown(section)))
    }

    fn children<'k>(&'k self, section: &'k str) -> impl Iterator<Item = &'k str> {
        self.known
            .iter()
            .filter_map(move |known| child(section, known))
    }
}

impl Effective {
    /// Turns what was found wrong with what settings name (each by its path) into mistakes at those settings.
    pub(crate) fn mistakes(
        &self,
        wrong: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Mistakes {
        let mistake = |(path, allowed): (&str, String)| {
            let setting = find(&self.shown, path);
            Mistake {
                origin: setting.map_or(Origin::Default, |setting| setting.origin.clone()),
                path: path.to_owned(),
                value: setting.map(|setting| setting.toml.clone()),
                allowed,
            }
        };
        let mut mistakes: Vec<Mistake> = wrong.into_iter().map(mistake).collect();
        mistakes.sort_by(|a, b| a.origin.cmp(&b.origin));
        Mistakes(mistakes)
    }
}

/// Says what is unknown in a section, or at the top.
fn unknown(section: &str) -> &'static str {
    if section.is_empty() {
        "unknown section"
    } else {
        "unknown key"
    }
}

/// Returns the last word of a path that lies right beneath a section.
fn child<'k>(section: &str, known: &'k str) -> Option<&'k str> {
    let rest = if section.is_empty() {
        known
    } else {
        known.strip_prefix(section)?.strip_prefix('.')?
    };
    (!rest.contains('.')).then_some(rest)
}

/// Finds the name that a misspelled one is nearest to, if any is near.
fn nearest<N: AsRef<str>>(written: &str, names: impl Iterator<Item = N>) -> Option<N> {
    names
        .map(|name| (distance(written, name.as_ref()), name))
        .filter(|(distance, name)| *distance <= MAX_DISTANCE && distance * 2 < name.as_ref().len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Counts the letters to change, add or leave out between two words; anything above the bound may be any number above it.
fn distance(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > MAX_DISTANCE {
        return MAX_DISTANCE + 1;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
