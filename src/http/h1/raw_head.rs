//! How the head of an answer was worded.
//!
//! Most answers come with fields that nobody here asks about: they are not
//! taken apart to be put together again. Invariants: fields that say something
//! of this hop are in the answer's map, never in its text; what stands in the
//! text could stand in the map, and is moved there for whoever needs it all.

use std::fmt;

use bytes::Bytes;
use http::header::TRANSFER_ENCODING;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::header_case::{self, Spelling, is_same};
use super::response::{Framed, Told, digits};
use crate::http::hop_by_hop::OF_THIS_HOP;

/// How the head of an answer was worded.
#[derive(Clone, Debug)]
pub(crate) enum Wording {
    /// All fields are in the map; their names were spelt so.
    Spelt(Spelling),
    /// What is not in the map stands here.
    Verbatim(Verbatim),
}

/// Whole lines of an answer's head.
#[derive(Clone)]
pub(crate) struct Verbatim {
    lines: Bytes,
    /// What they tell of the body's length.
    length: Option<u64>,
    /// `Connection` came so: its options are told anew, and it should not
    /// change its looks.
    capital: bool,
}

/// As most spell it.
const CONNECTION: &str = "Connection";

impl Verbatim {
    /// The fields of an answer, those of this hop put into the map; `None`
    /// where some need to be looked at more closely.
    pub(super) fn of(
        fields: &[httparse::Header<'_>],
        framed: &mut Framed,
        map: &mut HeaderMap,
    ) -> Option<Self> {
        let room = |field: &httparse::Header<'_>| field.name.len() + field.value.len() + 4;
        let mut lines = Vec::with_capacity(fields.iter().map(room).sum());
        let (mut length, mut capital) = (None, false);
        for &httparse::Header { name, value } in fields {
            let is = |known: &&str| is_same(name.as_bytes(), known.as_bytes());
            match framed.by(name.as_bytes(), value) {
                Told::Options => return None,
                Told::Connection => {
                    capital = name == CONNECTION;
                    continue;
                }
                Told::Length if length.is_some() => return None,
                Told::Length => length = Some(digits(value)?),
                Told::Nothing if !OF_THIS_HOP.iter().any(is) => {}
                Told::Coding | Told::Nothing => {
                    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
                    map.append(name, HeaderValue::from_bytes(value).ok()?);
                    continue;
                }
            }
            if value.contains(&b'\n') {
                // It was folded (RFC 9112 §5.2).
                return None;
            }
            lines.extend_from_slice(name.as_bytes());
            lines.extend_from_slice(b": ");
            lines.extend_from_slice(value);
            lines.extend_from_slice(b"\r\n");
        }
        if length.is_some() && map.contains_key(TRANSFER_ENCODING) {
            // Whoever believed the length would read another body.
            return None;
        }
        Some(Self {
            lines: lines.into(),
            length,
            capital,
        })
    }

    pub(super) fn lines(&self) -> &[u8] {
        &self.lines
    }

    pub(super) fn length(&self) -> Option<u64> {
        self.length
    }

    /// How the names of fields were spelt that do not stand in the lines.
    pub(super) fn spelling(&self) -> Option<&'static Spelling> {
        self.capital.then_some(&header_case::CONNECTION)
    }

    /// Moves all fields into a map, before what was added to it, and says how
    /// their names were spelt.
    pub(crate) fn unfold(self, map: &mut HeaderMap) -> Spelling {
        let added = std::mem::take(map);
        let lines = || {
            let lines = self.lines.split(|&byte| byte == b'\n');
            lines.filter_map(|line| {
                let line = line.strip_suffix(b"\r")?;
                let colon = line.iter().position(|&byte| byte == b':')?;
                Some((&line[..colon], &line[colon + 2..]))
            })
        };
        for (name, value) in lines() {
            let name = HeaderName::from_bytes(name);
            let value = HeaderValue::from_maybe_shared(self.lines.slice_ref(value));
            if let (Ok(name), Ok(value)) = (name, value) {
                map.append(name, value);
            }
        }
        for (name, value) in &added {
            map.append(name, value.clone());
        }
        let names = lines().filter_map(|(name, _)| str::from_utf8(name).ok());
        Spelling::of(names.chain(self.capital.then_some(CONNECTION)))
    }
}

/// Without the lines: whatever stands in them.
impl fmt::Debug for Verbatim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verbatim")
            .field("bytes", &self.lines.len())
            .finish()
    }
}
