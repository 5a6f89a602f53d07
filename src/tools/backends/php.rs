//! `parse_str` of PHP 8, which fills `$_GET` and `$_POST`.
//!
//! Invariant: of each variable the last value counts; elements are added to arrays in
//! the order of the request.

use indexmap::IndexMap;
use serde_json::Value;

use super::{Pair, object, text};

/// PHP reads no more variables (`max_input_vars`).
const MAX_VARIABLES: usize = 1000;

/// Pairs, decoded as `urldecode` does: what is no escape stays.
pub(super) fn pairs(input: &[u8]) -> Vec<Pair> {
    let pairs = input
        .split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty());
    let pair = |pair: &[u8]| {
        let equals = pair.iter().position(|byte| *byte == b'=');
        let (name, value) = match equals {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, b"" as &[u8]),
        };
        (decode(name), decode(value))
    };
    pairs.map(pair).collect()
}

fn decode(text: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> = text
        .iter()
        .map(|byte| if *byte == b'+' { b' ' } else { *byte })
        .collect();
    percent_encoding::percent_decode(&spaced).collect()
}

/// An array or a text of PHP.
enum Variable {
    Text(Vec<u8>),
    Array(Array),
}

#[derive(Default)]
struct Array {
    elements: IndexMap<Vec<u8>, Variable>,
    next: usize,
}

/// The variables that these pairs set.
pub(super) fn read(pairs: Vec<Pair>) -> Value {
    let mut variables = Array::default();
    for (name, value) in pairs.into_iter().take(MAX_VARIABLES) {
        set(&mut variables, &name, value);
    }
    let members = variables.elements.into_iter();
    object(members.map(|(name, value)| (text(&name), value.value())))
}

/// `php_register_variable_ex`.
fn set(variables: &mut Array, name: &[u8], value: Vec<u8>) {
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let start = name.iter().position(|byte| *byte != b' ');
    let name = &name[start.unwrap_or(name.len())..];
    let fold = |text: &[u8], odd: &[u8]| -> Vec<u8> {
        let folded = text.iter();
        folded
            .map(|byte| if odd.contains(byte) { b'_' } else { *byte })
            .collect()
    };
    let bracket = name.iter().position(|byte| *byte == b'[');
    let base = fold(&name[..bracket.unwrap_or(name.len())], b" .");
    if base.is_empty() {
        return;
    }
    let (mut keys, mut rest) = (Vec::new(), &name[bracket.unwrap_or(name.len())..]);
    while let [b'[', inside @ ..] = rest {
        let Some(end) = inside.iter().position(|byte| *byte == b']') else {
            if keys.is_empty() {
                // A bracket that is never closed belongs to the name.
                let name = [&base, b"_" as &[u8], &fold(inside, b" .[")].concat();
                variables.elements.insert(name, Variable::Text(value));
                return;
            }
            break;
        };
        keys.push(&inside[..end]);
        // What follows the last bracket is ignored.
        rest = &inside[end + 1..];
    }
    let mut slot = Slot {
        array: variables,
        key: base,
    };
    for key in keys {
        slot = slot.element(key);
    }
    slot.array.insert(slot.key, Variable::Text(value));
}

/// Where a value is put.
struct Slot<'a> {
    array: &'a mut Array,
    key: Vec<u8>,
}

impl<'a> Slot<'a> {
    fn element(self, key: &[u8]) -> Self {
        let is_array = matches!(self.array.elements.get(&self.key), Some(Variable::Array(_)));
        if !is_array {
            self.array
                .insert(self.key.clone(), Variable::Array(Array::default()));
        }
        let Some(Variable::Array(array)) = self.array.elements.get_mut(&self.key) else {
            unreachable!("made above");
        };
        let key = match key.trim_ascii_start() {
            b"" => array.next.to_string().into_bytes(),
            _ => key.to_vec(),
        };
        Slot { array, key }
    }
}

impl Array {
    fn insert(&mut self, key: Vec<u8>, value: Variable) {
        let number = std::str::from_utf8(&key).ok();
        let number = number.and_then(|text| {
            let number = text.parse::<usize>().ok()?;
            (number.to_string() == text).then_some(number)
        });
        if let Some(number) = number {
            self.next = self.next.max(number.saturating_add(1));
        }
        self.elements.insert(key, value);
    }
}

impl Variable {
    fn value(self) -> Value {
        match self {
            Self::Text(bytes) => Value::String(text(&bytes)),
            Self::Array(array) => {
                let is_list = array
                    .elements
                    .keys()
                    .enumerate()
                    .all(|(number, key)| *key == number.to_string().into_bytes());
                let elements = array.elements.into_iter();
                match is_list {
                    true => elements.map(|(_, value)| value.value()).collect(),
                    false => object(elements.map(|(key, value)| (text(&key), value.value()))),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Printed by `php -r 'parse_str($argv[1], $read); echo json_encode($read);'`.
    #[test]
    fn queries_are_read_as_php_8_reads_them() {
        for (query, expected) in [
            ("a=1&a=2", json!({"a": "2"})),
            ("a[]=1&a[]=2", json!({"a": ["1", "2"]})),
            ("a[0]=1&a[1]=2", json!({"a": ["1", "2"]})),
            ("a[][0]=1&a[][1]=2", json!({"a": [["1"], {"1": "2"}]})),
            (
                "a[x]=1&a[]=2&a[7]=3&a[]=4",
                json!({"a": {"x": "1", "0": "2", "7": "3", "8": "4"}}),
            ),
            (
                "a.b=1&c+d=2&e[f=3&+g=4",
                json!({"a_b": "1", "c_d": "2", "e_f": "3", "g": "4"}),
            ),
            ("a%00b=1&=2&&c", json!({"a": "1", "c": ""})),
            ("a[b]c=1&a%5Bd%5D=%", json!({"a": {"b": "1", "d": "%"}})),
            ("a=1&a[]=2", json!({"a": ["2"]})),
        ] {
            assert_eq!(read(pairs(query.as_bytes())), expected, "{query}");
        }
    }
}
