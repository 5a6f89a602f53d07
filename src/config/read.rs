//! Reading the tree once: typed getters that take a key out, note what is wrong with it and go on.
//!
//! What nobody takes is an unknown key. Every getter returns something usable even after a mistake, so that one run
//! finds every mistake; the result is thrown away if there was any.

use std::collections::BTreeMap;

use super::{
    layer::{self, Entry, Origin, Table, Value},
    report::Report,
    show::{MASK, Show, masked, word},
};

/// Lists are walked through for each request, so none may be long.
const MAX_ITEMS: usize = 1000;

/// A table being read.
pub(super) struct Section<'r> {
    pub(super) report: &'r mut Report,
    path: String,
    /// What stands before a key where the section is printed: `tls.` under `[server]`.
    prefix: &'static str,
    /// Where the section begins: the place of a key that is missing.
    origin: Origin,
    table: Table,
}

impl<'r> Section<'r> {
    /// Begins at the top of the tree.
    pub(super) fn root(report: &'r mut Report, table: Table) -> Self {
        Self {
            report,
            path: String::new(),
            prefix: "",
            origin: Origin::Default,
            table,
        }
    }

    /// Reads a key that `default.toml` sets.
    pub(super) fn get<T: Show>(
        &mut self,
        key: &'static str,
        kind: impl Fn(&Value) -> Result<T, String>,
    ) -> T {
        match self.optional(key, kind) {
            Some(value) => value,
            // The defaults lie beneath every layer and a test reads them, so this is a mistake in this program.
            None => unreachable!("default.toml has no good value for {}", self.path_of(key)),
        }
    }

    /// Reads a key that need not be there.
    pub(super) fn optional<T: Show>(
        &mut self,
        key: &'static str,
        kind: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let path = self.note(key);
        let mut found = None;
        for entry in self.take(key) {
            match kind(&entry.value) {
                Ok(value) if found.is_none() => {
                    self.report.show(
                        &path,
                        format!("{}{key}", self.prefix),
                        value.toml(),
                        entry.origin,
                    );
                    found = Some(value);
                }
                Ok(_) => {}
                Err(allowed) => {
                    // Text in the place of one of a tenant's numbers may be its key, a line too high.
                    let number =
                        path.starts_with("tenant[") && ["weight", "rate", "burst"].contains(&key);
                    let excerpt = match &entry.value {
                        Value::Text(_) if number => masked(&entry.value),
                        value => T::excerpt(value),
                    };
                    self.report.wrong(entry.origin, &path, excerpt, allowed);
                }
            }
        }
        found
    }

    /// Reads a key that has no default and must be there.
    pub(super) fn required<T: Show>(
        &mut self,
        key: &'static str,
        kind: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<T> {
        self.demand(key);
        self.optional(key, kind)
    }

    /// Reads a list, every item by itself; a list that is not there is empty.
    pub(super) fn list<T: Show>(
        &mut self,
        key: &'static str,
        kind: impl Fn(&Value) -> Result<T, String>,
    ) -> Vec<T> {
        let path = self.note(key);
        let mut found = None;
        for entry in self.take(key) {
            let origin = entry.origin.clone();
            let Some(items) = self.items(entry, &path, "a list, as in [\"a\", \"b\"]", T::excerpt)
            else {
                continue;
            };
            let mut good = Vec::new();
            for item in items {
                match kind(&item.value) {
                    Ok(value) => good.push(value),
                    Err(allowed) => {
                        self.report
                            .wrong(item.origin, &path, T::excerpt(&item.value), allowed)
                    }
                }
            }
            if found.is_none() {
                self.report
                    .show(&path, format!("{}{key}", self.prefix), good.toml(), origin);
                found = Some(good);
            }
        }
        found.unwrap_or_default()
    }

    /// Reads a list that must be there and not be empty.
    pub(super) fn required_list<T: Show>(
        &mut self,
        key: &'static str,
        kind: impl Fn(&Value) -> Result<T, String>,
    ) -> Vec<T> {
        self.demand(key);
        let found = self.list(key, kind);
        if found.is_empty() {
            self.report
                .forbid(&[&self.path_of(key)], "a list of at least one");
        }
        found
    }

    /// Reads a section; one that is not there is read as if it were empty.
    pub(super) fn section<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'_>) -> T,
    ) -> T {
        let path = self.note(key);
        let (table, origin) = self.table(key).unwrap_or((Table::new(), Origin::Default));
        self.report.header(format!("[{path}]"));
        read_whole(
            Section {
                report: &mut *self.report,
                path,
                prefix: "",
                origin,
                table,
            },
            read,
        )
    }

    /// Reads a section within a section, if it is there.
    pub(super) fn optional_section<T>(
        &mut self,
        key: &'static str,
        prefix: &'static str,
        read: impl FnOnce(&mut Section<'_>) -> Option<T>,
    ) -> Option<T> {
        let path = self.note(key);
        let (table, origin) = self.table(key)?;
        read_whole(
            Section {
                report: &mut *self.report,
                path,
                prefix,
                origin,
                table,
            },
            read,
        )
    }

    /// Reads `[[section.key]]`, a list of tables; the strongest layer's list stands alone.
    pub(super) fn each<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'_>) -> Option<T>,
    ) -> Vec<T> {
        let list = self.note(key);
        let allowed = format!("a list of tables, each begun by [[{list}]]");
        let top = self.take(key).into_iter().next();
        let items = top
            .and_then(|top| self.items(top, &list, &allowed, masked))
            .unwrap_or_default();
        let mut found = Vec::new();
        for (index, Entry { origin, value, .. }) in items.into_iter().enumerate() {
            let path = format!("{list}[{index}]");
            if let Value::Table(table) = value {
                self.report.header(format!("[[{list}]]"));
                let section = Section {
                    report: &mut *self.report,
                    path,
                    prefix: "",
                    origin,
                    table,
                };
                found.extend(read_whole(section, &mut read));
            } else {
                self.report
                    .wrong(origin, &path, masked(&value), allowed.clone());
            }
        }
        found
    }

    /// Reads a table whose keys are names, each one of `known`; a table that is not there is empty.
    ///
    /// `stranger` says what is wrong with another name, which is not repeated: where the values are secrets, a name
    /// may be one that changed places with its value.
    pub(super) fn map<T: Show>(
        &mut self,
        key: &'static str,
        known: &[String],
        stranger: impl Fn(&str) -> Option<String>,
        kind: impl Fn(&Value) -> Result<T, String>,
    ) -> BTreeMap<String, T>
    where
        BTreeMap<String, T>: Show,
    {
        let path = self.note(key);
        let mut found = BTreeMap::new();
        for Entry { origin, value, .. } in self.take(key) {
            let Value::Table(table) = value else {
                let allowed = "a table of names and values, as in { \"a\" = \"b\" }";
                self.report
                    .wrong(origin, &path, masked(&value), allowed.to_owned());
                continue;
            };
            for (name, entry) in table {
                let is_known = known.contains(&name);
                let shown = if is_known { &name } else { MASK };
                let path = format!("{path}.{}", word(shown));
                match (kind(&entry.value), stranger(&name)) {
                    (_, Some(problem)) if !is_known => {
                        self.report.stranger(entry.origin, &path, problem)
                    }
                    (Ok(value), _) => drop(found.insert(name, value)),
                    (Err(allowed), _) => {
                        self.report
                            .wrong(entry.origin, &path, T::excerpt(&entry.value), allowed)
                    }
                }
            }
            self.report
                .show(&path, format!("{}{key}", self.prefix), found.toml(), origin);
        }
        found
    }

    /// Returns the path of a key of this section.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            word(key)
        } else {
            format!("{}.{}", self.path, word(key))
        }
    }

    /// Reports the keys that nobody took.
    pub(super) fn finish(mut self) {
        for (key, entry) in std::mem::take(&mut self.table) {
            self.report.leftover(self.path_of(&key), entry);
        }
    }

    /// Notes that a key exists, for the suggestions, and returns its path.
    fn note(&mut self, key: &str) -> String {
        let path = self.path_of(key);
        self.report.know(&path);
        path
    }

    fn demand(&mut self, key: &str) {
        if !self.table.contains_key(key) {
            let path = self.path_of(key);
            self.report.missing(self.origin.clone(), &path);
        }
    }

    /// Takes a key out, with all that it covers, the strongest first.
    fn take(&mut self, key: &str) -> Vec<Entry> {
        let mut found = Vec::new();
        let mut next = self.table.swap_remove(key);
        while let Some(mut entry) = next {
            next = entry.below.take().map(|below| *below);
            found.push(entry);
        }
        found
    }

    /// Takes a section's table out; what covers it without being a table is a mistake.
    fn table(&mut self, key: &str) -> Option<(Table, Origin)> {
        let path = self.path_of(key);
        let mut found = None;
        for Entry { origin, value, .. } in self.take(key) {
            match value {
                Value::Table(table) => found = found.or(Some((table, origin))),
                other => {
                    let allowed = format!("a section, begun by [{path}], not a value");
                    self.report.wrong(origin, &path, masked(&other), allowed);
                }
            }
        }
        found
    }

    /// Opens a list; a variable's text is an array as in TOML, or separated by commas.
    fn items(
        &mut self,
        entry: Entry,
        path: &str,
        allowed: &str,
        excerpt: fn(&Value) -> String,
    ) -> Option<Vec<Entry>> {
        let Entry { origin, value, .. } = entry;
        let value = match value {
            Value::Typed(text) if text.trim_start().starts_with('[') => {
                layer::typed(&text, &origin).unwrap_or(Value::Typed(text))
            }
            Value::Typed(text) => Value::List(
                text.split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty())
                    .map(|item| Entry::new(origin.clone(), Value::Typed(item.to_owned())))
                    .collect(),
            ),
            other => other,
        };
        let allowed = match value {
            Value::List(items) if items.len() <= MAX_ITEMS => return Some(items),
            Value::List(_) => &format!("a list of at most {MAX_ITEMS}"),
            _ => allowed,
        };
        self.report
            .wrong(origin, path, excerpt(&value), allowed.to_owned());
        None
    }
}

fn read_whole<T>(mut section: Section<'_>, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
    let result = read(&mut section);
    section.finish();
    result
}
