//! Path patterns: a path in which `*` matches any run of characters.
//!
//! Invariant: matching takes time linear in path and pattern, without backtracking.

use std::fmt;

use serde::Deserialize;

/// Longer than any real path, and short enough to match on every request.
const MAX_LENGTH: usize = 1024;

/// A path in a class of the limit. `*` matches any run of characters, also an empty one, also
/// across `/`.
///
/// ```
/// use wawp_gateway::config::PathPattern;
///
/// let sends = PathPattern::parse("/v2/send/*")?;
/// assert!(sends.matches("/v2/send/text"));
/// assert!(!sends.matches("/v2/groups"));
/// # Ok::<(), wawp_gateway::config::PatternError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PathPattern {
    text: String,
}

/// A text that is not a path pattern; displays what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a path that begins with / (or *), in visible ASCII without ? or #, at most {MAX_LENGTH} long; * matches any run"
)]
pub struct PatternError;

impl PathPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// The text does not begin with `/` or `*`, is too long, or contains what no request path can.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let fits = text.starts_with(['/', '*']) && text.len() <= MAX_LENGTH;
        if !fits
            || !text
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'#')
        {
            return Err(PatternError);
        }
        Ok(Self {
            text: text.to_owned(),
        })
    }

    /// Says whether the path of a request, without its query, matches.
    pub fn matches(&self, path: &str) -> bool {
        let Some((prefix, rest)) = self.text.split_once('*') else {
            return self.text == path;
        };
        let Some(mut path) = path.strip_prefix(prefix) else {
            return false;
        };
        // Only the text after the last `*` is bound to the end of the path.
        let (middle, suffix) = rest.rsplit_once('*').unwrap_or(("", rest));
        // The first match of each piece leaves the longest rest for the next ones, so that no other
        // match needs to be tried.
        for piece in middle.split('*') {
            match path.find(piece) {
                Some(at) => path = &path[at + piece.len()..],
                None => return false,
            }
        }
        // `path` is now the rest after all earlier pieces, so the suffix cannot overlap them.
        path.ends_with(suffix)
    }

    /// Says whether the pattern contains no `*`, and so matches one path only.
    pub fn is_literal(&self) -> bool {
        !self.text.contains('*')
    }
}

impl TryFrom<String> for PathPattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        Self::parse(&text)
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests;
