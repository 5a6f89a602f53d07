//! The paths of the API.
//!
//! Invariant: a double slash counts as one: a base URL with a trailing slash produces it.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The path of receipts of the older API, which clients still use.
const OLD_SEEN: [&str; 4] = ["wp-json", "awp", "v1", "sendSeen"];

/// The path under `/v2` as its segments; `None` for another path. The older path of receipts is one of `/v2`, too.
pub(super) fn segments(path: &str) -> Option<Vec<Cow<'_, str>>> {
    // Decoded after the split, so that an encoded slash stays inside its segment.
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    let segments: Vec<_> = segments
        .map(|segment| percent_decode_str(segment).decode_utf8_lossy())
        .collect();
    if segments == OLD_SEEN {
        return Some(vec![Cow::Borrowed("send"), Cow::Borrowed("seen")]);
    }
    let (first, rest) = segments.split_first()?;
    (first == "v2").then(|| rest.to_vec())
}

/// Whether requests to this path are read receipts.
pub(super) fn is_receipt(path: &str) -> bool {
    segments(path).is_some_and(|segments| segments == ["send", "seen"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_paths_of_receipts_are_known() {
        for path in [
            "/v2/send/seen",
            "//v2/send//seen/",
            "/wp-json/awp/v1/sendSeen",
        ] {
            assert!(is_receipt(path), "{path}");
        }
        for path in [
            "/",
            "/v2",
            "/send/seen",
            "/v2/send/text",
            "/wp-json/awp/v1/send",
        ] {
            assert!(!is_receipt(path), "{path}");
        }
    }
}
