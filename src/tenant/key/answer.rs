//! What an answer to a call opened by a key may repeat.
//!
//! A redirect names its target with the query it was asked with, and there
//! the token now stands. Invariant: the fields of an answer show who holds the
//! key the key, not the token. (Bodies are passed on as they come.)

use http::{HeaderMap, HeaderValue};

use super::place::{encoded, replaced};
use crate::config::Secret;

/// A shorter token is a part of too much that has nothing to do with it.
const LEAST_TOKEN: usize = 8;

/// A call in which a token was put in a key's place.
pub(crate) struct Opened {
    key: Secret,
    token: Secret,
}

impl Opened {
    pub(super) fn new(key: Secret, token: Secret) -> Self {
        Self { key, token }
    }

    /// Puts the key back where the answer's fields repeat the token.
    pub(crate) fn hide_token(&self, headers: &mut HeaderMap) {
        let token = self.token.expose();
        if token.len() < LEAST_TOKEN {
            return;
        }
        let encoded = encoded(token);
        for value in headers.values_mut() {
            for token in [token, &encoded] {
                while let Some(hidden) = self.without(value, token.as_bytes()) {
                    *value = hidden;
                }
            }
        }
    }

    /// The field with the key in the token's place, once; `None` if it is not there.
    fn without(&self, value: &HeaderValue, token: &[u8]) -> Option<HeaderValue> {
        let key = self.key.expose().as_bytes();
        let value = value.as_bytes();
        let at = value
            .windows(token.len())
            .position(|window| window == token)?;
        // A key that contains the token would be put in for ever.
        if key.windows(token.len()).any(|window| window == token) {
            return None;
        }
        let mut hidden =
            HeaderValue::from_bytes(&replaced(value, at..at + token.len(), key)).ok()?;
        hidden.set_sensitive(true);
        Some(hidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(token: &str, value: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("location", value.parse().unwrap());
        let key = Secret::new("acme-key-of-16-or-more");
        Opened::new(key, Secret::new(token)).hide_token(&mut headers);
        headers["location"].to_str().unwrap().to_owned()
    }

    #[test]
    fn a_redirect_shows_the_key() {
        assert_eq!(
            hidden(
                "real/token",
                "/x?access_token=real%2Ftoken&b=real/token&c=real"
            ),
            "/x?access_token=acme-key-of-16-or-more&b=acme-key-of-16-or-more&c=real"
        );
        assert_eq!(hidden("real/token", "/x?a=b"), "/x?a=b");
        // Too short to mean anything, and a part of the key itself: an end is found.
        assert_eq!(hidden("x", "/x"), "/x");
        assert_eq!(hidden("key-of-16", "/key-of-16"), "/key-of-16");
    }
}
