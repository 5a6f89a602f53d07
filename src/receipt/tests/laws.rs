//! Laws that hold for any request.

use indexmap::IndexSet;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::identity::{CredentialSource, Findings};

/// A key of a body, as it may be written.
fn key() -> impl Strategy<Value = String> {
    let plain = prop_oneof![
        6 => Just("chatId"),
        3 => Just("messageIds"),
        2 => Just("participant"),
        2 => Just("instance_id"),
        2 => Just("access_token"),
        1 => Just("messageId"),
        1 => Just("chatID"),
        1 => Just("reply_to"),
    ];
    (plain, any::<bool>()).prop_map(|(name, escaped)| {
        if escaped {
            name.replacen('a', "\\u0061", 1).replacen('s', "\\u0073", 1)
        } else {
            name.to_owned()
        }
    })
}

/// A value, as it may be written.
fn value() -> impl Strategy<Value = String> {
    let id = prop_oneof![
        6 => "(true|false)_[0-9]{1,3}@c\\.us_[A-F]{1,3}",
        1 => ".{0,6}",
    ];
    prop_oneof![
        6 => "[a-z0-9@. ]{0,6}".prop_map(|text| format!("\"{text}\"")),
        2 => any::<String>().prop_map(|text| Value::from(text).to_string()),
        1 => "\"(\\\\u[0-9a-fd]{4}){1,2}\"",
        6 => proptest::collection::vec(id, 0..4).prop_map(|ids| Value::from(ids).to_string()),
        1 => Just("null".to_owned()),
        1 => Just("17".to_owned()),
        1 => Just("{\"chatId\":\"x\"}".to_owned()),
        1 => Just("[\"false_1_A\",7]".to_owned()),
    ]
}

fn blank() -> impl Strategy<Value = &'static str> {
    prop_oneof![6 => Just(""), 1 => Just(" "), 1 => Just("\r\n\t")]
}

/// An object's pairs, and its text.
fn object() -> impl Strategy<Value = (Vec<String>, String)> {
    let pairs = proptest::collection::vec((key(), value(), blank()), 0..5);
    pairs.prop_map(|pairs| {
        let keys = pairs
            .iter()
            .map(|(key, ..)| serde_json::from_str(&format!("\"{key}\"")).unwrap())
            .collect();
        let text: Vec<_> = pairs
            .iter()
            .map(|(key, value, blank)| format!("{blank}\"{key}\"{blank}:{blank}{value}{blank}"))
            .collect();
        (keys, format!("{{{}}}", text.join(",")))
    })
}

/// What is a receipt (rule: merge equality), written independently with serde_json.
fn meaning(keys: &[String], text: &str) -> Option<Vec<String>> {
    let distinct: IndexSet<_> = keys.iter().collect();
    let Ok(Value::Object(object)) = serde_json::from_str(text) else {
        return None;
    };
    if distinct.len() < keys.len() || !object.get("chatId")?.is_string() {
        return None;
    }
    let mut ids = Vec::new();
    // A list in place of an identity: some backends read its element.
    for name in ["instance_id", "access_token"] {
        if matches!(object.get(name), Some(Value::Array(_) | Value::Object(_))) {
            return None;
        }
    }
    let is_single = |value: &Value| value.as_str().is_some_and(|id| !id.contains(','));
    for (key, value) in &object {
        match (&**key, value) {
            ("messageIds", Value::Array(list)) => {
                for id in list {
                    ids.push(id.as_str()?.to_owned());
                }
            }
            ("messageIds" | "messageId", value) if is_single(value) => {
                ids.push(value.as_str()?.to_owned());
            }
            ("messageIds" | "messageId", _) => return None,
            _ => {}
        }
    }
    if object.contains_key("messageIds") && object.contains_key("messageId") {
        return None;
    }
    ids.iter()
        .all(|id| message_id::is_message_id(id))
        .then_some(ids)
}

/// Everything in which two receipts may differ, drawn from texts that would
/// collide if they were only concatenated.
#[derive(Clone, Debug, PartialEq)]
struct Fields {
    in_query: bool,
    braces: bool,
    is_list: bool,
    chat: String,
    participant: Option<String>,
    query: [Option<String>; 2],
    body: [Option<String>; 2],
    headers: [Vec<String>; 4],
}

const HEADERS: [&str; 4] = ["authorization", "accept", "x-wawp-a", "x-wawp-ab"];

fn fields() -> impl Strategy<Value = Fields> {
    let text = || {
        prop_oneof![8 => Just(""), 4 => Just("a"), 1 => Just("aa"), 1 => Just("+."), 1 => Just("a.")].prop_map(str::to_owned)
    };
    let maybe = || prop_oneof![4 => Just(None), 1 => text().prop_map(Some)];
    let values = || {
        prop_oneof![
            8 => Just(Vec::new()),
            1 => proptest::collection::vec(text(), 1..3),
        ]
    };
    (
        (any::<bool>(), any::<bool>(), any::<bool>()),
        text(),
        maybe(),
        [maybe(), maybe()],
        [maybe(), maybe()],
        [values(), values(), values(), values()],
    )
        .prop_map(
            |((in_query, braces, is_list), chat, participant, query, body, headers)| Fields {
                in_query,
                braces: in_query && braces,
                is_list,
                chat,
                participant,
                query,
                body: if in_query { [None, None] } else { body },
                headers,
            },
        )
}

impl Fields {
    fn receipt(&self, ids: &[String]) -> Option<Receipt> {
        let list = Value::from(ids.to_vec()).to_string();
        let mut query = Vec::new();
        let mut body = Vec::new();
        for (name, value) in ["instance_id", "access_token"].iter().zip(&self.query) {
            query.extend(value.iter().map(|value| format!("{name}={value}")));
        }
        for (name, value) in ["instance_id", "access_token"].iter().zip(&self.body) {
            body.extend(value.iter().map(|value| format!("\"{name}\":\"{value}\"")));
        }
        if self.in_query {
            query.push(format!("chatId={}", self.chat));
            query.extend(
                self.participant
                    .iter()
                    .map(|text| format!("participant={text}")),
            );
            if self.is_list {
                query.push(format!(
                    "messageIds={}",
                    message_id::encode(list.as_bytes())
                ));
            }
        } else {
            body.push(format!("\"chatId\":\"{}\"", self.chat));
            let participant = self.participant.iter();
            body.extend(participant.map(|text| format!("\"participant\":\"{text}\"")));
            if self.is_list {
                body.push(format!("\"messageIds\":{list}"));
            }
        }
        let body = match (self.in_query, self.braces) {
            (true, false) => String::new(),
            (true, true) => "{}".to_owned(),
            (false, _) => format!("{{{}}}", body.join(",")),
        };
        let headers: Vec<_> = HEADERS
            .iter()
            .zip(&self.headers)
            .flat_map(|(name, values)| values.iter().map(|value| (*name, &**value)))
            .collect();
        let target = format!("{PATH}?{}", query.join("&"));
        match try_read(&target, &headers, body.as_bytes()) {
            Ok(receipt) => Some(receipt),
            // Two instances, or two credentials in one place.
            Err(NotMerged::AmbiguousInstance) => None,
            Err(reason) => panic!("no receipt: {reason}"),
        }
    }
}

fn some_ids() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec("(true|false)_[0-9]{1,2}@c\\.us_[A-C%&+=]{1,2}", 1..6)
}

proptest! {
    /// A request is a receipt if and only if a reader of serde_json's result says so.
    #[test]
    fn a_body_means_what_serde_json_says((keys, text) in object()) {
        let ours = of_body(&text).map(|receipt| texts(&receipt));
        prop_assert_eq!(ours, meaning(&keys, &text), "{}", text);
    }

    /// Instance and credential are those that serde_json reads in the body.
    #[test]
    fn an_identity_is_what_serde_json_says((_, text) in object()) {
        if let Some(receipt) = of_body(&text) {
            let object: Value = serde_json::from_str(&text).unwrap();
            let mut findings = Findings::of_head(&head("POST", PATH, &[]));
            let text = |name: &str| match &object[name] {
                Value::String(text) => Some(text.clone()),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            };
            findings.add_instance(&text("instance_id").unwrap_or_default());
            if let Some(token) = text("access_token") {
                findings.add_credential(CredentialSource::Body, token.as_bytes());
            }
            prop_assert_eq!(receipt.identity, findings.identity());
        }
    }

    /// Two keys are equal if and only if only the ids differ.
    #[test]
    fn keys_are_equal_when_all_else_is(one in fields(), other in fields(), a in some_ids(), b in some_ids()) {
        let keys = [(&one, &a), (&other, &b), (&one, &b)];
        let keys = keys.map(|(fields, ids)| fields.receipt(ids).map(|receipt| receipt.key));
        let [Some(key), Some(other_key), Some(same)] = keys else { return Ok(()) };
        prop_assert_eq!(key == other_key, one == other);
        prop_assert!(key == same);
    }

    /// One change is enough to make two keys differ.
    #[test]
    fn one_difference_makes_two_keys(one in fields(), other in fields(), index in 0..12_usize, ids in some_ids()) {
        let mut changed = one.clone();
        match index {
            0 => changed.chat = other.chat,
            1 => changed.participant = other.participant,
            2 => changed.is_list = other.is_list,
            3 => changed.braces = changed.in_query && other.braces,
            4 | 5 => changed.query[index - 4] = other.query[index - 4].clone(),
            6 | 7 if !one.in_query => changed.body[index - 6] = other.body[index - 6].clone(),
            6 | 7 => {}
            _ => changed.headers[index - 8] = other.headers[index - 8].clone(),
        }
        let keys = [&one, &changed].map(|fields| fields.receipt(&ids).map(|receipt| receipt.key));
        let [Some(key), Some(changed_key)] = keys else { return Ok(()) };
        prop_assert_eq!(key == changed_key, one == changed);
    }

    /// A merged request, read again, asks for the union under the same key.
    #[test]
    fn a_merged_request_reads_as_the_union(
        fields in fields(),
        lists in proptest::collection::vec(some_ids(), 2..5),
    ) {
        let fields = Fields { is_list: true, ..fields };
        let receipts: Vec<_> = lists.iter().filter_map(|ids| fields.receipt(ids)).collect();
        if receipts.is_empty() { return Ok(()) }
        let union: IndexSet<String> = lists.concat().into_iter().collect();
        let request = receipts[0].merged_with(union.iter().map(String::as_str));
        let UpstreamRequest { mut head, body } = request;
        let again = Receipt::read(&SETTINGS, &mut head, bytes(body)).expect("a receipt");
        prop_assert!(again.key == receipts[0].key);
        prop_assert_eq!(&again.identity, &receipts[0].identity);
        // In the order in which they were first seen.
        prop_assert_eq!(texts(&again), union.into_iter().collect::<Vec<_>>());
    }
}
