//! Simple readers that the laws are checked against.
//!
//! Invariant: they share no code with the gateway; JSON is read by `serde_json`, forms
//! by `form_urlencoded`.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use http::request::Parts;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// The fields of a receipt, by their names on the wire.
const FIELDS: [&str; 5] = [
    "instance_id",
    "access_token",
    "chatId",
    "messageIds",
    "participant",
];
/// The largest body that is merged.
const MAX_BODY: usize = 64 * 1024;
/// Headers that are part of what must be equal, besides `x-wawp-*`.
const HEADERS: [&str; 8] = [
    "authorization",
    "access-token",
    "x-instance-id",
    "cookie",
    "accept",
    "accept-language",
    "accept-encoding",
    "content-type",
];

/// The members of a JSON object in their order, with duplicates.
pub(super) struct Members<'j>(pub(super) Vec<(String, &'j RawValue)>);

impl<'de: 'j, 'j> Deserialize<'de> for Members<'j> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs)
            }
        }

        deserializer.deserialize_map(Pairs).map(Self)
    }
}

/// Reads an object if `serde_json` understands all of its values.
pub(super) fn members(json: &[u8]) -> Option<Members<'_>> {
    // `RawValue` does not check numbers that exceed `f64`, which `Value` refuses.
    serde_json::from_slice::<Value>(json).ok()?;
    serde_json::from_slice(json).ok()
}

/// A receipt as the simple reader sees it; equal ones may share a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Receipt {
    /// What must be equal: its location, its name, its bytes.
    pub(super) same: BTreeMap<(&'static str, String), Vec<Vec<u8>>>,
    /// The message ids in their order.
    pub(super) ids: Vec<String>,
    /// Where their text is; `None` for the whole-chat form.
    pub(super) ids_at: Option<IdsAt>,
}

/// Where the text of the ids is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum IdsAt {
    Body(Range<usize>),
    Query(Range<usize>),
}

/// Reads a request to the path of receipts; `None` if it must not be merged.
pub(super) fn receipt(head: &Parts, body: &[u8]) -> Option<Receipt> {
    let special = ["content-encoding", "trailer", "upgrade"];
    if head.method != "POST"
        || special.iter().any(|name| head.headers.contains_key(*name))
        || body.len() > MAX_BODY
    {
        return None;
    }
    let mut reader = Reader::default();
    let query = head.uri.query().unwrap_or_default();
    reader.query(query)?;
    if query.split('&').any(|pair| pair.starts_with("chatId=")) {
        if !body.is_empty() && body.trim_ascii() != b"{}" {
            return None;
        }
        // An absent body and `{}` are different requests, so they do not merge.
        reader.same("body", "", body.trim_ascii());
    } else {
        let others = ["participant=", "messageIds="];
        let is_other = |pair: &str| others.iter().any(|other| pair.starts_with(other));
        if query.split('&').any(is_other) {
            return None;
        }
        reader.body(body)?;
    }
    reader.same("path", "", head.uri.path().as_bytes());
    for (name, value) in &head.headers {
        if HEADERS.contains(&name.as_str()) || name.as_str().starts_with("x-wawp-") {
            reader.same("header", name.as_str(), value.as_bytes());
        }
    }
    reader.finish()
}

/// What was read of a request so far.
#[derive(Default)]
struct Reader {
    same: BTreeMap<(&'static str, String), Vec<Vec<u8>>>,
    ids: Option<(Value, IdsAt)>,
}

impl Reader {
    /// Adds a value that must be equal in merged receipts. False for a repeated name:
    /// which of its values counts depends on the backend.
    fn same(&mut self, location: &'static str, name: &str, value: &[u8]) -> bool {
        let values = self.same.entry((location, name.to_owned())).or_default();
        values.push(value.to_vec());
        values.len() == 1
    }

    fn query(&mut self, query: &str) -> Option<()> {
        if !is_well_encoded(query) {
            return None;
        }
        let mut start = 0;
        for pair in query.split('&') {
            let at = start;
            start += pair.len() + 1;
            // `split` of an empty text gives one empty piece, which is no field.
            if query.is_empty() {
                break;
            }
            let (name, value) = pair.split_once('=')?;
            if name == "messageIds" && self.ids.is_none() {
                let range = at + name.len() + 1..at + pair.len();
                let ids = serde_json::from_str(&decoded(value)).ok()?;
                self.ids = Some((ids, IdsAt::Query(range)));
            } else if name == "messageIds"
                || !FIELDS.contains(&name)
                || !self.same("query", name, value.as_bytes())
            {
                return None;
            }
        }
        Some(())
    }

    fn body(&mut self, body: &[u8]) -> Option<()> {
        let members = members(body)?.0;
        if !members.iter().any(|(name, _)| name == "chatId") {
            return None;
        }
        for (name, raw) in members {
            let value: Value = serde_json::from_str(raw.get()).ok()?;
            let fits = match name.as_str() {
                "messageIds" => value.is_array() && self.ids.is_none(),
                // Absent, `null` and `""` may mean different things to the API, so they are
                // different values.
                "participant" => value.is_string() || value.is_null(),
                other => value.is_string() && FIELDS.contains(&other),
            };
            if !fits {
                return None;
            }
            if name == "messageIds" {
                // `raw` borrows from `body`, so the difference of the addresses is the offset.
                let start = raw.get().as_ptr() as usize - body.as_ptr() as usize;
                self.ids = Some((value, IdsAt::Body(start..start + raw.get().len())));
            } else if !self.same("body", &name, raw.get().as_bytes()) {
                return None;
            }
        }
        Some(())
    }

    fn finish(self) -> Option<Receipt> {
        let mut receipt = Receipt {
            same: self.same,
            ids: Vec::new(),
            ids_at: None,
        };
        if let Some((value, at)) = self.ids {
            for id in value.as_array()? {
                let id = id.as_str().filter(|id| is_id(id))?;
                receipt.ids.push(id.to_owned());
            }
            if !receipt.ids.is_empty() {
                receipt.ids_at = Some(at);
                // A list and a whole-chat receipt never merge (rule: merge equality).
                receipt.same.insert(("list", String::new()), Vec::new());
            }
        }
        Some(receipt)
    }
}

/// `{true or false}_{chat}_{id}[_{participant}]`, in visible ASCII that JSON
/// does not escape, at most 512 long.
fn is_id(text: &str) -> bool {
    let parts: Vec<_> = text.split('_').collect();
    (parts.len() == 3 || parts.len() == 4)
        && ["true", "false"].contains(&parts[0])
        && !parts.contains(&"")
        && text.len() <= 512
        && text
            .chars()
            .all(|letter| ('!'..='~').contains(&letter) && !['"', '\\'].contains(&letter))
}

/// Whether two hexadecimal digits follow each `%`.
fn is_well_encoded(query: &str) -> bool {
    let bytes = query.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    (0..bytes.len()).all(|at| bytes[at] != b'%' || is_digit(at + 1) && is_digit(at + 2))
}

/// One value of a query, decoded.
fn decoded(value: &str) -> String {
    let pair = format!("v={value}");
    let mut pairs = form_urlencoded::parse(pair.as_bytes());
    pairs
        .next()
        .map_or_else(String::new, |(_, value)| value.into_owned())
}
