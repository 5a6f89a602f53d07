//! The settings' own secrets, to be found in whatever a client writes.
//!
//! Invariant: they are compared with, and never given out.

use std::fmt;

use aho_corasick::AhoCorasick;

use crate::config::Tenant;

/// All tenants' keys and tokens.
pub(crate) struct Secrets(AhoCorasick);

impl Secrets {
    /// Takes them from the settings; `None` where there are none.
    pub(crate) fn new(tenants: &[Tenant]) -> Option<Self> {
        let tokens = tenants.iter().flat_map(|tenant| tenant.tokens.values());
        let keys = tenants.iter().filter_map(|tenant| tenant.key.as_ref());
        let texts: Vec<&str> = keys.chain(tokens).map(|secret| secret.expose()).collect();
        if texts.is_empty() {
            return None;
        }
        // More than an automaton can hold do not fit into a settings file.
        AhoCorasick::new(texts).ok().map(Self)
    }

    /// Whether any of them stands in a text.
    pub(crate) fn are_in(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(…)")
    }
}
