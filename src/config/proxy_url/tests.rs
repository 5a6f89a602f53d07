//! Which texts name a proxy, and for which upstreams a variable is used.

use super::*;

fn proxy(text: &str) -> Result<ProxyUrl, ProxyUrlError> {
    ProxyUrl::try_from(text.to_owned())
}

#[test]
fn a_proxy_is_read_with_its_credentials_which_are_not_shown() {
    for (text, host, port, credentials, shown) in [
        ("http://p:3128", "p", 3128, None, "http://p:3128"),
        ("HTTP://P.corp:80/", "p.corp", 80, None, "http://p.corp:80"),
        ("p:8080", "p", 8080, None, "http://p:8080"),
        ("http://[::1]:1", "::1", 1, None, "http://[::1]:1"),
        ("http://u:s3@p:1", "p", 1, Some("u:s3"), "http://…@p:1"),
        ("u:s3@p:1", "p", 1, Some("u:s3"), "http://…@p:1"),
        ("http://u@p:1", "p", 1, Some("u:"), "http://…@p:1"),
        ("http://u:@p:1", "p", 1, Some("u:"), "http://…@p:1"),
        (
            "http://u:a%40b%3a@p:1",
            "p",
            1,
            Some("u:a@b:"),
            "http://…@p:1",
        ),
        (
            "http://u:a@b:c/@p:1",
            "p",
            1,
            Some("u:a@b:c/"),
            "http://…@p:1",
        ),
    ] {
        let proxy = proxy(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let read = proxy.credentials.as_ref().map(Secret::expose);
        assert_eq!((&*proxy.host, proxy.port, read), (host, port, credentials));
        assert_eq!(proxy.to_string(), shown);
        assert!(!format!("{proxy:?}").contains("s3"), "{proxy:?}");
    }
}

#[test]
fn other_texts_are_refused() {
    for text in [
        "",
        "http://p",
        "http://p:0",
        "https://p:443",
        "socks5://p:1080",
        "http://p:1/path",
        "http://:s3@p:1",
        "http://a%3ab:s3@p:1",
        "http://u:%00@p:1",
        "http://u:%ff@p:1",
        "http://…@p:1",
        "http://u:a b@p:1",
    ] {
        assert_eq!(proxy(text), Err(ProxyUrlError), "{text}");
    }
}

/// The variable that is used for an upstream.
fn used(upstream: &str, variables: &[(&str, &str)]) -> Option<&'static str> {
    let variables: Vec<(OsString, OsString)> = variables
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    variable(&upstream.parse().unwrap(), &variables).map(|(name, _)| name)
}

#[test]
fn a_variable_is_used_as_curl_uses_it() {
    let all = [
        ("HTTPS_PROXY", "p:1"),
        ("HTTP_PROXY", "p:2"),
        ("http_proxy", "p:3"),
    ];
    assert_eq!(used("https://a.test", &all), Some("HTTPS_PROXY"));
    assert_eq!(used("http://a.test", &all), Some("http_proxy"));
    assert_eq!(used("http://a.test", &all[..2]), None);
    let both = [("HTTPS_PROXY", "p:1"), ("https_proxy", "p:2")];
    assert_eq!(used("https://a.test", &both), Some("https_proxy"));
    let empty = [("HTTPS_PROXY", "p:1"), ("https_proxy", "")];
    assert_eq!(used("https://a.test", &empty), Some("HTTPS_PROXY"));
    for (no_proxy, is_used) in [("NO_PROXY", false), ("no_proxy", false), ("No_Proxy", true)] {
        let variables = [("HTTPS_PROXY", "p:1"), (no_proxy, "a.test")];
        assert_eq!(used("https://a.test", &variables).is_some(), is_used);
    }
}

#[test]
fn exceptions_are_names_domains_addresses_and_networks() {
    for (exceptions, host, is_match) in [
        ("*", "a.test", true),
        ("*", "10.0.0.1", true),
        ("a.test", "a.test", true),
        ("A.test.", "a.TEST.", true),
        (".a.test", "a.test", true),
        ("a.test", "x.a.test", true),
        (".a.test", "x.a.test", true),
        ("a.test", "xa.test", false),
        ("x.a.test", "a.test", false),
        ("b.test, a.test", "a.test", true),
        ("b.test a.test", "a.test", true),
        ("", "a.test", false),
        (",.,", "a.test", false),
        ("10.0.0.1", "10.0.0.1", true),
        ("10.0.0.0/8", "10.1.2.3", true),
        ("10.0.0.0/8", "11.1.2.3", false),
        ("0.0.1", "10.0.0.1", false),
        ("::1", "::1", true),
        ("[::1]", "::1", true),
        ("2001:db8::/32", "2001:db8::7", true),
    ] {
        assert_eq!(matches(exceptions, host), is_match, "{exceptions:?} {host}");
    }
}
