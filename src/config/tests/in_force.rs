//! What is shown of settings that wait for a restart.

use super::*;

fn read(text: &str) -> Effective {
    load_text(text, &[], &Overrides::default()).unwrap()
}

/// The settings that are shown after a reload from `before` to `after`, without origins; `[server]`
/// and `[upstream]` need a restart.
fn shown(before: &str, after: &str) -> (String, Vec<String>) {
    let in_force = InForce::from(&read(before)).reloaded(&read(after), |_| false);
    let keys = in_force.pending_restart();
    let shown = in_force.to_string();
    let lines = shown.lines().map(|line| match line.find("  # ") {
        Some(origin) => &line[..origin],
        None => line,
    });
    (lines.map(|line| format!("{line}\n")).collect(), keys)
}

const TLS: &str = "server.tls = { cert = \"c\", key = \"k\" }\n";

#[test]
fn without_a_change_nothing_needs_a_restart() {
    for text in ["", TLS, "upstream.ca = \"a\""] {
        let (shown, keys) = shown(text, text);
        assert!(keys.is_empty() && !shown.contains("restart"), "{shown}");
    }
    // Nor if only the notation has changed.
    let (_, keys) = shown(
        "server.idle_timeout = \"60s\"",
        "server.idle_timeout = \"1m\"",
    );
    assert!(keys.is_empty(), "{keys:?}");
}

#[test]
fn a_value_stays_and_its_successor_is_shown_below_it() {
    let (shown, keys) = shown("", "upstream.idle_timeout = \"9s\"\nlimit.rate = 3\n");
    let lines = "idle_timeout = \"30s\"\n# after a restart: idle_timeout = \"9s\"\n";
    assert!(shown.contains(lines), "{shown}");
    assert!(shown.contains("\nrate = 3\n"), "{shown}");
    assert_eq!(keys, ["upstream.idle_timeout"]);
}

#[test]
fn an_added_or_removed_setting_needs_a_restart_too() {
    let (came, keys) = shown("", TLS);
    let lines =
        "names = []\n# after a restart: tls.cert = \"c\"\n# after a restart: tls.key = \"k\"\n";
    assert!(came.contains(lines), "{came}");
    assert_eq!(keys, ["server.tls.cert", "server.tls.key"]);
    let (gone, keys) = shown(TLS, "upstream.ca = \"a\"");
    let lines = "names = []\ntls.cert = \"c\"\n# after a restart tls.cert is not set\n\
                 tls.key = \"k\"\n# after a restart tls.key is not set\n\n[upstream]\n";
    assert!(gone.contains(lines), "{gone}");
    assert!(gone.contains("\n# after a restart: ca = \"a\"\n"), "{gone}");
    assert_eq!(keys, ["server.tls.cert", "server.tls.key", "upstream.ca"]);
}

#[test]
fn the_shown_settings_are_valid_toml_of_the_values_in_force() {
    let (shown, _) = shown(TLS, "server.max_headers = 7\nlimit.rate = 3\n");
    let config = good(&shown);
    assert_eq!(config.server, good(TLS).server);
    assert_eq!(config.limit, good("limit.rate = 3").limit);
}
