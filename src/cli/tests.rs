use super::*;

fn read(line: &str) -> Result<Command, clap::Error> {
    try_parse_from(std::iter::once("wawp-gateway").chain(line.split_whitespace()))
}

fn sandbox(listen: &str, latency: u64, rate: f64, burst: u32) -> Command {
    let (listen, latency) = (listen.parse().unwrap(), Duration::from_millis(latency));
    Command::Sandbox(SandboxArgs {
        listen,
        latency,
        rate,
        burst,
    })
}

#[test]
fn the_definition_is_sound() {
    definition().debug_assert();
}

#[test]
fn serve_is_the_default_command() {
    let bare = read("").unwrap();
    assert_eq!(
        bare,
        Command::Serve {
            config: None,
            overrides: Overrides::default()
        }
    );
    assert_eq!(bare, read("serve").unwrap());

    let flags = "--config g.toml --listen [::]:80 --admin :1 --upstream http://a --window 0 --rate -1 --burst x";
    let some = |text: &str| Some(text.to_owned());
    let overrides = Overrides {
        listen: some("[::]:80"),
        admin: some(":1"),
        upstream: some("http://a"),
        window: some("0"),
        rate: some("-1"),
        burst: some("x"),
    };
    let expected = Command::Serve {
        config: Some("g.toml".into()),
        overrides,
    };
    assert_eq!(read(flags).unwrap(), expected);
    assert_eq!(read(&format!("serve {flags}")).unwrap(), expected);
}

#[test]
fn the_other_commands() {
    assert_eq!(
        read("check --config g.toml").unwrap(),
        Command::Check {
            config: Some("g.toml".into()),
            overrides: Overrides::default(),
        }
    );
    let overrides = Overrides {
        rate: Some("5".to_owned()),
        ..Overrides::default()
    };
    let config = None;
    let expected = Command::Check { config, overrides };
    assert_eq!(read("check --rate 5").unwrap(), expected);
    assert_eq!(read("check --defaults").unwrap(), Command::Defaults);
    assert_eq!(
        read("init").unwrap(),
        Command::Init {
            from_policy: None,
            policy: None
        }
    );
    assert_eq!(
        read("init --from-policy - --policy strict").unwrap(),
        Command::Init {
            from_policy: Some(PathBuf::from("-")),
            policy: Some("strict".to_owned())
        }
    );
    assert_eq!(
        read("demo").unwrap(),
        Command::Demo {
            access_log: None,
            length: None,
            keep: false,
            replicas: None
        }
    );
    assert_eq!(
        read("demo --access-log demo.jsonl --for 5m --keep").unwrap(),
        Command::Demo {
            access_log: Some(PathBuf::from("demo.jsonl")),
            length: Some(Duration::from_secs(300)),
            keep: true,
            replicas: None
        }
    );
    assert_eq!(
        read("demo --replicas 3").unwrap(),
        Command::Demo {
            access_log: None,
            length: None,
            keep: false,
            replicas: Some(3)
        }
    );
    for replicas in ["1", "10", "-3", "three"] {
        assert!(
            read(&format!("demo --replicas {replicas}")).is_err(),
            "{replicas}"
        );
    }
    for length in ["1s", "301s", "5", "-3s"] {
        assert!(read(&format!("demo --for {length}")).is_err(), "{length}");
    }
    assert_eq!(
        read("health").unwrap(),
        Command::Health {
            config: None,
            admin: None
        }
    );
    assert_eq!(
        read("health --admin 127.0.0.1:9").unwrap(),
        Command::Health {
            config: None,
            admin: Some(SocketAddr::from(([127, 0, 0, 1], 9)))
        }
    );
    assert_eq!(read("man").unwrap(), Command::Man);
    assert_eq!(
        read("explain").unwrap(),
        Command::Explain {
            config: None,
            requests: Vec::new()
        }
    );
    assert_eq!(
        read("explain --config g.toml a.http -").unwrap(),
        Command::Explain {
            config: Some("g.toml".into()),
            requests: vec!["a.http".into(), "-".into()],
        }
    );
    assert_eq!(
        read("completions zsh").unwrap(),
        Command::Completions(Shell::Zsh)
    );
    assert_eq!(
        read("sandbox").unwrap(),
        sandbox("127.0.0.1:8081", 80, 0.0, 20)
    );
    let line = "sandbox --listen 127.0.0.1:1 --latency 0 --rate 0.5 --burst 3";
    assert_eq!(read(line).unwrap(), sandbox("127.0.0.1:1", 0, 0.5, 3));
}

#[test]
fn mistakes_are_refused() {
    for (line, kind) in [
        (
            "check --config g.toml --defaults",
            ErrorKind::ArgumentConflict,
        ),
        (
            "health --config g.toml --admin 127.0.0.1:9",
            ErrorKind::ArgumentConflict,
        ),
        ("init --policy strict", ErrorKind::MissingRequiredArgument),
        ("health --admin 9464", ErrorKind::ValueValidation),
        ("serv", ErrorKind::InvalidSubcommand),
        ("--lisen x", ErrorKind::UnknownArgument),
        ("--listen", ErrorKind::InvalidValue),
        ("--rate 1 --rate 2", ErrorKind::ArgumentConflict),
        ("--rate 1 serve", ErrorKind::ArgumentConflict),
        ("demo --rate 1", ErrorKind::UnknownArgument),
        ("sandbox --listen 8081", ErrorKind::ValueValidation),
        ("sandbox --latency soon", ErrorKind::ValueValidation),
        ("sandbox --latency 2m", ErrorKind::ValueValidation),
        ("sandbox --rate nan", ErrorKind::ValueValidation),
        ("sandbox --burst 0", ErrorKind::ValueValidation),
        ("sandbox --rate -1", ErrorKind::ValueValidation),
        ("sandbox --burst -1", ErrorKind::ValueValidation),
        ("completions", ErrorKind::MissingRequiredArgument),
        ("completions cmd", ErrorKind::InvalidValue),
        ("--version", ErrorKind::DisplayVersion),
        ("sandbox --help", ErrorKind::DisplayHelp),
    ] {
        assert_eq!(read(line).unwrap_err().kind(), kind, "{line}");
    }
}

#[test]
fn a_mistake_says_what_is_allowed() {
    for (line, message) in [
        ("sandbox --listen localhost:1", "an IP address and a port"),
        ("sandbox --listen localhost:1", "write 127.0.0.1:1"),
        ("sandbox --rate -1", "0 (unlimited)"),
        ("--config g.toml check", "wawp-gateway check [OPTIONS]"),
        ("--rate 1 serve", "wawp-gateway serve [OPTIONS]"),
    ] {
        let text = read(line).unwrap_err().to_string();
        assert!(text.contains(message), "{line}: {text}");
    }
}

#[test]
fn help_fits_one_screen_and_names_the_environment() {
    let help = definition().render_help().to_string();
    assert!(help.lines().count() <= 24, "{help}");
    assert!(
        help.lines().all(|line| line.chars().count() <= 80),
        "{help}"
    );
    assert!(help.contains("WAWP_GATEWAY_<SECTION>__<KEY>"), "{help}");
    assert_eq!(read("--help").unwrap_err().to_string(), help);
}

#[test]
fn defaults_in_the_help_are_those_of_the_settings() {
    let config = crate::config::Config::default();
    let help = definition().render_help().to_string();
    let quota = config.limit.quota.unwrap();
    for default in [
        config.server.listen.to_string(),
        config.server.admin.to_string(),
        config.upstream.url.to_string(),
        humantime::format_duration(config.batch.window).to_string(),
        quota.rate.to_string(),
        quota.burst.to_string(),
    ] {
        assert!(help.contains(&format!("[default: {default}]")), "{default}");
    }
}
