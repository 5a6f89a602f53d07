//! Hides the token in a response to a request in which it replaced a key.
//!
//! A redirect often repeats the query of its request, which now contains the token.
//! Invariant: the headers of the response contain the key instead. (Bodies are
//! forwarded as received, rule: tenant keys.)

use http::{HeaderMap, HeaderValue};

use super::encode::{encoded, replaced};
use crate::config::Secret;

/// The shortest token that is hidden, in bytes. A shorter one would be found in
/// unrelated text.
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

    /// Replaces the token by the key in the headers of a response.
    pub(crate) fn hide_token(&self, headers: &mut HeaderMap) {
        let token = self.token.expose();
        if token.len() < MIN_TOKEN {
            return;
        }
        // A redirect repeats it encoded or decoded, depending on the framework.
        let encoded = encoded(token);
        for value in headers.values_mut() {
            for token in [token, &encoded] {
                while let Some(hidden) = self.with_key(value, token.as_bytes()) {
                    *value = hidden;
                }
            }
        }
    }

    /// The field with the first token replaced by the key; `None` if there is none.
    fn with_key(&self, value: &HeaderValue, token: &[u8]) -> Option<HeaderValue> {
        let key = self.key.expose().as_bytes();
        let value = value.as_bytes();
        let at = value
            .windows(token.len())
            .position(|window| window == token)?;
        // With a key that contains the token, the replacement would never end.
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
        // Too short, and a part of the key: nothing is replaced.
        assert_eq!(hidden("x", "/x"), "/x");
        assert_eq!(hidden("key-of-16", "/key-of-16"), "/key-of-16");
    }
}
