//! The secrets of the settings, searched for in text of clients (rule: secrets).
//!
//! Invariant: no function returns a secret.

use std::fmt;

use aho_corasick::{AhoCorasick, AhoCorasickBuilder};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::config::{Secret, Tenant};

/// All but the unreserved characters of RFC 3986 §2.3.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// As [`ENCODED`], without `/` and `=`: a query may contain them, so many clients do not encode them.
const ENCODED_IN_PART: AsciiSet = ENCODED.remove(b'/').remove(b'=');

/// All tenants' keys and tokens.
pub(crate) struct Secrets(AhoCorasick);

impl Secrets {
    /// Collects them from the settings; `None` if there are none.
    pub(crate) fn new(tenants: &[Tenant]) -> Option<Self> {
        Self::with(tenants, [])
    }

    /// As [`new`](Self::new), and these texts as well.
    pub(crate) fn with<'t>(
        tenants: &'t [Tenant],
        more: impl IntoIterator<Item = &'t str>,
    ) -> Option<Self> {
        let tokens = tenants.iter().flat_map(|tenant| tenant.tokens.values());
        let keys = tenants.iter().flat_map(|tenant| tenant.all_keys());
        let texts: Vec<String> = keys
            .chain(tokens)
            .map(Secret::expose)
            .chain(more)
            .flat_map(forms)
            .collect();
        if texts.is_empty() {
            return None;
        }
        // `%2b` and `%2B` are equal (RFC 3986 §2.1). One automaton searches all forms in one pass.
        let mut builder = AhoCorasickBuilder::new();
        let automaton = builder.ascii_case_insensitive(true).build(texts);
        // It fails only for more patterns than a settings file can hold.
        automaton.ok().map(Self)
    }

    /// The text with a mask in place of each of them.
    pub(crate) fn masked(&self, text: &str, mask: &str) -> String {
        let mut masked = String::with_capacity(text.len());
        self.0.replace_all_with(text, &mut masked, |_, _, to| {
            to.push_str(mask);
            true
        });
        masked
    }

    /// Whether a text contains one of them.
    pub(crate) fn are_in(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

/// The forms in which a secret appears in requests: as it is, percent-encoded completely or without
/// `/` and `=`, with the `+` of base64 decoded to a space, and with the `/` of base64 escaped in
/// JSON.
fn forms(secret: &str) -> impl Iterator<Item = String> {
    [
        secret.to_owned(),
        utf8_percent_encode(secret, ENCODED).to_string(),
        utf8_percent_encode(secret, &ENCODED_IN_PART).to_string(),
        secret.replace('+', " "),
        secret.replace('/', "\\/"),
    ]
    .into_iter()
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn a_secret_is_found_in_every_form() {
        let tenant = Tenant {
            name: "acme".to_owned(),
            instances: vec!["1".to_owned()],
            weight: NonZeroU32::MIN,
            quota: None,
            networks: Vec::new(),
            key: Some(Secret::new("q83v+7/EjRkl0aWb==")),
            keys: Vec::new(),
            tokens: [("1".to_owned(), Secret::new("tok/en"))].into(),
        };
        let secrets = Secrets::new(&[tenant]).unwrap();
        for text in [
            "x q83v+7/EjRkl0aWb== x",
            "k=q83v%2B7%2FEjRkl0aWb%3D%3D",
            "k=q83v%2b7%2fEjRkl0aWb%3d%3d&x",
            "k=q83v%2B7/EjRkl0aWb==",
            "q83v 7/EjRkl0aWb==",
            r"q83v+7\/EjRkl0aWb==",
            "/tok%2Fen/",
        ] {
            assert!(secrets.are_in(text), "{text}");
            assert!(secrets.masked(text, "…").contains('…'), "{text}");
            assert!(!secrets.are_in(&secrets.masked(text, "…")), "{text}");
        }
        assert!(!secrets.are_in("q83v+7/EjRkl0aWb"));
    }
}
