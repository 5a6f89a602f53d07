//! The effective settings as they are printed.

use super::*;

/// A file that sets every key.
const FULL: &str = r#"
[server]
listen = "[::1]:1"
admin = "0.0.0.0:2"
max_connections = 3
max_in_flight = 4
header_timeout = "5s"
body_timeout = "6s"
idle_timeout = "7s"
drain_delay = "4s"
drain_timeout = "8s"
timing_header = false
max_headers = 9
max_header_bytes = 10000
names = ["a", "b:1"]
tls.cert = "c\"\\"
tls.key = "k"
[upstream]
url = "http://[::1]:81"
http = "2"
proxy = "http://p:15"
connect_timeout = "1s 500ms"
response_timeout = "12s"
idle_timeout = "13s"
max_idle = 13
max_age = "14s"
ca = "ca"
[batch]
mode = "observe"
paths = ["/a", "/b"]
window = "14ms"
max_delay = "15s"
max_ids = 16
max_callers = 17
quarantine = "18s"
[limit]
mode = "observe"
rate = 0.25
burst = 19
max_wait = "20s"
max_queue = 21
headers = true
[[limit.class]]
name = "a"
paths = ["/x*"]
methods = ["GET"]
instances = ["1"]
tenants = ["a"]
rate = 22
burst = 23
max_in_flight = 24
[[limit.class]]
name = "b"
paths = ["/y"]
rate = 0
[egress]
rate = 25
burst = 26
[[tenant]]
name = "a"
instances = ["1", "two \"'\\"]
weight = 27
rate = 28
burst = 29
networks = ["10.0.0.0/8", "::1"]
key = "0123456789abcdef"
keys = ["0123456789abcdeg"]
tokens = { "1" = "0123456789abcdef", "two \"'\\" = "0123456789abcdef" }
[cluster]
url = "redis+sentinel://a,b:7/main/3"
ca = "c.pem"
name = "blue"
replicas = 30
timeout = "31ms"
[access]
networks = ["192.0.2.7"]
instances = "listed"
trusted_proxies = ["2001:db8::/32"]
[metrics]
max_instances = 24
[log]
format = "json"
level = "debug"
access = "off"
access_sample = 27
"#;

/// Returns the keys of a settings file, sections included, in their order; those commented out as well.
fn keys(text: &str) -> Vec<String> {
    let line = |line: &str| {
        let line = line.strip_prefix("# ").unwrap_or(line);
        let key = line
            .split_once(" = ")
            .map(|(key, _)| key)
            .filter(|key| !key.contains(' '));
        key.or(Some(line).filter(|line| line.starts_with('[')))
            .map(str::to_owned)
    };
    text.lines().filter_map(line).collect()
}

#[test]
fn printed_settings_are_equal_when_read_again() {
    for text in ["", FULL] {
        let effective = load_text(text, &[], &Overrides::default()).unwrap();
        let printed = effective.to_string();
        assert_eq!(printed.contains('…'), text == FULL);
        // Except secrets, which are printed as masks.
        let whole = printed.replace("keys = [\"…\"]", "keys = [\"0123456789abcdeg\"]");
        let whole = whole.replace('…', "0123456789abcdef");
        assert_eq!(good(&whole), effective.config);
    }
}

#[test]
fn the_order_is_that_of_the_reference_and_nothing_is_left_out() {
    let printed = load_text(FULL, &[], &Overrides::default())
        .unwrap()
        .to_string();
    let mut printed = keys(&printed);
    let second = printed
        .iter()
        .rposition(|key| key == "[[limit.class]]")
        .unwrap();
    let end = printed.iter().position(|key| key == "[egress]").unwrap();
    printed.drain(second..end);
    assert_eq!(printed, keys(DEFAULTS));
}

#[test]
fn each_value_that_is_no_default_names_its_origin() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"\n[batch]\nmax_ids = 7\npaths = [\n  \"/a\",\n]\n")
        .unwrap();
    let env = [
        ("WAWP_GATEWAY_LOG__LEVEL", "warn"),
        ("WAWP_GATEWAY_SERVER__NAMES", "A,b"),
    ];
    let env = env
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()));
    let flags = Overrides {
        rate: Some("2.50".into()),
        ..Overrides::default()
    };
    let printed = load(Some(file.path()), env, &flags).unwrap().to_string();
    let name = file.path().display();
    for line in [
        format!("max_ids = 7  # {name}:3"),
        format!("paths = [\"/a\"]  # {name}:4"),
        "names = [\"a\", \"b\"]  # WAWP_GATEWAY_SERVER__NAMES".to_owned(),
        "level = \"warn\"  # WAWP_GATEWAY_LOG__LEVEL".to_owned(),
        "rate = 2.5  # --rate".to_owned(),
        "burst = 20".to_owned(),
    ] {
        assert!(
            printed.lines().any(|printed| printed == line),
            "{line}\n{printed}"
        );
    }
    assert_eq!(printed.matches("  # ").count(), 5, "{printed}");
    assert!(printed.starts_with("[server]\nlisten = "), "{printed}");
}

fn load_file(path: &Path) -> Result<Effective, Mistakes> {
    load(Some(path), std::iter::empty(), &Overrides::default())
}

#[test]
fn check_prints_them_or_every_mistake() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"[limit]\nmax_queue = 7\n").unwrap();
    let printed = load_file(file.path()).unwrap().to_string();
    assert!(
        printed.contains(&format!("max_queue = 7  # {}:2", file.path().display())),
        "{printed}"
    );
    file.write_all(b"rate = -1\nhaeders = true\n").unwrap();
    assert_eq!(load_file(file.path()).unwrap_err().len(), 2);
}
