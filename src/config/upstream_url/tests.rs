use super::*;

#[test]
fn base_urls_are_accepted() {
    for (text, shown, host, port) in [
        (
            "https://api.wawp.net",
            "https://api.wawp.net",
            "api.wawp.net",
            443,
        ),
        (
            "HTTPS://API.wawp.net/",
            "https://api.wawp.net",
            "api.wawp.net",
            443,
        ),
        ("http://a", "http://a", "a", 80),
        ("http://a_b-c.:8081", "http://a_b-c.:8081", "a_b-c.", 8081),
        (
            "https://127.0.0.1:443",
            "https://127.0.0.1:443",
            "127.0.0.1",
            443,
        ),
        ("http://[::1]", "http://[::1]", "::1", 80),
        (
            "https://[2001:DB8::1]:65535/",
            "https://[2001:db8::1]:65535",
            "2001:db8::1",
            65_535,
        ),
    ] {
        let url: UpstreamUrl = text.parse().unwrap();
        assert_eq!(
            (url.to_string().as_str(), url.host.as_str(), url.port),
            (shown, host, port)
        );
        assert_eq!(url.tls, shown.starts_with("https"));
    }
}

#[test]
fn other_texts_are_refused() {
    for text in [
        "",
        "a",
        "a:80",
        "//a",
        "ftp://a",
        "https:/a",
        "https://",
        "https:///",
        "https://a//",
        "https://a/v2",
        "https://a?",
        "https://a#",
        "https://me@a",
        "https://me:x@a",
        "https://:80",
        "https://a:",
        "https://a:0",
        "https://a:65536",
        "https://a:99999",
        "https://a:+1",
        "https://a:080",
        "https://a:b",
        "https://[::1",
        "https://[x]",
        "https://::1",
        "https://a b",
        "https://a%20b",
        "https://é",
        "https://a*",
        " https://a",
        "https://a\n",
    ] {
        assert_eq!(text.parse::<UpstreamUrl>(), Err(UrlError), "{text}");
    }
}
