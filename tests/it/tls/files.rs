//! The files with certificate and key: when they are read, and what is said of bad ones.

use super::*;

#[test]
fn a_certificate_is_replaced_without_a_restart_and_a_bad_one_is_not_taken() {
    let upstream = RunningSandbox::start(Settings::default());
    let secured = Secured::new(&upstream);
    let first = secured.serial();
    let metric = |name: &str| {
        let page = secured.gateway.page("/metrics");
        let line = page.text().lines().find_map(|line| {
            line.strip_prefix("wawp_gateway_")?
                .strip_prefix(name)?
                .strip_prefix(' ')
        });
        line.and_then(|value| value.parse::<f64>().ok())
    };
    const EXPIRY: &str = "certificate_expiry_timestamp_seconds";
    let first_expiry = metric(EXPIRY).unwrap();
    let (cert, key) = secured.authority.certificate_until(2030);
    std::fs::write(&secured.cert, cert).unwrap();
    std::fs::write(&secured.key, key).unwrap();
    secured.gateway.signal("HUP");
    eventually("the new certificate is shown", || secured.serial() != first);
    let second = secured.serial();
    // 1 January 2030.
    assert_eq!(metric(EXPIRY), Some(1_893_456_000.0));
    assert_ne!(first_expiry, 1_893_456_000.0);
    assert_eq!(metric("reload_failures_total"), Some(0.0));
    secured.scratch.file("cert.pem", "rubbish");
    secured.gateway.signal("HUP");
    eventually("the log says why not", || {
        secured
            .gateway
            .said()
            .contains("settings not reloaded: nothing has changed")
    });
    assert_eq!(secured.serial(), second);
    assert_eq!(metric(EXPIRY), Some(1_893_456_000.0));
    assert_eq!(metric("reload_failures_total"), Some(1.0));
    assert!(secured.call().starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_certificate_of_another_name_needs_no_restart() {
    let upstream = RunningSandbox::start(Settings::default());
    let (authority, scratch) = (Authority::new(), Scratch::new());
    let named = |name: &str| {
        let (cert, key) = authority.certificate();
        let (cert, key) = (
            scratch.file(&format!("{name}.pem"), &cert),
            scratch.file(&format!("{name}.key"), &key),
        );
        let tls = format!(
            "tls = {{ cert = \"{}\", key = \"{}\" }}",
            cert.display(),
            key.display()
        );
        let file = scratch.file("gateway.toml", &format!("[server]\n{tls}\n"));
        (cert, key, file)
    };
    let (cert, key, file) = named("old");
    let flags = ["--config", file.to_str().unwrap()];
    let gateway = Program::serve_with(upstream.address, &[], &flags);
    named("new");
    let secured = Secured {
        authority,
        scratch,
        cert,
        key,
        gateway,
    };
    let first = secured.serial();
    secured.gateway.signal("HUP");
    eventually("the new certificate is shown", || secured.serial() != first);
    eventually("all is reloaded", || {
        secured.gateway.said().contains("settings reloaded")
    });
    let page = secured.gateway.page("/config").text().to_owned();
    assert!(
        page.contains("new.pem") && !page.contains("after a restart"),
        "{page}"
    );
    assert!(!secured.gateway.said().contains("need a restart"));
}

#[test]
fn a_certificate_that_is_not_there_is_a_clear_error() {
    let scratch = Scratch::new();
    let text = "server.listen = \"127.0.0.1:0\"\nserver.admin = \"127.0.0.2:0\"\n\
                server.tls = { cert = \"/nowhere/cert.pem\", key = \"/nowhere/key.pem\" }\n";
    let file = scratch.file("gateway.toml", text);
    let (code, _, said) = run(&["serve", "--config", file.to_str().unwrap()]);
    assert_eq!(code, 2);
    assert!(
        said.contains("server.tls.cert: /nowhere/cert.pem"),
        "{said}"
    );
}

#[test]
fn check_reads_certificate_and_key() {
    let (authority, scratch) = (Authority::new(), Scratch::new());
    let ((cert, key), (_, another)) = (authority.certificate(), authority.certificate());
    let cert = scratch.file("cert.pem", &cert);
    let place = scratch.file("key.pem", "");
    let tls = format!(
        "tls = {{ cert = \"{}\", key = \"{}\" }}",
        cert.display(),
        place.display()
    );
    let file = scratch.file("gateway.toml", &format!("[server]\n{tls}\n"));
    let belongs = "the key that belongs to the certificate in ";
    for (key, code, why) in [(&*key, 0, ""), (&another, 2, belongs), ("", 2, "")] {
        scratch.file("key.pem", key);
        let (ended, _, said) = run(&["check", "--config", file.to_str().unwrap()]);
        assert_eq!(ended, code, "{said}");
        let at = format!("{}:2: server.tls.key = ", file.display());
        assert_eq!(said.contains(&at), code == 2, "{said}");
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn check_says_what_is_wrong_with_a_pem_file_and_what_to_do() {
    let (authority, scratch) = (Authority::new(), Scratch::new());
    let (good_cert, good_key) = authority.certificate();
    let paths = ["cert.pem", "key.pem", "ca.pem"].map(|name| scratch.file(name, ""));
    let [cert, key, ca] = paths.each_ref().map(|path| path.display());
    let text = format!(
        "[server]\ntls.cert = \"{cert}\"\ntls.key = \"{key}\"\n[upstream]\nca = \"{ca}\"\n"
    );
    let file = scratch.file("gateway.toml", &text);
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMII=\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMII=\n-----END RSA PRIVATE KEY-----\n";
    let cut = good_key.replace("-----END PRIVATE KEY-----\n", "");
    for (name, content, setting, advice) in [
        (
            "key.pem",
            format!("\u{feff}{good_key}"),
            "server.tls.key",
            "byte order mark (BOM)",
        ),
        (
            "cert.pem",
            format!("\u{feff}{good_cert}"),
            "server.tls.cert",
            "byte order mark (BOM)",
        ),
        (
            "ca.pem",
            format!("\u{feff}{good_cert}"),
            "upstream.ca",
            "byte order mark (BOM)",
        ),
        (
            "key.pem",
            encrypted.to_owned(),
            "server.tls.key",
            "`openssl pkey -in FILE -out NEWFILE`",
        ),
        (
            "key.pem",
            legacy.to_owned(),
            "server.tls.key",
            "`openssl pkey -in FILE -out NEWFILE`",
        ),
        (
            "key.pem",
            good_cert.clone(),
            "server.tls.key",
            "contains a certificate, but no private key",
        ),
        ("key.pem", cut, "server.tls.key", "incomplete"),
        (
            "cert.pem",
            good_key.clone(),
            "server.tls.cert",
            "contains a private key, but no certificate",
        ),
        (
            "ca.pem",
            "0\u{82}".to_owned(),
            "upstream.ca",
            "no certificate in PEM form",
        ),
    ] {
        scratch.file("cert.pem", &good_cert);
        scratch.file("key.pem", &good_key);
        scratch.file("ca.pem", &authority.pem());
        assert_eq!(run(&["check", "--config", file.to_str().unwrap()]).0, 0);
        scratch.file(name, &content);
        let (code, _, said) = run(&["check", "--config", file.to_str().unwrap()]);
        assert_eq!(code, 2, "{said}");
        assert!(
            said.contains(&format!("{setting} = ")) && said.contains(advice),
            "{advice}\n{said}"
        );
        assert!(said.ends_with("1 mistake in the settings\n"), "{said}");
        assert!(
            !content
                .lines()
                .any(|line| line.len() > 40 && said.contains(line)),
            "{said}"
        );
    }
}

#[test]
fn check_reports_missing_files_together_with_all_other_mistakes() {
    let scratch = Scratch::new();
    let text = "[server]\nmax_headers = 0\ntls.cert = \"/nowhere/cert.pem\"\ntls.key = \"/nowhere/key.pem\"\n\
                [upstream]\nca = \"/nowhere/ca.pem\"\n[limit]\nrat = 1\n";
    let file = scratch.file("gateway.toml", text);
    let (code, _, said) = run(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(code, 2);
    for (line, setting) in [
        (2, "server.max_headers"),
        (3, "server.tls.cert"),
        (4, "server.tls.key"),
        (6, "upstream.ca"),
        (8, "limit.rat"),
    ] {
        let place = format!("gateway.toml:{line}: {setting}");
        assert!(said.contains(&place), "{place}\n{said}");
    }
    assert!(said.contains("5 mistakes"), "{said}");
}
