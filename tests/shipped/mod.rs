//! What lies in `grafana/`, as the tests read it.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A file of the project.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

pub(crate) fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub(crate) fn dashboard() -> Value {
    serde_json::from_str(&text("grafana/dashboard.json")).expect("the dashboard is JSON")
}

/// The items of a list in JSON.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The text of a field in JSON.
pub(crate) fn field<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}

/// All expressions of the dashboard, with the panels they are from.
pub(crate) fn dashboard_queries() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let mut found = Vec::new();
    for panel in items(&dashboard["panels"]) {
        for target in items(&panel["targets"]) {
            found.push((
                field(panel, "title").to_owned(),
                field(target, "expr").to_owned(),
            ));
        }
    }
    for annotation in items(&dashboard["annotations"]["list"]) {
        found.push((
            field(annotation, "name").to_owned(),
            field(annotation, "expr").to_owned(),
        ));
    }
    found
}

/// The variables that are asked of Prometheus: name, metric with its selector, label.
pub(crate) fn variables() -> Vec<(String, String, String)> {
    let dashboard = dashboard();
    let variables = items(&dashboard["templating"]["list"]).iter();
    let queried = variables.filter(|variable| field(variable, "type") == "query");
    let read = |variable: &Value| {
        let query = field(&variable["query"], "query");
        let inner = query.strip_prefix("label_values(")?.strip_suffix(')')?;
        let (metric, label) = inner.rsplit_once(", ")?;
        let name = field(variable, "name");
        Some((name.to_owned(), metric.to_owned(), label.to_owned()))
    };
    queried
        .map(|variable| read(variable).expect("label_values(metric, label)"))
        .collect()
}

/// A rule of `grafana/rules`, as far as its lines tell.
#[derive(Debug, Default)]
pub(crate) struct Rule {
    /// The metric it records; or the alert's name.
    pub(crate) name: String,
    pub(crate) is_alert: bool,
    pub(crate) expr: String,
    /// `severity`, `summary`, `description`, `runbook_url`: without quotes.
    pub(crate) said: Vec<(String, String)>,
}

impl Rule {
    pub(crate) fn says(&self, what: &str) -> &str {
        let said = self.said.iter().find(|(key, _)| key == what);
        said.map_or("", |(_, text)| text)
    }
}

/// The rules, read by the form our file has: promtool is who knows YAML.
pub(crate) fn rules() -> Vec<Rule> {
    let text = text("grafana/rules/wawp-gateway.yml");
    let mut rules: Vec<Rule> = Vec::new();
    let mut block = false;
    for line in text.lines() {
        let trimmed = line.trim();
        for (key, is_alert) in [("- record: ", false), ("- alert: ", true)] {
            if let Some(name) = trimmed.strip_prefix(key) {
                let name = name.to_owned();
                rules.push(Rule {
                    name,
                    is_alert,
                    ..Rule::default()
                });
            }
        }
        let Some(rule) = rules.last_mut() else {
            continue;
        };
        if block && line.starts_with("          ") {
            rule.expr.push_str(trimmed);
            rule.expr.push(' ');
            continue;
        }
        block = trimmed == "expr: |";
        if let (Some(expr), false) = (trimmed.strip_prefix("expr: "), block) {
            expr.clone_into(&mut rule.expr);
        }
        if let Some((key, text)) = trimmed.split_once(": ") {
            let text = text.trim_matches('"').to_owned();
            rule.said.push((key.to_owned(), text));
        }
    }
    rules
}

/// The metrics an expression names (ours, the process's, recorded ones, `up`), each with where its name begins.
pub(crate) fn metrics(expr: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = expr[at..].find(is_name).map(|found| at + found) {
        let end = expr[start..].find(|letter| !is_name(letter));
        at = end.map_or(expr.len(), |end| start + end);
        let name = &expr[start..at];
        let known = ["wawp_gateway_", "process_"];
        let is_metric = known.iter().any(|prefix| name.starts_with(prefix))
            || name.contains(':')
            || name == "up";
        // Between quotes stands a label's value.
        let quoted = expr[..start].matches('"').count() % 2 == 1;
        if is_metric && !quoted {
            found.push((start, name));
        }
    }
    found
}

/// Whether a letter may stand in a name of PromQL.
pub(crate) fn is_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_' || letter == ':'
}
