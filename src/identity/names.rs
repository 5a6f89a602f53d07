//! The names of the fields that hold instance and access token.
//!
//! Invariant: a name counts if the most lenient backend (PHP) would read it as
//! `instance_id` or `access_token`, so that no second instance is hidden by another
//! spelling (rule: ambiguous requests).

/// The field with the instance, in a query or a body.
pub(crate) const INSTANCE_FIELD: &str = "instance_id";
/// The field with the access token, in a query or a body.
pub(crate) const TOKEN_FIELD: &str = "access_token";

/// A field that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldName {
    /// [`INSTANCE_FIELD`].
    Instance,
    /// [`TOKEN_FIELD`].
    Token,
}

/// A field that counts, and its value in a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// The value of `instance_id`.
    Instance(String),
    /// The value of `access_token`.
    Token(String),
    /// One of the two, or a form of it that backends read in different ways. It makes
    /// the request ambiguous.
    Unclear,
}

/// The name of a field that counts, as it was spelt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) name: FieldName,
    /// It names an element of a list (`instance_id[]`): some backends use the element
    /// as the value, others do not.
    pub(crate) is_list: bool,
}

impl FieldName {
    /// The field with this value.
    pub(crate) fn with(self, value: String) -> Field {
        match self {
            Self::Instance => Field::Instance(value),
            Self::Token => Field::Token(value),
        }
    }

    /// Reads a name in a JSON object, where only the exact name counts.
    pub(crate) fn of_json(name: impl AsRef<[u8]>) -> Option<Self> {
        let name = name.as_ref();
        match () {
            () if name == INSTANCE_FIELD.as_bytes() => Some(Self::Instance),
            () if name == TOKEN_FIELD.as_bytes() => Some(Self::Token),
            () => None,
        }
    }
}

impl Named {
    /// Reads the decoded name of a field in a query, a form or a multipart body.
    ///
    /// PHP drops leading spaces, cuts the name at a NUL, and replaces `.`, spaces
    /// and an unclosed `[` by `_`.
    pub(crate) fn read(name: impl AsRef<[u8]>) -> Option<Self> {
        let name = name.as_ref();
        // Both names are at least as long, and folding only shortens a name. Most fields
        // end here: this runs for each field of each request.
        let shortest = INSTANCE_FIELD.len().min(TOKEN_FIELD.len());
        if name.len() < shortest {
            return None;
        }
        if let Some(name) = FieldName::of_json(name) {
            let is_list = false;
            return Some(Self { name, is_list });
        }
        // In PHP's order, compared in place.
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let start = name.iter().position(|byte| *byte > b' ');
        let name = &name[start.unwrap_or(name.len())..];
        let folded = [
            (INSTANCE_FIELD, FieldName::Instance),
            (TOKEN_FIELD, FieldName::Token),
        ];
        folded.into_iter().find_map(|(ours, field)| {
            let (stem, rest) = name.split_at_checked(ours.len())?;
            // `instance[id]` is an element of `instance`, but `instance[id` is `instance_id`.
            let is_closed = rest.contains(&b']');
            let same = |(found, ours): (&u8, u8)| {
                *found == ours
                    || (ours == b'_'
                        && (matches!(found, b'.' | b' ' | b'+') || (*found == b'[' && !is_closed)))
            };
            let is_ours =
                stem.iter().zip(ours.bytes()).all(same) && matches!(rest, [] | [b'[', ..]);
            is_ours.then_some(Self {
                name: field,
                is_list: !rest.is_empty(),
            })
        })
    }
}

/// Whether a backend may read the header `name` as `ours`: CGI replaces every
/// character that is no letter or digit by `_` (RFC 3875 §4.1.18). Both are in lower
/// case.
pub(crate) fn is_header(name: &str, ours: &str) -> bool {
    let same =
        |(found, ours): (u8, u8)| found == ours || (ours == b'-' && !found.is_ascii_alphanumeric());
    name.len() == ours.len() && name.bytes().zip(ours.bytes()).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::INSTANCE_HEADER;

    #[test]
    fn a_name_is_read_as_php_reads_it() {
        for name in [
            "instance_id",
            "instance.id",
            "instance id",
            "instance+id",
            "instance[id",
            " instance_id",
            "  \tinstance.id",
            "instance_id\0",
            "instance_id\0x",
            " instance[id\0]",
        ] {
            let named = Named {
                name: FieldName::Instance,
                is_list: false,
            };
            assert_eq!(Named::read(name), Some(named), "{name:?}");
        }
        for name in [
            "instance_id[]",
            "instance_id[0]",
            "instance.id[a][b]",
            "instance_id[",
        ] {
            assert!(
                Named::read(name).is_some_and(|named| named.is_list),
                "{name:?}"
            );
        }
        for name in [
            "access_token",
            "access.token",
            " access[token",
            "access token",
        ] {
            let found = Named::read(name).map(|named| named.name);
            assert_eq!(found, Some(FieldName::Token), "{name:?}");
        }
        for name in [
            "",
            "\0instance_id",
            "Instance_Id",
            "xinstance_id",
            "instance__id",
            "instance-id",
            "instanceid",
            "instance[id]",
            "instance_id ",
            "instance_id_",
            "instance_idé",
        ] {
            assert_eq!(Named::read(name), None, "{name:?}");
        }
    }

    #[test]
    fn a_header_is_read_as_cgi_reads_it() {
        for name in ["x-instance-id", "x_instance_id", "x.instance-id"] {
            assert!(is_header(name, INSTANCE_HEADER), "{name}");
        }
        for name in [
            "x-instance-id-",
            "xxinstance-id",
            "x-instance",
            "x-instance-ie",
        ] {
            assert!(!is_header(name, INSTANCE_HEADER), "{name}");
        }
    }
}
