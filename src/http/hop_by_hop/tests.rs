//! Which headers are forwarded.

use super::*;

fn stripped(headers: &[(&str, &str)], upgradable: bool) -> Vec<String> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    strip(&mut map, upgradable);
    let mut left: Vec<_> = map
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    left.sort();
    left
}

#[test]
fn hop_by_hop_headers_are_removed() {
    let lines = [
        ("connection", "keep-alive, X-Mine"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("te", "gzip"),
        ("x-mine", "1"),
        ("x-yours", "2"),
    ];
    assert_eq!(stripped(&lines, true), ["x-yours: 2"]);
}

#[test]
fn what_connection_names_is_removed_beside_options_that_are_not_ascii() {
    let others = ["\u{e9}", "X-Mine, \u{e9}", "x mine"];
    for other in others {
        let lines = [
            ("connection", "X-Mine"),
            ("connection", other),
            ("x-mine", "1"),
            ("x-yours", "2"),
        ];
        assert_eq!(stripped(&lines, true), ["x-yours: 2"], "{other}");
    }
}

#[test]
fn connection_cannot_remove_host_and_credentials() {
    let lines = [
        (
            "connection",
            "authorization, x-instance-id, access-token, content-length, host, cookie",
        ),
        ("authorization", "Bearer t"),
        ("x-instance-id", "1"),
        ("access-token", "t"),
        ("content-length", "3"),
        ("host", "h"),
        ("cookie", "c"),
    ];
    assert_eq!(stripped(&lines, true).len(), 6);
}

#[test]
fn an_upgrade_stays_but_never_to_h2c() {
    let websocket = [("connection", "Upgrade"), ("upgrade", "websocket")];
    assert_eq!(
        stripped(&websocket, true),
        ["connection: upgrade", "upgrade: websocket"]
    );
    assert!(stripped(&websocket, false).is_empty());
    let h2c = [
        ("connection", "Upgrade, HTTP2-Settings"),
        ("upgrade", "h2c"),
        ("http2-settings", "AA"),
    ];
    assert!(stripped(&h2c, true).is_empty());
    assert!(
        stripped(&[("upgrade", "websocket")], true).is_empty(),
        "not named in connection"
    );
}

#[test]
fn a_length_beside_a_transfer_coding_is_removed() {
    let lines = [("content-length", "3"), ("transfer-encoding", "chunked")];
    assert!(stripped(&lines, true).is_empty());
}

#[test]
fn te_trailers_is_forwarded() {
    assert_eq!(
        stripped(&[("te", "trailers")], true),
        ["connection: te", "te: trailers"]
    );
}

#[test]
fn split_cookies_become_one_header() {
    let mut headers = HeaderMap::new();
    headers.append(COOKIE, HeaderValue::from_static("a=1"));
    headers.append(COOKIE, HeaderValue::from_static("b=2"));
    join_cookies(&mut headers);
    assert_eq!(
        headers.get_all(COOKIE).iter().collect::<Vec<_>>(),
        ["a=1; b=2"]
    );
}

#[test]
fn repeated_headers_stay_repeated_and_in_order() {
    assert_eq!(
        stripped(&[("x-a", "2"), ("x-a", "1")], true),
        ["x-a: 1", "x-a: 2"]
    );
    let mut headers = HeaderMap::new();
    headers.append("x-a", HeaderValue::from_static("2"));
    headers.append("x-a", HeaderValue::from_static("1"));
    strip(&mut headers, true);
    assert_eq!(
        headers.get_all("x-a").iter().collect::<Vec<_>>(),
        ["2", "1"]
    );
}
