//! Which header fields travel on, and which end here.
//!
//! Invariant: end-to-end fields are passed as they came; only those of this
//! hop (RFC 9110 §7.6.1) are taken out, with the ones `Connection` names.

use std::time::Duration;

use http::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use super::{INSTANCE_HEADER, TOKEN_HEADER};

/// How long a call may be on its way to a connection that is about to close.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// What `Connection` may not take out: naming one of these is an attempt to
/// make us and the upstream read the request differently.
static NEVER_NAMED: [HeaderName; 8] = [
    ACCEPT,
    AUTHORIZATION,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    COOKIE,
    HOST,
    HeaderName::from_static(INSTANCE_HEADER),
    HeaderName::from_static(TOKEN_HEADER),
];

/// Takes out the fields of this hop, and a length beside a transfer coding:
/// whoever believed it would read another body (RFC 9112 §6.3). Keeps an upgrade
/// other than `h2c`, where `upgradable`, and a readiness for trailers.
pub(crate) fn strip(headers: &mut HeaderMap, upgradable: bool) {
    // Names are compared faster than looked up, and most requests and answers
    // hold none of these.
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    let Some(named) = named(headers) else {
        // Not even text: nothing in it can be honoured.
        headers.remove(CONNECTION);
        return strip(headers, false);
    };
    let upgrade = headers
        .get(UPGRADE)
        .filter(|protocol| upgradable && named.contains(&UPGRADE) && !is_h2c(protocol))
        .cloned();
    let trailers = headers
        .get_all(TE)
        .iter()
        .any(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    for name in named.iter().filter(|name| !NEVER_NAMED.contains(name)) {
        headers.remove(name);
    }
    while let Some(name) = headers.keys().find(|name| is_hop_by_hop(name)) {
        let name = name.clone();
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(UPGRADE, protocol);
    }
    let connection = match (headers.contains_key(UPGRADE), trailers) {
        (true, true) => "upgrade, te",
        (true, false) => "upgrade",
        (false, true) => "te",
        (false, false) => return,
    };
    headers.insert(CONNECTION, HeaderValue::from_static(connection));
}

/// The fields that `Connection` names; `None` if it is not text.
fn named(headers: &HeaderMap) -> Option<Vec<HeaderName>> {
    let mut named = Vec::new();
    for value in headers.get_all(CONNECTION) {
        let options = value.to_str().ok()?.split(',').map(str::trim);
        // The two that most often stand there name no field.
        let fields = options.filter(|option| {
            !option.eq_ignore_ascii_case("keep-alive") && !option.eq_ignore_ascii_case("close")
        });
        named.extend(fields.filter_map(|name| name.parse::<HeaderName>().ok()));
    }
    Some(named)
}

/// Whether there is a field of that name, in lower case. Compared rather than
/// looked up: of the few fields that calls have, that costs less than a hash.
pub(crate) fn has(headers: &HeaderMap, name: &str) -> bool {
    headers.keys().any(|field| field.as_str() == name)
}

/// Whether a body is kept back until it is asked for (RFC 9110 §10.1.1).
pub(crate) fn expects_continue(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(EXPECT).iter();
    values.any(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Whether another request may follow this one on its connection of HTTP/1
/// (RFC 9112 §9.3).
pub(crate) fn may_persist(head: &Parts) -> bool {
    let says_close = || {
        let values = head.headers.get_all(CONNECTION).iter();
        let mut options = values.flat_map(|value| value.to_str().unwrap_or("").split(','));
        options.any(|option| option.trim().eq_ignore_ascii_case("close"))
    };
    head.version == Version::HTTP_11 && !says_close()
}

/// How long the other side says that it keeps the connection open for another
/// call, less what that may take to arrive (`Keep-Alive: timeout=5`, RFC 2068
/// §19.7.1.1; servers close by it to the second).
pub(crate) fn kept_alive_for(headers: &HeaderMap) -> Option<Duration> {
    if !has(headers, "keep-alive") {
        return None;
    }
    let values = headers.get_all("keep-alive").iter();
    let mut parameters = values.flat_map(|value| value.to_str().unwrap_or("").split(','));
    let seconds = parameters.find_map(|parameter| {
        let (name, seconds) = parameter.split_once('=')?;
        let is_timeout = name.trim().eq_ignore_ascii_case("timeout");
        is_timeout.then(|| seconds.trim().trim_matches('"').parse::<u32>().ok())?
    })?;
    let promised = Duration::from_secs(seconds.into());
    Some((promised / 2).max(promised.saturating_sub(ON_ITS_WAY)))
}

/// Fields that are of this hop, whatever `Connection` names (RFC 9110 §7.6.1).
pub(crate) const HOP_BY_HOP: [&str; 6] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(&name.as_str())
}

/// Puts a request that came over HTTP/2 as HTTP/1.1 would have it.
///
/// Cookies come in pieces there and are one field here (RFC 9113 §8.2.3); and
/// no framing says "no body" there, where some servers want to be told here
/// (RFC 9110 §8.6).
pub(crate) fn from_http2(head: &mut Parts, empty: bool) {
    join_cookies(&mut head.headers);
    let wants_length = [Method::POST, Method::PUT, Method::PATCH].contains(&head.method);
    if empty && wants_length {
        head.headers
            .entry(CONTENT_LENGTH)
            .or_insert(HeaderValue::from_static("0"));
    }
}

fn join_cookies(headers: &mut HeaderMap) {
    let pieces: Vec<_> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if pieces.len() > 1 {
        let joined = HeaderValue::from_bytes(&pieces.join(&b"; "[..]));
        headers.insert(
            COOKIE,
            joined.expect("field values joined by a semicolon are one"),
        );
    }
}

fn is_h2c(protocol: &HeaderValue) -> bool {
    protocol
        .as_bytes()
        .split(|&byte| byte == b',')
        .any(|name| name.trim_ascii().eq_ignore_ascii_case(b"h2c"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(lines: &[(&str, &str)], upgradable: bool) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        strip(&mut headers, upgradable);
        let mut left: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        left.sort();
        left
    }

    #[test]
    fn fields_of_this_hop_end_here() {
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
    fn connection_cannot_take_out_what_tells_who_calls() {
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
    fn a_length_beside_a_transfer_coding_is_not_believed() {
        let lines = [("content-length", "3"), ("transfer-encoding", "chunked")];
        assert!(stripped(&lines, true).is_empty());
    }

    #[test]
    fn readiness_for_trailers_is_passed_on() {
        assert_eq!(
            stripped(&[("te", "trailers")], true),
            ["connection: te", "te: trailers"]
        );
    }

    #[test]
    fn cookies_in_pieces_become_one_field() {
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
    fn repeated_fields_stay_repeated_and_in_order() {
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
}
