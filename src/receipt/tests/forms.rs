//! The forms of a list: which merge, and how each is extended.

use super::*;

const A: &str = "false_1@c.us_A";
const B: &str = "true_1@g.us_B_2@lid";
const MORE: [&str; 2] = ["false_1@c.us_X", "false_1_%&"];

fn merged_query(query: &str) -> String {
    let receipt = of_query(query).unwrap_or_else(|| panic!("{query}"));
    let ids: Vec<_> = texts(&receipt);
    let ids = ids.iter().map(String::as_str).chain(MORE);
    let request = receipt.merged_with(ids);
    assert_eq!(bytes(request.body), "");
    request.head.uri.query().unwrap().to_owned()
}

#[test]
fn each_form_of_pairs_is_extended_as_it_is_written() {
    let (x, y) = ("false_1%40c.us_X", "false_1_%25%26");
    for (query, merged) in [
        (
            format!("messageIds[]={A}&chatId=1"),
            format!("messageIds[]={A}&messageIds[]={x}&messageIds[]={y}&chatId=1"),
        ),
        (
            format!("messageIds%5B%5d={A}&c=d&messageIds[]={B}&chatId=%31"),
            format!(
                "messageIds%5B%5d={A}&c=d&messageIds[]={B}&messageIds[]={x}&messageIds[]={y}&chatId=%31"
            ),
        ),
        (
            format!("chatId=1&messageIds%5B0%5D={A}&messageIds%5B1%5D={B}"),
            format!(
                "chatId=1&messageIds%5B0%5D={A}&messageIds%5B1%5D={B}&messageIds%5B2%5D={x}&messageIds%5B3%5D={y}"
            ),
        ),
        (
            format!("chatId[0]=1&messageIds[][0]={A}&participant[0]=null"),
            format!(
                "chatId[0]=1&messageIds[][0]={A}&messageIds[][1]={x}&messageIds[][2]={y}&participant[0]=null"
            ),
        ),
        (
            format!("messageIds={A}&messageIds={B}&chatId=1"),
            format!("messageIds={A}&messageIds={B}&messageIds={x}&messageIds={y}&chatId=1"),
        ),
        (
            format!("messageIds={A},{B}&chatId=1"),
            format!("messageIds={A},{B},{x},{y}&chatId=1"),
        ),
        (
            format!("messageIds={A}%2c{B}&chatId=1"),
            format!("messageIds={A}%2c{B}%2c{x}%2c{y}&chatId=1"),
        ),
    ] {
        assert_eq!(merged_query(&query), merged);
        // In a form, all but the head is the same.
        let receipt = of_form(&query).unwrap();
        let ids = texts(&receipt);
        let request = receipt.merged_with(ids.iter().map(String::as_str).chain(MORE));
        assert_eq!(bytes(request.body), merged);
    }
}

#[test]
fn a_single_value_is_never_extended() {
    for (name, query) in [
        ("plain", format!("chatId=1&messageIds={A}")),
        ("old", format!("chatId=1&messageId={A}")),
        ("letters", format!("chatId=1&m%65ssageIds[]={A}")),
        (
            "repeated id",
            format!("chatId=1&messageIds[]={A}&messageIds[]={A}"),
        ),
        ("repeated id", format!("chatId=1&messageIds={A},{A}")),
    ] {
        assert_eq!(merged_query(&query), query, "{name}");
        let (one, equal) = (of_query(&query).unwrap(), of_query(&query).unwrap());
        assert!(one.key == equal.key, "{name}");
        assert_eq!(one.reason_if_alone(), NotMerged::ListForm, "{name}");
        let other = of_query(&query.replace("_A", "_B")).unwrap();
        assert!(one.key != other.key, "{name}");
    }
    for body in [
        format!(r#"{{"chatId":"1","messageIds":"{A}"}}"#),
        format!(r#"{{"chatId":"1","messageId":"{A}"}}"#),
    ] {
        let one = of_body(&body).unwrap();
        assert_eq!(texts(&one), [A]);
        assert!(one.key != of_body(&body.replace("_A", "_B")).unwrap().key);
        assert!(one.key == of_body(&body.replace("_A", "\\u005fA")).unwrap().key);
        assert_eq!(bytes(one.merged_with(MORE.into_iter()).body), body);
    }
}

#[test]
fn each_form_is_a_part_of_the_key() {
    let forms = [
        "messageIds=[%22false_1_A%22]",
        "messageIds[]=false_1_A",
        "messageIds[0]=false_1_A",
        "messageIds[][0]=false_1_A",
        "messageIds=false_1_A",
        "messageId=false_1_A",
        "messageIds=false_1_A&messageIds=false_1_B",
        "messageIds=false_1_A,false_1_B",
        "x=1",
    ];
    let keys: Vec<_> = forms
        .iter()
        .map(|form| of_query(&format!("chatId=1&{form}")).unwrap().key)
        .collect();
    for (one, form) in keys.iter().zip(forms) {
        assert_eq!(keys.iter().filter(|key| *key == one).count(), 1, "{form}");
    }
    for (one, other) in [
        (
            "messageIds[]=false_1_A",
            "messageIds%5B%5D=false_1_B&messageIds[]=false_1_C",
        ),
        (
            "messageIds[0]=false_1_A",
            "messageIds[0]=false_1_B&messageIds[1]=false_1_C",
        ),
        (
            "messageIds=false_1_A&messageIds=false_1_B",
            "messageIds=false_1_C&messageIds=false_1_D",
        ),
        (
            "messageIds=false_1_A,false_1_B",
            "messageIds=false_1_C%2Cfalse_1_D",
        ),
    ] {
        let key = |form: &str| of_query(&format!("chatId=1&{form}")).unwrap().key;
        assert!(key(one) == key(other), "{one} {other}");
    }
}

/// A multipart body as undici, requests or curl write it.
fn multipart(parts: &[(&str, &str)]) -> String {
    let part = |(name, value): &(&str, &str)| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let parts: String = parts.iter().map(part).collect();
    format!("{parts}--b--\r\n")
}

#[test]
fn a_list_in_parts_is_extended_by_parts() {
    let read = |body: &str| {
        let headers = [
            ("content-type", "multipart/form-data; boundary=b"),
            ("content-length", "0"),
        ];
        try_read(PATH, &headers, body.as_bytes()).unwrap_or_else(|why| panic!("{why}: {body}"))
    };
    for (parts, merged) in [
        (
            &[("messageIds[]", A), ("chatId", "1")][..],
            &[
                ("messageIds[]", A),
                ("messageIds[]", MORE[0]),
                ("messageIds[]", MORE[1]),
                ("chatId", "1"),
            ][..],
        ),
        (
            &[("chatId", "1"), ("messageIds[0]", A)],
            &[
                ("chatId", "1"),
                ("messageIds[0]", A),
                ("messageIds[1]", MORE[0]),
                ("messageIds[2]", MORE[1]),
            ],
        ),
        (
            &[("chatId", "1"), ("messageIds", r#"["false_1@c.us_A"]"#)],
            &[
                ("chatId", "1"),
                (
                    "messageIds",
                    r#"["false_1@c.us_A","false_1@c.us_X","false_1_%&"]"#,
                ),
            ],
        ),
        (
            &[("chatId", "1"), ("messageIds", "false_1_A,false_1_B")],
            &[
                ("chatId", "1"),
                (
                    "messageIds",
                    "false_1_A,false_1_B,false_1@c.us_X,false_1_%&",
                ),
            ],
        ),
        (
            &[("chatId", "1"), ("messageIds", A), ("messageIds", B)],
            &[
                ("chatId", "1"),
                ("messageIds", A),
                ("messageIds", B),
                ("messageIds", MORE[0]),
                ("messageIds", MORE[1]),
            ],
        ),
        (
            &[("chatId", "1"), ("messageIds", A)],
            &[("chatId", "1"), ("messageIds", A)],
        ),
    ] {
        let receipt = read(&multipart(parts));
        let ids = texts(&receipt);
        let request = receipt.merged_with(ids.iter().map(String::as_str).chain(MORE));
        let expected = multipart(merged);
        let length = request.head.headers["content-length"].clone();
        assert_eq!(bytes(request.body), expected);
        if merged.len() > parts.len() {
            assert_eq!(length, expected.len().to_string());
        }
    }
    // The type of a part may change how it is read.
    let plain = multipart(&[("chatId", "1")]);
    let typed = plain.replace("\r\n\r\n1", "\r\nContent-Type: text/plain\r\n\r\n1");
    assert!(read(&plain).key != read(&typed).key);
}

#[test]
fn the_type_of_parts_with_ids_is_a_part_of_the_key() {
    let read = |body: &str| {
        let headers = [("content-type", "multipart/form-data; boundary=b")];
        try_read(PATH, &headers, body.as_bytes())
    };
    let typed = |plain: &str, line: &str| {
        plain.replace("\"\r\n\r\nfalse", &format!("\"\r\n{line}\r\n\r\nfalse"))
    };
    for name in ["messageIds[]", "messageIds"] {
        let plain = multipart(&[("chatId", "1"), (name, "false_1_A")]);
        let lines = [
            "Content-Type: text/plain; charset=utf-8",
            "Content-Type: text/plain; charset=utf-16",
            "Content-Transfer-Encoding: 8bit",
        ];
        let key = |body: &str| read(body).unwrap().key;
        let keys = lines.map(|line| key(&typed(&plain, line)));
        assert!(keys.iter().all(|typed| *typed != key(&plain)));
        assert!(keys[0] != keys[1] && keys[0] != keys[2]);
        // A length is that of one value only.
        assert!(key(&plain) == key(&typed(&plain, "Content-Length: 9")));
    }
    let ids = ["false_1_A", "false_1_B"].map(|id| ("messageIds[]", id));
    let two = [("chatId", "1"), ids[0], ids[1]];
    let same = typed(&multipart(&two), "Content-Type: text/plain");
    assert!(read(&same).is_ok());
    let other = same.replacen("Content-Type: text/plain\r\n", "", 1);
    assert_eq!(read(&other).err(), Some(NotMerged::AmbiguousKey));
}

/// PHP and qs read no more than 1,000 fields, so a merged request has no more.
#[test]
fn a_merged_form_has_no_more_fields_than_backends_read() {
    let others: String = (0..990).map(|n| format!("&a{n}=1")).collect();
    let receipt = of_form(&format!("chatId=1&messageIds[]=true_1_A{others}")).unwrap();
    let cost = receipt.id_cost("true_1_A");
    assert_eq!(receipt.max_id_bytes() / cost, 1000 - 991);
}
