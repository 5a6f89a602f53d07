//! How a call of several callers is written.

use http::HeaderValue;

use super::*;
use crate::receipt::merged::MAX_TARGET;

#[test]
fn only_the_ids_change_in_a_body() {
    for (body, merged) in [
        (
            r#"{"chatId":"1","messageIds":["false_1_A"]}"#,
            r#"{"chatId":"1","messageIds":["true_1_X","false_1_Y"]}"#,
        ),
        (
            "\n{ \"messageIds\" :\t[ \"false_1_A\" , \"false_1_B\" ]\n, \"chatId\": \"\\u0031\" }\n",
            "\n{ \"messageIds\" :\t[\"true_1_X\",\"false_1_Y\"]\n, \"chatId\": \"\\u0031\" }\n",
        ),
        (
            r#"{"message\u0049ds":["f\u0061lse_1_A"],"chatId":"1"}"#,
            r#"{"message\u0049ds":["true_1_X","false_1_Y"],"chatId":"1"}"#,
        ),
    ] {
        let receipt = of_body(body).unwrap();
        let request = receipt.merged_with(["true_1_X", "false_1_Y"].into_iter());
        assert_eq!(bytes(request.body), merged);
    }
}

#[test]
fn the_head_stays_but_for_the_length() {
    let body = r#"{"chatId":"1","messageIds":["false_1_A"]}"#;
    let headers = [
        ("content-length", "41"),
        ("authorization", "Bearer t"),
        ("x-a", "1"),
        ("x-a", "2"),
    ];
    let receipt = read("/v2/send/seen?instance_id=%31", &headers, body.as_bytes()).unwrap();
    let request = receipt.merged_with(["false_1_A", "false_1_B"].into_iter());
    assert_eq!(request.head.uri, "/v2/send/seen?instance_id=%31");
    let mut expected = receipt.head().headers.clone();
    expected.insert("content-length", HeaderValue::from(53));
    assert_eq!(request.head.headers, expected);
    assert_eq!(bytes(request.body).len(), 53);
    // Sent in chunks, it has no length to adjust.
    let receipt = of_body(body).unwrap();
    let request = receipt.merged_with(["false_1_B"].into_iter());
    assert!(request.head.headers.is_empty());
}

#[test]
fn only_the_ids_change_in_a_query() {
    for (query, merged) in [
        (
            "chatId=1%40c.us&messageIds=[%22false_1_A%22]&instance_id=1",
            "chatId=1%40c.us&messageIds=%5B%22true_1%40c.us_X%22%2C%22false_1_%25%26%22%5D&instance_id=1",
        ),
        (
            "messageIds=%5b%22false_1_A%22%5d&chatId=+",
            "messageIds=%5B%22true_1%40c.us_X%22%2C%22false_1_%25%26%22%5D&chatId=+",
        ),
    ] {
        for body in ["", "{}"] {
            let target = format!("{PATH}?{query}");
            let receipt = read(&target, &[("content-length", "2")], body.as_bytes()).unwrap();
            let request = receipt.merged_with(["true_1@c.us_X", "false_1_%&"].into_iter());
            assert_eq!(request.head.uri.to_string(), format!("{PATH}?{merged}"));
            assert_eq!(request.head.headers["content-length"], "2");
            assert_eq!(bytes(request.body), body);
        }
    }
}

#[test]
fn a_whole_chat_call_is_the_request_of_its_first_caller() {
    for body in [r#"{"chatId":"1"}"#, r#"{ "chatId":"1", "messageIds":[ ] }"#] {
        let request = of_body(body).unwrap().merged_with(std::iter::empty());
        assert_eq!(bytes(request.body), body);
    }
    let target = "/v2/send/seen?chatId=1&messageIds=%5B%5D";
    let request = read(target, &[], b"")
        .unwrap()
        .merged_with(std::iter::empty());
    assert_eq!(request.head.uri, target);
}

#[test]
fn the_request_of_a_single_caller_is_unchanged() {
    let body = "{ \"chatId\":\"1\",\"messageIds\":[ \"false_1_A\",\"false_1_A\"]}\n";
    let receipt = read(
        "/v2/send/seen?",
        &[("content-length", "55"), ("x-a", "b")],
        body.as_bytes(),
    );
    let receipt = receipt.unwrap();
    assert_eq!(texts(&receipt), ["false_1_A", "false_1_A"]);
    let request = receipt.own_request();
    assert_eq!(request.head.uri, "/v2/send/seen?");
    assert_eq!(request.head.headers, receipt.head().headers);
    assert_eq!(bytes(request.body), body);
}

#[test]
fn the_room_for_ids_is_exact_to_the_byte() {
    let filled = |receipt: &Receipt| {
        let (mut taken, mut list) = (0, Vec::new());
        for n in 0.. {
            let id = format!("false_1@c.us_{n:x}");
            taken += receipt.id_cost(&id);
            if taken > receipt.max_id_bytes() {
                break;
            }
            list.push(id);
        }
        receipt.merged_with(list.iter().map(String::as_str))
    };
    let in_query = filled(&of_query("chatId=1&messageIds=[%22false_1_A%22]").unwrap());
    let length = in_query.head.uri.to_string().len();
    assert!((MAX_TARGET - 50..=MAX_TARGET).contains(&length), "{length}");
    let in_body = filled(&of_body(r#"{"chatId":"1","messageIds":["false_1_A"]}"#).unwrap());
    let length = bytes(in_body.body).len();
    assert!((SCAN_LIMIT - 50..=SCAN_LIMIT).contains(&length), "{length}");
}

/// The first caller's list stays as it is, also where more is encoded than must be.
#[test]
fn a_list_that_stays_as_it_is_counts_with_its_real_length() {
    let encode = |byte: u8| format!("%{byte:02X}");
    let encoded = |id: String| -> String { id.bytes().map(encode).collect() };
    let spellings: [&dyn Fn(String) -> String; 2] = [&|id| id, &encoded];
    for spell in spellings {
        for separator in ["&messageIds[]=", ","] {
            let id = |n: usize| format!("false_1_{n:08}");
            let own: Vec<_> = (0..50).map(|n| spell(id(n))).collect();
            let name = if separator == "," { "" } else { "[]" };
            let list = own.join(separator);
            let receipt = of_query(&format!("chatId=1&messageIds{name}={list}")).unwrap();
            let (mut taken, mut all) = (0, Vec::new());
            for n in 0.. {
                taken += receipt.id_cost(id(n));
                if taken > receipt.max_id_bytes() {
                    break;
                }
                all.push(id(n));
            }
            let merged = receipt.merged_with(all.iter().map(String::as_str));
            let length = merged.head.uri.to_string().len();
            assert!(
                all.len() > 50 && length <= MAX_TARGET,
                "{separator} {length}"
            );
            // Names are charged as if their brackets were encoded, commas as quotes.
            assert!(length > MAX_TARGET / 2, "{separator} {length}");
        }
    }
}
