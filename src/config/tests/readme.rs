//! `src/config/README.md` says what the program does.

use super::value::Origin;
use super::*;

const README: &str = include_str!("../README.md");

/// The settings files among the pieces of code.
fn examples() -> impl Iterator<Item = &'static str> {
    let begun = README.split("```toml\n").skip(1);
    begun.filter_map(|rest| Some(rest.split_once("```")?.0))
}

#[test]
fn every_example_is_a_settings_file() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("acme-123"), "token").unwrap();
    let env = [("ACME_KEY", "0123456789abcdef"), ("ACME_456", "token")];
    let mut count = 0;
    for key in ["acme-key", "acme-key-old"] {
        std::fs::write(directory.path().join(key), format!("{key:=>16}")).unwrap();
    }
    for block in examples() {
        let text = block.replace("/run/secrets", directory.path().to_str().unwrap());
        if let Err(mistakes) = load_text(&text, &env, &Overrides::default()) {
            panic!("{block}\n{mistakes}");
        }
        count += 1;
    }
    assert_eq!(count, 13);
}

#[test]
fn every_setting_is_in_a_table_with_its_default_and_what_a_change_needs() {
    // Without it, the defaults of its section are not shown.
    let url = "cluster.url = \"redis://a\"";
    let effective = load_text(url, &[], &Overrides::default()).unwrap();
    let rows: Vec<Vec<&str>> = README
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    for (path, row) in table::SETTINGS.iter() {
        let found: Vec<_> = rows
            .iter()
            .filter(|cells| cells[0] == format!("`{path}`"))
            .collect();
        let [cells] = found[..] else {
            panic!("{path}: {found:?}")
        };
        let shown = effective
            .shown
            .iter()
            .find(|setting| setting.path() == *path && setting.origin == Origin::Default);
        let default = shown.map_or("–".to_owned(), |setting| format!("`{}`", setting.toml));
        assert_eq!(cells[1], default, "{path}");
        assert_eq!(
            cells[4],
            if row.needs_restart {
                "restart"
            } else {
                "reload"
            },
            "{path}"
        );
    }
}
