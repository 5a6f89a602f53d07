//! Who calls: the WhatsApp instance and the credential of a request.
//!
//! Owns every spelling of design §3.1 and their precedence: query, then
//! header, then a bounded look into the body ([`look`]). Invariant: a
//! credential is read for keys only. It is kept as a keyed hash, never as
//! text, so nothing here can print one.

mod form;
mod instance;
pub(crate) mod json;
pub(crate) mod look;

#[cfg(test)]
mod tests;

pub(crate) use crate::http::{INSTANCE_HEADER, TOKEN_HEADER};
use std::borrow::Cow;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::sync::LazyLock;

use http::HeaderValue;
use http::request::Parts;

pub(crate) use instance::InstanceId;

/// The field that names the instance, in a query or a body.
pub(crate) const INSTANCE_FIELD: &str = "instance_id";
/// The field that holds the access token, in a query or a body.
pub(crate) const TOKEN_FIELD: &str = "access_token";
/// The header that holds a token as HTTP has it (RFC 9110 §11.6.2).
const AUTHORIZATION_HEADER: &str = "authorization";

/// A keyed hash over all credentials of a request and their places.
///
/// The key is drawn at start, so a fingerprint says nothing outside this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint(u64);

static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Fingerprint {
    /// Whether the one credential shown is the name of the instance: somebody
    /// has mixed them up, and the name must not be told.
    pub(crate) fn is_of(self, instance: &InstanceId) -> bool {
        let places = [
            Place::Query,
            Place::Authorization,
            Place::Header,
            Place::Body,
        ];
        places.into_iter().any(|place| {
            let mut hasher = KEY.build_hasher();
            feed(&mut hasher, place, instance.as_bytes());
            Self(hasher.finish()) == self
        })
    }
}

/// Who calls, as far as the request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The WhatsApp instance.
    pub(crate) instance: Option<InstanceId>,
    /// The credential, in whatever spelling.
    pub(crate) credential: Option<Fingerprint>,
}

impl Identity {
    /// Whether the name of the instance must not be told: it is a credential.
    pub(crate) fn shows_its_credential(&self) -> bool {
        let named = self.instance.as_ref().zip(self.credential);
        named.is_some_and(|(instance, credential)| credential.is_of(instance))
    }
}

/// Where a credential was found; part of its fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// `access_token` in the query.
    Query = 1,
    /// The `Authorization` header.
    Authorization = 2,
    /// The `access-token` header.
    Header = 3,
    /// `access_token` in the body.
    Body = 4,
}

/// What has been found so far.
#[derive(Debug)]
pub(crate) struct Findings {
    instance: Option<InstanceId>,
    credentials: std::hash::DefaultHasher,
    any_credential: bool,
    /// Places disagree on the instance. The first still counts, but whoever
    /// writes so may only mean to spend a stranger's budget: it is nobody's
    /// credential that comes with it.
    ambiguous: bool,
    /// The first finding is not enough: all are wanted.
    thorough: bool,
}

impl Findings {
    /// Reads the query and the headers.
    pub(crate) fn of_head(head: &Parts) -> Self {
        let mut findings = Self {
            instance: None,
            credentials: KEY.build_hasher(),
            any_credential: false,
            ambiguous: false,
            thorough: false,
        };
        let mut token = None;
        for pair in pairs(head.uri.query().unwrap_or_default()) {
            if pair.is(INSTANCE_FIELD) {
                findings.instance(Some(&pair.decoded()));
            } else if token.is_none() && pair.is(TOKEN_FIELD) {
                token = Some(pair.decoded());
            }
        }
        // Every call passes here: one look at each field instead of one
        // search for each name.
        let (mut authorization, mut header) = (None, None);
        for (name, value) in &head.headers {
            match name.as_str() {
                INSTANCE_HEADER => findings.instance(value.to_str().ok()),
                AUTHORIZATION_HEADER => authorization = authorization.or(Some(value)),
                TOKEN_HEADER => header = header.or(Some(value)),
                _ => {}
            }
        }
        findings.credential(
            Place::Query,
            token.as_deref().unwrap_or_default().as_bytes(),
        );
        for (place, value) in [
            (Place::Authorization, authorization),
            (Place::Header, header),
        ] {
            findings.credential(place, value.map_or(b"", HeaderValue::as_bytes));
        }
        findings
    }

    /// Takes an instance found later, if none was found before.
    pub(crate) fn instance(&mut self, name: Option<&str>) {
        let Some(name) = name.and_then(InstanceId::new) else {
            return;
        };
        match &self.instance {
            None => self.instance = Some(name),
            Some(first) => self.ambiguous |= *first != name,
        }
    }

    /// Takes a credential.
    pub(crate) fn credential(&mut self, place: Place, credential: &[u8]) {
        if credential.is_empty() {
            return;
        }
        self.any_credential = true;
        feed(&mut self.credentials, place, credential);
    }

    /// The instance found, the first if there are several.
    pub(crate) fn found_instance(&self) -> Option<&InstanceId> {
        self.instance.as_ref()
    }

    /// Has the look into the body go on when all has been found, so that no
    /// second instance hides behind the first.
    pub(crate) fn look_on(&mut self) {
        self.thorough = true;
    }

    /// True when nothing more need be looked for.
    pub(crate) fn is_complete(&self) -> bool {
        self.instance.is_some() && self.any_credential && !self.thorough
    }

    /// True when more than one instance was named.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.ambiguous
    }

    /// Concludes.
    pub(crate) fn identity(self) -> Identity {
        Identity {
            instance: self.instance,
            credential: (self.any_credential && !self.ambiguous)
                .then(|| Fingerprint(self.credentials.finish())),
        }
    }
}

/// Adds a credential to the hash over all of them.
fn feed(credentials: &mut std::hash::DefaultHasher, place: Place, credential: &[u8]) {
    credentials.write_u8(place as u8);
    credentials.write(credential);
    credentials.write_u8(0xff);
}

/// The first value of a field in a query, decoded as forms are
/// (`application/x-www-form-urlencoded`, WHATWG URL §5.1).
pub(crate) fn query_value<'q>(query: &'q str, name: &str) -> Option<Cow<'q, str>> {
    query_places(query, name).next().map(|(_, value)| value)
}

/// All values of a field in a query, each with where it stands, undecoded.
pub(crate) fn query_places<'q>(
    query: &'q str,
    name: &str,
) -> impl Iterator<Item = (Range<usize>, Cow<'q, str>)> {
    let named = pairs(query).filter(move |pair| pair.is(name));
    named.map(|pair| (pair.value_at.clone(), pair.decoded()))
}

/// A field of a query, undecoded.
pub(crate) struct Pair<'q> {
    pub(crate) key: &'q str,
    pub(crate) value: &'q str,
    /// Where the value stands.
    pub(crate) value_at: Range<usize>,
    /// A key alone is a field, too.
    pub(crate) has_value: bool,
    /// Something of it is written otherwise than it reads.
    is_encoded: bool,
}

impl<'q> Pair<'q> {
    /// Whether this is the field of that name.
    fn is(&self, name: &str) -> bool {
        self.key == name || (self.is_encoded && decode(self.key) == name)
    }

    /// The value, decoded.
    pub(crate) fn decoded(&self) -> Cow<'q, str> {
        match self.is_encoded {
            true => decode(self.value),
            false => Cow::Borrowed(self.value),
        }
    }
}

/// The fields of a query, in order.
pub(crate) fn pairs(query: &str) -> impl Iterator<Item = Pair<'_>> {
    let mut next = Some(0);
    std::iter::from_fn(move || {
        // By hand, in one look: the searches of `str` are made for longer texts
        // than these.
        let start = next?;
        let (mut equals, mut end, mut is_encoded) = (None, query.len(), false);
        for (at, byte) in (start..).zip(&query.as_bytes()[start..]) {
            match byte {
                b'&' => {
                    end = at;
                    break;
                }
                b'=' if equals.is_none() => equals = Some(at),
                _ => is_encoded |= is_escape(*byte),
            }
        }
        next = (end < query.len()).then_some(end + 1);
        let key_end = equals.unwrap_or(end);
        let value_at = equals.map_or(end, |at| at + 1)..end;
        Some(Pair {
            key: &query[start..key_end],
            value: &query[value_at.clone()],
            value_at,
            has_value: equals.is_some(),
            is_encoded,
        })
    })
}

/// Whether a byte of a form stands for something else.
fn is_escape(byte: u8) -> bool {
    matches!(byte, b'%' | b'+')
}

/// Decodes one key or value of a form.
pub(crate) fn decode(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(is_escape) {
        return Cow::Borrowed(text);
    }
    // `parse` splits at `&` and `=`; neither may split this one piece.
    let piece = text.replace('=', "%3D").replace('&', "%26");
    let decoded = form_urlencoded::parse(piece.as_bytes())
        .next()
        .map(|(key, _)| key.into_owned());
    Cow::Owned(decoded.unwrap_or_default())
}
