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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_matches() {
        for (pattern, path, matches) in [
            ("/a", "/a", true),
            ("/a", "/a/", false),
            ("/a", "/A", false),
            ("*", "", true),
            ("/v2/send/*", "/v2/send/", true),
            ("/v2/send/*", "/v2/send/a/b", true),
            ("/v2/send/*", "/v2/send", false),
            ("/*/seen", "/v2/send/seen", true),
            ("/*/seen", "/seen", false),
            ("/a*a", "/a", false),
            ("/a*a", "/aa", true),
            ("*/a/*/c", "/x/a/b/a/c", true),
            ("*/a/*/c", "/x/a/c", false),
            ("/a**b", "/ab", true),
            ("*ab*ab", "ab", false),
            ("/*é", "/é", false),
        ] {
            let found = PathPattern::parse(pattern).map(|pattern| pattern.matches(path));
            assert_eq!(found.unwrap_or(false), matches, "{pattern} {path}");
        }
    }

    #[test]
    fn what_is_no_pattern() {
        let long = "/".repeat(MAX_LENGTH + 1);
        for text in [
            "",
            "a",
            "a*",
            "/a b",
            "/a?b",
            "/a#",
            "/é",
            "/a\n",
            "https://a/*",
            &long,
        ] {
            assert_eq!(PathPattern::parse(text), Err(PatternError), "{text}");
        }
        assert!(PathPattern::parse("/a%20b").unwrap().is_literal());
        assert!(!PathPattern::parse("/*").unwrap().is_literal());
    }

    /// What `*` means, tried out in every way.
    fn means(pattern: &[u8], path: &[u8]) -> bool {
        match pattern.split_first() {
            None => path.is_empty(),
            Some((b'*', rest)) => (0..=path.len()).any(|at| means(rest, &path[at..])),
            Some((letter, rest)) => path.first() == Some(letter) && means(rest, &path[1..]),
        }
    }

    proptest! {
        #[test]
        fn taking_the_first_place_misses_nothing(pattern in "/[ab*]{0,8}", path in "/[ab]{0,12}") {
            let found = PathPattern::parse(&pattern).unwrap().matches(&path);
            prop_assert_eq!(found, means(pattern.as_bytes(), path.as_bytes()));
        }
    }
}
