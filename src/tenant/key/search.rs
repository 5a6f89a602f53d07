//! Finds the keys that one request shows, and puts the token in their place.
//!
//! Searches wherever an access token may stand: query, both headers, and the
//! first 64 KiB of a body, in JSON, form or multipart. Invariants: all keys
//! found are replaced or the request is refused; nothing else of it changes
//! but its content length; a request without a key stays as it came.

use std::ops::Range;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::encode::{candidates, encoded, in_field, quoted, replaced};
use super::substitution::Substitution;
use super::{Keyring, Refusal};
use crate::body::{self, ClientBody, LOOK, is_seal};
use crate::config::Secret;
use crate::http::forwarded_for::Client;
use crate::http::raw_target::RawTarget;
use crate::identity::names::{Field, is_header};
use crate::identity::scan::{self, FieldSink, Position};
use crate::identity::{Findings, TOKEN_HEADER, query};

/// Each occurrence may grow by a token's length, so their number is bounded. No
/// client shows its credential more than three times.
const MAX_OCCURRENCES: usize = 16;

/// The keys that one request shows.
pub(crate) struct Search<'k> {
    ring: &'k Keyring,
    client: Client,
    /// Instances only: the credentials in question are the keys.
    findings: Findings,
    in_query: Vec<Range<usize>>,
    in_body: Vec<Position>,
    /// The keys in parts of a multipart body, as they were written.
    in_parts: Vec<String>,
    /// All occurrences, those in header fields included.
    occurrences: usize,
    /// The index of the key.
    owner: Option<usize>,
    /// The keys belong to several tenants.
    is_mixed: bool,
}

impl Keyring {
    /// Searches the head of a client's request.
    pub(crate) fn search(&self, head: &Parts, client: Client) -> Search<'_> {
        let mut search = Search {
            ring: self,
            client,
            findings: Findings::of_head(head),
            in_query: Vec::new(),
            in_body: Vec::new(),
            in_parts: Vec::new(),
            occurrences: 0,
            owner: None,
            is_mixed: false,
        };
        for (at, text) in query::tokens(head.uri.query().unwrap_or_default()) {
            if search.note(text.as_bytes()) {
                search.in_query.push(at);
            }
        }
        let fields = head.headers.iter().filter(|(name, _)| is_credential(name));
        for (_, value) in fields {
            if let Some(at) = self.in_field(value, client) {
                search.note(&value.as_bytes()[at]);
            }
        }
        search
    }

    /// The bytes of a header field that are a key.
    fn in_field(&self, value: &HeaderValue, client: Client) -> Option<Range<usize>> {
        let value = value.as_bytes();
        candidates(value).find(|at| self.owner(&value[at.clone()], client).is_some())
    }
}

impl Search<'_> {
    /// Searches the first [`LOOK`] bytes of the body.
    ///
    /// # Errors
    /// The body broke off or came too slowly.
    pub(crate) async fn scan_body(
        &mut self,
        headers: &HeaderMap,
        body: &mut ClientBody,
    ) -> Result<(), body::Error> {
        scan::scan_body(self, headers, body).await.map(drop)
    }

    /// Puts the token in place of all keys found; `None` if there was none and
    /// nothing changed.
    ///
    /// # Errors
    /// The key opens no such instance, or cannot be replaced.
    pub(crate) fn replace(
        self,
        head: &mut Parts,
        body: &mut ClientBody,
    ) -> Result<Option<Substitution>, Refusal> {
        let Some(owner) = self.owner else {
            return Ok(None);
        };
        let token = self.token(owner)?;
        if self.occurrences > MAX_OCCURRENCES {
            return Err(Refusal::TooMany(MAX_OCCURRENCES));
        }
        let key = &self.ring.keys[owner].text;
        self.replace_in_body(head, body, token.expose())?;
        self.replace_in_query(head, token.expose())?;
        for (name, value) in &mut head.headers {
            if !is_credential(name) {
                continue;
            }
            if let Some(at) = self.ring.in_field(value, self.client) {
                let replaced = in_field(value, at, token.expose());
                *value = replaced.ok_or(Refusal::Fixed("in this header"))?;
            }
        }
        Ok(Some(Substitution::new(key.clone(), token.clone())))
    }

    /// Takes a credential; true if it is a key.
    fn note(&mut self, shown: &[u8]) -> bool {
        let Some(owner) = self.ring.owner(shown, self.client) else {
            return false;
        };
        self.is_mixed |= self.owner.is_some_and(|first| first != owner);
        self.owner = Some(owner);
        self.occurrences += 1;
        true
    }

    fn token(&self, owner: usize) -> Result<&Secret, Refusal> {
        if self.is_mixed {
            return Err(Refusal::Foreign);
        }
        if self.findings.is_ambiguous() {
            return Err(Refusal::SeveralInstances);
        }
        let instance = self.findings.found_instance();
        self.ring.token(owner, instance.ok_or(Refusal::NoInstance)?)
    }

    fn replace_in_query(&self, head: &mut Parts, token: &str) -> Result<(), Refusal> {
        if self.in_query.is_empty() {
            return Ok(());
        }
        let Some(target) = head.uri.path_and_query() else {
            return Ok(());
        };
        let mut target = target.as_str().as_bytes().to_vec();
        let query = target.len() - head.uri.query().map_or(0, str::len);
        let token = encoded(token);
        let mut raw = RawTarget::of(head).cloned();
        // From the end, so that earlier ranges stay valid.
        for at in self.in_query.iter().rev() {
            let at = query + at.start..query + at.end;
            if let Some(raw) = &mut raw {
                raw.replace(&at, token.as_bytes());
            }
            target = replaced(&target, at, token.as_bytes());
        }
        head.uri = with_target(&head.uri, target).ok_or(Refusal::Fixed("in so long a query"))?;
        if let Some(raw) = raw {
            head.extensions.insert(raw);
        }
        Ok(())
    }

    fn replace_in_body(
        &self,
        head: &mut Parts,
        body: &mut ClientBody,
        token: &str,
    ) -> Result<(), Refusal> {
        if self.in_body.is_empty() {
            return Ok(());
        }
        if head.headers.keys().any(|field| is_seal(field.as_str())) {
            return Err(Refusal::Fixed("in a body with a digest"));
        }
        let (quoted, encoded) = (Bytes::from(quoted(token)), Bytes::from(encoded(token)));
        let mut edits: Vec<(Range<usize>, Bytes)> = Vec::new();
        for position in &self.in_body {
            match position {
                Position::Json(at) => edits.push((at.clone(), quoted.clone())),
                Position::Form(at) => edits.push((at.clone(), encoded.clone())),
                Position::Part => {}
            }
        }
        if !self.in_parts.is_empty() {
            let mut held = body.held();
            held.truncate(LOOK);
            let parts = parts_with(&head.headers, &held, &self.in_parts);
            // If the two readings of the form differ, it is not clear which
            // parts to replace.
            let parts = parts.filter(|parts| parts.len() == self.in_parts.len());
            let parts = parts.ok_or(Refusal::Fixed("in this multipart body"))?;
            let token = Bytes::copy_from_slice(token.as_bytes());
            edits.extend(parts.into_iter().map(|at| (at, token.clone())));
        }
        let removed: usize = edits.iter().map(|(at, _)| at.len()).sum();
        let added: usize = edits.iter().map(|(_, text)| text.len()).sum();
        if let Some(length) = head.headers.get(CONTENT_LENGTH) {
            let length = new_length(length, removed, added);
            let length = length.ok_or(Refusal::Fixed("in a body of this Content-Length"))?;
            head.headers
                .insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        body.splice(&edits);
        Ok(())
    }
}

impl FieldSink for Search<'_> {
    fn field(&mut self, field: Field, position: Position) {
        let Field::Token(text) = field else {
            return self.findings.body_field(field);
        };
        if self.note(text.as_bytes()) && self.in_body.len() < MAX_OCCURRENCES {
            if position == Position::Part {
                self.in_parts.push(text);
            }
            self.in_body.push(position);
        }
    }
}

/// Whether a field may hold a credential, in whichever spelling of its name.
fn is_credential(name: &HeaderName) -> bool {
    name == AUTHORIZATION || is_header(name.as_str(), TOKEN_HEADER)
}

/// The length of a body in which as many bytes were replaced by others.
fn new_length(length: &HeaderValue, removed: usize, added: usize) -> Option<u64> {
    let length: u64 = length.to_str().ok()?.parse().ok()?;
    let kept = length.checked_sub(u64::try_from(removed).ok()?)?;
    kept.checked_add(u64::try_from(added).ok()?)
}

/// Where parts of a multipart body consist of one of these texts: between the
/// blank line that ends a part's fields and the next boundary.
fn parts_with(headers: &HeaderMap, body: &[u8], texts: &[String]) -> Option<Vec<Range<usize>>> {
    const BLANK_LINE: &[u8] = b"\r\n\r\n";
    let content_type = headers.get(http::header::CONTENT_TYPE)?.to_str().ok()?;
    let end = format!("\r\n--{}", multer::parse_boundary(content_type).ok()?);
    let part_at = |at: usize| {
        let rest = body[at..].strip_prefix(BLANK_LINE)?;
        let is_whole = |text: &&String| {
            let rest = rest.strip_prefix(text.as_bytes());
            rest.is_some_and(|rest| rest.starts_with(end.as_bytes()))
        };
        let length = texts.iter().find(is_whole)?.len();
        Some(at + BLANK_LINE.len()..at + BLANK_LINE.len() + length)
    };
    Some((0..body.len()).filter_map(part_at).collect())
}

/// A URI with another path and query.
fn with_target(old: &Uri, target: Vec<u8>) -> Option<Uri> {
    let mut parts = old.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_maybe_shared(Bytes::from(target)).ok()?);
    Uri::from_parts(parts).ok()
}
