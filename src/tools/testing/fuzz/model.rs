//! Simple readers that the laws are checked against.
//!
//! Invariant: they share no code with the gateway; JSON is read by `serde_json`, queries
//! and forms as PHP and Node read them.

use std::collections::BTreeMap;
use std::fmt;

use http::request::Parts;
use indexmap::IndexSet;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::tools::backends::{self, without_ids};

/// The largest body that is merged.
const MAX_BODY: usize = 64 * 1024;
/// Headers that are part of what must be equal, besides `x-wawp-*`.
const HEADERS: [&str; 9] = [
    "authorization",
    "access-token",
    "x-instance-id",
    "cookie",
    "accept",
    "accept-language",
    "accept-encoding",
    "content-type",
    "origin",
];
/// Headers with which nothing is merged.
const EXCLUDING: [&str; 15] = [
    "content-encoding",
    "trailer",
    "upgrade",
    "expect",
    "idempotency-key",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "range",
    "content-digest",
    "repr-digest",
    "digest",
    "content-md5",
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

/// What the simple reader expects of a request.
#[derive(Debug)]
pub(super) enum Expected {
    /// A receipt with these ids.
    Receipt(Vec<String>),
    /// No receipt.
    None,
    /// The simple reader reads only JSON beside simple queries.
    Unknown,
}

/// Reads a request to the path of receipts.
pub(super) fn receipt(head: &Parts, body: &[u8]) -> Expected {
    let excludes = |name: &&str| head.headers.contains_key(*name);
    if head.method != "POST" || EXCLUDING.iter().any(excludes) {
        return match head.headers.contains_key("expect") {
            true => Expected::Unknown,
            false => Expected::None,
        };
    }
    if body.len() > MAX_BODY {
        return Expected::None;
    }
    let types: Vec<_> = head.headers.get_all("content-type").iter().collect();
    let is_json = types.is_empty() || types == ["application/json"];
    // Identities in several places may contradict each other.
    let mut identities = head.headers.keys().filter(|name| {
        let name = name.as_str();
        name.contains("instance") || name.contains("token") || name == "authorization"
    });
    let Some(names) = simple_names(head.uri.query().unwrap_or_default()) else {
        return Expected::Unknown;
    };
    if !is_json || identities.next().is_some() {
        return Expected::Unknown;
    }
    let has_chat = names.iter().any(|name| name == "chatId");
    let Some(members) = members(body) else {
        // `serde_json` itself reads fewer texts than a backend: numbers beyond `f64`, deep
        // nesting, half a surrogate pair in a field that does not matter.
        return match serde_json::from_slice::<&RawValue>(body) {
            Ok(_) => Expected::Unknown,
            Err(_) if body.is_empty() => Expected::Unknown,
            Err(_) => Expected::None,
        };
    };
    let (mut ids, mut has_ids, mut is_chat) = (Vec::new(), false, has_chat);
    let mut seen: Vec<&str> = names.iter().map(String::as_str).collect();
    let in_query = seen.len();
    for (name, raw) in &members.0 {
        let value: Value = serde_json::from_str(raw.get()).unwrap_or_default();
        if ["instance_id", "access_token"].contains(&name.as_str())
            && (!value.is_string() || seen[..in_query].contains(&name.as_str()))
        {
            return Expected::Unknown;
        }
        if seen[in_query..].contains(&name.as_str()) {
            return Expected::None;
        }
        seen.push(name);
        is_chat |= name == "chatId" && value.is_string();
        if name != "messageIds" && name != "messageId" {
            continue;
        }
        let listed = match value {
            Value::Array(list) if name == "messageIds" => list,
            text @ Value::String(_) => vec![text],
            _ => return Expected::None,
        };
        let is_single = raw.get().starts_with('"');
        if std::mem::replace(&mut has_ids, true) {
            return Expected::None;
        }
        for id in listed {
            match id.as_str() {
                Some(id) if is_id(id) && !(is_single && id.contains(',')) => {
                    ids.push(id.to_owned());
                }
                _ => return Expected::None,
            }
        }
    }
    let mut sorted = names.clone();
    sorted.sort();
    sorted.dedup();
    match is_chat && sorted.len() == names.len() {
        true => Expected::Receipt(ids),
        false => Expected::None,
    }
}

/// The names in a query that has no ids and that every backend reads alike.
fn simple_names(query: &str) -> Option<Vec<String>> {
    let is_simple = |byte: u8| byte.is_ascii_alphanumeric() || b"_=&-@".contains(&byte);
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let names = pairs.map(|pair| pair.split('=').next().unwrap_or_default().to_owned());
    let names: Vec<String> = names.collect();
    let has_ids = names.iter().any(|name| name.starts_with("messageId"));
    (query.bytes().all(is_simple) && !has_ids).then_some(names)
}

/// What backends read of a request.
#[derive(Debug, PartialEq)]
pub(super) struct Reading {
    /// Everything but the ids: what must be equal in receipts that merge.
    pub(super) rest: Rest,
    php: Vec<String>,
    node: Vec<String>,
}

/// Path, headers, and the fields as PHP and as Node read them.
#[derive(Debug, PartialEq)]
pub(super) struct Rest {
    path: String,
    headers: BTreeMap<String, Vec<Vec<u8>>>,
    fields: [Value; 4],
}

impl Reading {
    pub(super) fn of(head: &Parts, body: &[u8]) -> Self {
        let mut headers = BTreeMap::<String, Vec<Vec<u8>>>::new();
        for (name, value) in &head.headers {
            let name = name.as_str();
            if HEADERS.contains(&name) || name.starts_with("x-wawp-") {
                let value = match name {
                    // Without the boundary and the default charset.
                    "content-type" => value.as_bytes().split(|byte| *byte == b';').next(),
                    _ => Some(value.as_bytes()),
                };
                let values = headers.entry(name.to_owned()).or_default();
                values.push(value.unwrap_or_default().trim_ascii().to_vec());
            }
        }
        let query = head.uri.query().unwrap_or_default();
        let php = backends::as_php(query, &head.headers, body);
        let node = backends::as_node(query, &head.headers, body);
        let [(php_query, ids), (php_body, more)] = [php.query, php.body].map(without_ids);
        let php_ids = [ids, more].concat();
        let [(node_query, ids), (node_body, more)] = [node.query, node.body].map(without_ids);
        Self {
            rest: Rest {
                path: head.uri.path().to_owned(),
                headers,
                fields: [php_query, php_body, node_query, node_body],
            },
            php: php_ids,
            node: [ids, more].concat(),
        }
    }
}

/// Backends read these ids in a request; some may be repeated if none of these is.
///
/// # Panics
/// When they do not.
pub(super) fn same_ids(head: &Parts, body: &[u8], ids: &[String]) {
    let looks_like_json = body.trim_ascii_start().starts_with(b"{");
    if looks_like_json && serde_json::from_slice::<Value>(body).is_err() {
        // Not readable here: a number beyond `f64`, or half a surrogate pair.
        return;
    }
    let reading = Reading::of(head, body);
    // A list that is only added to keeps what its caller has repeated.
    let is_same = |read: &[String]| read == ids || unique(read) == ids;
    assert!(
        is_same(&reading.node),
        "as Node reads them: {:?}",
        reading.node
    );
    // Of a key that is simply repeated PHP reads the last value.
    let is_last = reading.node.len() > 1 && reading.node.ends_with(&reading.php);
    let is_last = is_last && reading.php.len() == 1;
    assert!(
        is_same(&reading.php) || is_last,
        "as PHP reads them: {:?}",
        reading.php
    );
}

fn unique(ids: &[String]) -> Vec<String> {
    let unique: IndexSet<_> = ids.iter().cloned().collect();
    unique.into_iter().collect()
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
