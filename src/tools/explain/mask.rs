//! What of a request is shown.
//!
//! Invariants: only values under names known to be harmless are shown, all others are masked
//! (rule: secrets). Credentials and secrets of the settings that occur elsewhere are masked in
//! the whole output. No control character of a request reaches a terminal.

use std::borrow::Cow;

use http::header::{COOKIE, HeaderMap};
use http::request::Parts;

use crate::body::{RequestBody, UpstreamRequest};
use crate::config::Config;
use crate::http::h1::write_request_head;
use crate::identity::{Places, decode, pairs};
use crate::observe::access_log::{WITHHELD, path};
use crate::redact::Secrets;

/// A shorter credential is not searched in text: `1` would occur in every number.
const MIN_CREDENTIAL: usize = 8;

/// Fields whose values are shown.
const FIELDS: [&[u8]; 5] = [
    b"chatId",
    b"messageIds",
    b"messageId",
    b"participant",
    INSTANCE_FIELD,
];
const INSTANCE_FIELD: &[u8] = b"instance_id";

/// Headers whose values are shown.
const HEADERS: [&str; 18] = [
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "access-control-request-method",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "origin",
    "te",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    INSTANCE_HEADER,
];
const INSTANCE_HEADER: &str = crate::identity::INSTANCE_HEADER;

/// Decides what is shown.
pub(super) struct Mask {
    secrets: Option<Secrets>,
    hides_instances: bool,
}

impl Mask {
    /// `hides_instances`: an instance has the text of a credential.
    pub(super) fn new<'p>(
        config: &Config,
        places: impl Iterator<Item = &'p Places>,
        cookies: impl Iterator<Item = &'p HeaderMap>,
        hides_instances: bool,
    ) -> Self {
        let credentials = places.flat_map(|places| &places.credentials);
        let credentials = credentials.map(|(_, text)| text.trim());
        let cookies = cookies.flat_map(|headers| headers.get_all(COOKIE));
        let cookies = cookies.filter_map(|value| value.to_str().ok());
        let cookies = cookies.flat_map(|value| value.split(';'));
        // The scheme (`Bearer`) and the name of a cookie are not secret.
        let values = credentials
            .map(|text| text.split_once(' ').map_or(text, |(_, text)| text))
            .chain(cookies.map(|pair| pair.split_once('=').map_or(pair, |(_, value)| value)));
        let values = values.map(str::trim);
        let searched: Vec<_> = values.filter(|text| text.len() >= MIN_CREDENTIAL).collect();
        Self {
            secrets: Secrets::with(&config.tenants, searched),
            hides_instances,
        }
    }

    /// The whole output without secrets.
    pub(super) fn all(&self, text: String) -> String {
        match &self.secrets {
            Some(secrets) => secrets.masked(&text, WITHHELD),
            None => text,
        }
    }

    pub(super) fn shows_instances(&self) -> bool {
        !self.hides_instances
    }

    /// Whether the value of a field is shown.
    pub(super) fn shows_field(&self, name: &[u8]) -> bool {
        FIELDS.contains(&name) && !(self.hides_instances && name == INSTANCE_FIELD)
    }

    /// Whether the value of a header is shown.
    pub(super) fn shows_header(&self, name: &str) -> bool {
        HEADERS.contains(&name) && !(self.hides_instances && name == INSTANCE_HEADER)
    }

    /// The head of a request as it is sent over HTTP/1.1. `is_receipt`: its path is one of the
    /// settings.
    pub(super) fn head(&self, request: &UpstreamRequest, is_receipt: bool) -> Vec<String> {
        let head = &request.head;
        let length = match &request.body {
            RequestBody::Whole(body) => Some(body.as_ref().map_or(0, bytes::Bytes::len)),
            RequestBody::Streamed(_) => None,
        };
        let mut text = Vec::new();
        write_request_head(&mut text, head, length, 0);
        let text = String::from_utf8_lossy(&text);
        let mut lines = vec![format!(
            "{} {} HTTP/1.1",
            printable(head.method.as_str()),
            self.target(head, is_receipt)
        )];
        for line in text.split("\r\n").skip(1).filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = match self.shows_header(&name.to_ascii_lowercase()) {
                true => value.trim(),
                false => WITHHELD,
            };
            lines.push(printable(&format!("{name}: {value}")).into_owned());
        }
        lines
    }

    /// Path and query.
    pub(super) fn target(&self, head: &Parts, is_receipt: bool) -> String {
        let mut target = match is_receipt {
            true => head.uri.path().to_owned(),
            // It may have numbers and tokens in it.
            false => path(head.uri.path()),
        };
        let Some(query) = head.uri.query() else {
            return target;
        };
        for (number, pair) in pairs(query).enumerate() {
            target.push(if number == 0 { '?' } else { '&' });
            target.push_str(pair.key);
            // `&query[…]`: a key without `=` has no value either.
            if pair.value_at.start > 0 && query.as_bytes()[pair.value_at.start - 1] == b'=' {
                target.push('=');
            }
            let name = decode(pair.key);
            let base = name.split('[').next().unwrap_or_default();
            target.push_str(match self.shows_field(base.as_bytes()) {
                true => pair.value,
                false if pair.value.is_empty() => "",
                false => WITHHELD,
            });
        }
        printable(&target).into_owned()
    }
}

/// A text without control characters.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    // Directions and line separators of Unicode confuse terminals as well.
    let is_odd = |letter: char| {
        letter.is_control() || matches!(letter, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    match text.chars().any(is_odd) {
        false => Cow::Borrowed(text),
        true => text
            .chars()
            .flat_map(|letter| match is_odd(letter) {
                true => letter.escape_default().collect::<Vec<_>>(),
                false => vec![letter],
            })
            .collect(),
    }
}
