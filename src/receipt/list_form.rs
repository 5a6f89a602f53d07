//! The forms in which clients write a list of ids.
//!
//! Owns the names of the fields, how each form goes on, and the most bytes that an id
//! takes in it.

use super::{NotMerged, message_id, parts};

/// The field with the message ids.
pub(super) const IDS: &[u8] = b"messageIds";
/// The older field with a single id.
pub(super) const ID: &[u8] = b"messageId";

/// How a request writes its ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListForm {
    /// `"messageIds":["a","b"]` in a JSON body.
    Json,
    /// `messageIds=["a","b"]`, a field whose text is JSON.
    JsonText,
    /// `messageIds=a,b`
    Commas,
    /// `messageIds=a&messageIds=b`
    Repeated,
    /// `messageIds[]=a&messageIds[]=b`
    Brackets,
    /// `messageIds[0]=a&messageIds[1]=b`
    Indices,
    /// `messageIds[][0]=a&messageIds[][1]=b`
    BracketsAndIndices,
    /// `messageIds=a`
    Single,
    /// `messageId=a`
    OldSingle,
}

/// In what text the ids are, and how that text is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Site {
    Query,
    JsonBody,
    FormBody,
    PartBody,
}

impl ListForm {
    /// The form of a field with this name, and its index if it has one; `None` for a
    /// name that is not one of the ids.
    pub(super) fn of_name(name: &[u8]) -> Option<Result<(Self, usize), NotMerged>> {
        let Some(rest) = name.strip_prefix(IDS) else {
            return (name == ID).then_some(Ok((Self::OldSingle, 0)));
        };
        let index = |text: &[u8]| {
            let digits = text.strip_suffix(b"]")?;
            let number = std::str::from_utf8(digits).ok()?.parse::<usize>().ok()?;
            // `01` and `+1` are other keys.
            (number.to_string().as_bytes() == digits).then_some(number)
        };
        Some(match rest {
            b"" => Ok((Self::Single, 0)),
            b"[]" => Ok((Self::Brackets, 0)),
            [b'[', b']', b'[', rest @ ..] => {
                let form = index(rest).map(|index| (Self::BracketsAndIndices, index));
                form.ok_or(NotMerged::IdsShape)
            }
            [b'[', rest @ ..] => {
                let form = index(rest).map(|index| (Self::Indices, index));
                form.ok_or(NotMerged::IdsShape)
            }
            // `messageIdsX` is another key.
            _ => return None,
        })
    }

    /// The name of the element behind the one with this number, with its brackets
    /// spelt as in `last`; `None` where they cannot be found in it.
    pub(super) fn next_name(self, last: &[u8], number: usize) -> Option<Vec<u8>> {
        if !matches!(self, Self::Indices | Self::BracketsAndIndices) {
            return Some(last.to_vec());
        }
        let close: [&[u8]; 3] = [b"]", b"%5D", b"%5d"];
        let close = close.into_iter().find(|close| last.ends_with(close))?;
        let number = number.to_string();
        let open = last[..last.len() - close.len()].strip_suffix(number.as_bytes())?;
        Some(
            [
                open,
                (number.parse::<usize>().ok()? + 1).to_string().as_bytes(),
                close,
            ]
            .concat(),
        )
    }

    /// Whether a list is several fields of this form.
    pub(super) fn is_repeatable(self) -> bool {
        !matches!(
            self,
            Self::Json | Self::JsonText | Self::Commas | Self::OldSingle
        )
    }

    /// The most bytes that an id takes in a merged request, in addition to its own.
    fn overhead(self, site: Site) -> usize {
        // Brackets are at most percent-encoded, an index has at most five digits.
        let name = IDS.len()
            + match self {
                Self::Json | Self::JsonText | Self::Commas => return "%22%22%2C".len(),
                Self::Brackets => "%5B%5D".len(),
                Self::Indices => "%5B12345%5D".len(),
                Self::BracketsAndIndices => "%5B%5D%5B12345%5D".len(),
                Self::Repeated | Self::Single | Self::OldSingle => 0,
            };
        match site {
            Site::PartBody => parts::MAX_OVERHEAD,
            _ => "&=".len() + name,
        }
    }

    /// Bytes that an id takes at most in a merged request.
    pub(super) fn cost(self, site: Site, id: &[u8]) -> usize {
        match (self, site) {
            (Self::Json, _) => id.len() + "\"\",".len(),
            (_, Site::Query | Site::FormBody) => {
                message_id::encode(id).map(str::len).sum::<usize>() + self.overhead(site)
            }
            _ => id.len() + self.overhead(site),
        }
    }

    /// Bytes that this many fields of a list take at least, as [`cost`](Self::cost)
    /// counts; `None` where a list is one field.
    pub(super) fn least_cost(self, site: Site, fields: usize) -> Option<usize> {
        const SHORTEST_ID: usize = "true_1_A".len();
        let one_field = matches!(self, Self::Json | Self::JsonText | Self::Commas);
        (!one_field).then(|| fields * (SHORTEST_ID + self.overhead(site)))
    }
}
