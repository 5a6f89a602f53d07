//! The proxy that a variable of all programs names.

use super::*;

/// The line that shows the proxy.
fn proxy(file: &str, env: &[(&str, &str)]) -> Option<String> {
    let effective = load_text(file, env, &Overrides::default());
    let shown = effective
        .unwrap_or_else(|mistakes| panic!("{mistakes}"))
        .to_string();
    let line = shown.lines().find(|line| line.starts_with("proxy"));
    line.map(str::to_owned)
}

#[test]
fn a_variable_of_all_programs_names_the_proxy_where_no_layer_does() {
    let env = [
        ("HTTPS_PROXY", "http://u:s3@p:1"),
        ("NO_PROXY", "localhost,x.test"),
    ];
    let shown = "proxy = \"http://…@p:1\"  # HTTPS_PROXY";
    assert_eq!(proxy("", &env).as_deref(), Some(shown));
    assert_eq!(proxy("upstream.url = \"https://a.x.test\"", &env), None);
    assert_eq!(proxy("upstream.url = \"http://a.test\"", &env), None);
    let own = proxy("upstream.proxy = \"q:2\"", &env).unwrap();
    assert!(own.starts_with("proxy = \"http://q:2\""), "{own}");
    assert!(!own.contains("HTTPS_PROXY"), "{own}");
}

#[test]
fn a_variable_that_names_no_proxy_is_a_mistake_only_where_it_is_used() {
    let socks = ("HTTPS_PROXY", "socks5://u:s3@p:1");
    let mistake = bad_layers("", &[socks], &Overrides::default());
    assert!(
        mistake.starts_with("HTTPS_PROXY: upstream.proxy = \"…\": http://host:port"),
        "{mistake}"
    );
    assert!(!mistake.contains("s3"), "{mistake}");
    let own = [("WAWP_GATEWAY_UPSTREAM__PROXY", "q:2"), socks];
    assert!(proxy("", &own).is_some());
    assert_eq!(proxy("", &[("NO_PROXY", "*"), socks]), None);
}

#[test]
fn a_proxy_may_be_in_a_variable_or_a_file() {
    let env = [("PROXY_URL", "http://u:s3@p:1")];
    let shown = proxy("upstream.proxy = \"env:PROXY_URL\"", &env).unwrap();
    assert!(shown.starts_with("proxy = \"http://…@p:1\""), "{shown}");
}
