//! `qs.parse` with its defaults, which Express uses for queries and forms.
//!
//! Invariant: equal keys are collected first, then each key is read into the tree. A key that
//! is a value and a list at once (`a=1&a[x]=2`) is read approximately: versions of qs differ,
//! and such a request is never merged.

use indexmap::IndexMap;
use serde_json::Value;

use super::{Pair, object, text};

/// qs reads no more parameters (`parameterLimit`).
const MAX_PARAMETERS: usize = 1000;
/// A longer list becomes an object (`arrayLimit`).
const MAX_ARRAY: usize = 20;
/// Deeper brackets are one key (`depth`).
const MAX_DEPTH: usize = 5;

/// Pairs, decoded as `decodeURIComponent` does: text with a wrong escape stays.
pub(super) fn pairs(input: &[u8]) -> Vec<Pair> {
    let pairs = input
        .split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty());
    let pair = |pair: &[u8]| {
        let pair = with_brackets(pair);
        // `a[=]=b`: a bracket before the equals sign ends the key.
        let bracket = pair
            .windows(2)
            .position(|two| two == b"]=")
            .map(|at| at + 1);
        let equals = bracket.or_else(|| pair.iter().position(|byte| *byte == b'='));
        match equals {
            Some(at) => (decode(&pair[..at]), decode(&pair[at + 1..])),
            None => (decode(&pair), Vec::new()),
        }
    };
    pairs.map(pair).collect()
}

fn with_brackets(pair: &[u8]) -> Vec<u8> {
    let (mut written, mut rest) = (Vec::with_capacity(pair.len()), pair);
    while let Some((&byte, after)) = rest.split_first() {
        let escape = rest.get(..3).unwrap_or_default().to_ascii_uppercase();
        match &*escape {
            b"%5B" => written.push(b'['),
            b"%5D" => written.push(b']'),
            _ => {
                written.push(byte);
                rest = after;
                continue;
            }
        }
        rest = &rest[3..];
    }
    written
}

fn decode(text: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> = text
        .iter()
        .map(|byte| if *byte == b'+' { b' ' } else { *byte })
        .collect();
    percent_encoding::percent_decode(&spaced).collect()
}

/// A value of the tree.
#[derive(Clone, Debug)]
enum Node {
    Text(String),
    /// `None` is a hole.
    List(Vec<Option<Node>>),
    Object(IndexMap<String, Node>),
}

/// The tree that these pairs make.
pub(super) fn read(pairs: Vec<Pair>) -> Value {
    let mut keys: IndexMap<String, Node> = IndexMap::new();
    for (name, value) in pairs.into_iter().take(MAX_PARAMETERS) {
        let value = Node::Text(text(&value));
        let name = text(&name);
        match keys.get_mut(&name) {
            Some(Node::List(list)) => list.push(Some(value)),
            Some(one) => {
                let first = one.clone();
                *one = Node::List(vec![Some(first), Some(value)]);
            }
            None => drop(keys.insert(name, value)),
        }
    }
    let mut tree = Node::Object(IndexMap::new());
    for (key, value) in keys {
        tree = merge(tree, branch(&key, value));
    }
    tree.value()
}

/// The tree of one key.
fn branch(key: &str, value: Node) -> Node {
    let (parent, segments) = segments(key);
    let mut node = value;
    for inside in segments.into_iter().rev() {
        node = match inside {
            "" => match node {
                Node::List(list) => Node::List(list),
                one => Node::List(vec![Some(one)]),
            },
            _ => match inside.parse::<usize>() {
                Ok(index) if index.to_string() == inside && index < MAX_ARRAY => {
                    let mut list = vec![None; index];
                    list.push(Some(node));
                    Node::List(list)
                }
                _ => Node::Object(IndexMap::from([(inside.to_owned(), node)])),
            },
        };
    }
    match (parent, node) {
        ("", Node::Object(object)) => Node::Object(object),
        // A key of brackets alone.
        ("", node) => Node::Object(IndexMap::from([("0".to_owned(), node)])),
        (parent, node) => Node::Object(IndexMap::from([(parent.to_owned(), node)])),
    }
}

/// A key up to its first bracket, and what is inside each pair of brackets.
fn segments(key: &str) -> (&str, Vec<&str>) {
    let Some(first) = key.find('[') else {
        return (key, Vec::new());
    };
    let (mut segments, mut open) = (Vec::new(), Some(first));
    while let Some(start) = open {
        // A bracket that is never closed, or too deep, is text.
        let close = closing(key, start).filter(|_| segments.len() < MAX_DEPTH);
        let Some(end) = close else {
            segments.push(&key[start..]);
            break;
        };
        segments.push(&key[start + 1..end]);
        open = key[end..].find('[').map(|at| end + at);
    }
    (&key[..first], segments)
}

/// Where the bracket at `open` is closed.
fn closing(key: &str, open: usize) -> Option<usize> {
    let mut level = 0;
    for (at, byte) in key.bytes().enumerate().skip(open) {
        match byte {
            b'[' => level += 1,
            b']' if level == 1 => return Some(at),
            b']' => level -= 1,
            _ => {}
        }
    }
    None
}

/// `utils.merge` of qs.
fn merge(target: Node, source: Node) -> Node {
    match (target, source) {
        (Node::Object(mut target), Node::Object(source)) => {
            for (key, value) in source {
                let merged = match target.shift_remove(&key) {
                    Some(known) => merge(known, value),
                    None => value,
                };
                target.insert(key, merged);
            }
            Node::Object(target)
        }
        (Node::List(mut target), Node::List(source)) => {
            for (index, item) in source.into_iter().enumerate() {
                let Some(item) = item else { continue };
                match target.get_mut(index) {
                    Some(slot) => match slot.take() {
                        None => *slot = Some(item),
                        Some(known) if !known.is_text() && !item.is_text() => {
                            *slot = Some(merge(known, item));
                        }
                        Some(known) => {
                            *slot = Some(known);
                            target.push(Some(item));
                        }
                    },
                    None => {
                        target.resize(index, None);
                        target.push(Some(item));
                    }
                }
            }
            Node::List(target)
        }
        (Node::List(mut target), text @ Node::Text(_)) => {
            target.push(Some(text));
            Node::List(target)
        }
        (text @ Node::Text(_), Node::List(source)) => {
            Node::List(std::iter::once(Some(text)).chain(source).collect())
        }
        (Node::List(target), source) => {
            let members = target.into_iter().enumerate();
            let members = members.filter_map(|(index, item)| Some((index.to_string(), item?)));
            merge(Node::Object(members.collect()), source)
        }
        (Node::Object(target), Node::List(source)) => {
            let members = source.into_iter().enumerate();
            let members = members.filter_map(|(index, item)| Some((index.to_string(), item?)));
            merge(Node::Object(target), Node::Object(members.collect()))
        }
        (Node::Object(mut target), Node::Text(text)) => {
            target.insert(text, Node::Text("true".to_owned()));
            Node::Object(target)
        }
        (one @ Node::Text(_), other) => Node::List(vec![Some(one), Some(other)]),
    }
}

impl Node {
    fn is_text(&self) -> bool {
        matches!(self, Self::Text(_))
    }

    fn value(self) -> Value {
        match self {
            Self::Text(text) => Value::String(text),
            Self::List(list) if list.len() > MAX_ARRAY => {
                let members = list.into_iter().enumerate();
                let member = |(index, node): (usize, Option<Self>)| {
                    node.map(|node| (index.to_string(), node.value()))
                };
                object(members.filter_map(member))
            }
            Self::List(list) => list.into_iter().flatten().map(Self::value).collect(),
            Self::Object(members) => {
                object(members.into_iter().map(|(key, node)| (key, node.value())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Printed by `console.log(JSON.stringify(require("qs").parse(query)))`.
    #[test]
    fn queries_are_read_as_qs_reads_them() {
        for (query, expected) in [
            ("a=1&a=2", json!({"a": ["1", "2"]})),
            ("a[]=1&a[]=2", json!({"a": ["1", "2"]})),
            ("a[0]=1&a[1]=2", json!({"a": ["1", "2"]})),
            (
                "a%5B%5D%5B0%5D=1&a%5B%5D%5B1%5D=2",
                json!({"a": ["1", "2"]}),
            ),
            ("a[21]=1", json!({"a": {"21": "1"}})),
            ("a[x]=1&a[y][]=2", json!({"a": {"x": "1", "y": ["2"]}})),
            ("a.b=1&e[f=3", json!({"a.b": "1", "e": {"[f": "3"}})),
            ("a=1&a[]=2", json!({"a": ["1", "2"]})),
        ] {
            assert_eq!(read(pairs(query.as_bytes())), expected, "{query}");
        }
    }
}
