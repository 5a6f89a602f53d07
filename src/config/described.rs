//! The settings as `default.toml` describes them, for the manual page.
//!
//! Invariant: nothing is described here; every word is read from `default.toml`.

use super::DEFAULTS;

/// A section with its settings, in the order of `default.toml`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Section {
    /// `[limit]`, or `[[limit.class]]` for a list. Empty for what precedes the first section.
    pub(crate) header: String,
    /// What is said about the section as a whole.
    pub(crate) text: String,
    /// Its settings.
    pub(crate) settings: Vec<Setting>,
}

/// One setting.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Its key within the section.
    pub(crate) key: String,
    /// Its default, or an example if it has no default.
    pub(crate) value: String,
    /// Whether the value is the default.
    pub(crate) is_default: bool,
    /// What it means. Empty if it is described together with the setting before.
    pub(crate) text: String,
}

/// Reads the description of every setting.
pub(crate) fn describe() -> Vec<Section> {
    let mut sections = vec![Section::default()];
    // The comment above the next line that is not a comment.
    let mut text = String::new();
    for line in DEFAULTS.lines() {
        let commented = line.strip_prefix("# ");
        let content = commented.unwrap_or(line);
        let last = sections.last_mut().expect("there is always one section");
        if content.is_empty() {
            // What precedes the first section describes the file.
            last.text.push_str(&std::mem::take(&mut text));
        } else if is_header(content) {
            sections.push(Section {
                header: content.to_owned(),
                text: std::mem::take(&mut text),
                settings: Vec::new(),
            });
        } else if let Some((key, value)) = key_and_value(content) {
            last.settings.push(Setting {
                key: key.to_owned(),
                value: value.to_owned(),
                is_default: commented.is_none(),
                text: std::mem::take(&mut text),
            });
        } else {
            let space = if text.is_empty() { "" } else { " " };
            text = text + space + content;
        }
    }
    sections
}

/// Whether a line is `[name]` or `[[name]]`, and not a sentence that begins with such a word.
fn is_header(line: &str) -> bool {
    line.starts_with('[') && line.ends_with(']') && !line.contains(' ')
}

/// Splits `key = value`; a sentence has capitals or more than one word before a `=`.
fn key_and_value(line: &str) -> Option<(&str, &str)> {
    let is_key = |key: &&str| {
        key.chars()
            .all(|c| c.is_ascii_lowercase() || matches!(c, '_' | '.'))
    };
    line.split_once(" = ").filter(|(key, _)| is_key(key))
}

#[cfg(test)]
mod tests {
    use super::super::table::SETTINGS;
    use super::*;

    #[test]
    fn every_setting_of_the_table_is_described_in_its_order() {
        let mut described = Vec::new();
        for section in describe() {
            let name = section.header.trim_matches(['[', ']']).to_owned();
            let keys = section.settings.iter();
            described.extend(keys.map(|setting| format!("{name}.{}", setting.key)));
        }
        let known: Vec<&String> = SETTINGS.iter().map(|(path, _)| path).collect();
        assert_eq!(described.iter().collect::<Vec<_>>(), known);
    }

    #[test]
    fn each_has_its_text_and_its_default() {
        let sections = describe();
        assert!(sections[0].text.starts_with("Every setting of"));
        let find = |header: &str, key: &str| {
            let section = sections.iter().find(|s| s.header == header).unwrap();
            section.settings.iter().find(|s| s.key == key).unwrap()
        };
        let window = find("[batch]", "window");
        assert_eq!((&*window.value, window.is_default), ("\"50ms\"", true));
        assert!(window.text.starts_with("How long a batch"), "{window:?}");
        let key = find("[server]", "tls.key");
        assert_eq!((&*key.text, key.is_default), ("", false));
        assert!(!find("[[tenant]]", "name").is_default);
        let all = sections.iter().flat_map(|s| &s.settings);
        let without_text: Vec<&String> =
            all.filter(|s| s.text.is_empty()).map(|s| &s.key).collect();
        assert_eq!(without_text, ["tls.key"]);
    }
}
