//! Laws of merging for random requests in every carrier, spelt in random ways, checked
//! against what backends in PHP and Node read.

use indexmap::IndexSet;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value};

use super::*;
use crate::tools::backends::{as_node, as_php, without_ids};

/// How the body carries its fields.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Body {
    None,
    Json,
    Form,
    Multipart,
}

/// How ids are written in pairs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pairs {
    JsonText,
    Brackets,
    Indices,
    BracketsAndIndices,
    Repeated,
    Commas,
}

/// What a request says, apart from its spelling and its ids.
#[derive(Clone, Debug, PartialEq)]
struct Said {
    body: Body,
    query_fields: Vec<(&'static str, String)>,
    body_fields: Vec<(&'static str, String)>,
    /// The ids are in the query.
    ids_in_query: bool,
    pairs: Pairs,
    accept: &'static str,
}

fn said() -> impl Strategy<Value = Said> {
    const NAMES: [&str; 6] = [
        "participant",
        "session",
        "tag[]",
        "o[k]",
        "x.y",
        "instance_id",
    ];
    let value = || "[a-zA-Z0-9@.:+%&=ü\" ]{0,6}";
    let fields = move || {
        let names = subsequence(NAMES.to_vec(), 0..4);
        (names, proptest::array::uniform6(value()))
            .prop_map(|(names, values)| names.into_iter().zip(values).collect::<Vec<_>>())
    };
    let body = select(vec![Body::None, Body::Json, Body::Form, Body::Multipart]);
    let pairs = select(vec![
        Pairs::JsonText,
        Pairs::Brackets,
        Pairs::Indices,
        Pairs::BracketsAndIndices,
        Pairs::Repeated,
        Pairs::Commas,
    ]);
    let places = (any::<bool>(), any::<bool>());
    let accept = select(vec!["*/*", "application/json"]);
    (body, fields(), fields(), places, pairs, value(), accept).prop_map(
        |(
            body,
            mut query_fields,
            mut body_fields,
            (chat_in_query, ids_in_query),
            pairs,
            chat,
            accept,
        )| {
            if body == Body::None {
                body_fields.clear();
            }
            // Two instances would be ambiguous.
            body_fields.retain(|(name, _)| *name != "instance_id");
            match chat_in_query || body == Body::None {
                true => query_fields.push(("chatId", chat)),
                false => body_fields.push(("chatId", chat)),
            }
            let ids_in_query = ids_in_query || body == Body::None;
            Said {
                body,
                query_fields,
                body_fields,
                ids_in_query,
                pairs,
                accept,
            }
        },
    )
}

fn some_ids() -> impl Strategy<Value = Vec<String>> {
    let ids = proptest::collection::hash_set("(true|false)_[0-9]{1,2}@c\\.us_[A-C%&+=]{1,3}", 2..5);
    ids.prop_map(|ids| ids.into_iter().collect())
}

/// Numbers that look random, for the spelling.
struct Rng(u64);

impl Rng {
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

impl Said {
    /// Names and values of the ids, as pairs.
    fn id_pairs(&self, ids: &[String]) -> Vec<(String, String)> {
        let each = |name: &dyn Fn(usize) -> String| {
            let ids = ids.iter().enumerate();
            ids.map(|(number, id)| (name(number), id.clone())).collect()
        };
        let one = |value: String| vec![("messageIds".to_owned(), value)];
        match self.pairs {
            Pairs::JsonText => one(serde_json::to_string(ids).unwrap()),
            Pairs::Commas => one(ids.join(",")),
            Pairs::Repeated => each(&|_| "messageIds".to_owned()),
            Pairs::Brackets => each(&|_| "messageIds[]".to_owned()),
            Pairs::Indices => each(&|number| format!("messageIds[{number}]")),
            Pairs::BracketsAndIndices => each(&|number| format!("messageIds[][{number}]")),
        }
    }

    /// The pairs of one place in a random order; ids stay in theirs.
    fn pairs(
        &self,
        fields: &[(&str, String)],
        ids: Option<&[String]>,
        rng: &mut Rng,
    ) -> Vec<(String, String)> {
        let fields = fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()));
        let mut pairs: Vec<_> = fields.collect();
        rng.shuffle(&mut pairs);
        // Fields may lie between the ids.
        let mut at = 0;
        for pair in ids.map(|ids| self.id_pairs(ids)).unwrap_or_default() {
            at += rng.below(pairs.len() + 1 - at);
            pairs.insert(at, pair);
            at += 1;
        }
        pairs
    }

    /// The request with these ids, spelt at random.
    fn request(&self, ids: &[String], seed: u64) -> (Parts, Bytes) {
        let rng = &mut Rng(seed);
        let in_query = self.ids_in_query.then_some(ids);
        let in_body = (!self.ids_in_query).then_some(ids);
        let query = self.pairs(&self.query_fields, in_query, rng);
        let query = urlencoded(&query, rng);
        let (content_type, body) = match self.body {
            Body::None => (None, String::new()),
            Body::Json => {
                let (content_type, body) = self.json(in_body, rng);
                (Some(content_type), body)
            }
            Body::Form => {
                let pairs = self.pairs(&self.body_fields, in_body, rng);
                let content_type = "application/x-www-form-urlencoded".to_owned();
                (Some(content_type), urlencoded(&pairs, rng))
            }
            Body::Multipart => {
                let boundary = format!("b{seed}");
                let pairs = self.pairs(&self.body_fields, in_body, rng);
                let part = |(name, value): &(String, String)| {
                    format!(
                        "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
                    )
                };
                let parts: String = pairs.iter().map(part).collect();
                let content_type = format!("multipart/form-data; boundary={boundary}");
                (Some(content_type), format!("{parts}--{boundary}--\r\n"))
            }
        };
        let mut headers = vec![("accept", self.accept.to_owned())];
        headers.extend(content_type.map(|value| ("content-type", value)));
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect();
        (
            head("POST", &format!("{PATH}?{query}"), &headers),
            Bytes::from(body),
        )
    }

    fn json(&self, ids: Option<&[String]>, rng: &mut Rng) -> (String, String) {
        let mut members: Vec<_> = self
            .body_fields
            .iter()
            .map(|(name, value)| (json_text(name, rng), json_text(value, rng)))
            .collect();
        members.extend(ids.map(|ids| {
            let ids: Vec<_> = ids.iter().map(|id| json_text(id, rng)).collect();
            (
                json_text("messageIds", rng),
                format!("[{}]", ids.join(", ")),
            )
        }));
        rng.shuffle(&mut members);
        let blank = ["", " ", "\n"][rng.below(3)];
        let members: Vec<_> = members
            .iter()
            .map(|(name, value)| format!("{name}{blank}:{blank}{value}"))
            .collect();
        let content_type = ["application/json", "application/json; charset=utf-8"];
        let body = format!("{blank}{{{}{blank}}}", members.join(","));
        (content_type[rng.below(2)].to_owned(), body)
    }
}

fn urlencoded(pairs: &[(String, String)], rng: &mut Rng) -> String {
    let mut encode = |text: &str| {
        let mut written = String::new();
        for byte in text.bytes() {
            let is_plain = byte.is_ascii_alphanumeric() || b"[]@.,:_".contains(&byte);
            match is_plain && rng.below(4) > 0 {
                true => written.push(char::from(byte)),
                false if byte == b' ' && rng.below(2) == 0 => written.push('+'),
                false if rng.below(2) == 0 => written.push_str(&format!("%{byte:02x}")),
                false => written.push_str(&format!("%{byte:02X}")),
            }
        }
        written
    };
    let pairs = pairs.iter().map(|(name, value)| {
        // A name in other letters is not extended.
        let name = match name.strip_prefix("messageIds") {
            Some(rest) => format!("messageIds{}", rest.replace('[', "%5B")),
            None => encode(name),
        };
        format!("{name}={}", encode(value))
    });
    pairs.collect::<Vec<_>>().join("&")
}

fn json_text(text: &str, rng: &mut Rng) -> String {
    let mut written = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => written.extend(['\\', letter]),
            letter if letter.is_ascii() && rng.below(4) == 0 => {
                written.push_str(&format!("\\u{:04x}", u32::from(letter)));
            }
            letter => written.push(letter),
        }
    }
    written.push('"');
    written
}

/// What a backend reads: all but the ids, and the ids.
type Read = ([Value; 2], Vec<String>);

fn readings(head: &Parts, body: &[u8]) -> [Read; 2] {
    let query = head.uri.query().unwrap_or_default();
    [
        as_php(query, &head.headers, body),
        as_node(query, &head.headers, body),
    ]
    .map(|reading| {
        let [(query, ids), (body, more)] = [reading.query, reading.body].map(without_ids);
        ([query, body], [ids, more].concat())
    })
}

/// One thing that another request says in another way.
fn changed(said: &Said, other: &Said, which: usize) -> Said {
    let mut changed = said.clone();
    match which {
        0 => changed.accept = other.accept,
        1 if !said.query_fields.is_empty() => {
            let last = changed.query_fields.len() - 1;
            changed.query_fields[last].1.push('x');
        }
        2 if !said.body_fields.is_empty() => {
            let last = changed.body_fields.len() - 1;
            changed.body_fields[last].1.push('x');
        }
        3 => changed.query_fields.push(("further", String::new())),
        4 if said.body != Body::None => changed.body_fields.push(("further", String::new())),
        5 => changed.pairs = other.pairs,
        6 if said.body != Body::None => {
            // The same field in the other place.
            match changed.query_fields.pop() {
                Some(field) if !changed.body_fields.iter().any(|(name, _)| *name == field.0) => {
                    changed.body_fields.push(field);
                }
                Some(field) => changed.query_fields.push(field),
                None => {}
            }
        }
        _ => {}
    }
    changed
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Merging A and B gives a request of which each backend reads everything of A except the
    /// ids, and the ids of both; however the two are spelt.
    #[test]
    fn backends_read_all_of_the_first_and_the_ids_of_both(
        said in said(), a in some_ids(), b in some_ids(), seeds in any::<[u64; 2]>(),
    ) {
        let (head_a, body_a) = said.request(&a, seeds[0]);
        let (head_b, body_b) = said.request(&b, seeds[1]);
        let one = Receipt::by_default(head_a.clone(), body_a.clone());
        let other = Receipt::by_default(head_b, body_b);
        let (one, other) = match (one, other) {
            (Ok(one), Ok(other)) => (one, other),
            (one, other) => panic!("{:?} {:?}", one.err(), other.err()),
        };
        prop_assert!(one.key == other.key);
        prop_assert_eq!(&one.identity, &other.identity);
        let union: IndexSet<String> = a.iter().chain(&b).cloned().collect();
        let merged = one.merged_with(union.iter().map(String::as_str));
        let sent = bytes(merged.body);
        let before = readings(&head_a, &body_a);
        let after = readings(&merged.head, &sent);
        let union: Vec<_> = union.into_iter().collect();
        for (backend, (before, after)) in before.iter().zip(&after).enumerate() {
            prop_assert_eq!(&before.0, &after.0);
            // Of a repeated key PHP reads the last value, of A as of the merged request.
            let is_json = said.body == Body::Json && !said.ids_in_query;
            let reads_last = backend == 0 && said.pairs == Pairs::Repeated && !is_json;
            match reads_last {
                true => prop_assert_eq!(&after.1[..], &union[union.len() - 1..]),
                false => prop_assert_eq!(&after.1, &union),
            }
        }
    }

    /// Requests that differ in anything but their ids never merge.
    #[test]
    fn one_difference_is_enough(
        said in said(), other in said(), which in 0..7_usize, ids in some_ids(), seeds in any::<[u64; 2]>(),
    ) {
        let changed = changed(&said, &other, which);
        let is_json_list = said.body == Body::Json && !said.ids_in_query;
        // The form of pairs says nothing about a list in JSON.
        let same = said == Said { pairs: if is_json_list { said.pairs } else { changed.pairs }, ..changed.clone() };
        let [one, two] = [(&said, seeds[0]), (&changed, seeds[1])].map(|(said, seed)| {
            let (head, body) = said.request(&ids, seed);
            Receipt::by_default(head, body).map(|receipt| receipt.key)
        });
        if let (Ok(one), Ok(two)) = (one, two) {
            prop_assert_eq!(one == two, same);
        }
    }

    /// Values of JSON that merge are equal to a JSON reader.
    #[test]
    fn equal_json_is_equal(one in json_value(), other in json_value()) {
        let key = |value: &Value| {
            let body = serde_json::json!({ "chatId": "1", "x": value }).to_string();
            of_body(&body).unwrap().key
        };
        prop_assert_eq!(key(&one) == key(&other), one == other);
    }
}

/// Small values, so that equal ones are frequent.
fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        (0..2).prop_map(Value::from),
        "[a,\"]{0,1}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map("[ab]", inner, 0..3)
                .prop_map(|members| Value::Object(Map::from_iter(members))),
        ]
    })
}
