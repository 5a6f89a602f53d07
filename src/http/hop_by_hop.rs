//! Which headers are forwarded, and which end at the gateway.
//!
//! Invariant: end-to-end headers are forwarded unchanged. Only hop-by-hop headers
//! (RFC 9110 §7.6.1) and those that `Connection` names are removed.

use std::time::Duration;

use http::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use super::{INSTANCE_HEADER, TOKEN_HEADER};

/// Subtracted from the upstream's keep-alive timeout: the time that a request may
/// take to reach the upstream.
const TRANSIT: Duration = Duration::from_secs(1);

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Headers that `Connection` cannot remove. A client that names one of them tries
/// to make the gateway and the upstream see different requests.
static PROTECTED: [HeaderName; 8] = [
    ACCEPT,
    AUTHORIZATION,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    COOKIE,
    HOST,
    HeaderName::from_static(INSTANCE_HEADER),
    HeaderName::from_static(TOKEN_HEADER),
];

/// Removes the hop-by-hop headers, and a `Content-Length` next to
/// `Transfer-Encoding`, by which a recipient could frame the body differently (RFC
/// 9112 §6.3). Keeps
/// `TE: trailers`, and where `upgradable` an `Upgrade` to other than `h2c`.
pub(crate) fn strip(headers: &mut HeaderMap, upgradable: bool) {
    // Most messages have none of these headers, and with about ten headers a
    // comparison costs less than a lookup.
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    let named = named(headers);
    // These two are hop-by-hop, but the next hop may have them too. They are
    // removed with the others and set again below.
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
    for name in named.iter().filter(|name| !PROTECTED.contains(name)) {
        headers.remove(name);
    }
    // Searched again after each removal: `HeaderMap` has no `retain`.
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
    // Both must be named in `Connection` again (RFC 9110 §7.6.1).
    let connection = match (headers.contains_key(UPGRADE), trailers) {
        (true, true) => "upgrade, te",
        (true, false) => "upgrade",
        (false, true) => "te",
        (false, false) => return,
    };
    headers.insert(CONNECTION, HeaderValue::from_static(connection));
}

/// The headers that `Connection` names. What is not ASCII names none.
fn named(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(CONNECTION).iter();
    let options = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    // These two options are the most frequent, and name no header.
    let names = options.map(<[u8]>::trim_ascii).filter(|option| {
        !option.eq_ignore_ascii_case(b"keep-alive") && !option.eq_ignore_ascii_case(b"close")
    });
    let names = names.filter_map(|name| HeaderName::from_bytes(name).ok());
    names.collect()
}

/// Whether there is a header with this name. With about ten headers, comparing costs less
/// than hashing, if it is inlined and so compares with a constant.
#[inline(always)]
pub(crate) fn has(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.keys().any(|other| other == name)
}

/// The first header with this name; see [`has`].
#[inline(always)]
pub(crate) fn first<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    // Not `find`, which is not inlined.
    for (other, value) in headers {
        if other == name {
            return Some(value);
        }
    }
    None
}

/// Whether the client waits for `100 Continue` before it sends the body (RFC 9110
/// §10.1.1).
pub(crate) fn expects_continue(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(EXPECT).iter();
    values.any(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Whether another request may follow this one on its HTTP/1 connection (RFC 9112
/// §9.3).
pub(crate) fn may_persist(head: &Parts) -> bool {
    let has_close = || {
        let values = head.headers.get_all(CONNECTION).iter();
        let mut options = values.flat_map(|value| value.to_str().unwrap_or("").split(','));
        options.any(|option| option.trim().eq_ignore_ascii_case("close"))
    };
    head.version == Version::HTTP_11 && !has_close()
}

/// How long the connection may be used for another request, according to
/// `Keep-Alive: timeout=5` (RFC 2068 §19.7.1.1). Servers close it to the second,
/// so the time that a request takes to arrive is subtracted.
pub(crate) fn keep_alive_timeout(headers: &HeaderMap) -> Option<Duration> {
    if !has(headers, &KEEP_ALIVE) {
        return None;
    }
    let values = headers.get_all(&KEEP_ALIVE).iter();
    let mut parameters = values.flat_map(|value| value.to_str().unwrap_or("").split(','));
    let seconds = parameters.find_map(|parameter| {
        let (name, seconds) = parameter.split_once('=')?;
        let is_timeout = name.trim().eq_ignore_ascii_case("timeout");
        is_timeout.then(|| seconds.trim().trim_matches('"').parse::<u32>().ok())?
    })?;
    let timeout = Duration::from_secs(seconds.into());
    // A timeout of one second would otherwise leave no time at all.
    Some((timeout / 2).max(timeout.saturating_sub(TRANSIT)))
}

/// Hop-by-hop headers, also where `Connection` does not name them (RFC 9110
/// §7.6.1).
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

/// Converts the headers of a request received over HTTP/2 for HTTP/1.1.
///
/// Cookies may be split over several headers in HTTP/2, but must be one in
/// HTTP/1.1 (RFC 9113 §8.2.3). A missing body is announced by the framing in
/// HTTP/2, but by a length in HTTP/1.1 (RFC 9110 §8.6).
pub(crate) fn from_http2(head: &mut Parts, is_empty: bool) {
    join_cookies(&mut head.headers);
    let wants_length = [Method::POST, Method::PUT, Method::PATCH].contains(&head.method);
    if is_empty && wants_length {
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
            joined.expect("values joined by a semicolon are a valid value"),
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
mod tests;
