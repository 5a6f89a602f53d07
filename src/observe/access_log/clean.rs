//! What of a client's text may be told.
//!
//! Invariants: what is told of a path are words, never a number, a token or
//! an address; where one of the settings' secrets, or a credential that the
//! same request shows, stands in a text, none of that text is told.

use http::Method;
use http::header::{AUTHORIZATION, COOKIE};
use http::request::Parts;

use crate::identity::names::FieldName;
use crate::identity::{TOKEN_HEADER, pairs};
use crate::redact::Secrets;

/// Stands for text that is not told.
pub(crate) const WITHHELD: &str = "…";

/// A line must be no longer because of a long path: 256 bytes.
const MAX_PATH: usize = 256;
/// The longest word of a path that is told. The vendor's are below 20.
const MAX_WORD: usize = 32;
/// Further capitals make a word look like a token: `sendSeen` has one.
const MAX_CAPITALS: usize = 2;
/// Digits at the end of a word: `v2`.
const MAX_DIGITS: usize = 2;
/// Request ids are 32 to 64 bytes; longer ones are cut here.
const MAX_REQUEST_ID: usize = 128;
/// A shorter credential is only met by a text that is nothing but it: nobody
/// guards a secret of a few letters, and `1` stands in every number.
const MIN_CREDENTIAL: usize = 8;

/// Where clients write an id of their own (no standard, but everybody's).
const REQUEST_ID: &str = "x-request-id";
/// Where tracing libraries do (W3C Trace Context §3.2).
const TRACEPARENT: &str = "traceparent";

/// What a request's texts must not show.
pub(super) struct Guard<'r> {
    secrets: Option<&'r Secrets>,
    head: &'r Parts,
}

impl<'r> Guard<'r> {
    pub(super) fn new(secrets: Option<&'r Secrets>, head: &'r Parts) -> Self {
        Self { secrets, head }
    }

    /// Whether a text may be told.
    pub(super) fn allows(&self, text: &str) -> bool {
        let secret = self.secrets.is_some_and(|secrets| secrets.are_in(text));
        !secret && !self.shows_credential(text)
    }

    /// Whether a credential of the request's head stands in it.
    fn shows_credential(&self, text: &str) -> bool {
        let is_in = |credential: &str| {
            let credential = credential.trim();
            !credential.is_empty()
                && (text == credential
                    || (credential.len() >= MIN_CREDENTIAL && text.contains(credential)))
        };
        let fields = |name: &str| {
            let values = self.head.headers.get_all(name).iter();
            values.filter_map(|value| value.to_str().ok())
        };
        let mut fields_of_tokens = fields(AUTHORIZATION.as_str()).chain(fields(TOKEN_HEADER));
        let mut cookies = fields(COOKIE.as_str()).flat_map(|value| value.split(';'));
        let mut tokens = pairs(self.head.uri.query().unwrap_or_default()).filter(|pair| {
            pair.named()
                .is_some_and(|named| named.name == FieldName::Token)
        });
        // The scheme (`Bearer`) and a cookie's name are no secrets.
        fields_of_tokens.any(|value| is_in(after([' ', '\t'], value)))
            || cookies.any(|pair| is_in(after(['='], pair).trim_matches([' ', '"'])))
            || tokens.any(|pair| is_in(pair.value) || is_in(&pair.decoded()))
    }
}

/// What stands after the first of some signs, or all where there is none.
fn after<const N: usize>(signs: [char; N], text: &str) -> &str {
    text.split_once(signs).map_or(text, |(_, rest)| rest)
}

/// Methods that people know; another is a client's own text.
pub(super) fn method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "TRACE" => "TRACE",
        "CONNECT" => "CONNECT",
        _ => WITHHELD,
    }
}

/// A path with everything withheld that is no word.
pub(super) fn path(path: &str) -> String {
    let mut told = String::with_capacity(path.len().min(MAX_PATH));
    for (place, piece) in path.split('/').enumerate() {
        let piece = if is_word(piece) { piece } else { WITHHELD };
        if told.len() + 1 + piece.len() + WITHHELD.len() > MAX_PATH {
            told.push_str(WITHHELD);
            break;
        }
        if place > 0 {
            told.push('/');
        }
        told.push_str(piece);
    }
    told
}

/// Whether a piece of a path is a name of the API's rather than somebody's
/// number, address or token.
fn is_word(piece: &str) -> bool {
    let letters = piece.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let capitals = letters.bytes().filter(u8::is_ascii_uppercase).count();
    let plain = |byte: u8| byte.is_ascii_alphabetic() || b"-_.".contains(&byte);
    piece.len() <= MAX_WORD
        && piece.len() - letters.len() <= MAX_DIGITS
        && (!letters.is_empty() || piece.is_empty())
        && capitals <= MAX_CAPITALS
        && letters.bytes().all(plain)
}

/// The id that the client gave the request, if it gave one.
pub(super) fn request_id(head: &Parts) -> Option<&str> {
    let field = |name| head.headers.get(name)?.to_str().ok();
    let id = field(REQUEST_ID).filter(|id| !id.is_empty());
    let id = id.or_else(|| {
        // version "-" trace-id "-" parent-id "-" flags
        let trace = field(TRACEPARENT)?.split('-').nth(1)?;
        (trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(trace)
    })?;
    // `to_str` lets nothing but ASCII pass.
    Some(&id[..id.len().min(MAX_REQUEST_ID)])
}
