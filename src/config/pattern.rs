//! Path patterns: a path in which `*` stands for any run of characters.

use std::fmt;

/// The longest pattern: beyond any real path, short enough to match on every request.
const MAX_LENGTH: usize = 1024;

/// A path as a class of the limit names it; `*` matches any run, also an empty one and across `/`.
///
/// ```
/// use wawp_gateway::config::PathPattern;
///
/// let sends = PathPattern::parse("/v2/send/*")?;
/// assert!(sends.matches("/v2/send/text"));
/// assert!(!sends.matches("/v2/groups"));
/// # Ok::<(), wawp_gateway::config::PatternError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    text: String,
}

/// A text that is no path pattern; displays what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a path that begins with / (or *), in visible ASCII without ? or #, at most {MAX_LENGTH} long; * matches any run"
)]
pub struct PatternError;

impl PathPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When it does not begin with `/` or `*`, is too long, or holds what no request path can hold.
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

    /// Says whether a request's path, without its query, is one of those meant.
    pub fn matches(&self, path: &str) -> bool {
        let Some((prefix, rest)) = self.text.split_once('*') else {
            return self.text == path;
        };
        let Some(mut path) = path.strip_prefix(prefix) else {
            return false;
        };
        let (middle, suffix) = rest.rsplit_once('*').unwrap_or(("", rest));
        // Taking the first place for each piece leaves the most for those after it: no backtracking is needed.
        for piece in middle.split('*') {
            match path.find(piece) {
                Some(at) => path = &path[at + piece.len()..],
                None => return false,
            }
        }
        path.ends_with(suffix)
    }

    /// Says whether it holds no `*` and so means one path.
    pub fn is_literal(&self) -> bool {
        !self.text.contains('*')
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
