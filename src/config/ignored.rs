//! The names in which merged receipts may differ (`batch.ignore_headers`,
//! `batch.ignore_fields`).
//!
//! Invariant: nothing that says who calls, or for which chat and messages, can be
//! ignored: one caller's credential must never be used for the request of another.

use super::kind::Result;

/// Headers with credentials or an instance, with `_` for `-` as CGI reads them.
const HEADERS: [&str; 5] = [
    "authorization",
    "proxy_authorization",
    "cookie",
    "access_token",
    "x_instance_id",
];
/// The vendor's own headers.
const VENDOR_PREFIX: &str = "x_wawp_";

/// Fields with credentials, instance, chat, participant and ids, in lower case.
const FIELDS: [&str; 6] = [
    "instance_id",
    "access_token",
    "chatid",
    "participant",
    "messageids",
    "messageid",
];

/// A header that may be ignored.
pub(super) fn ignored_header(text: &str) -> Result<String> {
    let name = http::HeaderName::from_bytes(text.as_bytes());
    let name = name.map_err(|_| "the name of a header, such as \"accept-language\"")?;
    let folded: String = name
        .as_str()
        .chars()
        .map(|letter| match letter.is_ascii_alphanumeric() {
            true => letter,
            false => '_',
        })
        .collect();
    match HEADERS.contains(&&*folded) || folded.starts_with(VENDOR_PREFIX) {
        true => {
            Err("a header without credentials, instance and X-Wawp-*, which are never ignored")?
        }
        false => Ok(name.as_str().to_owned()),
    }
}

/// A field that may be ignored.
pub(super) fn ignored_field(text: &str) -> Result<String> {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && !b".[]&=%+\"\\".contains(&byte);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(is_allowed) {
        Err("a key of 1 to 64 visible characters, without . [ ] & = % + and quotes")?;
    }
    match FIELDS.contains(&&*text.to_ascii_lowercase()) {
        true => Err(
            "a key other than credentials, instance, chat, participant and message ids, which are never ignored",
        )?,
        false => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_identifies_a_request_is_never_ignored() {
        for name in [
            "Authorization",
            "access-token",
            "access_token",
            "X-Instance-ID",
            "x_instance-id",
            "Cookie",
            "X-Wawp-Signature",
            "x_wawp_a",
            "",
            "a b",
        ] {
            assert!(ignored_header(name).is_err(), "{name}");
        }
        for name in [
            "instance_id",
            "access_token",
            "chatId",
            "ChatID",
            "participant",
            "messageIds",
            "messageId",
            "messageIds[]",
            "instance.id",
            "",
            " _",
        ] {
            assert!(ignored_field(name).is_err(), "{name}");
        }
        assert_eq!(
            ignored_header("Accept-Language").unwrap(),
            "accept-language"
        );
        assert_eq!(ignored_field("_").unwrap(), "_");
    }
}
