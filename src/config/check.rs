//! The walk over the table of settings: takes each setting out of the layers and checks it.
//!
//! Goes on after a mistake with the next weaker value that is allowed, so that one run finds every
//! mistake, and so that a result exists on which the rules between settings can be checked.

use std::collections::HashSet;

use super::effective::Setting;
use super::kind::{Checked, Kind};
use super::layers::{self, Layers, Typed};
use super::mistakes::{Mistakes, join};
use super::rules;
use super::secret::Sources;
use super::table::{self, Row, SECTIONS, Section};
use super::value::{Entry, MASK, Origin, Tree, Value, word};

/// Lists are searched for every request, so none may be long.
const MAX_ITEMS: usize = 1000;
const A_LIST: &str = "a list, as in [\"a\", \"b\"]";

/// The settings of all layers, checked one by one.
pub(super) struct Checks<'s> {
    sources: &'s Sources<'s>,
    /// In the form that the types in `settings.rs` are read from.
    pub(super) values: toml::Table,
    /// In the form that is safe to print.
    pub(super) shown: Vec<Setting>,
    pub(super) mistakes: Mistakes,
    /// Values of unique settings, each with the message of its row.
    taken: HashSet<(&'static str, String)>,
}

impl<'s> Checks<'s> {
    /// Begins with the mistakes that were found when the layers were read.
    pub(super) fn new(sources: &'s Sources<'s>, mistakes: Mistakes) -> Self {
        let (values, shown, taken) = (toml::Table::new(), Vec::new(), HashSet::new());
        Self {
            sources,
            values,
            shown,
            mistakes,
            taken,
        }
    }

    /// Takes every setting out of the layers and checks it. What is left is unknown.
    pub(super) fn walk(&mut self, mut layers: Layers) {
        for section in &SECTIONS {
            if section.is_list {
                let items = self.list_section(section, &mut layers);
                if !items.is_empty() {
                    put(&mut self.values, section.name, toml::Value::Array(items));
                }
                continue;
            }
            let mut read = toml::Table::new();
            for row in section.rows {
                let entries = layers.take(&join(section.name, row.key));
                if let Some(value) = self.setting(section.name, row, entries, &read) {
                    put(&mut read, row.key, value);
                }
            }
            rules::join_quota(section.name, &mut read, 0, &self.shown, &mut self.mistakes);
            self.values.insert(section.name.to_owned(), read.into());
        }
        let (variables, file) = layers.into_rest();
        for Typed { path, origin, text } in variables {
            match &origin {
                // Known, even if its name begins like a setting's: `env:NAME` names it.
                Origin::Env(name) if self.sources.is_named(name) => {}
                _ if table::is_group(&path) => {
                    self.not_a_section(origin, &path, &Value::Typed(text));
                }
                _ => self.mistakes.unknown_variable(&path, origin),
            }
        }
        self.rest("", file);
        let tls =
            |setting: &&Setting| setting.section == "server" && setting.key.starts_with("tls.");
        if let Some(origin) = self
            .shown
            .iter()
            .find(tls)
            .map(|setting| setting.origin.clone())
        {
            self.require_all("server.tls", &origin);
        }
        // Half of the table cannot be used, but the other settings can still be checked.
        if let Some(server) = self
            .values
            .get_mut("server")
            .and_then(toml::Value::as_table_mut)
            && server
                .get("tls")
                .is_some_and(|tls| tls.get("cert").and(tls.get("key")).is_none())
        {
            server.remove("tls");
        }
    }

    /// Checks `[[section]]`. The list of the strongest layer stands alone.
    fn list_section(&mut self, section: &Section, layers: &mut Layers) -> Vec<toml::Value> {
        let allowed = format!("a list of tables, each begun by [[{}]]", section.name);
        let Some(top) = layers.take(section.name).into_iter().next() else {
            return Vec::new();
        };
        let items = self
            .items(top, section.name, &allowed, Value::masked)
            .unwrap_or_default();
        let mut read = Vec::new();
        for (index, Entry { origin, value }) in items.into_iter().enumerate() {
            let name = format!("{}[{index}]", section.name);
            match value {
                Value::Table(tree) => read.extend(self.item(section, &name, &origin, tree)),
                other => self
                    .mistakes
                    .wrong(origin, &name, other.masked(), allowed.clone()),
            }
        }
        read
    }

    /// Checks one `[[section]]`; returns `None` where a required setting is missing or wrong.
    fn item(
        &mut self,
        section: &Section,
        name: &str,
        origin: &Origin,
        mut tree: Tree,
    ) -> Option<toml::Value> {
        let mut read = toml::Table::new();
        let mut is_complete = true;
        for row in section.rows {
            let entry = layers::take(&mut tree, row.key);
            if entry.is_none() && row.required {
                self.mistakes.missing(origin.clone(), &join(name, row.key));
            }
            match self.setting(name, row, Vec::from_iter(entry), &read) {
                Some(value) => put(&mut read, row.key, value),
                None => is_complete &= !row.required,
            }
        }
        // A class without a burst has that of [limit]; a tenant without one has none.
        let inherited = if section.name == "limit.class" {
            self.values.get("limit")
        } else {
            None
        };
        let burst = inherited.and_then(|limit| limit.get("burst")?.as_integer());
        let burst = burst.unwrap_or_default();
        rules::join_quota(name, &mut read, burst, &self.shown, &mut self.mistakes);
        for (key, entry) in tree {
            self.mistakes.unknown_key(name, &key, entry.origin);
        }
        is_complete.then_some(read.into())
    }

    /// Checks what every layer says of one setting, the strongest first, and keeps the first value
    /// that is allowed. `read` holds the section's settings so far.
    fn setting(
        &mut self,
        section: &str,
        row: &Row,
        entries: Vec<Entry>,
        read: &toml::Table,
    ) -> Option<toml::Value> {
        let path = join(section, row.key);
        let mut found = None;
        for entry in entries {
            let origin = entry.origin.clone();
            let checked = match row.kind {
                Kind::List(item) => self.list(&path, row, item, entry),
                Kind::Tokens => self.tokens(section, &path, entry, read),
                ref kind => self.value(&path, row, kind, entry),
            };
            if let (Some(checked), None) = (checked, &found) {
                let (section, key) = (section.to_owned(), row.key);
                self.shown.push(Setting {
                    section,
                    key,
                    toml: checked.shown,
                    origin,
                });
                found = Some(checked.value);
            }
        }
        found
    }

    fn value(&mut self, path: &str, row: &Row, kind: &Kind, entry: Entry) -> Option<Checked> {
        let Entry { origin, value } = entry;
        let mut allowed = kind.check(&value, self.sources);
        if let (Ok(checked), Some(message)) = (&allowed, row.unique)
            && !self.taken.insert((message, checked.value.to_string()))
        {
            allowed = Err(message.to_owned());
        }
        allowed
            .map_err(|allowed| {
                let excerpt = kind.excerpt(&value, path.starts_with("tenant["));
                self.mistakes.wrong(origin, path, excerpt, allowed);
            })
            .ok()
    }

    /// Checks a list, each item by itself; items that are wrong are left out.
    fn list(&mut self, path: &str, row: &Row, item: &Kind, entry: Entry) -> Option<Checked> {
        let origin = entry.origin.clone();
        let excerpt = |value: &Value| item.excerpt(value, false);
        let items = self.items(entry, path, A_LIST, excerpt)?;
        if items.is_empty() && row.required {
            let allowed = "a list of at least one".to_owned();
            self.mistakes.wrong(origin, path, "[]".to_owned(), allowed);
        }
        let good = items
            .into_iter()
            .filter_map(|entry| self.value(path, row, item, entry));
        let (values, shown): (Vec<_>, Vec<_>) =
            good.map(|checked| (checked.value, checked.shown)).unzip();
        Some(Checked {
            value: values.into(),
            shown: format!("[{}]", shown.join(", ")),
        })
    }

    /// Checks a table of access tokens. Each name must be one of the tenant's instances.
    ///
    /// Another name is not repeated: it may be a secret that changed places with its name.
    fn tokens(
        &mut self,
        section: &str,
        path: &str,
        entry: Entry,
        read: &toml::Table,
    ) -> Option<Checked> {
        let Entry { origin, value } = entry;
        let Value::Table(tree) = value else {
            let allowed = "a table of names and values, as in { \"a\" = \"b\" }".to_owned();
            self.mistakes.wrong(origin, path, value.masked(), allowed);
            return None;
        };
        let instances = read.get("instances").and_then(toml::Value::as_array);
        let is_instance = |name: &str| {
            instances.is_some_and(|all| all.iter().any(|instance| instance.as_str() == Some(name)))
        };
        // Where the list of instances is wrong, the name may be correct.
        let is_list_wrong = self.mistakes.is_wrong(&join(section, "instances"));
        let (mut values, mut masks) = (toml::Table::new(), toml::Table::new());
        for (name, Entry { origin, value }) in tree {
            let is_known = is_instance(&name);
            let path = join(path, &word(if is_known { &name } else { MASK }));
            if table::children("tenant").contains(&name) && !is_known {
                let problem = format!(
                    "\"{name}\" is no instance of this tenant; a setting of the tenant stands \
                     before [tenant.tokens]"
                );
                self.mistakes.misplaced(origin, &path, problem);
            } else if !is_known && !is_list_wrong {
                let problem = "each name here is one of the tenant's instances".to_owned();
                self.mistakes.misplaced(origin, &path, problem);
            } else {
                match Kind::Token.check(&value, self.sources) {
                    Ok(token) => {
                        masks.insert(name.clone(), MASK.into());
                        values.insert(name, token.value);
                    }
                    Err(allowed) => self.mistakes.wrong(origin, &path, value.masked(), allowed),
                }
            }
        }
        let shown = toml::Value::Table(masks).to_string();
        Some(Checked {
            value: values.into(),
            shown,
        })
    }

    /// Opens a list. A variable's text is a TOML array, or items separated by commas.
    fn items(
        &mut self,
        entry: Entry,
        path: &str,
        allowed: &str,
        excerpt: impl Fn(&Value) -> String,
    ) -> Option<Vec<Entry>> {
        let Entry { origin, value } = entry;
        let value = match value {
            Value::Typed(text) if text.trim_start().starts_with('[') => {
                Value::parse(&text, &origin).unwrap_or(Value::Typed(text))
            }
            Value::Typed(text) => {
                let items = text
                    .split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty());
                let entry = |item: &str| Entry {
                    origin: origin.clone(),
                    value: Value::Typed(item.to_owned()),
                };
                let items: Vec<Entry> = items.map(entry).collect();
                // Blanks must not empty a list, and with it a protection: `[]` does.
                if items.is_empty() {
                    Value::Typed(text)
                } else {
                    Value::List(items)
                }
            }
            other => other,
        };
        let allowed = match value {
            Value::List(items) if items.len() <= MAX_ITEMS => return Some(items),
            Value::List(_) => format!("a list of at most {MAX_ITEMS}"),
            Value::Typed(ref text) if text.trim_matches([' ', ',']).is_empty() => {
                format!("{allowed}; [] is an empty list")
            }
            _ => allowed.to_owned(),
        };
        self.mistakes.wrong(origin, path, excerpt(&value), allowed);
        None
    }

    /// Reports the keys of a table that are not set: all are required where the table is written.
    fn require_all(&mut self, table: &str, origin: &Origin) {
        for key in table::children(table) {
            let path = join(table, &key);
            let is_set = self.shown.iter().any(|setting| setting.path() == path);
            if !is_set && !self.mistakes.is_wrong(&path) {
                self.mistakes.missing(origin.clone(), &path);
            }
        }
    }

    /// Reports what is left of the file.
    fn rest(&mut self, section: &str, tree: Tree) {
        for (key, Entry { origin, value }) in tree {
            let path = join(section, &word(&key));
            match value {
                Value::Table(inner) if table::is_group(&path) => {
                    if !section.is_empty() {
                        self.require_all(&path, &origin);
                    }
                    self.rest(&path, inner);
                }
                other if table::is_group(&path) => self.not_a_section(origin, &path, &other),
                _ => self.mistakes.unknown_key(section, &key, origin),
            }
        }
    }

    fn not_a_section(&mut self, origin: Origin, path: &str, value: &Value) {
        let allowed = format!("a section, begun by [{path}], not a value");
        self.mistakes.wrong(origin, path, value.masked(), allowed);
    }
}

/// Puts a value at a path such as `tls.cert`, making the tables on the way.
fn put(table: &mut toml::Table, path: &str, value: toml::Value) {
    match path.split_once('.') {
        None => drop(table.insert(path.to_owned(), value)),
        Some((first, rest)) => {
            let inner = table
                .entry(first)
                .or_insert_with(|| toml::Table::new().into());
            if let Some(inner) = inner.as_table_mut() {
                put(inner, rest, value);
            }
        }
    }
}
