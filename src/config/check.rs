//! The walk over the table of settings: takes each setting out of the layers and checks it.
//!
//! Goes on after a mistake with the next weaker value that is allowed, so that one run finds every
//! mistake, and so that a result exists on which the rules between settings can be checked.

use std::collections::HashSet;

use super::effective::Setting;
use super::kind::{Checked, Kind};
use super::layers::{self, Layers, Typed};
use super::mistakes::Mistakes;
use super::rules;
use super::secret::Sources;
use super::table::{self, LISTS, Row, SECTIONS, join};
use super::value::{Entry, MASK, Origin, Tree, Value, word};

/// Lists are searched on each request, so none may be long.
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
    /// Values of unique settings that were used, each with the message of its row (which identifies
    /// the setting).
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
        for (name, rows) in SECTIONS {
            if LISTS.contains(&name) {
                let items = self.list_section(name, rows, &mut layers);
                put(&mut self.values, name, items.into());
            } else {
                let entries = |row: &Row| layers.take(&join(name, row.key));
                let (read, _) = self.section(name, rows, 0, entries);
                put(&mut self.values, name, read.into());
            }
        }
        // Unknown keys are not searched in the defaults: a test compares those with the table.
        let (variables, file) = layers.into_rest();
        for Typed { path, origin, text } in variables {
            match &origin {
                // `env:NAME` of a secret names this variable, so it is not a misspelt setting.
                Origin::Env(name) if self.sources.is_named(name) => {}
                _ if !path.is_empty() && !table::children(&path).is_empty() => {
                    self.not_a_section(&origin, &path, &Value::Typed(text));
                }
                _ => self.mistakes.unknown_variable(&path, &origin),
            }
        }
        self.rest("", file);
        self.require_whole_tls();
        self.require_server_of_cluster();
    }

    /// Checks the settings of one section, or of one item of `[[section]]`, taken by `entries`.
    /// Also returns whether every required setting is there and allowed.
    fn section(
        &mut self,
        name: &str,
        rows: &[Row],
        default_burst: i64,
        mut entries: impl FnMut(&Row) -> Vec<Entry>,
    ) -> (toml::Table, bool) {
        let (mut read, mut is_complete) = (toml::Table::new(), true);
        for row in rows {
            match self.setting(name, row, entries(row), &read) {
                Some(value) => put(&mut read, row.key, value),
                None => is_complete &= !row.required,
            }
        }
        let Self {
            shown, mistakes, ..
        } = self;
        rules::join_quota(name, &mut read, default_burst, shown, mistakes);
        (read, is_complete)
    }

    /// Checks `[[section]]`. The list of the strongest layer replaces the others; items without a
    /// required setting are left out.
    fn list_section(&mut self, list: &str, rows: &[Row], layers: &mut Layers) -> Vec<toml::Value> {
        let allowed = format!("a list of tables, each begun by [[{list}]]");
        let top = layers.take(list).into_iter().next();
        let items = top.and_then(|top| self.items(top, list, &allowed, Value::masked));
        // A class without a burst has that of [limit]; a tenant without one has none.
        let limit = self.values.get("limit").filter(|_| list == "limit.class");
        let burst = limit.and_then(|limit| limit.get("burst")?.as_integer());
        let mut read = Vec::new();
        for (index, Entry { origin, value }) in items.into_iter().flatten().enumerate() {
            let name = format!("{list}[{index}]");
            let Value::Table(mut tree) = value else {
                self.mistakes.add_masked(&origin, &name, &value, &allowed);
                continue;
            };
            // Before the check of the values: after it, missing and wrong settings look the same.
            for row in rows.iter().filter(|row| row.required) {
                if !tree.contains_key(row.key) {
                    self.mistakes.missing(&origin, &join(&name, row.key));
                }
            }
            let entries = |row: &Row| Vec::from_iter(layers::take(&mut tree, row.key));
            let (item, is_complete) = self.section(&name, rows, burst.unwrap_or_default(), entries);
            // `section` has taken the known keys out of the tree.
            for (key, entry) in tree {
                self.mistakes.unknown_key(&name, &key, &entry.origin);
            }
            read.extend(is_complete.then_some(toml::Value::from(item)));
        }
        read
    }

    /// Checks the values of one setting in all layers, the strongest first, and keeps the first that
    /// is allowed. `read` contains the settings of the section that were read before.
    fn setting(
        &mut self,
        section: &str,
        row: &Row,
        entries: Vec<Entry>,
        read: &toml::Table,
    ) -> Option<toml::Value> {
        let path = join(section, row.key);
        let mut found = None;
        // Also the values that a stronger layer overrides: their mistakes would appear later, when
        // a flag is left out.
        for entry in entries {
            let origin = entry.origin.clone();
            let checked = match row.kind {
                Kind::List(item) => self.list(&path, row, item, entry),
                Kind::Tokens => self.tokens(section, &path, entry, read),
                ref kind => self.value(&path, row, kind, &entry),
            };
            let Some(checked) = checked else {
                continue;
            };
            if found.is_none() {
                let (section, key) = (section.to_owned(), row.key);
                self.shown.push(Setting {
                    section,
                    key,
                    toml: checked.shown,
                    hidden: checked.hidden,
                    is_changed: origin != Origin::Default,
                    origin,
                });
                found = Some(checked.value);
            } else if let (Origin::Default, Some(last)) = (origin, self.shown.last_mut()) {
                last.is_changed = last.toml != checked.shown;
            }
        }
        found
    }

    /// Checks a single value, or an item of a list. Reports a mistake and returns `None` if it is
    /// wrong.
    fn value(&mut self, path: &str, row: &Row, kind: &Kind, entry: &Entry) -> Option<Checked> {
        let Entry { origin, value } = entry;
        let allowed = match (kind.check(value, self.sources), row.unique) {
            (Err(allowed), _) => allowed,
            (Ok(checked), None) => return Some(checked),
            // Also a value that is used twice within one list.
            (Ok(checked), Some(unique)) => {
                if self.taken.insert((unique, checked.value.to_string())) {
                    return Some(checked);
                }
                unique.to_owned()
            }
        };
        let excerpt = kind.excerpt(value, path.starts_with("tenant["));
        self.mistakes.add(origin, path, Some(excerpt), allowed);
        None
    }

    /// Checks a list, each item by itself; items that are wrong are left out.
    fn list(&mut self, path: &str, row: &Row, kind: &Kind, entry: Entry) -> Option<Checked> {
        let origin = entry.origin.clone();
        let excerpt = match kind {
            Kind::Key => Value::masked,
            _ => Value::excerpt,
        };
        let items = self.items(entry, path, A_LIST, excerpt)?;
        if items.is_empty() && row.not_empty {
            let empty = Some("[]".to_owned());
            self.mistakes
                .add(&origin, path, empty, "a list of at least one");
        }
        let good = items
            .iter()
            .filter_map(|entry| self.value(path, row, kind, entry));
        let (values, shown): (Vec<_>, Vec<_>) = good.map(|good| (good.value, good.shown)).unzip();
        Some(Checked::new(values, format!("[{}]", shown.join(", "))))
    }

    /// Checks a table of access tokens. Each name must be one of the tenant's instances.
    ///
    /// A message does not repeat any other name: name and secret may have been exchanged by mistake.
    fn tokens(
        &mut self,
        section: &str,
        path: &str,
        entry: Entry,
        read: &toml::Table,
    ) -> Option<Checked> {
        let Value::Table(tree) = entry.value else {
            let allowed = "a table of names and values, as in { \"a\" = \"b\" }";
            self.mistakes
                .add_masked(&entry.origin, path, &entry.value, allowed);
            return None;
        };
        let instances = read.get("instances").and_then(toml::Value::as_array);
        // Where the list of instances is wrong, any name may be correct.
        let is_list_wrong = self.mistakes.is_wrong(&join(section, "instances"));
        let (mut values, mut masks) = (toml::Table::new(), toml::Table::new());
        for (name, Entry { origin, value }) in tree {
            let is_name = |instance: &toml::Value| instance.as_str() == Some(&name);
            let is_known = instances.is_some_and(|instances| instances.iter().any(is_name));
            let path = join(path, &word(if is_known { &name } else { MASK }));
            // In TOML, every key after the line [tenant.tokens] belongs to that table.
            if !is_known && table::children("tenant").contains(&name) {
                let problem = format!(
                    "\"{name}\" is no instance of this tenant; settings of the tenant must be \
                     above [tenant.tokens]"
                );
                self.mistakes.add(&origin, &path, None, problem);
                continue;
            }
            if !is_known && !is_list_wrong {
                let problem = "each name here is one of the tenant's instances";
                self.mistakes.add(&origin, &path, None, problem);
                continue;
            }
            match Kind::Token.check(&value, self.sources) {
                Ok(token) => {
                    masks.insert(name.clone(), MASK.into());
                    values.insert(name, token.value);
                }
                Err(allowed) => self.mistakes.add_masked(&origin, &path, &value, &allowed),
            }
        }
        let shown = toml::Value::Table(masks).to_string();
        Some(Checked::new(values, shown))
    }

    /// Opens a list. A variable's text is a TOML array, or items separated by commas.
    fn items(
        &mut self,
        entry: Entry,
        path: &str,
        allowed: &str,
        excerpt: fn(&Value) -> String,
    ) -> Option<Vec<Entry>> {
        let Entry { origin, value } = entry;
        let is_blank = |text: &str| text.trim_matches([' ', ',']).is_empty();
        let value = match value {
            // Text that begins like an array but is not TOML stays text, and is refused below.
            Value::Typed(text) if text.trim_start().starts_with('[') => {
                Value::parse(&text, &origin).unwrap_or(Value::Typed(text))
            }
            // Blank text must not become an empty list: an empty `access.networks` admits all.
            Value::Typed(text) if !is_blank(&text) => {
                let items = text
                    .split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty());
                let value = |item: &str| Value::Typed(item.to_owned());
                let entry = |item| Entry {
                    origin: origin.clone(),
                    value: value(item),
                };
                Value::List(items.map(entry).collect())
            }
            other => other,
        };
        let allowed = match value {
            Value::List(items) if items.len() <= MAX_ITEMS => return Some(items),
            Value::List(_) => format!("a list of at most {MAX_ITEMS}"),
            Value::Typed(ref text) if is_blank(text) => format!("{allowed}; [] is an empty list"),
            _ => allowed.to_owned(),
        };
        self.mistakes
            .add(&origin, path, Some(excerpt(&value)), allowed);
        None
    }

    /// Reports what is left of the file.
    fn rest(&mut self, section: &str, tree: Tree) {
        for (key, Entry { origin, value }) in tree {
            let path = join(section, &word(&key));
            let keys = table::children(&path);
            match value {
                _ if keys.is_empty() => self.mistakes.unknown_key(section, &key, &origin),
                Value::Table(inner) => {
                    // `[server.tls]` was written, so its keys are required.
                    if !section.is_empty() {
                        self.require(&path, &keys, &origin);
                    }
                    self.rest(&path, inner);
                }
                other => self.not_a_section(&origin, &path, &other),
            }
        }
    }

    /// Reports a value at the path of a section.
    fn not_a_section(&mut self, origin: &Origin, path: &str, value: &Value) {
        let allowed = format!("a section, begun by [{path}], not a value");
        self.mistakes.add_masked(origin, path, value, &allowed);
    }

    /// If one of `tls.cert` and `tls.key` is set, in any layer, the other is required.
    fn require_whole_tls(&mut self) {
        let keys = table::children("server.tls");
        let is_tls = |setting: &&Setting| setting.path().starts_with("server.tls.");
        if let Some(origin) = self.shown.iter().find(is_tls).map(|tls| tls.origin.clone()) {
            self.require("server.tls", &keys, &origin);
        }
        // Half of the table cannot be used, but the other settings can still be checked.
        let is_whole = |tls: &mut toml::Value| keys.iter().all(|key| tls.get(key).is_some());
        let server = self
            .values
            .get_mut("server")
            .and_then(toml::Value::as_table_mut);
        if let Some(server) = server
            && !server.get_mut("tls").is_some_and(is_whole)
        {
            server.remove("tls");
        }
    }

    /// If a setting of `[cluster]` differs from its default, `url` is required. Without `url` there is
    /// no cluster, and nothing of it is shown.
    fn require_server_of_cluster(&mut self) {
        let is_set = |setting: &&Setting| setting.section == "cluster" && setting.is_changed;
        if let Some(origin) = self.shown.iter().find(is_set).map(|set| set.origin.clone()) {
            self.require("cluster", &["url".to_owned()], &origin);
        }
        let cluster = self.values.get("cluster");
        if cluster.is_none_or(|cluster| cluster.get("url").is_none()) {
            self.values.remove("cluster");
            self.shown.retain(|setting| setting.section != "cluster");
        }
    }

    /// Reports the keys of a table that are not set.
    fn require(&mut self, table: &str, keys: &[String], origin: &Origin) {
        for path in keys.iter().map(|key| join(table, key)) {
            let is_set = self.shown.iter().any(|setting| setting.path() == path);
            if !is_set && !self.mistakes.is_wrong(&path) {
                self.mistakes.missing(origin, &path);
            }
        }
    }
}

/// Puts a value at a path such as `tls.cert`, making the tables on the way.
fn put(table: &mut toml::Table, path: &str, value: toml::Value) {
    match path.split_once('.') {
        None => drop(table.insert(path.to_owned(), value)),
        Some((first, rest)) => {
            let empty = || toml::Table::new().into();
            let inner = table.entry(first).or_insert_with(empty);
            if let Some(inner) = inner.as_table_mut() {
                put(inner, rest, value);
            }
        }
    }
}
