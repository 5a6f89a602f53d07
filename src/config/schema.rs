//! Which settings there are, in the order of `default.toml`: one line each, then the rules between them.

use std::{net::SocketAddr, num::NonZeroU32};

use super::{
    Batch, Class, Config, Limit, Log, Metrics, Quota, Server, Tls, Upstream, kind, layer::Table,
    read::Section, report::Report, secret::Sources, tenant,
};

/// hyper's smallest read buffer; a smaller bound could not be kept.
const MIN_HEADER_BYTES: usize = 8192;
/// No request head is a document.
const MAX_HEADER_BYTES: usize = 1024 * 1024;

/// Reads the whole tree.
pub(super) fn config(tree: Table, sources: &Sources<'_>, report: &mut Report) -> Config {
    let mut root = Section::root(report, tree);
    let config = Config {
        server: root.section("server", server),
        upstream: root.section("upstream", upstream),
        batch: root.section("batch", batch),
        limit: root.section("limit", limit),
        egress: root.section("egress", tenant::egress),
        tenants: tenant::tenants(&mut root, sources),
        access: root.section("access", tenant::access),
        metrics: root.section("metrics", metrics),
        log: root.section("log", log),
    };
    // A window of zero turns merging off, so then there is nothing to be shorter than.
    if !config.batch.window.is_zero() && config.batch.window >= config.limit.max_wait {
        let rule = "batch.window must be shorter than limit.max_wait, or no call could outlast it";
        root.report
            .forbid(&["limit.max_wait", "batch.window"], rule);
    }
    root.finish();
    config
}

fn server(s: &mut Section<'_>) -> Server {
    let server = Server {
        listen: s.get("listen", kind::address),
        admin: s.get("admin", kind::address),
        max_connections: s.get("max_connections", kind::count(1..=1_000_000)),
        max_in_flight: s.get("max_in_flight", kind::count(1..=1_000_000)),
        header_timeout: s.get("header_timeout", kind::timeout),
        body_timeout: s.get("body_timeout", kind::timeout),
        idle_timeout: s.get("idle_timeout", kind::timeout),
        drain_timeout: s.get("drain_timeout", kind::timeout),
        timing_header: s.get("timing_header", kind::switch),
        max_headers: s.get("max_headers", kind::count(1..=1000)),
        max_header_bytes: s.get(
            "max_header_bytes",
            kind::count(MIN_HEADER_BYTES..=MAX_HEADER_BYTES),
        ),
        names: s.list("names", kind::host),
        tls: s.optional_section("tls", "tls.", tls),
    };
    if collide(server.listen, server.admin) {
        s.report.forbid(
            &["server.admin", "server.listen"],
            "server.listen and server.admin must differ",
        );
    }
    server
}

/// Says whether two listeners cannot both be bound; one on all addresses takes the port from one on a single address.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let overlap = a.ip() == b.ip()
        || (a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified()));
    a.port() == b.port() && a.port() != 0 && overlap
}

fn tls(s: &mut Section<'_>) -> Option<Tls> {
    let (cert, key) = (
        s.required("cert", kind::file),
        s.required("key", kind::file),
    );
    Some(Tls {
        cert: cert?,
        key: key?,
    })
}

fn upstream(s: &mut Section<'_>) -> Upstream {
    Upstream {
        url: s.get("url", kind::url),
        connect_timeout: s.get("connect_timeout", kind::timeout),
        response_timeout: s.get("response_timeout", kind::timeout),
        idle_timeout: s.get("idle_timeout", kind::timeout),
        ca: s.optional("ca", kind::file),
    }
}

fn batch(s: &mut Section<'_>) -> Batch {
    Batch {
        paths: s.list("paths", kind::batch_path),
        window: s.get("window", kind::duration),
        max_delay: s.get("max_delay", kind::duration),
        max_ids: s.get("max_ids", kind::count(1..=10_000)),
        max_callers: s.get("max_callers", kind::count(1..=100_000)),
        quarantine: s.get("quarantine", kind::duration),
    }
}

fn limit(s: &mut Section<'_>) -> Limit {
    let rate = s.get("rate", kind::rate);
    let burst = s.get("burst", kind::burst);
    let quota = quota(s, rate, burst, &["limit.rate", "limit.burst"]);
    let max_wait = s.get("max_wait", kind::duration);
    let max_queue = s.get("max_queue", kind::count(1..=1_000_000));
    let headers = s.get("headers", kind::switch);
    let mut names = Vec::new();
    let classes = s.each("class", |s| class(s, burst, &mut names));
    Limit {
        quota,
        max_wait,
        max_queue,
        headers,
        classes,
    }
}

fn class(s: &mut Section<'_>, base_burst: u32, names: &mut Vec<String>) -> Option<Class> {
    let name = s.required("name", kind::name);
    let paths = s.required_list("paths", kind::pattern);
    let methods = s.list("methods", kind::method);
    let rate = s.required("rate", kind::rate);
    let burst = s.optional("burst", kind::burst).unwrap_or(base_burst);
    if let Some(name) = &name {
        if names.contains(name) {
            s.report
                .forbid(&[&s.path_of("name")], "a name that no class before has");
        }
        names.push(name.clone());
    }
    let quota = quota(s, rate?, burst, &[&s.path_of("rate"), &s.path_of("burst")]);
    Some(Class {
        name: name?,
        paths,
        methods,
        quota,
    })
}

/// Joins rate and burst; a rate of 0 is unlimited.
pub(super) fn quota(s: &mut Section<'_>, rate: f64, burst: u32, paths: &[&str]) -> Option<Quota> {
    if rate == 0.0 {
        return None;
    }
    let Some(burst) = NonZeroU32::new(burst) else {
        s.report.forbid(
            paths,
            "burst must be 1 or more where there is a rate, or no call could ever go",
        );
        return None;
    };
    // Both are within their bounds here, or a mistake is noted already.
    Quota::new(rate, burst).ok()
}

fn metrics(s: &mut Section<'_>) -> Metrics {
    Metrics {
        max_instances: s.get("max_instances", kind::count(1..=10_000)),
    }
}

fn log(s: &mut Section<'_>) -> Log {
    Log {
        format: s.get("format", kind::format),
        level: s.get("level", kind::level),
        access: s.get("access", kind::access_log),
        access_sample: s.get("access_sample", kind::sample),
    }
}
