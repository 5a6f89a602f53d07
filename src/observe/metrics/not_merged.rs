//! Why a receipt was not merged.
//!
//! Invariant: a closed set. A reason holds no text of a request, so it may be
//! logged, counted and sent to the client (rule: reasons).

use std::fmt;

/// Why a request to a path of receipts had no part in a merged upstream call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum NotMerged {
    /// It is no `POST`.
    Method,
    /// Its target has a byte that a URL may not contain.
    RawTarget,
    /// It is conditional, or asks for a range.
    Conditional,
    /// It has an `Idempotency-Key`.
    Idempotent,
    /// It has a digest of its body, which merging would change.
    Digest,
    /// It has trailers, asks for an upgrade, or expects something else than `100-continue`.
    Protocol,
    /// Its body is compressed or in an unknown charset, or its text is malformed
    /// (percent-encoding, UTF-8).
    UnknownEncoding,
    /// Its body has more than 64 KiB or 1,000 fields.
    TooLarge,
    /// Its body did not arrive in time.
    Incomplete,
    /// Its body is of another type, or is not what its type says.
    ContentType,
    /// Its JSON or multipart body is malformed.
    Malformed,
    /// A part of its multipart body is a file.
    MultipartFile,
    /// It names two instances or two credentials.
    AmbiguousInstance,
    /// It has the same key twice, or keys that a backend may take for one.
    AmbiguousKey,
    /// It names no chat.
    NoChat,
    /// What it has under the name of the ids does not look like message ids.
    IdsShape,
    /// Its ids are in a form that is never extended, and no equal receipt came.
    ListForm,
    /// It has more ids than a batch may have.
    TooManyIds,
    /// One of its ids is in quarantine.
    Quarantined,
    /// Merging is turned off or only observed.
    MergingOff,
    /// It was understood, and no other receipt came that may share its call.
    Alone,
    /// It shared a call that was rejected, and was sent again alone.
    Split,
    /// It was refused by the gateway, or its client broke off.
    Refused,
}

impl NotMerged {
    /// All reasons, in the order of their numbers.
    pub(crate) const ALL: [Self; 23] = [
        Self::Method,
        Self::RawTarget,
        Self::Conditional,
        Self::Idempotent,
        Self::Digest,
        Self::Protocol,
        Self::UnknownEncoding,
        Self::TooLarge,
        Self::Incomplete,
        Self::ContentType,
        Self::Malformed,
        Self::MultipartFile,
        Self::AmbiguousInstance,
        Self::AmbiguousKey,
        Self::NoChat,
        Self::IdsShape,
        Self::ListForm,
        Self::TooManyIds,
        Self::Quarantined,
        Self::MergingOff,
        Self::Alone,
        Self::Split,
        Self::Refused,
    ];

    /// The name in logs, metrics and `Server-Timing`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::RawTarget => "raw_target",
            Self::Conditional => "conditional",
            Self::Idempotent => "idempotent",
            Self::Digest => "digest",
            Self::Protocol => "protocol",
            Self::UnknownEncoding => "unknown_encoding",
            Self::TooLarge => "too_large",
            Self::Incomplete => "incomplete",
            Self::ContentType => "content_type",
            Self::Malformed => "malformed",
            Self::MultipartFile => "multipart_file",
            Self::AmbiguousInstance => "ambiguous_instance",
            Self::AmbiguousKey => "ambiguous_key",
            Self::NoChat => "no_chat",
            Self::IdsShape => "ids_shape",
            Self::ListForm => "list_form",
            Self::TooManyIds => "too_many_ids",
            Self::Quarantined => "quarantined",
            Self::MergingOff => "merging_off",
            Self::Alone => "alone",
            Self::Split => "split",
            Self::Refused => "refused",
        }
    }

    /// The reason with this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// Whether the request itself is the reason, not the moment at which it came:
    /// it would not merge at any time.
    pub(crate) const fn is_of_the_request(self) -> bool {
        !matches!(
            self,
            Self::Incomplete
                | Self::TooManyIds
                | Self::Quarantined
                | Self::MergingOff
                | Self::Alone
                | Self::Split
                | Self::Refused
        )
    }
}

impl fmt::Display for NotMerged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_number_and_a_name_of_its_own() {
        for (number, reason) in NotMerged::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
            assert_eq!(NotMerged::named(reason.as_str()), Some(reason));
        }
        assert_eq!(NotMerged::named("other"), None);
    }
}
