//! Finds the keys in a request and replaces them by the token.
//!
//! Searches all parts that may contain an access token: query, both headers, and the
//! first 64 KiB of a JSON, form or multipart body. Invariants: all keys found are
//! replaced or the request is refused; apart from the content length nothing else
//! changes; a request without a key does not change.

use std::ops::Range;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::encode::{candidates, encoded, quoted, replaced, replaced_in_field};
use super::substitution::Substitution;
use super::{Keyring, Refusal};
use crate::body::{self, ClientBody, SCAN_LIMIT, is_body_digest};
use crate::config::Secret;
use crate::http::forwarded_for::Client;
use crate::http::raw_target::RawTarget;
use crate::identity::names::{Field, is_header};
use crate::identity::scan::{self, FieldSink, Position};
use crate::identity::{Findings, TOKEN_HEADER, query};

/// The most keys in one request. Each may grow by the length of a token. Clients send
/// their credential at most three times.
const MAX_OCCURRENCES: usize = 16;

/// What a head becomes: not applied before all keys can be replaced.
struct HeadEdits {
    /// The fields that hold a key, in their order.
    fields: Vec<HeaderValue>,
    target: Option<(Uri, Option<RawTarget>)>,
}

/// The keys found in one request.
pub(crate) struct Search<'k> {
    keyring: &'k Keyring,
    client: Client,
    /// For the instance. Its credentials are those of the head only.
    findings: Findings,
    in_query: Vec<Range<usize>>,
    in_body: Vec<Position>,
    /// The keys in parts of a multipart body, as they were sent: the parser does not say
    /// where they are.
    in_parts: Vec<String>,
    /// All keys found, those in headers included.
    occurrences: usize,
    /// The index in the keyring of the key that was found last.
    key: Option<usize>,
    /// There are keys of several tenants.
    is_mixed: bool,
}

impl Keyring {
    /// Searches the head of a client's request.
    pub(crate) fn search(&self, head: &Parts, client: Client) -> Search<'_> {
        let mut search = Search {
            keyring: self,
            client,
            findings: Findings::of_head(head),
            in_query: Vec::new(),
            in_body: Vec::new(),
            in_parts: Vec::new(),
            occurrences: 0,
            key: None,
            is_mixed: false,
        };
        for (at, text) in query::tokens(head.uri.query().unwrap_or_default()) {
            if search.record(text.as_bytes()) {
                search.in_query.push(at);
            }
        }
        // Their ranges are not kept: headers are searched again when they are replaced.
        let fields = head.headers.iter().filter(|(name, _)| is_credential(name));
        for (_, value) in fields {
            if let Some(at) = self.find_in_field(value, client) {
                search.record(&value.as_bytes()[at]);
            }
        }
        search
    }

    /// The bytes of a header value that are a key.
    fn find_in_field(&self, value: &HeaderValue, client: Client) -> Option<Range<usize>> {
        let value = value.as_bytes();
        candidates(value).find(|at| self.find(&value[at.clone()], client).is_some())
    }
}

impl Search<'_> {
    /// Searches the first [`SCAN_LIMIT`] bytes of the body.
    ///
    /// # Errors
    /// The body broke off, or the client sent nothing for too long.
    pub(crate) async fn scan_body(
        &mut self,
        headers: &HeaderMap,
        body: &mut ClientBody,
    ) -> Result<(), body::Error> {
        scan::scan_body(self, headers, body).await.map(drop)
    }

    /// Replaces all keys found by the token; `None` if there are none.
    ///
    /// # Errors
    /// The key does not open the instance, or cannot be replaced. Nothing has changed.
    pub(crate) fn replace(
        self,
        head: &mut Parts,
        body: &mut ClientBody,
    ) -> Result<Option<Substitution>, Refusal> {
        let Some(key) = self.key else {
            return Ok(None);
        };
        let token = self.token(key)?;
        let key = &self.keyring.keys[key].text;
        let edits = self.edit_head(head, token.expose())?;
        self.replace_in_body(head, body, token.expose())?;
        self.apply(edits, head);
        Ok(Some(Substitution::new(key.clone(), token.clone())))
    }

    /// Replaces all keys found in the head of a preflight, by nothing if they do not
    /// open the instance or cannot be replaced.
    pub(crate) fn replace_or_remove(self, head: &mut Parts) {
        let Some(key) = self.key else {
            return;
        };
        let token = self.token(key).map_or("", Secret::expose);
        let edits = self.edit_head(head, token);
        // Without the keys a head is shorter, so that it can hold the rest.
        if let Ok(edits) = edits.or_else(|_| self.edit_head(head, "")) {
            self.apply(edits, head);
        }
    }

    /// Records a credential if it is a key; returns whether it is one.
    fn record(&mut self, credential: &[u8]) -> bool {
        let Some(key) = self.keyring.find(credential, self.client) else {
            return false;
        };
        // A backend may use either key, and only one of them can be checked.
        let tenant_of = |key: usize| self.keyring.keys[key].tenant;
        self.is_mixed |= self
            .key
            .is_some_and(|first| tenant_of(first) != tenant_of(key));
        self.key = Some(key);
        self.occurrences += 1;
        true
    }

    fn token(&self, key: usize) -> Result<&Secret, Refusal> {
        if self.occurrences > MAX_OCCURRENCES {
            return Err(Refusal::TooMany(MAX_OCCURRENCES));
        }
        if self.is_mixed {
            return Err(Refusal::OtherTenant);
        }
        if self.findings.is_ambiguous() {
            return Err(Refusal::SeveralInstances);
        }
        let instance = self.findings.found_instance();
        self.keyring
            .token(key, instance.ok_or(Refusal::NoInstance)?)
    }

    /// The head with a token in place of the keys.
    fn edit_head(&self, head: &Parts, token: &str) -> Result<HeadEdits, Refusal> {
        let fields = head.headers.iter().filter(|(name, _)| is_credential(name));
        let replaced = fields.filter_map(|(_, value)| {
            let at = self.keyring.find_in_field(value, self.client)?;
            let replaced = replaced_in_field(value, at, token);
            Some(replaced.ok_or(Refusal::NotReplaceable("in this header")))
        });
        Ok(HeadEdits {
            fields: replaced.collect::<Result<_, _>>()?,
            target: self.edit_query(head, token)?,
        })
    }

    fn edit_query(
        &self,
        head: &Parts,
        token: &str,
    ) -> Result<Option<(Uri, Option<RawTarget>)>, Refusal> {
        if self.in_query.is_empty() {
            return Ok(None);
        }
        let Some(target) = head.uri.path_and_query() else {
            return Ok(None);
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
        // The `http` crate limits a target to 64 KiB.
        let uri = with_target(&head.uri, target);
        let uri = uri.ok_or(Refusal::NotReplaceable("in so long a query"))?;
        Ok(Some((uri, raw)))
    }

    fn apply(&self, edits: HeadEdits, head: &mut Parts) {
        let mut fields = edits.fields.into_iter();
        for (name, value) in &mut head.headers {
            if is_credential(name)
                && self.keyring.find_in_field(value, self.client).is_some()
                && let Some(replaced) = fields.next()
            {
                *value = replaced;
            }
        }
        if let Some((uri, raw)) = edits.target {
            head.uri = uri;
            if let Some(raw) = raw {
                head.extensions.insert(raw);
            }
        }
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
        // The recipient would compare the changed body with the old digest.
        if head
            .headers
            .keys()
            .any(|field| is_body_digest(field.as_str()))
        {
            return Err(Refusal::NotReplaceable("in a body with a digest"));
        }
        let (quoted, encoded) = (Bytes::from(quoted(token)), Bytes::from(encoded(token)));
        let mut edits: Vec<(Range<usize>, Bytes)> = Vec::new();
        for position in &self.in_body {
            match position {
                Position::Json(at) => edits.push((at.clone(), quoted.clone())),
                Position::Form(at) => edits.push((at.clone(), encoded.clone())),
                // Found by their text below.
                Position::Part => {}
            }
        }
        if !self.in_parts.is_empty() {
            // As far as the scan has read, not as far as the body was received.
            let mut held = body.held();
            held.truncate(SCAN_LIMIT);
            let parts = parts_with(&head.headers, &held, &self.in_parts);
            // The parser and this search must find the same number. Otherwise it is not
            // clear which parts to replace.
            let parts = parts.filter(|parts| parts.len() == self.in_parts.len());
            let parts = parts.ok_or(Refusal::NotReplaceable("in this multipart body"))?;
            let token = Bytes::copy_from_slice(token.as_bytes());
            edits.extend(parts.into_iter().map(|at| (at, token.clone())));
        }
        let removed: usize = edits.iter().map(|(at, _)| at.len()).sum();
        let added: usize = edits.iter().map(|(_, text)| text.len()).sum();
        if let Some(length) = head.headers.get(CONTENT_LENGTH) {
            let length = new_length(length, removed, added);
            let length =
                length.ok_or(Refusal::NotReplaceable("in a body of this Content-Length"))?;
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
        // Bounded: a body can contain thousands. `replace` refuses it by the count.
        if self.record(text.as_bytes()) && self.in_body.len() < MAX_OCCURRENCES {
            if position == Position::Part {
                self.in_parts.push(text);
            }
            self.in_body.push(position);
        }
    }
}

/// Whether a header may hold a credential, in any spelling of its name.
fn is_credential(name: &HeaderName) -> bool {
    name == AUTHORIZATION || is_header(name.as_str(), TOKEN_HEADER)
}

/// The length of a body after `removed` bytes were replaced by `added` bytes; `None` if
/// the old length is wrong.
fn new_length(length: &HeaderValue, removed: usize, added: usize) -> Option<u64> {
    let length: u64 = length.to_str().ok()?.parse().ok()?;
    let kept = length.checked_sub(u64::try_from(removed).ok()?)?;
    kept.checked_add(u64::try_from(added).ok()?)
}

/// The ranges of the parts of a multipart body that consist of one of these texts:
/// between the blank line that ends the headers of the part and the next boundary.
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
