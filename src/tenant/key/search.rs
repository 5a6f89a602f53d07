//! The keys that one request shows, and the token in their place.
//!
//! Looks wherever an access token may stand: query, both headers, and the
//! first 64 KiB of a body, in JSON, form or multipart. Invariants: all keys in
//! sight are replaced or the request is refused; nothing else of it changes
//! but its content length; a request without a key stays as it came.

use std::ops::Range;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::answer::Opened;
use super::place::{candidates, encoded, in_field, quoted, replaced};
use super::{Keyring, Refusal};
use crate::body::{self, ClientBody, LOOK, is_seal};
use crate::config::Secret;
use crate::identity::json::Field;
use crate::identity::look::{self, Finder, Spot};
use crate::identity::{Findings, TOKEN_FIELD, TOKEN_HEADER, query_places};
use crate::tenant::Client;

/// The fields that may hold a credential.
static FIELDS: [HeaderName; 2] = [AUTHORIZATION, HeaderName::from_static(TOKEN_HEADER)];

/// Each place may grow by a token's length, so their number is bounded. No
/// client shows its credential in more than three.
const MAX_PLACES: usize = 16;

/// The keys that one request shows.
pub(crate) struct Search<'k> {
    ring: &'k Keyring,
    client: Client,
    /// Of the instance only.
    findings: Findings,
    in_query: Vec<Range<usize>>,
    in_body: Vec<Spot>,
    /// All places, those in header fields among them.
    places: usize,
    /// Whose the keys are.
    owner: Option<usize>,
    /// The keys are several tenants'.
    mixed: bool,
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
            places: 0,
            owner: None,
            mixed: false,
        };
        for (at, text) in query_places(head.uri.query().unwrap_or_default(), TOKEN_FIELD) {
            if search.note(text.as_bytes()) {
                search.in_query.push(at);
            }
        }
        for value in FIELDS.iter().flat_map(|name| head.headers.get_all(name)) {
            if let Some(at) = self.in_field(value, client) {
                search.note(&value.as_bytes()[at]);
            }
        }
        search
    }

    /// Where in a header field a key stands.
    fn in_field(&self, value: &HeaderValue, client: Client) -> Option<Range<usize>> {
        let value = value.as_bytes();
        candidates(value).find(|at| self.owner(&value[at.clone()], client).is_some())
    }
}

impl Search<'_> {
    /// Searches the body, as far as it may be looked into.
    ///
    /// # Errors
    /// The body broke off or came too slowly.
    pub(crate) async fn look_into(
        &mut self,
        headers: &HeaderMap,
        body: &mut ClientBody,
    ) -> Result<(), body::Error> {
        look::into_body(self, headers, body).await
    }

    /// Puts the token in place of all keys found; `None` where there was none
    /// and nothing changed.
    ///
    /// # Errors
    /// The key opens no such instance, or cannot be replaced.
    pub(crate) fn replace(
        self,
        head: &mut Parts,
        body: &mut ClientBody,
    ) -> Result<Option<Opened>, Refusal> {
        let Some(owner) = self.owner else {
            return Ok(None);
        };
        let token = self.token(owner)?;
        if self.places > MAX_PLACES {
            return Err(Refusal::TooMany(MAX_PLACES));
        }
        let key = &self.ring.keys[owner].text;
        self.replace_in_body(head, body, key.expose(), token.expose())?;
        self.replace_in_query(head, token.expose())?;
        for name in &FIELDS {
            let http::header::Entry::Occupied(mut values) = head.headers.entry(name) else {
                continue;
            };
            for value in values.iter_mut() {
                if let Some(at) = self.ring.in_field(value, self.client) {
                    *value = in_field(value, at, token.expose())
                        .ok_or(Refusal::Fixed("in this header"))?;
                }
            }
        }
        Ok(Some(Opened::new(key.clone(), token.clone())))
    }

    /// Takes a credential; true if it is a key.
    fn note(&mut self, shown: &[u8]) -> bool {
        let Some(owner) = self.ring.owner(shown, self.client) else {
            return false;
        };
        self.mixed |= self.owner.is_some_and(|first| first != owner);
        self.owner = Some(owner);
        self.places += 1;
        true
    }

    fn token(&self, owner: usize) -> Result<&Secret, Refusal> {
        if self.mixed {
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
        // From the end, so that no place moves before its turn.
        for at in self.in_query.iter().rev() {
            let at = query + at.start..query + at.end;
            target = replaced(&target, at, token.as_bytes());
        }
        head.uri = with_target(&head.uri, target).ok_or(Refusal::Fixed("in so long a query"))?;
        Ok(())
    }

    fn replace_in_body(
        &self,
        head: &mut Parts,
        body: &mut ClientBody,
        key: &str,
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
        let mut parts = 0;
        for spot in &self.in_body {
            match spot {
                Spot::Json(at) => edits.push((at.clone(), quoted.clone())),
                Spot::Form(at) => edits.push((at.clone(), encoded.clone())),
                Spot::Part => parts += 1,
            }
        }
        if parts > 0 {
            let mut held = body.held();
            held.truncate(LOOK);
            let places = in_parts(&head.headers, &held, key);
            // Those found here and those read there are the same, or it is not
            // clear which is which.
            let places = places.filter(|places| places.len() == parts);
            let places = places.ok_or(Refusal::Fixed("in this multipart body"))?;
            let token = Bytes::copy_from_slice(token.as_bytes());
            edits.extend(places.into_iter().map(|at| (at, token.clone())));
        }
        let taken: usize = edits.iter().map(|(at, _)| at.len()).sum();
        let given: usize = edits.iter().map(|(_, text)| text.len()).sum();
        if let Some(length) = head.headers.get(CONTENT_LENGTH) {
            let length = new_length(length, taken, given);
            let length = length.ok_or(Refusal::Fixed("in a body of this Content-Length"))?;
            head.headers
                .insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        body.splice(&edits);
        Ok(())
    }
}

impl Finder for Search<'_> {
    fn take(&mut self, field: Field, spot: Spot) {
        match field {
            Field::Instance(name) => self.findings.instance(Some(&name)),
            Field::Token(text) => {
                if self.note(text.as_bytes()) && self.in_body.len() <= MAX_PLACES {
                    self.in_body.push(spot);
                }
            }
        }
    }

    fn has_all(&self) -> bool {
        // Another key may stand behind the last.
        false
    }
}

/// The length of a body in which this much was taken and given.
fn new_length(length: &HeaderValue, taken: usize, given: usize) -> Option<u64> {
    let length: u64 = length.to_str().ok()?.parse().ok()?;
    let kept = length.checked_sub(u64::try_from(taken).ok()?)?;
    kept.checked_add(u64::try_from(given).ok()?)
}

/// Where a multipart body has a part that is the key and nothing else: between
/// the blank line that ends the part's fields and the next boundary.
fn in_parts(headers: &HeaderMap, body: &[u8], key: &str) -> Option<Vec<Range<usize>>> {
    let content_type = headers.get(http::header::CONTENT_TYPE)?.to_str().ok()?;
    let boundary = multer::parse_boundary(content_type).ok()?;
    let before = "\r\n\r\n";
    let part = format!("{before}{key}\r\n--{boundary}");
    let starts = (0..body.len()).filter(|&at| body[at..].starts_with(part.as_bytes()));
    let key_at = |at: usize| at + before.len()..at + before.len() + key.len();
    Some(starts.map(key_at).collect())
}

/// A URI with another path and query.
fn with_target(old: &Uri, target: Vec<u8>) -> Option<Uri> {
    let mut parts = old.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_maybe_shared(Bytes::from(target)).ok()?);
    Uri::from_parts(parts).ok()
}
