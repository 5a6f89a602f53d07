//! The values that each key refuses, and the messages.

use super::*;

/// Asserts that a text is refused at this line with a message that contains this piece.
pub(super) fn refused(text: &str, line: usize, piece: &str) {
    let message = bad(text);
    assert!(
        message.starts_with(&format!("{line}: ")) && message.contains(piece),
        "{text}\n{message}"
    );
    assert!(
        message.ends_with("\n1 mistake in the settings"),
        "{text}\n{message}"
    );
}

#[test]
fn each_key_refuses_what_it_does_not_allow() {
    for (section, line, piece) in [
        (
            "server",
            "listen = 8080",
            "8080: an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080; 0.0.0.0:8080 is",
        ),
        (
            "server",
            "listen = \":8080\"",
            "; 0.0.0.0:8080 is every address",
        ),
        (
            "server",
            "listen = \"gateway.example:80\"",
            "; host names are not looked up here",
        ),
        ("server", "listen = \"127.0.0.1\"", "; the port is missing"),
        (
            "server",
            "listen = \"127.0.0.1:70000\"",
            "an IP address and a port",
        ),
        ("server", "listen = true", "an IP address and a port"),
        (
            "server",
            "admin = \"127.0.0.1:8080\"",
            "server.listen and server.admin must differ",
        ),
        (
            "server",
            "listen = \"0.0.0.0:9464\"",
            "server.listen and server.admin must differ",
        ),
        (
            "server",
            "max_connections = 0",
            "a whole number from 1 to 1000000",
        ),
        (
            "server",
            "max_connections = -1",
            "a whole number from 1 to 1000000",
        ),
        (
            "server",
            "max_connections = 1.5",
            "a whole number from 1 to 1000000",
        ),
        (
            "server",
            "max_connections = 99999999999999999999",
            "a whole number from 1 to 1000000",
        ),
        (
            "server",
            "max_in_flight = \"9\"",
            "a whole number from 1 to 1000000",
        ),
        ("server", "header_timeout = 0", "a time above 0"),
        ("server", "body_timeout = \"-1s\"", "a time above 0"),
        ("server", "idle_timeout = \"2days\"", "a time above 0"),
        ("server", "drain_timeout = \"0ms\"", "a time above 0"),
        ("server", "timing_header = \"yes\"", "true or false"),
        (
            "server",
            "max_headers = 1001",
            "a whole number from 1 to 1000",
        ),
        (
            "server",
            "max_header_bytes = 8191",
            "a whole number from 8192 to 1048576",
        ),
        (
            "server",
            "max_header_bytes = 1048577",
            "a whole number from 8192 to 1048576",
        ),
        ("server", "names = \"a\"", "a list, as in"),
        (
            "server",
            "names = [\"http://a\"]",
            "server.names = \"http://a\": a host or host:port",
        ),
        ("server", "names = [\"a:99999\"]", "a host or host:port"),
        ("server", "names = [\"me@a\"]", "a host or host:port"),
        (
            "server",
            "tls.cert = \"c\"",
            "server.tls.key: must be there",
        ),
        (
            "server",
            "tls = { cert = \"\", key = \"k\" }",
            "the name of a PEM file",
        ),
        (
            "server",
            "tls = true",
            "a section, begun by [server.tls], not a value",
        ),
        ("upstream", "url = \"api.wawp.net\"", "http:// or https://"),
        ("upstream", "url = \"https://api.wawp.net/v2\"", "no path"),
        (
            "upstream",
            "url = \"https://api.wawp.net:\"",
            "perhaps a port",
        ),
        ("upstream", "url = \"https://\"", "a host"),
        ("upstream", "url = \"https://a:0\"", "perhaps a port"),
        ("upstream", "response_timeout = \"0s\"", "a time above 0"),
        ("upstream", "idle_timeout = \"0s\"", "a time above 0"),
        (
            "upstream",
            "max_idle = -1",
            "upstream.max_idle = -1: a whole number from 0 to 1000000",
        ),
        ("upstream", "ca = 5", "the name of a PEM file"),
        (
            "batch",
            "paths = [\"v2/seen\"]",
            "a path that begins with /",
        ),
        ("batch", "paths = [\"/a?b\"]", "without ? or #"),
        ("batch", "paths = [\"*\"]", "without *"),
        ("batch", "window = \"50\"", "a time with its unit"),
        (
            "batch",
            "window = \"4s\"",
            "batch.window must be shorter than limit.max_wait",
        ),
        (
            "server",
            "drain_delay = \"30s\"",
            "server.drain_delay must be shorter than server.drain_timeout",
        ),
        ("batch", "max_delay = \"soon\"", "a time with its unit"),
        ("batch", "max_ids = 10001", "a whole number from 1 to 10000"),
        (
            "batch",
            "max_callers = 0",
            "a whole number from 1 to 100000",
        ),
        (
            "batch",
            "quarantine = 1979-05-27",
            "batch.quarantine = 1979-05-27: a time with its unit",
        ),
        (
            "limit",
            "rate = -1",
            "limit.rate = -1: a number of requests per second",
        ),
        ("limit", "rate = nan", "a number of requests per second"),
        ("limit", "rate = inf", "a number of requests per second"),
        ("limit", "rate = 0.00001", "a number of requests per second"),
        (
            "limit",
            "burst = 0",
            "limit.burst = 0: burst must be 1 or more where there is a rate",
        ),
        ("limit", "burst = 100001", "a whole number from 0 to 100000"),
        (
            "limit",
            "max_wait = \"50ms\"",
            "limit.max_wait = \"50ms\": batch.window must be shorter",
        ),
        ("limit", "max_queue = 0", "a whole number from 1 to 1000000"),
        (
            "limit",
            "class = 5",
            "a list of tables, each begun by [[limit.class]]",
        ),
        (
            "limit",
            "class = [5]",
            "limit.class[0] = …: a list of tables",
        ),
        ("egress", "rate = -1", "a number of requests per second"),
        ("egress", "rate = 70", "egress.rate = 70: burst must be 1"),
        (
            "egress",
            "burst = 100001",
            "a whole number from 0 to 100000",
        ),
        ("access", "instances = \"all\"", "one of any, listed"),
        (
            "access",
            "networks = \"10.0.0.0/8\"",
            "a list, as in [\"a\", \"b\"]",
        ),
        (
            "access",
            "networks = [\"localhost\"]",
            "access.networks = \"localhost\": an IP address or network, such as",
        ),
        (
            "access",
            "trusted_proxies = [\"10.0.0.0/33\"]",
            "an IP address or network",
        ),
        (
            "access",
            "trusted_proxies = [\"10.1.2.3/8\"]",
            "write 10.0.0.0/8 for this network, or 10.1.2.3 for the one address",
        ),
        (
            "metrics",
            "max_instances = 0",
            "a whole number from 1 to 10000",
        ),
        ("log", "format = \"xml\"", "one of text, json"),
        (
            "log",
            "level = \"Info\"",
            "one of off, error, warn, info, debug, trace",
        ),
    ] {
        refused(&format!("[{section}]\n{line}"), 2, piece);
    }
}

#[test]
fn lists_are_short() {
    let list = |count| format!("[batch]\npaths = [{}]", "\"/a\",".repeat(count));
    assert_eq!(good(&list(1000)).batch.paths.len(), 1000);
    refused(
        &list(1001),
        2,
        "batch.paths = [...]: a list of at most 1000",
    );
}

#[test]
fn each_class_is_checked() {
    let class = "[[limit.class]]\nname = \"a\"\npaths = [\"/a\"]\nrate = 1\n";
    for (text, line, piece) in [
        (
            class.replace("rate = 1\n", ""),
            1,
            "limit.class[0].rate: must be there",
        ),
        (
            class.replace("name = \"a\"\n", ""),
            1,
            "limit.class[0].name: must be there",
        ),
        (
            class.replace("paths = [\"/a\"]\n", ""),
            2,
            "limit.class[0].name = \"a\": a class needs paths, instances or tenants",
        ),
        (
            class.replace("[\"/a\"]", "[]"),
            3,
            "limit.class[0].paths = []: a list of at least one",
        ),
        (
            class.replace("\"/a\"", "\"a\""),
            3,
            "a path that begins with / (or *)",
        ),
        (
            class.replace("\"a\"", "\"\""),
            2,
            "a name of 1 to 64 letters",
        ),
        (
            class.replace("\"a\"", "\"a b\""),
            2,
            "a name of 1 to 64 letters",
        ),
        (
            class.repeat(2),
            6,
            "limit.class[1].name = \"a\": a name that no class before has",
        ),
        (
            format!("{class}burst = 0"),
            5,
            "limit.class[0].burst = 0: burst must be 1 or more",
        ),
        (
            format!("{class}methods = [\"post\"]"),
            5,
            "a method in upper case",
        ),
        (
            format!("{class}methods = [\"A B\"]"),
            5,
            "a method in upper case",
        ),
        (
            format!("{class}instances = []"),
            5,
            "limit.class[0].instances = []: a list of at least one",
        ),
        (
            format!("{class}instances = [5]"),
            5,
            "an instance's id as a text",
        ),
        (
            format!(
                "{class}tenants = [\"a\", \"acme\"]\n[[tenant]]\nname = \"acme\"\ninstances = [\"1\"]"
            ),
            5,
            "limit.class[0].tenants = [\"a\", \"acme\"]: there is no tenant \"a\"",
        ),
        (
            format!("{class}max_in_flight = 0"),
            5,
            "limit.class[0].max_in_flight = 0: a whole number from 1 to 100000",
        ),
        (
            format!("{class}brust = 1"),
            5,
            "unknown key; did you mean limit.class[0].burst?",
        ),
        (
            format!("[limit]\nrate = 0\nburst = 0\n{class}"),
            7,
            "limit.class[0].rate = 1: burst must be 1 or more",
        ),
        (
            class.replace("[[limit.class]]", "[limit.class]"),
            1,
            "a list of tables, each begun by [[limit.class]]",
        ),
    ] {
        refused(&text, line, piece);
    }
}
