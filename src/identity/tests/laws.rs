//! The scanners find what complete parsers find.

use std::ops::Range;

use proptest::prelude::*;
use serde_json::Value;

use super::names::{Field, FieldName, Named};
use super::*;

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just("instance_id".to_owned()),
        3 => Just("access_token".to_owned()),
        1 => Just("instance_id ".to_owned()),
        1 => Just("instance.id".to_owned()),
        1 => Just(" access[token".to_owned()),
        1 => Just("instance_id[0]".to_owned()),
        1 => Just("Instance_id".to_owned()),
        2 => any::<String>(),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(Value::from("\",\"instance_id\":\"decoy\",\"")),
        Just(Value::from("{\"instance_id\":\"decoy\"}")),
        Just(Value::from("\\")),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key(), inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// Writes a text as JSON, perhaps with every character escaped.
fn quote(text: &str, escaped: bool) -> String {
    if !escaped {
        return Value::from(text).to_string();
    }
    let units: String = text
        .encode_utf16()
        .map(|unit| format!("\\u{unit:04x}"))
        .collect();
    format!("\"{units}\"")
}

/// The pairs of an object, and its text.
fn object() -> impl Strategy<Value = (Vec<(String, Value)>, String)> {
    let pair = (
        key(),
        value(),
        any::<[bool; 2]>(),
        prop_oneof![Just(""), Just(" \r\n\t")],
    );
    proptest::collection::vec(pair, 0..6).prop_map(|pairs| {
        let text: Vec<_> = pairs
            .iter()
            .map(|(key, value, escaped, blank)| {
                let value = match value {
                    Value::String(text) => quote(text, escaped[1]),
                    other => other.to_string(),
                };
                format!(
                    "{blank}{}{blank}:{blank}{value}{blank}",
                    quote(key, escaped[0])
                )
            })
            .collect();
        let pairs = pairs
            .into_iter()
            .map(|(key, value, ..)| (key, value))
            .collect();
        (pairs, format!("{{{}}}", text.join(",")))
    })
}

/// The fields that are there, as a parser reads them.
fn expected(pairs: &[(String, Value)]) -> Vec<Field> {
    let fields = pairs.iter().filter_map(|(key, value)| {
        let name = FieldName::of_json(key)?;
        match value {
            Value::String(text) => Some(name.with(text.clone())),
            Value::Number(number) => Some(name.with(number.to_string())),
            Value::Array(_) => Some(Field::Unclear),
            _ => None,
        }
    });
    fields.collect()
}

/// The fields that a pair of a form states.
fn form_fields((key, value): &(String, String)) -> Vec<Field> {
    let Some(named) = Named::read(key) else {
        return Vec::new();
    };
    let unclear = named.is_list.then_some(Field::Unclear);
    unclear
        .into_iter()
        .chain([named.name.with(value.clone())])
        .collect()
}

fn scan_json<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> (Vec<Field>, bool) {
    let mut scanner = json::Scanner::new();
    let mut fields = Vec::new();
    for piece in pieces {
        scanner.push(piece, |field, _| fields.push(field));
    }
    (fields, scanner.is_done())
}

fn scan_form<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> Vec<Field> {
    let mut scanner = form::Scanner::default();
    let mut fields = Vec::new();
    for piece in pieces {
        scanner.push(piece, |field, _| fields.push(field));
    }
    scanner.end(|field, _| fields.push(field));
    fields
}

fn cut<'t>(text: &'t [u8], at: &[prop::sample::Index]) -> Vec<&'t [u8]> {
    let mut cuts: Vec<_> = at.iter().map(|at| at.index(text.len() + 1)).collect();
    cuts.sort_unstable();
    let mut pieces = Vec::new();
    let mut from = 0;
    for cut in cuts {
        pieces.push(&text[from..cut]);
        from = cut;
    }
    pieces.push(&text[from..]);
    pieces
}

fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    proptest::collection::vec(any::<prop::sample::Index>(), 0..6)
}

proptest! {
    /// The scanner finds what serde_json reads at the top of a valid object.
    #[test]
    fn json_fields_are_what_a_parser_reads((pairs, text) in object()) {
        let parsed: Result<Value, _> = serde_json::from_str(&text);
        prop_assert!(parsed.is_ok(), "{}", text);
        let (fields, done) = scan_json([text.as_bytes()]);
        prop_assert!(done);
        prop_assert_eq!(fields, expected(&pairs), "{}", text);
    }

    /// However an object is cut, the same is found.
    #[test]
    fn json_is_read_the_same_in_pieces((_, text) in object(), at in cuts()) {
        let whole = scan_json([text.as_bytes()]);
        prop_assert_eq!(&scan_json(cut(text.as_bytes(), &at)), &whole);
        prop_assert_eq!(&scan_json(text.as_bytes().chunks(1)), &whole);
    }

    /// The same for text that is not JSON, and nothing panics.
    #[test]
    fn nonsense_is_read_the_same_in_pieces(
        text in "[{}\\[\\]:,\"\\\\ua0-]{0,40}(\"instance_id\":\"?[0-9a]{0,4}\"?)?[{}\\[\\]:,\"\\\\]{0,20}",
        at in cuts(),
    ) {
        let text = format!("{{{text}");
        let whole = scan_json([text.as_bytes()]);
        prop_assert_eq!(&scan_json(cut(text.as_bytes(), &at)), &whole);
        prop_assert_eq!(&scan_json(text.as_bytes().chunks(1)), &whole);
    }

    /// A form's fields are what a form parser reads, however it is cut.
    #[test]
    fn forms_are_read_as_a_parser_does(
        pairs in proptest::collection::vec((key(), any::<String>()), 0..6),
        at in cuts(),
    ) {
        let mut text = form_urlencoded::Serializer::new(String::new());
        text.extend_pairs(&pairs);
        let text = text.finish();
        let expected: Vec<_> = pairs.iter().flat_map(form_fields).collect();
        prop_assert_eq!(&scan_form([text.as_bytes()]), &expected);
        prop_assert_eq!(&scan_form(cut(text.as_bytes(), &at)), &expected);
        prop_assert_eq!(&scan_form(text.as_bytes().chunks(1)), &expected);
    }

    /// A reported range holds the reported value, and nothing beside it.
    #[test]
    fn a_range_in_json_holds_its_value((_, text) in object(), at in cuts()) {
        let mut scanner = json::Scanner::new();
        let mut next = 0;
        for piece in cut(text.as_bytes(), &at) {
            scanner.push(piece, |field, at| {
                let (Field::Instance(value) | Field::Token(value)) = field else {
                    return;
                };
                let raw = &text[at.clone()];
                let found = match serde_json::from_str(raw).unwrap() {
                    Value::String(text) => text,
                    _ => raw.to_owned(),
                };
                assert!(found == value && at.start > next, "{at:?} in {text}");
                assert!(text[..at.start].trim_ascii_end().ends_with(':'));
                next = at.end;
            });
        }
    }

    /// The same in a form.
    #[test]
    fn a_range_in_a_form_holds_its_value(
        pairs in proptest::collection::vec((key(), any::<String>()), 0..6),
        blank in prop_oneof![Just(""), Just("&&"), Just("x&=&")],
        at in cuts(),
    ) {
        let mut text = form_urlencoded::Serializer::new(blank.to_owned());
        text.extend_pairs(&pairs);
        let text = text.finish();
        let mut scanner = form::Scanner::default();
        let mut check = |field, at: Range<usize>| {
            let (Field::Instance(value) | Field::Token(value)) = field else {
                return;
            };
            assert_eq!(decode(&text[at.clone()]), value);
            assert!(text[..at.start].ends_with('='));
            assert!(matches!(text.as_bytes().get(at.end), None | Some(b'&')));
        };
        for piece in cut(text.as_bytes(), &at) {
            scanner.push(piece, &mut check);
        }
        scanner.end(&mut check);
        for (at, value) in query::tokens(&text) {
            check(Field::Token(value.into_owned()), at);
        }
    }

    /// A query is read as a form is, whatever its bytes.
    #[test]
    fn a_query_is_read_as_a_parser_does(query in "[a-z_=&%+0-9;/?:@]{0,30}(&?instance_id=[a-z%+0-9]{0,8})?[&=a]{0,3}") {
        let expected = form_urlencoded::parse(query.as_bytes())
            .filter_map(|(key, value)| Some((Named::read(&*key)?, value)));
        let found = pairs(&query).filter_map(|pair| Some((pair.named()?, pair.decoded())));
        prop_assert!(found.eq(expected));
    }
}
