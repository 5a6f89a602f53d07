//! How mistakes are found and reported: all of them, each with its position, none with a secret.

use proptest::prelude::*;

use super::{refused::refused, *};

/// Ten lines with different mistakes, and the message for each.
const TEN: [(usize, &str, &str); 10] = [
    (
        2,
        "listen = \"localhost:8080\"",
        "server.listen = \"localhost:8080\": an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080; write 127.0.0.1:8080",
    ),
    (
        3,
        "max_conections = 5",
        "server.max_conections: unknown key; did you mean server.max_connections?",
    ),
    (
        4,
        "max_header_bytes = 4096",
        "server.max_header_bytes = 4096: a whole number from 8192 to 1048576",
    ),
    (
        6,
        "url = \"ftp://api.wawp.net\"",
        "upstream.url = \"ftp://api.wawp.net\": http:// or https://, a host and perhaps a port; no path, user, query or fragment",
    ),
    (
        7,
        "connect_timeout = \"0s\"",
        "upstream.connect_timeout = \"0s\": a time above 0 with its unit, such as \"500ms\" or \"5s\", at most \"1day\"",
    ),
    (
        9,
        "paths = [\"/v2/send/*\"]",
        "batch.paths = \"/v2/send/*\": a path that begins with /, without * and without ? or #",
    ),
    (
        10,
        "window = 50",
        "batch.window = 50: a time with its unit, such as \"50ms\" or \"4s\", at most \"1day\"",
    ),
    (
        12,
        "rate = \"fast\"",
        "limit.rate = \"fast\": a number of requests per second: 0 (unlimited), or 0.0001 to 1000000",
    ),
    (13, "headers = 1", "limit.headers = 1: true or false"),
    (
        14,
        "[redis]",
        "redis: unknown section; known here: server, upstream, batch, limit, egress, tenant, cluster, access, metrics, log",
    ),
];

#[test]
fn ten_mistakes_are_all_reported_with_their_lines() {
    let mut lines = [""; 15];
    for (line, header) in [
        (1, "[server]"),
        (5, "[upstream]"),
        (8, "[batch]"),
        (11, "[limit]"),
        (15, "rate = 5"),
    ] {
        lines[line - 1] = header;
    }
    TEN.iter()
        .for_each(|(line, text, _)| lines[line - 1] = text);
    let mut expected: Vec<String> = TEN
        .iter()
        .map(|(line, _, message)| format!("{line}: {message}"))
        .collect();
    expected.push("10 mistakes in the settings".to_owned());
    assert_eq!(bad(&lines.join("\n")).lines().collect::<Vec<_>>(), expected);
}

#[test]
fn an_item_of_a_list_is_reported_at_its_own_line() {
    refused(
        "[batch]\npaths = [\n  \"/a\",\n  \"b\",\n]",
        4,
        "batch.paths = \"b\"",
    );
}

#[test]
fn unknown_keys_are_named_with_the_key_that_was_probably_meant() {
    for (text, piece) in [
        (
            "[limt]\nrate = 1",
            "limt: unknown section; did you mean limit?",
        ),
        (
            "listen = \"127.0.0.1:1\"",
            "listen: unknown section; did you mean server.listen?",
        ),
        (
            "[limit]\nwindow = \"1s\"",
            "limit.window: unknown key; did you mean batch.window?",
        ),
        (
            "[log]\ncolour = true",
            "log.colour: unknown key; known here: format, level, access, access_sample",
        ),
        (
            "[[tenants]]\nkey = \"hush\"",
            "tenants: unknown section; did you mean tenant?",
        ),
        ("[log]\n\"a\\nb\" = 1", "log.\"a\\nb\": unknown key"),
    ] {
        let message = bad(text);
        assert!(
            message.contains(piece) && !message.contains("hush"),
            "{message}"
        );
    }
    refused(
        "log = 5",
        1,
        "log = …: a section, begun by [log], not a value",
    );
}

#[test]
fn a_broken_heading_is_one_mistake() {
    for (text, at, others) in [
        ("[limit\nrate = 5\n", "1:7", 0),
        (
            "[limit]\nrate = 3\n[access\nnetworks = [\"10.0.0.0/8\"]\n",
            "3:8",
            0,
        ),
        ("[lim it]\n\nrate = 5\n", "1:5", 0),
        (
            "[[tenant]\nname = \"a\"\ninstances = [\"1\"]\n[limit]\nrate = 5\n",
            "1:10",
            0,
        ),
        ("[[limit.class]\nname = \"x\"\n", "1:15", 0),
        // The mistakes of other sections are real.
        ("[limit\nrate = 5\n[batch]\nwindo = \"1ms\"\n", "1:7", 1),
        (
            "[[tenant]\nname = \"a\"\n[limit]\nrate = 5\n[batch]\nwindo = \"1ms\"\n",
            "1:10",
            1,
        ),
    ] {
        let message = bad(text);
        assert!(
            message.starts_with(&format!("{at}: this is not TOML")),
            "{message}"
        );
        assert_eq!(message.lines().count(), 2 + others, "{text}\n{message}");
        assert_eq!(message.contains("batch.windo"), others == 1, "{message}");
    }
}

#[test]
fn syntax_errors_have_line_and_column_and_do_not_hide_the_rest() {
    let message = bad("a = [,,,,\n");
    assert!(
        message.ends_with("\n1 mistake in the settings"),
        "{message}"
    );
    let message = bad("[limit]\nrate = = \"hush\"\nburst = \"x\"\n");
    assert!(message.starts_with("2:8: this is not TOML: "), "{message}");
    assert!(message.contains("\n3: limit.burst = \"x\": "), "{message}");
    assert!(!message.contains("hush"), "{message}");
    let message = bad("[limit]\nrate = 1\nrate = 2\n");
    assert!(
        message.starts_with("3:1: this is not TOML: duplicate key"),
        "{message}"
    );
}

#[test]
fn variables_and_flags_are_origins_too() {
    let env = [
        ("WAWP_GATEWAY_LIMIT__RATE", "fast"),
        ("WAWP_GATEWAY_LIMIT_BURST", "5"),
        ("WAWP_GATEWAY_LIMIT__max_wait", "5s"),
        ("WAWP_GATEWAY_LIMT__RATE", "5"),
        ("WAWP_GATEWAY_", "x"),
        ("WAWP_GATEWAY_CONFG", "x"),
        ("WAWP_GATEWAY_LIMIT.MAX_QUEUE", "5"),
        ("WAWP_GATEWAY_TENANT__KEY", "hush"),
        ("WAWP_GATEWAY_A__B__C__D", "x"),
        ("WAWP_GATEWAY_SERVER__NAMES", "[\"a\""),
    ];
    let flags = Overrides {
        burst: Some("1.5".into()),
        ..Overrides::default()
    };
    let unknown = "unknown variable; settings are named WAWP_GATEWAY_<SECTION>__<KEY>";
    assert_eq!(
        bad_layers("", &env, &flags).lines().collect::<Vec<_>>(),
        [
            &format!("WAWP_GATEWAY_: {unknown}"),
            &format!("WAWP_GATEWAY_A__B__C__D: {unknown}"),
            "WAWP_GATEWAY_CONFG: unknown variable; did you mean WAWP_GATEWAY_CONFIG?",
            "WAWP_GATEWAY_LIMIT.MAX_QUEUE: unknown variable; did you mean WAWP_GATEWAY_LIMIT__MAX_QUEUE?",
            "WAWP_GATEWAY_LIMIT_BURST: unknown variable; did you mean WAWP_GATEWAY_LIMIT__BURST?",
            "WAWP_GATEWAY_LIMIT__RATE: limit.rate = \"fast\": a number of requests per second: 0 (unlimited), or 0.0001 to 1000000",
            "WAWP_GATEWAY_LIMIT__max_wait: unknown variable; did you mean WAWP_GATEWAY_LIMIT__MAX_WAIT?",
            "WAWP_GATEWAY_LIMT__RATE: unknown variable; did you mean WAWP_GATEWAY_LIMIT__RATE?",
            "WAWP_GATEWAY_SERVER__NAMES: server.names = \"[\"a\"\": a list, as in [\"a\", \"b\"]",
            "WAWP_GATEWAY_TENANT__KEY: unknown variable; WAWP_GATEWAY_TENANT is a list: a TOML array of tables",
            "--burst: limit.burst = \"1.5\": a whole number from 0 to 100000",
            "11 mistakes in the settings",
        ]
    );
}

#[test]
fn a_mistake_that_a_stronger_layer_overrides_is_reported() {
    let flags = Overrides {
        rate: Some("5".into()),
        ..Overrides::default()
    };
    let message = bad_layers(
        "[limit]\nrate = \"fast\"",
        &[("WAWP_GATEWAY_LIMIT__RATE", "slow")],
        &flags,
    );
    assert!(
        message.contains("2: limit.rate = \"fast\"")
            && message.contains("WAWP_GATEWAY_LIMIT__RATE: "),
        "{message}"
    );
    assert!(
        message.ends_with("\n2 mistakes in the settings"),
        "{message}"
    );
}

#[test]
fn one_mistake_is_not_reported_twice_by_a_rule_between_keys() {
    let message = bad("[batch]\nwindow = \"x\"\n[limit]\nmax_wait = \"20ms\"");
    assert!(
        message.ends_with("\n1 mistake in the settings"),
        "{message}"
    );
}

#[test]
fn a_password_in_the_upstream_is_not_repeated() {
    for url in [
        "https://me:hush@api.wawp.net",
        "https://api.wawp.net?access_token=hush",
        "https://a/#hush",
    ] {
        let flags = Overrides {
            upstream: Some(url.into()),
            ..Overrides::default()
        };
        let mistakes = load_text("", &[], &flags).unwrap_err();
        assert!(
            !format!("{mistakes} {mistakes:?}").contains("hush"),
            "{mistakes}"
        );
        assert!(
            mistakes
                .to_string()
                .starts_with("--upstream: upstream.url = \"…\": http:// or"),
            "{mistakes}"
        );
    }
}

#[test]
fn a_text_instead_of_a_table_is_not_repeated() {
    // Some tables contain keys, so text that is no TOML may be one.
    for (name, value) in [
        ("SERVER__TLS", "{ key = hush"),
        ("LIMIT__CLASS", "[{ key = \"hush\""),
        ("TENANT", "[{ key = \"hush\""),
        ("LOG", "hush"),
    ] {
        let message = bad_layers(
            "",
            &[(&format!("WAWP_GATEWAY_{name}"), value)],
            &Overrides::default(),
        );
        assert!(
            message.contains(" = \"…\": a ") && !message.contains("hush"),
            "{message}"
        );
    }
    let message = bad("[limit]\nclass = [\"hush\"]");
    assert!(
        message.starts_with("2: limit.class[0] = \"…\": a list of tables"),
        "{message}"
    );
}

#[test]
fn files_that_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    for (path, message) in [
        (directory.path().join("none"), ": there is no such file"),
        (
            directory.path().to_owned(),
            ": this is a directory, not a file",
        ),
        (
            path("empty", b""),
            ": the file is empty; one comment in it says that the defaults are meant",
        ),
        (
            path("blank", b" \r\n\n"),
            ": the file is empty; one comment in it says that the defaults are meant",
        ),
        (
            path("latin", b"[limit]\n# caf\xe9\n"),
            ":2: settings files are UTF-8; this byte is not",
        ),
        (
            path("huge", &b"#\n".repeat(600_000)),
            ": a settings file has at most 1 MiB",
        ),
        (
            path("line\nfeed", b""),
            ": the file is empty; one comment in it says that the defaults are meant",
        ),
    ] {
        let mistakes = load(Some(&path), std::iter::empty(), &Overrides::default()).unwrap_err();
        let name = path.display().to_string().replace('\n', "\\n");
        assert_eq!(
            mistakes.to_string(),
            format!("{name}{message}\n1 mistake in the settings")
        );
    }
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_utf_8() {
    use std::os::unix::ffi::OsStringExt as _;
    let broken = OsString::from_vec(b"\xff".to_vec());
    let env = [
        ("WAWP_GATEWAY_LIMIT__RATE".into(), broken.clone()),
        (broken.clone(), broken),
    ];
    let mistakes = load(None, env.into_iter(), &Overrides::default()).unwrap_err();
    assert_eq!(
        mistakes.to_string(),
        "WAWP_GATEWAY_LIMIT__RATE: the value is not UTF-8\n1 mistake in the settings"
    );
}

#[test]
fn only_the_first_mistakes_of_another_kind_of_file_are_printed() {
    let message = bad(&"not toml\n".repeat(5000));
    assert!(message.lines().count() <= 102, "{message}");
    assert!(message.contains("\n... and "), "{message}");
    let message = bad(&format!("[log]\nlevel = \"{}\"", "x".repeat(10_000)));
    assert!(message.len() < 300, "{message}");
}

#[test]
fn depth_does_not_exhaust_the_stack() {
    let depth = 150_000;
    for text in [
        format!("{}a = 1", "a.".repeat(depth)),
        format!("[{}a]", "a.".repeat(depth)),
        format!("a = {}", "[".repeat(depth)),
        format!("a = {}", "{a=".repeat(depth)),
    ] {
        assert!(!bad(&text).is_empty());
        let env = [(
            "WAWP_GATEWAY_SERVER__NAMES",
            text.strip_prefix("a = ").unwrap_or("["),
        )];
        assert!(!bad_layers("", &env, &Overrides::default()).is_empty());
    }
}

/// Pieces of settings, so that generated text is often accepted by the parser.
fn fragments() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "[server]",
        "[limit]",
        "[[limit.class]]",
        "[[tenant]]",
        "[access]",
        "[server.tls]",
        "tenant",
        "tokens",
        "key",
        "instances",
        "networks",
        "\"env:A\"",
        "\"file:/\"",
        "[batch]",
        "server",
        "tls",
        "listen",
        "rate",
        "burst",
        "paths",
        "window",
        "class",
        "name",
        "=",
        " = ",
        ".",
        ",",
        "\n",
        "\n",
        "\"",
        "'",
        "{",
        "}",
        "[",
        "]",
        "0",
        "-1",
        "1e400",
        "nan",
        "\"50ms\"",
        "\"/a\"",
        "\"é\"",
        "true",
        "#",
        "1979-05-27",
        "\\u",
        "\u{feff}",
        "\r",
        "\0",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn load_never_panics(
        text in prop_oneof![any::<String>(), fragments()],
        name in prop_oneof!["[A-Z_]{0,20}", "(SERVER|LIMIT|BATCH)__(LISTEN|TLS|TLS__CERT|RATE|CLASS|PATHS|WINDOW|NAMES)", "TENANT(__KEY)?"],
        value in prop_oneof![any::<String>(), fragments()],
        flag in any::<String>(),
    ) {
        let flags = Overrides { listen: Some(flag.clone()), upstream: Some(flag), ..Overrides::default() };
        let env = [(format!("WAWP_GATEWAY_{name}"), value)];
        let env = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>();
        let message = load_text(&text, &env, &flags).map_or_else(|mistakes| mistakes.to_string(), |read| read.to_string());
        prop_assert!(!message.is_empty());
    }

    #[test]
    fn each_mistake_keeps_to_one_line(text in fragments()) {
        if let Err(mistakes) = load_text(&text, &[], &Overrides::default()) {
            let count = mistakes.len();
            let message = mistakes.to_string();
            prop_assert!(count > 100 || message.lines().count() == count + 1, "{}", message);
        }
    }
}
