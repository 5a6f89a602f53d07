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
