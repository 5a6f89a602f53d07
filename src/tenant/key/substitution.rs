//! What a response may repeat of a request in which a token replaced a key.
//!
//! A redirect often repeats the query of its request, where the token now
//! stands. Invariant: the header fields of a response show the key, not the
//! token, to the client that holds the key. (Bodies are passed on as received.)

use http::{HeaderMap, HeaderValue};

use super::encode::{encoded, replaced};
use crate::config::Secret;

/// A shorter token is part of too many texts that have nothing to do with it.
const MIN_TOKEN: usize = 8;

/// A request in which a token replaced a key.
pub(crate) struct Substitution {
    key: Secret,
    token: Secret,
}

impl Substitution {
    pub(super) fn new(key: Secret, token: Secret) -> Self {
        Self { key, token }
    }

    /// Puts the key back where the response's fields repeat the token.
    pub(crate) fn hide_token(&self, headers: &mut HeaderMap) {
        let token = self.token.expose();
        if token.len() < MIN_TOKEN {
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

    /// The field with the first token replaced by the key; `None` if there is none.
    fn without(&self, value: &HeaderValue, token: &[u8]) -> Option<HeaderValue> {
        let key = self.key.expose().as_bytes();
        let value = value.as_bytes();
        let at = value
            .windows(token.len())
            .position(|window| window == token)?;
        // A key that contains the token would be put in without end.
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
        Substitution::new(key, Secret::new(token)).hide_token(&mut headers);
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
