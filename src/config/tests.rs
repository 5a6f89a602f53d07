//! The rules of the settings as tables: what is read, what is refused, and the messages.

use std::ffi::OsString;
use std::io::Write as _;
use std::num::NonZeroU32;
use std::time::Duration;

use http::Method;

use super::*;

mod cluster;
mod in_force;
mod mistakes;
mod printed;
mod proxy;
mod readme;
mod refused;
mod secrets;
mod tenants;

/// Loads a file of this text (none if it is empty) under these variables.
fn load_text(text: &str, env: &[(&str, &str)], flags: &Overrides) -> Result<Effective, Mistakes> {
    let env = env
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    if text.is_empty() {
        return load(None, env, flags);
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    load(Some(file.path()), env, flags)
}

/// The settings of a correct file with this text.
fn good(text: &str) -> Config {
    load_text(text, &[], &Overrides::default())
        .unwrap_or_else(|mistakes| panic!("{text}\n{mistakes}"))
        .config
}

/// The message for a wrong file with this text, without the name of the file.
fn bad(text: &str) -> String {
    bad_layers(text, &[], &Overrides::default())
}

fn bad_layers(text: &str, env: &[(&str, &str)], flags: &Overrides) -> String {
    let message = match load_text(text, env, flags) {
        Ok(effective) => panic!("this was read:\n{text}\n{effective}"),
        Err(mistakes) => mistakes.to_string(),
    };
    let strip = |line: &str| match line.find("/.tmp") {
        Some(at) => line[at..]
            .split_once(':')
            .map_or(String::new(), |(_, rest)| rest.to_owned()),
        None => line.to_owned(),
    };
    message.lines().map(strip).collect::<Vec<_>>().join("\n")
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn quota(rate: f64, burst: u32) -> Option<Quota> {
    Some(Quota::new(rate, NonZeroU32::new(burst).unwrap()).unwrap())
}

#[test]
fn the_defaults_read_without_a_mistake() {
    let effective = load_text("", &[], &Overrides::default()).unwrap();
    assert_eq!(effective.config, Config::default());
    assert!(toml::de::DeTable::parse(DEFAULTS).is_ok());
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let Config {
        server,
        upstream,
        batch,
        limit,
        egress,
        tenants,
        access,
        metrics,
        log,
        cluster,
    } = Config::default();
    assert_eq!(cluster, None);
    assert_eq!(
        (server.listen.to_string(), server.admin.to_string()),
        ("127.0.0.1:8080".into(), "127.0.0.1:9464".into())
    );
    assert_eq!(
        (server.tls, server.max_connections, server.max_in_flight),
        (None, 10_000, 10_000)
    );
    assert_eq!(
        (server.header_timeout, server.body_timeout),
        (seconds(10), seconds(30))
    );
    assert_eq!(
        (
            server.idle_timeout,
            server.drain_delay,
            server.drain_timeout
        ),
        (seconds(75), Duration::ZERO, seconds(30))
    );
    assert_eq!(
        (
            server.timing_header,
            server.max_headers,
            server.max_header_bytes
        ),
        (true, 100, 32_768)
    );
    assert_eq!((server.names, upstream.ca), (Vec::<String>::new(), None));
    assert_eq!(
        (upstream.url.to_string(), upstream.url.port),
        ("https://api.wawp.net".into(), 443)
    );
    assert_eq!(
        (upstream.connect_timeout, upstream.response_timeout),
        (seconds(5), seconds(310))
    );
    assert_eq!(
        (upstream.idle_timeout, upstream.max_idle, upstream.max_age),
        (seconds(30), 10_000, seconds(300))
    );
    assert_eq!(batch.paths, ["/v2/send/seen", "/wp-json/awp/v1/sendSeen"]);
    assert_eq!(
        (batch.window, batch.max_delay),
        (Duration::from_millis(50), seconds(2))
    );
    assert_eq!(
        (batch.max_ids, batch.max_callers, batch.quarantine),
        (100, 1000, seconds(60))
    );
    assert_eq!(
        (limit.quota, limit.max_wait, limit.max_queue),
        (quota(10.0, 20), seconds(4), 1000)
    );
    assert_eq!(
        (limit.headers, limit.classes, metrics.max_instances),
        (false, vec![], 100)
    );
    assert_eq!(egress.quota, None);
    assert_eq!((tenants, access.instances), (vec![], Instances::Any));
    assert_eq!((access.networks, access.trusted_proxies), (vec![], vec![]));
    assert_eq!(
        log,
        Log {
            format: LogFormat::Text,
            level: LogLevel::Info,
            access: LogAccess::On,
            access_sample: NonZeroU32::MIN,
        }
    );
}

#[test]
fn each_layer_overrides_the_weaker_ones() {
    let file = "[limit]\nrate = 1\nburst = 1\nmax_queue = 1\n";
    let env = [
        ("WAWP_GATEWAY_LIMIT__RATE", "2"),
        ("WAWP_GATEWAY_LIMIT__BURST", "2"),
    ];
    let flags = Overrides {
        rate: Some("3".into()),
        ..Overrides::default()
    };
    let limit = load_text(file, &env, &flags).unwrap().config.limit;
    assert_eq!(
        (limit.quota, limit.max_queue, limit.max_wait),
        (quota(3.0, 2), 1, seconds(4))
    );
}

#[test]
fn every_flag_reaches_its_setting() {
    let some = |text: &str| Some(text.to_owned());
    let flags = Overrides {
        listen: some("[::1]:1"),
        admin: some("127.0.0.1:2"),
        upstream: some("http://localhost:3"),
        window: some("4ms"),
        rate: some("0.5"),
        burst: some("6"),
    };
    let config = load_text("", &[], &flags).unwrap().config;
    assert_eq!(
        (
            config.server.listen.port(),
            config.server.admin.port(),
            config.upstream.url.port
        ),
        (1, 2, 3)
    );
    assert_eq!(
        (config.batch.window, config.limit.quota),
        (Duration::from_millis(4), quota(0.5, 6))
    );
}

#[test]
fn a_variable_takes_the_type_of_its_key() {
    let env = [
        ("WAWP_GATEWAY_SERVER__TIMING_HEADER", "false"),
        ("WAWP_GATEWAY_SERVER__NAMES", "A.example, b.example:81"),
        ("WAWP_GATEWAY_SERVER__TLS__CERT", "/c"),
        ("WAWP_GATEWAY_SERVER__TLS__KEY", "/k"),
        ("WAWP_GATEWAY_BATCH__PATHS", "[\"/a\", \"/b\"]"),
        ("WAWP_GATEWAY_BATCH__WINDOW", "0"),
        ("WAWP_GATEWAY_LIMIT__RATE", "0.25"),
        (
            "WAWP_GATEWAY_LIMIT__CLASS",
            "[{name = \"x\", paths = [\"/*\"], rate = 0}]",
        ),
        ("WAWP_GATEWAY_LOG__LEVEL", "trace"),
        ("OTHER_SERVER__NAMES", "x"),
    ];
    let config = load_text("", &env, &Overrides::default()).unwrap().config;
    assert_eq!(
        (config.server.timing_header, config.batch.window),
        (false, Duration::ZERO)
    );
    assert_eq!(config.server.names, ["a.example", "b.example:81"]);
    assert_eq!(
        config.server.tls,
        Some(Tls {
            cert: "/c".into(),
            key: "/k".into()
        })
    );
    assert_eq!(config.batch.paths, ["/a", "/b"]);
    assert_eq!(
        (config.limit.quota, config.limit.classes.len()),
        (quota(0.25, 20), 1)
    );
    assert_eq!(config.log.level, LogLevel::Trace);
}

#[test]
fn variables_that_kubernetes_sets_for_a_service_are_ignored() {
    for name in [
        "SERVICE_HOST",
        "SERVICE_PORT",
        "SERVICE_PORT_HTTP",
        "PORT",
        "PORT_8080_TCP",
        "PORT_8080_TCP_ADDR",
        "PORT_53_UDP_PROTO",
        "ADMIN_SERVICE_HOST",
        "ADMIN_PORT_9090_TCP_PORT",
    ] {
        let name = format!("WAWP_GATEWAY_{name}");
        assert!(
            load_text("", &[(&name, "tcp://10.0.0.1:80")], &Overrides::default()).is_ok(),
            "{name}"
        );
    }
    for name in [
        "SERVER__PORT",
        "PORT",
        "ADMIN_PORT",
        "PORT_X_TCP",
        "PORT_80_TCP_NAME",
        "SERVICE",
        "HOST",
    ] {
        let name = format!("WAWP_GATEWAY_{name}");
        assert!(
            load_text("", &[(&name, "1")], &Overrides::default()).is_err(),
            "{name}"
        );
    }
}

#[test]
fn tls_is_a_section_an_inline_table_or_dotted() {
    let tls = Some(Tls {
        cert: "c".into(),
        key: "k".into(),
    });
    for text in [
        "[server.tls]\ncert = \"c\"\nkey = \"k\"",
        "[server]\ntls = { cert = \"c\", key = \"k\" }",
        "server.tls.cert = \"c\"\nserver.tls.key = \"k\"",
    ] {
        assert_eq!(good(text).server.tls, tls, "{text}");
    }
}

#[test]
fn bounds_are_inclusive() {
    let server =
        good("[server]\nmax_header_bytes = 8192\nmax_headers = 1\ndrain_timeout = \"1day\"").server;
    assert_eq!(
        (
            server.max_header_bytes,
            server.max_headers,
            server.drain_timeout
        ),
        (8192, 1, seconds(86_400))
    );
    assert_eq!(
        good("[server]\nmax_header_bytes = 1_048_576")
            .server
            .max_header_bytes,
        1 << 20
    );
    assert_eq!(good("[batch]\nwindow = 0").batch.window, Duration::ZERO);
    assert_eq!(good("[batch]\nwindow = \"0\"").batch.window, Duration::ZERO);
    assert_eq!(
        good("[batch]\nquarantine = \"1m 30s\"").batch.quarantine,
        seconds(90)
    );
    assert_eq!(
        good("[batch]\nwindow = \"3999ms\"").batch.window,
        Duration::from_millis(3999)
    );
    assert_eq!(
        good("[batch]\nwindow = 0\n[limit]\nmax_wait = 0")
            .limit
            .max_wait,
        Duration::ZERO
    );
    assert_eq!(
        good("[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"")
            .server
            .admin
            .port(),
        0
    );
}

#[test]
fn rate_zero_is_unlimited() {
    assert_eq!(good("[limit]\nrate = 0").limit.quota, None);
    assert_eq!(good("[limit]\nrate = 0.0\nburst = 0").limit.quota, None);
    assert_eq!(good("[limit]\nrate = -0.0").limit.quota, None);
    assert_eq!(
        good("[limit]\nrate = 0.05\nburst = 1").limit.quota,
        quota(0.05, 1)
    );
}

#[test]
fn classes_keep_their_order_and_inherit_the_burst() {
    let limit = good(
        "[limit]\nburst = 7\n[[limit.class]]\nname = \"a\"\npaths = [\"/a\", \"/b*\"]\nrate = 1\n\
         [[limit.class]]\nname = \"b\"\npaths = [\"*\"]\nmethods = [\"GET\", \"M-SEARCH\"]\nrate = 0\nburst = 0",
    )
    .limit;
    let [a, b] = &limit.classes[..] else {
        panic!("{limit:?}")
    };
    assert_eq!(
        (a.name.as_str(), a.paths.len(), a.methods.len(), a.quota),
        ("a", 2, 0, quota(1.0, 7))
    );
    assert_eq!((b.name.as_str(), b.quota), ("b", None));
    assert_eq!(
        b.methods,
        [Method::GET, Method::from_bytes(b"M-SEARCH").unwrap()]
    );
}

#[test]
fn the_first_class_that_matches_wins() {
    let config = good(
        "[[limit.class]]\nname = \"gets\"\npaths = [\"/v2/*\"]\nmethods = [\"GET\"]\nrate = 1\n\
         [[limit.class]]\nname = \"sends\"\npaths = [\"/v2/send/*\", \"/other\"]\nrate = 1\n\
         [[limit.class]]\nname = \"seen\"\npaths = [\"/v2/send/seen\"]\nrate = 1",
    );
    let classes = Classes::new(&config);
    let (get, post) = (Method::GET, Method::POST);
    for (method, path, is_batch_path, class) in [
        (&get, "/v2/send/text", false, Some(0)),
        (&post, "/v2/send/text", false, Some(1)),
        (&post, "/v2/send/a/b", false, Some(1)),
        (&post, "/other", false, Some(1)),
        (&post, "/v2/send/seen", false, Some(1)),
        (&post, "/v2/send/seen", true, Some(2)),
        (&get, "/v2/send/seen", true, Some(2)),
        (&post, "/other", true, Some(1)),
        (&post, "/v2/groups", false, None),
        (&post, "/V2/send/text", false, None),
        (&post, "/v2/send/text/", false, Some(1)),
        (&post, "/other/", false, Some(1)),
        (&post, "/v2/send/seen/", true, Some(2)),
    ] {
        assert_eq!(
            classes.class_of(method, path, is_batch_path, None),
            class,
            "{method} {path} {is_batch_path}"
        );
    }
}

#[test]
fn a_class_holds_for_its_instances_and_those_of_its_tenants() {
    let config = good(
        "[[limit.class]]\nname = \"new-sends\"\npaths = [\"/v2/send/*\"]\ninstances = [\"1\"]\nrate = 1\nmax_in_flight = 2\n\
         [[limit.class]]\nname = \"sends\"\npaths = [\"/v2/send/*\"]\nrate = 2\n\
         [[limit.class]]\nname = \"cold\"\ninstances = [\"2\"]\ntenants = [\"acme\"]\nrate = 3\n\
         [[tenant]]\nname = \"acme\"\ninstances = [\"3\", \"1\"]\n",
    );
    let classes = Classes::new(&config);
    for (instance, path, is_batch_path, class) in [
        (Some("1"), "/v2/send/text", false, Some(0)),
        (Some("2"), "/v2/send/text", false, Some(1)),
        (None, "/v2/send/text", false, Some(1)),
        (Some("1"), "/v2/chats", false, Some(2)),
        (Some("2"), "/v2/chats", false, Some(2)),
        (Some("3"), "/v2/send/seen", true, Some(2)),
        (Some("4"), "/v2/chats", false, None),
        (None, "/v2/chats", false, None),
    ] {
        let found = classes.class_of(&Method::POST, path, is_batch_path, instance);
        assert_eq!(found, class, "{instance:?} {path}");
        let limit = classes.limit_of(classes.group_of(found), instance);
        let own = class.map(|class| config.limit.classes[class].quota);
        assert_eq!(limit.quota, own.unwrap_or(config.limit.quota));
        let cap = limit.max_in_flight.map(NonZeroU32::get);
        assert_eq!(cap, (class == Some(0)).then_some(2));
    }
    // Classes of the same requests share their buckets over a reload.
    assert_eq!(classes.groups().len(), 2);
    assert_eq!(classes.group_of(Some(2)), 0);
}

#[test]
fn a_byte_order_mark_and_windows_lines_are_no_mistake() {
    assert_eq!(
        good("\u{feff}[limit]\r\nmax_queue = 5\r\n").limit.max_queue,
        5
    );
    assert_eq!(good("# the defaults are meant"), Config::default());
}

#[test]
fn the_settings_file_is_the_named_one_or_that_of_the_variable_or_the_default() {
    let directory = tempfile::tempdir().unwrap();
    let usual = directory.path().join("gateway.toml");
    let find = |named: Option<&str>, variable: Option<&str>| {
        find_file(
            named.map(PathBuf::from),
            variable.map(OsString::from),
            &usual,
        )
    };
    assert_eq!(find(None, None), None);
    assert_eq!(find(None, Some("")), None);
    assert_eq!(find(None, Some("variable")), Some("variable".into()));
    assert_eq!(find(Some("flag"), Some("variable")), Some("flag".into()));
    std::fs::write(&usual, "# the defaults").unwrap();
    assert_eq!(find(None, None), Some(usual.clone()));
    assert_eq!(find(None, Some("")), Some(usual.clone()));
    assert_eq!(find(None, Some("variable")), Some("variable".into()));
    assert_eq!(DEFAULT_FILE, "/etc/wawp-gateway/gateway.toml");
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let file = "[access]\nnetworks = [\"10.0.0.0/8\"]\n[limit]\nrate = 3\n";
    let env = [
        ("WAWP_GATEWAY_ACCESS__NETWORKS", ""),
        ("WAWP_GATEWAY_BATCH__PATHS", ""),
        ("WAWP_GATEWAY_LIMIT__RATE", ""),
        ("WAWP_GATEWAY_TENANT", ""),
        ("WAWP_GATEWAY_CONFIG", ""),
    ];
    let config = load_text(file, &env, &Overrides::default()).unwrap().config;
    assert_eq!(config.access.networks, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(config.batch.paths, Config::default().batch.paths);
    assert_eq!(config.limit.quota, quota(3.0, 20));
}

#[test]
fn brackets_make_an_empty_list_and_blanks_do_not() {
    let load = |value| {
        let env = [
            ("WAWP_GATEWAY_ACCESS__NETWORKS", value),
            ("WAWP_GATEWAY_BATCH__PATHS", value),
        ];
        load_text(
            "access.networks = [\"10.0.0.0/8\"]",
            &env,
            &Overrides::default(),
        )
    };
    for value in ["[]", " [ ] "] {
        let config = load(value).unwrap().config;
        assert!(config.access.networks.is_empty() && config.batch.paths.is_empty());
    }
    for value in [" ", ",", " , "] {
        let message = load(value).unwrap_err().to_string();
        assert!(
            message.contains("; [] is an empty list\n2 mistakes"),
            "{message}"
        );
    }
}

#[test]
fn half_of_the_tls_table_is_a_mistake() {
    let both = "server.tls.cert: must be there\n1: server.tls.key: must be there\n2 mistakes";
    assert!(bad("[server.tls]").starts_with(&format!("1: {both}")));
    let env = [("WAWP_GATEWAY_SERVER__TLS__CERT", "/c")];
    let message = bad_layers("", &env, &Overrides::default());
    assert!(
        message.starts_with("WAWP_GATEWAY_SERVER__TLS__CERT: server.tls.key: must be there\n1 m"),
        "{message}"
    );
}

#[test]
fn every_setting_has_a_line_in_the_defaults_and_a_flag_sets_one() {
    for (path, _) in table::SETTINGS.iter() {
        let (section, key) = path.split_once('.').unwrap();
        let key = key.strip_prefix("class.").unwrap_or(key);
        let from = DEFAULTS.find(&format!("[{section}]")).unwrap();
        let line = |line: &str| {
            line.trim_start_matches("# ")
                .starts_with(&format!("{key} = "))
        };
        assert!(DEFAULTS[from..].lines().any(line), "{path}");
    }
    let flags = Overrides::default().by_name().map(|(flag, _)| flag);
    assert_eq!(table::FLAGS.map(|(flag, _)| flag), flags);
    for (_, path) in table::FLAGS {
        assert!(
            table::SETTINGS.iter().any(|(setting, _)| setting == path),
            "{path}"
        );
    }
}
