//! Keys and tokens: their sources and syntax, and that no output repeats one.

use proptest::prelude::*;

use super::{refused::refused, *};

/// A tenant, up to the line where its secrets begin: the fourth.
const TENANT: &str = "[[tenant]]\nname = \"a\"\ninstances = [\"1\", \"2\"]\n";
/// Long enough for a key; every other piece of a test's text differs from it.
const HUSH: &str = "hush9Hush9hush9Hush9";

/// Reads a tenant with these lines under these variables.
fn tenant(lines: &str, env: &[(&str, &str)]) -> Tenant {
    let text = format!("{TENANT}{lines}");
    let mut config = load_text(&text, env, &Overrides::default())
        .unwrap_or_else(|mistakes| panic!("{text}\n{mistakes}"))
        .config;
    config.tenants.remove(0)
}

fn key(written: &str, env: &[(&str, &str)]) -> String {
    let tenant = tenant(&format!("key = {written:?}"), env);
    tenant.key.unwrap().expose().to_owned()
}

fn token(written: &str, env: &[(&str, &str)]) -> String {
    let tenant = tenant(&format!("tokens = {{ 1 = {written:?} }}"), env);
    tenant.tokens["1"].expose().to_owned()
}

#[test]
fn a_secret_is_its_text_or_a_variable_or_a_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let source = format!("file:{}", file.path().display());
    assert_eq!(key(HUSH, &[]), HUSH);
    for kept in [
        HUSH.to_owned(),
        format!("{HUSH}\n"),
        format!("{HUSH}\r\n"),
        format!("\u{feff}{HUSH}\nand a note\n"),
    ] {
        std::fs::write(file.path(), &kept).unwrap();
        assert_eq!(
            (key(&source, &[]), token(&source, &[])),
            (HUSH.into(), HUSH.into())
        );
    }
    for kept in [HUSH, "hush9Hush9hush9Hush9\n"] {
        // A variable that contains a secret is no unknown setting, even if its name begins like one.
        for name in [
            "A",
            "acme.key-1",
            "WAWP_GATEWAY_ACME",
            "WAWP_GATEWAY_A__B__C__D",
        ] {
            assert_eq!(key(&format!("env:{name}"), &[(name, kept)]), HUSH);
        }
    }
    assert_eq!(token("a \"b\\c%&+=", &[]), "a \"b\\c%&+=");
}

#[test]
fn a_key_may_contain_what_urls_and_json_allow() {
    for text in [
        "a".repeat(16),
        "z".repeat(256),
        "!$()*,-./:;<>?@[]^_{|}~".into(),
        // `openssl rand -base64 32`
        "k8+Zq0/vJtW1mEJ9/3nX+YcQeQ2m5r7uHkq1l8Tt0aE=".into(),
    ] {
        assert_eq!(key(&text, &[]), text);
    }
    for text in [
        "a".repeat(15),
        "a".repeat(257),
        "é".repeat(16),
        String::new(),
    ] {
        refused(
            &format!("{TENANT}key = {text:?}"),
            4,
            "tenant[0].key = \"…\": a key of 16 to 256 visible ASCII characters",
        );
    }
    for letter in "\"'`\\&%# \té".chars() {
        let message = bad(&format!("{TENANT}key = {:?}", format!("{HUSH}{letter}")));
        assert!(
            message.starts_with("4: tenant[0].key = \"…\": a key of"),
            "{message}"
        );
        assert!(!message.contains(HUSH), "{message}");
    }
}

#[test]
fn a_token_may_contain_what_a_header_allows() {
    for text in ["", " a", "a ", "a\tb", "é", &"a".repeat(4097)] {
        refused(
            &format!("{TENANT}tokens.2 = {text:?}"),
            4,
            "tenant[0].tokens.2 = \"…\": an access token of 1 to 4096 visible ASCII characters",
        );
    }
}

#[test]
fn a_source_without_a_secret_is_a_mistake() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        format!("file:{}", path.display())
    };
    let env = [("EMPTY", ""), ("BLANK", "\nx"), ("SHORT", "hush9")];
    for (written, message) in [
        ("env:NONE".to_owned(), ": there is no such variable"),
        ("env:EMPTY".to_owned(), ": the variable is empty"),
        ("env:BLANK".to_owned(), ": the variable is empty"),
        (
            "env:SHORT".to_owned(),
            ": what is kept there is not a key of 16 to 256 visible",
        ),
        (
            file("empty", b""),
            ": the file, or its first line, is empty",
        ),
        (
            file("blank", b"\nx\n"),
            ": the file, or its first line, is empty",
        ),
        (
            file("short", b"hush9\n"),
            ": what is kept there is not a key",
        ),
        (file("latin", b"hush9\xe9"), ": the file is not UTF-8"),
        (
            file("huge", &[b'a'; 65_537]),
            ": a secret's file has at most 64 KiB",
        ),
        (
            format!("file:{}", directory.path().display()),
            ": this is a directory, not a file",
        ),
        (
            "file:/dev/null".to_owned(),
            ": this is a device or a socket, not a file",
        ),
        (
            format!("file:{}/none", directory.path().display()),
            ": there is no such file",
        ),
    ] {
        let text = format!("{TENANT}key = {written:?}");
        let mistakes = load_text(&text, &env, &Overrides::default()).unwrap_err();
        let shown = mistakes.to_string();
        let piece = format!(":4: tenant[0].key = \"…\": {written}{message}");
        assert!(shown.contains(&piece), "{piece}\n{shown}");
        assert!(!shown.contains("hush9") && mistakes.len() == 1, "{shown}");
    }
    // Text that is no name may be the secret itself.
    for written in ["env:", "env:hush9 hush9", "env:$hush9", "file:"] {
        let message = bad(&format!("{TENANT}key = {written:?}"));
        assert!(
            message.contains("and the name of a ") && !message.contains("hush9"),
            "{message}"
        );
    }
}

#[test]
fn a_named_pipe_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let text = format!("{TENANT}key = \"file:{}\"", pipe.display());
    // In a thread: a read of the pipe would never end.
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(bad(&text)));
    let message = receiver.recv_timeout(seconds(30)).unwrap();
    assert!(
        message.contains(": this is a named pipe, not a file"),
        "{message}"
    );
}

#[cfg(unix)]
#[test]
fn a_variable_for_a_secret_that_is_not_utf_8() {
    use std::os::unix::ffi::OsStringExt as _;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(format!("{TENANT}key = \"env:A\"").as_bytes())
        .unwrap();
    let env = [("A".into(), OsString::from_vec(b"hush9\xff".to_vec()))];
    let mistakes = load(Some(file.path()), env.into_iter(), &Overrides::default()).unwrap_err();
    let message = mistakes.to_string();
    assert!(
        message.contains("env:A: the value is not UTF-8") && !message.contains("hush9"),
        "{message}"
    );
}

#[test]
fn a_variable_that_no_secret_names_is_still_unknown() {
    let text = format!("{TENANT}key = \"env:WAWP_GATEWAY_A\"");
    let env = [("WAWP_GATEWAY_A", HUSH), ("WAWP_GATEWAY_B", HUSH)];
    let message = bad_layers(&text, &env, &Overrides::default());
    assert!(
        message.starts_with("WAWP_GATEWAY_B: unknown variable"),
        "{message}"
    );
    assert!(
        message.ends_with("\n1 mistake in the settings"),
        "{message}"
    );
}

#[test]
fn no_two_tenants_have_the_same_key() {
    let second = TENANT
        .replace("\"a\"", "\"b\"")
        .replace("[\"1\", \"2\"]", "[\"3\"]");
    let text = format!("{TENANT}key = \"{HUSH}\"\n{second}key = \"env:A\"");
    let message = bad_layers(&text, &[("A", HUSH)], &Overrides::default());
    assert_eq!(
        message,
        "8: tenant[1].key = \"…\": a key that is not listed before, here or in another tenant\n1 mistake in the settings"
    );
}

#[test]
fn a_token_belongs_to_an_instance_of_its_tenant() {
    // If name and secret were exchanged, the secret is not printed.
    refused(
        &format!("{TENANT}[tenant.tokens]\n1 = \"t\"\n{HUSH} = \"3\""),
        6,
        "tenant[0].tokens.\"…\": each name here is one of the tenant's instances",
    );
    let message = bad(&format!("{TENANT}tokens = {{ {HUSH} = \"3\" }}"));
    assert!(!message.contains(HUSH), "{message}");
    refused(
        &format!("{TENANT}[tenant.tokens]\n1 = \"t\"\nweight = 2"),
        6,
        "\"weight\" is no instance of this tenant; settings of the tenant must be above [tenant.tokens]",
    );
    // If the list of instances is wrong, no mistake is reported for the tokens.
    let text = TENANT.replace("\"2\"", "2");
    refused(
        &format!("{text}tokens = {{ 2 = \"t\" }}"),
        3,
        "instances = 2",
    );
}

#[test]
fn no_output_repeats_a_secret_however_it_is_mistyped() {
    let digits = "9091929394959697";
    for (lines, line, piece) in [
        ("key = DIGITS", 4, "tenant[0].key = …: a key of"),
        ("key = DIGITS.5", 4, "as a text in quotes, or env:NAME"),
        ("key = 1979-05-27", 4, "tenant[0].key = \"…\": "),
        ("key = [\"HUSH\"]", 4, "tenant[0].key = [...]: "),
        ("key = { text = \"HUSH\" }", 4, "tenant[0].key = {...}: "),
        ("key = \"HUSH HUSH\"", 4, "tenant[0].key = \"…\": "),
        ("key = HUSH", 4, "this is not TOML"),
        ("key = \"HUSH", 4, "this is not TOML"),
        ("keys = \"HUSH\"", 4, "tenant[0].keys = \"…\": a list"),
        (
            "keys = [\"HUSH HUSH\"]",
            4,
            "tenant[0].keys = \"…\": a key of",
        ),
        ("kez = \"HUSH\"", 4, "did you mean tenant[0].key?"),
        (
            "password = \"HUSH\"",
            4,
            "tenant[0].\"…\": unknown key; known here: name, ",
        ),
        (
            "HUSH = 1",
            4,
            "tenant[0].\"…\": unknown key; known here: name, ",
        ),
        ("\"HUSH\"", 4, "this is not TOML"),
        // What is below a broken heading is not judged.
        (
            "[key = [\nkey = { \"HUSH\"\n[[tenant]]",
            4,
            "this is not TOML",
        ),
        ("tokens = DIGITS", 4, "tenant[0].tokens = …: a table"),
        ("tokens = \"HUSH\"", 4, "tenant[0].tokens = \"…\": a table"),
        (
            "tokens = [\"HUSH\"]",
            4,
            "tenant[0].tokens = [...]: a table",
        ),
        (
            "tokens.1 = DIGITS",
            4,
            "tenant[0].tokens.1 = …: an access token",
        ),
        (
            "tokens.1.HUSH = 1",
            4,
            "tenant[0].tokens.1 = {...}: an access token",
        ),
        (
            "tokens.1 = \"HUSH\\n\"",
            4,
            "tenant[0].tokens.1 = \"…\": an access token",
        ),
        ("[tenant.HUSH]\na = 1", 4, "tenant[0].\"…\": unknown key"),
    ] {
        let lines = lines.replace("DIGITS", digits).replace("HUSH", HUSH);
        let text = format!("{TENANT}{lines}");
        let mistakes = load_text(&text, &[], &Overrides::default()).unwrap_err();
        let message = format!("{mistakes} {mistakes:?}");
        assert!(
            !message.contains("hush9") && !message.contains("9293"),
            "{message}"
        );
        assert!(
            message.contains(&format!(":{line}")) && message.contains(piece),
            "{lines}\n{message}"
        );
    }
    for text in [format!("tenant = {digits}"), format!("tenant = [{digits}]")] {
        assert!(!bad(&text).contains("9293"));
    }
    let list = format!("[{{ name = \"a\", instances = [\"1\"], hidden = \"{HUSH}\", key = 5 }}]");
    let env = [
        ("WAWP_GATEWAY_TENANT", list.as_str()),
        ("WAWP_GATEWAY_TENANT__KEY", HUSH),
    ];
    for env in [&env[..1], &env[1..], &env[..]] {
        let message = bad_layers("", env, &Overrides::default());
        assert!(!message.contains("hush9"), "{message}");
    }
}

#[test]
fn text_instead_of_a_tenants_number_is_not_repeated() {
    for key in ["weight", "rate", "burst"] {
        let message = bad(&format!("{TENANT}{key} = \"{HUSH}\""));
        assert!(
            message.contains(&format!("tenant[0].{key} = \"…\"")),
            "{message}"
        );
        assert!(!message.contains("hush9"), "{message}");
    }
}

#[test]
fn the_settings_in_force_are_masked() {
    let text = format!("{TENANT}key = \"{HUSH}\"\ntokens = {{ 2 = \"{HUSH}\", 1 = \"env:A\" }}");
    let effective = load_text(&text, &[("A", HUSH)], &Overrides::default()).unwrap();
    let printed = effective.to_string();
    assert!(printed.contains("\nkey = \"…\"  # "), "{printed}");
    assert!(
        printed.contains("\ntokens = { 1 = \"…\", 2 = \"…\" }  # "),
        "{printed}"
    );
    assert!(!format!("{printed} {effective:?}").contains("hush9"));
    assert!(format!("{effective:?}").contains("Secret(…)"));
    // Printed settings cannot be read again with the masks as secrets.
    assert!(bad(&printed).contains("tenant[0].key = \"…\": a key of"));
}

/// Pieces of a tenant, correct and broken, with a secret anywhere.
fn fragments() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "[[tenant]]\n",
        "[tenant.tokens]\n",
        "name = \"a\"\n",
        "instances = [\"1\"]\n",
        "key = ",
        "tokens = ",
        "1 = ",
        "key",
        "HUSH",
        "\"HUSH\"",
        "\"HUSH\"\n",
        "'HUSH'",
        "\"\"\"HUSH",
        "weight",
        "[limit]\n",
        "[tenant",
        " = ",
        "{ ",
        " }",
        "[",
        "]",
        ", ",
        "\n",
        "\n",
        "#",
        ".",
        "\"",
        "\\",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat().replace("HUSH", HUSH))
}

/// Whether the secret is part of a key in another section. There the message repeats an unknown
/// key, so that a misspelt one can be found.
fn is_a_name_beneath_limit(text: &str) -> bool {
    let mut lines = text.split("[limit]\n").skip(1).flat_map(str::lines);
    lines.any(|line| {
        let name = line.split('=').next().unwrap_or_default();
        name.contains(HUSH)
    })
}

proptest! {
    #[test]
    fn broken_text_beneath_a_tenant_repeats_no_secret(text in fragments()) {
        // Instance ids and names of sections are no secrets, so the secret must not become one of them.
        let text = format!("{TENANT}{text}").replace(&format!("[{HUSH}"), "[").replace(&format!("[\"{HUSH}\""), "[");
        prop_assume!(!is_a_name_beneath_limit(&text));
        let message = match load_text(&text, &[], &Overrides::default()) {
            Ok(effective) => format!("{effective} {effective:?}"),
            Err(mistakes) => format!("{mistakes} {mistakes:?}"),
        };
        prop_assert!(!message.contains("hush9"), "{}\n{}", text, message);
    }
}

#[test]
fn a_tenant_may_have_several_keys_and_none_twice() {
    let keys = |first: &str, second: &str| {
        format!("{TENANT}key = \"{HUSH}\"\nkeys = [\"{first}\", \"{second}\"]")
    };
    let tenant = good(&keys("another-key-of-16", "a-third-key-of-16"));
    let all = tenant.tenants[0].all_keys().map(Secret::expose);
    assert!(all.eq([HUSH, "another-key-of-16", "a-third-key-of-16"]));
    for (first, second) in [
        (HUSH, "another-key-of-16"),
        ("twice-twice-twice", "twice-twice-twice"),
    ] {
        let message = bad(&keys(first, second));
        assert!(
            message.starts_with("5: tenant[0].keys = \"…\": a key that is not listed before"),
            "{message}"
        );
    }
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let second = TENANT
        .replace("\"a\"", "\"b\"")
        .replace("[\"1\", \"2\"]", "[\"3\", \"4\"]");
    let text = format!(
        "{TENANT}keys = [\"{HUSH}\"]\ntokens = {{ 1 = \"{HUSH}-token\" }}\n\
         {second}tokens = {{ 3 = \"{HUSH}-token\", 4 = \"other\" }}\n"
    );
    let effective = load_text(&text, &[], &Overrides::default()).unwrap();
    let warnings = effective.warnings().join("\n");
    assert!(!warnings.contains(HUSH), "{warnings}");
    let mut lines = warnings
        .lines()
        .map(|line| &line[line.find("3: ").unwrap_or(0)..]);
    assert_eq!(
        lines.next(),
        Some(
            "3: tenant[0].instances: \"2\" has no access token in tenant.tokens, so a key does not open it"
        )
    );
    let last = lines.next().unwrap();
    assert!(
        last.ends_with(
            "tenant[1].tokens: \"3\" has the same access token as \"1\" of tenant \"a\""
        ),
        "{warnings}"
    );
    assert_eq!(lines.next(), None);
    // Without a key no instance needs a token.
    assert!(
        load_text(TENANT, &[], &Overrides::default())
            .unwrap()
            .warnings()
            .is_empty()
    );
}
