//! What each reason means, in one line.

use crate::receipt::NotMerged;

/// What a reason means, and where it helps, what is accepted instead.
pub(super) fn meaning(reason: NotMerged) -> &'static str {
    match reason {
        NotMerged::Method => "only POST merges",
        NotMerged::RawTarget => {
            "the target has a byte that a URL may not contain; it must be percent-encoded"
        }
        NotMerged::Conditional => "it is conditional, or asks for a range",
        NotMerged::Idempotent => "it has an Idempotency-Key",
        NotMerged::Digest => "it has a digest of its body, which merging would change",
        NotMerged::Protocol => {
            "it has trailers, asks for an upgrade, or expects something else than 100-continue"
        }
        NotMerged::UnknownEncoding => {
            "its body is compressed or in an unknown charset, or its percent-encoding or UTF-8 \
             is malformed"
        }
        NotMerged::TooLarge => "its body has more than 64 KiB or 1,000 fields, or trailers",
        NotMerged::Incomplete => "its body did not arrive in time",
        NotMerged::ContentType => {
            "its body is of another type than JSON, urlencoded or multipart form, or is not what \
             its type says"
        }
        NotMerged::Malformed => "its JSON or multipart body is malformed",
        NotMerged::MultipartFile => "a part of its multipart body is a file",
        NotMerged::AmbiguousInstance => "it names two instances or two credentials",
        NotMerged::AmbiguousKey => {
            "it has the same key twice, or keys that a backend may take for one"
        }
        NotMerged::NoChat => "it names no chat (chatId)",
        NotMerged::IdsShape => {
            "what it has under the name of the ids does not look like message ids \
             (true_4915@c.us_3EB0…)"
        }
        NotMerged::ListForm => {
            "its ids are in a form that is never extended, so it merges with equal receipts only"
        }
        NotMerged::TooManyIds => "it has more ids than a batch may have (batch.max_ids)",
        NotMerged::Quarantined => "one of its ids is in quarantine",
        NotMerged::MergingOff => {
            "merging is turned off (batch.window is 0) or only observed (batch.mode)"
        }
        NotMerged::Alone => "no other receipt came that may share its call",
        NotMerged::Split => "it shared a call that was rejected, and was sent again alone",
        NotMerged::Refused => "the gateway refused it, or its client broke off",
    }
}
