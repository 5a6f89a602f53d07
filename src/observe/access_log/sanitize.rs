//! Which text of a client may be logged.
//!
//! Invariants: of a path only words are logged, never a number, a token or an
//! address; text that contains a secret of the settings, or a credential of the
//! same request, is withheld as a whole.

use http::Method;
use http::header::{AUTHORIZATION, COOKIE};
use http::request::Parts;

use crate::identity::names::FieldName;
use crate::identity::{TOKEN_HEADER, pairs};
use crate::redact::Secrets;

/// Replaces text that is withheld.
pub(crate) const WITHHELD: &str = "…";

/// Bytes of a path: a long path must not make long lines.
const MAX_PATH: usize = 256;
/// The longest word of a path. The vendor's words are shorter than 20 letters.
const MAX_WORD: usize = 32;
/// A word with more capitals may be a token; `sendSeen` has one.
const MAX_CAPITALS: usize = 2;
/// Digits at the end of a word, as in `v2`.
const MAX_DIGITS: usize = 2;
/// Request ids usually have 32 to 64 bytes; longer ones are cut.
const MAX_REQUEST_ID: usize = 128;
/// A shorter credential withholds only text that equals it: `1` would occur in
/// every number.
const MIN_CREDENTIAL: usize = 8;

/// Carries a client's own request id (a convention, not a standard).
const REQUEST_ID: &str = "x-request-id";
/// Carries the id of tracing libraries (W3C Trace Context §3.2).
const TRACEPARENT: &str = "traceparent";

/// Finds the secrets of the settings and the credentials of a request in text.
pub(super) struct SecretFilter<'r> {
    secrets: Option<&'r Secrets>,
    head: &'r Parts,
}

impl<'r> SecretFilter<'r> {
    pub(super) fn new(secrets: Option<&'r Secrets>, head: &'r Parts) -> Self {
        Self { secrets, head }
    }

    /// Whether a text contains no secret and no credential.
    pub(super) fn allows(&self, text: &str) -> bool {
        // Two sources: the settings, and the request itself, whose token no setting knows.
        let secret = self.secrets.is_some_and(|secrets| secrets.are_in(text));
        !secret && !self.contains_credential(text)
    }

    /// Whether a text contains a credential of the request head.
    fn contains_credential(&self, text: &str) -> bool {
        let is_in = |credential: &str| {
            let credential = credential.trim();
            !credential.is_empty()
                && (text == credential
                    || (credential.len() >= MIN_CREDENTIAL && text.contains(credential)))
        };
        // Every occurrence: a field may be repeated, and each value may be the one that counts
        // upstream.
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
        // The scheme (`Bearer`) and the name of a cookie are not secret.
        fields_of_tokens.any(|value| is_in(after([' ', '\t'], value)))
            || cookies.any(|pair| is_in(after(['='], pair).trim_matches([' ', '"'])))
            // As sent and decoded: a path or an id may repeat either form.
            || tokens.any(|pair| is_in(pair.value) || is_in(&pair.decoded()))
    }
}

/// The text after the first separator, or all of it if there is none.
fn after<const N: usize>(separators: [char; N], text: &str) -> &str {
    text.split_once(separators).map_or(text, |(_, rest)| rest)
}

/// A known method; any other is text of the client and withheld.
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

/// A path in which every segment that is not a word is withheld.
pub(crate) fn path(path: &str) -> String {
    let mut shown = String::with_capacity(path.len().min(MAX_PATH));
    for (index, segment) in path.split('/').enumerate() {
        // The API puts phone numbers and chat ids into paths.
        let segment = if is_word(segment) { segment } else { WITHHELD };
        // Checked before the segment is added, with space for the mark that shows the cut.
        if shown.len() + 1 + segment.len() + WITHHELD.len() > MAX_PATH {
            shown.push_str(WITHHELD);
            break;
        }
        if index > 0 {
            shown.push('/');
        }
        shown.push_str(segment);
    }
    shown
}

/// Whether a segment is a word of the API rather than a phone number, an
/// address or a token.
fn is_word(segment: &str) -> bool {
    // Only at the end, as in `v2`; digits within a word make it look like an id.
    let letters = segment.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let capitals = letters.bytes().filter(u8::is_ascii_uppercase).count();
    let allowed = |byte: u8| byte.is_ascii_alphabetic() || b"-_.".contains(&byte);
    segment.len() <= MAX_WORD
        && segment.len() - letters.len() <= MAX_DIGITS
        // Digits alone are an id. An empty segment comes from a doubled slash.
        && (!letters.is_empty() || segment.is_empty())
        && capitals <= MAX_CAPITALS
        && letters.bytes().all(allowed)
}

/// The client's own id of the request.
pub(super) fn request_id(head: &Parts) -> Option<&str> {
    let field = |name| head.headers.get(name)?.to_str().ok();
    let id = field(REQUEST_ID).filter(|id| !id.is_empty());
    let id = id.or_else(|| {
        // version "-" trace-id "-" parent-id "-" flags
        let trace = field(TRACEPARENT)?.split('-').nth(1)?;
        (trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(trace)
    })?;
    // Cutting at any byte is safe: `to_str` accepts only ASCII.
    Some(&id[..id.len().min(MAX_REQUEST_ID)])
}
