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

/// The meaning of `*`, by trying every length.
fn means(pattern: &[u8], path: &[u8]) -> bool {
    match pattern.split_first() {
        None => path.is_empty(),
        Some((b'*', rest)) => (0..=path.len()).any(|at| means(rest, &path[at..])),
        Some((letter, rest)) => path.first() == Some(letter) && means(rest, &path[1..]),
    }
}

proptest! {
    #[test]
    fn taking_the_first_match_misses_nothing(pattern in "/[ab*]{0,8}", path in "/[ab]{0,12}") {
        let found = PathPattern::parse(&pattern).unwrap().matches(&path);
        prop_assert_eq!(found, means(pattern.as_bytes(), path.as_bytes()));
    }
}
