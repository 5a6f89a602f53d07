//! The type of a body.
//!
//! Invariant: types that backends read in the same way compare as equal, and no others.

use http::HeaderValue;

use super::NotMerged;

/// What a `Content-Type` says about a body.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    Json,
    Form,
    Multipart,
    /// Text, or no type.
    Text,
    Other,
}

impl Media {
    /// Reads the type of a body.
    ///
    /// # Errors
    /// Its text is in another charset than UTF-8.
    pub(super) fn of(content_type: Option<&HeaderValue>) -> Result<Self, NotMerged> {
        let content_type = content_type.map_or(b"" as &[u8], HeaderValue::as_bytes);
        if content_type == b"application/json" {
            return Ok(Self::Json);
        }
        let content_type = String::from_utf8_lossy(content_type).to_ascii_lowercase();
        let mut parameters = content_type.split(';').map(str::trim);
        let essence = parameters.next().unwrap_or_default();
        let charset = parameters.find_map(|text| text.strip_prefix("charset="));
        let is_known =
            |charset: &str| ["utf-8", "utf8", "us-ascii"].contains(&charset.trim_matches('"'));
        if !charset.is_none_or(is_known) {
            return Err(NotMerged::UnknownEncoding);
        }
        Ok(match essence {
            "multipart/form-data" => Self::Multipart,
            "application/x-www-form-urlencoded" => Self::Form,
            "" | "text/plain" => Self::Text,
            _ if essence.contains("json") => Self::Json,
            _ => Self::Other,
        })
    }
}

/// A `Content-Type` without what does not matter: `charset=utf-8`, which is the
/// default, and the boundary of a multipart form, which differs in each request.
pub(super) fn comparable_type(value: &HeaderValue) -> &[u8] {
    let value = value.as_bytes();
    let Some(end) = value.iter().position(|byte| *byte == b';') else {
        return value;
    };
    let (essence, rest) = (&value[..end], &value[end + 1..]);
    let does_not_matter = |parameter: &[u8]| {
        let parameter = parameter.trim_ascii();
        let is_default: [&[u8]; 3] = [b"", b"charset=utf-8", b"charset=\"utf-8\""];
        let is_boundary = || {
            essence.eq_ignore_ascii_case(b"multipart/form-data")
                && parameter
                    .get(..9)
                    .is_some_and(|name| name.eq_ignore_ascii_case(b"boundary="))
        };
        is_default
            .iter()
            .any(|text| parameter.eq_ignore_ascii_case(text))
            || is_boundary()
    };
    match rest.split(|byte| *byte == b';').all(does_not_matter) {
        true => essence.trim_ascii_end(),
        false => value,
    }
}
