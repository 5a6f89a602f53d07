//! The law of the settings.

use std::ffi::OsString;
use std::time::Duration;

use super::wire;
use crate::config::{self, Class, Config, Overrides, Quota, Tenant};

/// Mistakes that are printed one by one.
const MAX_PRINTED: usize = 100;

/// Settings are within the bounds that `default.toml` documents and equal when printed
/// and read again, or each mistake is one line.
///
/// The input is a file's text and, after `====`, lines with variables
/// (`WAWP_GATEWAY_LIMIT__RATE=5`) and flags (`--rate=5`).
///
/// # Panics
/// If neither holds.
pub fn settings(input: &[u8]) {
    let parts = wire::parts(input);
    if wire::cut(input, b"file:").is_some() {
        // A setting that names a file would read it, which a fuzz target must not do.
        return;
    }
    let mut flags = Overrides::default();
    let mut env = Vec::new();
    for line in parts[1..]
        .iter()
        .flat_map(|part| part.split(|byte| *byte == b'\n'))
    {
        let (Some((name, value)), Ok(text)) = (wire::cut(line, b"="), std::str::from_utf8(line))
        else {
            continue;
        };
        // `cut` works on bytes; the same range of `text` is valid, because `=` is ASCII.
        let value = &text[text.len() - value.len()..];
        match name {
            b"--listen" => flags.listen = Some(value.to_owned()),
            b"--admin" => flags.admin = Some(value.to_owned()),
            b"--upstream" => flags.upstream = Some(value.to_owned()),
            b"--window" => flags.window = Some(value.to_owned()),
            b"--rate" => flags.rate = Some(value.to_owned()),
            b"--burst" => flags.burst = Some(value.to_owned()),
            name => {
                let name = &text[..name.len()];
                env.push((OsString::from(name), OsString::from(value)));
            }
        }
    }
    match config::load_text(parts[0], env.into_iter(), &flags) {
        Err(mistakes) => {
            let printed = mistakes.to_string();
            let lines = mistakes.len().min(MAX_PRINTED) + usize::from(mistakes.len() > MAX_PRINTED);
            assert!(!mistakes.is_empty(), "refused without a mistake");
            assert_eq!(
                printed.split('\n').count(),
                // The last line is the number of mistakes.
                lines + 1,
                "lines and mistakes:\n{printed}"
            );
            assert_plain(&printed);
        }
        Ok(effective) => {
            bounded(&effective.config);
            let printed = effective.to_string();
            assert_plain(&printed);
            let Config {
                tenants, upstream, ..
            } = &effective.config;
            let proxy = upstream.proxy.as_ref();
            if proxy.is_some_and(|proxy| proxy.credentials.is_some())
                || tenants
                    .iter()
                    .any(|tenant| tenant.key.is_some() || !tenant.tokens.is_empty())
            {
                // Secrets are printed as a mask.
                return;
            }
            let again = config::load_text(
                printed.as_bytes(),
                std::iter::empty(),
                &Overrides::default(),
            );
            match again {
                Ok(again) => assert_eq!(again.config, effective.config, "read again:\n{printed}"),
                Err(mistakes) => panic!("what was printed is refused: {mistakes}\n{printed}"),
            }
        }
    }
}

/// The text contains no control character except line ends.
fn assert_plain(text: &str) {
    let odd = text
        .chars()
        .find(|letter| letter.is_control() && *letter != '\n');
    assert_eq!(odd, None, "a control character is printed: {text:?}");
}

/// The bounds that `default.toml` documents.
fn bounded(config: &Config) {
    // Without `..`: a new section of the settings fails to compile here until it is checked.
    let Config {
        server,
        upstream,
        batch,
        limit,
        egress,
        tenants,
        cluster,
        access: _,
        metrics,
        log: _,
    } = config;
    // The bounds are repeated here, so that a change of the table alone fails.
    let day = Duration::from_secs(24 * 60 * 60);
    for above_zero in [
        server.header_timeout,
        server.body_timeout,
        server.idle_timeout,
        server.drain_timeout,
        upstream.connect_timeout,
        upstream.response_timeout,
        upstream.idle_timeout,
    ] {
        assert!(!above_zero.is_zero() && above_zero <= day, "{above_zero:?}");
    }
    for time in [
        upstream.max_age,
        batch.window,
        batch.max_delay,
        batch.quarantine,
        server.drain_delay,
        limit.max_wait,
    ] {
        assert!(time <= day, "{time:?}");
    }
    assert!(batch.window.is_zero() || batch.window < limit.max_wait);
    assert!(server.listen.port() == 0 || server.listen != server.admin);
    for (count, least, most) in [
        (server.max_connections, 1, 1_000_000),
        (server.max_in_flight, 1, 1_000_000),
        (server.max_headers, 1, 1000),
        (server.max_header_bytes, 8192, 1_048_576),
        (upstream.max_idle, 0, 1_000_000),
        (batch.max_ids, 1, 10_000),
        (batch.max_callers, 1, 100_000),
        (limit.max_queue, 1, 1_000_000),
        (metrics.max_instances, 1, 10_000),
    ] {
        assert!((least..=most).contains(&count), "{count}");
    }
    for list in [server.names.len(), batch.paths.len(), limit.classes.len()] {
        assert!(list <= 1000);
    }
    for path in &batch.paths {
        assert!(
            path.starts_with('/') && !path.contains(['*', '?', '#']),
            "{path}"
        );
    }
    let classes = limit.classes.iter().map(|class| class.quota);
    let quotas = classes
        .chain(tenants.iter().map(|tenant| tenant.quota))
        .chain([limit.quota, egress.quota]);
    for Quota { rate, burst } in quotas.flatten() {
        assert!(
            (0.0001..=1e6).contains(&rate) && burst.get() <= 100_000,
            "{rate} {burst}"
        );
    }
    if let Some(cluster) = cluster {
        assert!((1..=64).contains(&cluster.name.len()) && cluster.replicas.get() <= 1000);
        assert!(!cluster.timeout.is_zero() && cluster.timeout <= day);
    }
    classes_bounded(&limit.classes);
    tenants_bounded(tenants);
}

fn classes_bounded(classes: &[Class]) {
    for (index, class) in classes.iter().enumerate() {
        let kinds = [
            class.paths.len(),
            class.instances.len(),
            class.tenants.len(),
        ];
        assert!(kinds.iter().any(|len| *len > 0) && kinds.iter().all(|len| *len <= 1000));
        assert!((1..=64).contains(&class.name.len()));
        assert!(
            classes[..index]
                .iter()
                .all(|other| other.name != class.name)
        );
        for pattern in &class.paths {
            assert!(pattern.to_string().starts_with(['/', '*']));
        }
    }
}

fn tenants_bounded(tenants: &[Tenant]) {
    let mut instances = std::collections::HashSet::new();
    for (index, tenant) in tenants.iter().enumerate() {
        assert!(
            (1..=64).contains(&tenant.name.len()) && !["other", "none"].contains(&&*tenant.name)
        );
        assert!(
            tenants[..index]
                .iter()
                .all(|other| other.name != tenant.name)
        );
        assert!(tenant.weight.get() <= 1000 && !tenant.instances.is_empty());
        for instance in &tenant.instances {
            assert!(
                (1..=128).contains(&instance.len()) && instances.insert(instance),
                "{instance}"
            );
        }
        let keyed = tenant
            .tokens
            .keys()
            .all(|instance| tenant.instances.contains(instance));
        assert!(keyed, "a token for an instance of another tenant");
        if let Some(key) = &tenant.key {
            assert!((16..=256).contains(&key.expose().len()));
        }
    }
}
