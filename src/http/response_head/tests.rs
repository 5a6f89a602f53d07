//! Headers are found in the raw lines as in the map.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, RETRY_AFTER, SERVER};

use super::*;
use crate::http::h1::{ResponseRead, read_response};

/// The same head, once with raw lines and once with a map only.
fn both(text: &str) -> [ResponseHead; 2] {
    let read = match read_response(&mut Bytes::copy_from_slice(text.as_bytes())) {
        Ok(Some(ResponseRead::Final(response))) => *response.head,
        other => panic!("{other:?}"),
    };
    assert!(read.raw.is_some(), "the lines were parsed");
    let mut parsed = read.clone();
    parsed.headers_mut();
    assert!(parsed.raw.is_none());
    [read, parsed]
}

fn values(head: &ResponseHead, name: &HeaderName) -> Vec<String> {
    let values = head.get_all(name);
    values
        .map(|value| String::from_utf8_lossy(value).into_owned())
        .collect()
}

const RESPONSE: &str = "HTTP/1.1 429 Too Many Requests\r\nRETRY-after: 3\r\nServer: a\r\n\
                        Cache-Control: x\r\nserver:  b \r\nContent-Length: 0\r\n\r\n";

#[test]
fn a_header_is_found_in_raw_lines_as_in_a_map() {
    for head in both(RESPONSE) {
        assert_eq!(head.get(&RETRY_AFTER), Some(&b"3"[..]));
        assert_eq!(values(&head, &SERVER), ["a", "b"]);
        assert_eq!(values(&head, &CONTENT_LENGTH), ["0"]);
        assert_eq!(head.get(&CONNECTION), None);
    }
}

#[test]
fn an_appended_header_follows_those_of_its_name() {
    for mut head in both(RESPONSE) {
        head.append(SERVER, HeaderValue::from_static("c"));
        assert_eq!(values(&head, &SERVER), ["a", "b", "c"]);
        head.headers_mut();
        assert_eq!(values(&head, &SERVER), ["a", "b", "c"]);
    }
}

#[test]
fn an_inserted_header_replaces_those_of_its_name() {
    for mut head in both(RESPONSE) {
        head.insert(SERVER, HeaderValue::from_static("c"));
        assert_eq!(values(&head, &SERVER), ["c"]);
        assert_eq!(values(&head, &CACHE_CONTROL), ["x"]);
        let mut text = Vec::new();
        head.write_headers(&mut text);
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.to_lowercase().matches("server").count(), 1, "{text}");
    }
}

#[test]
fn debug_output_has_no_header() {
    for head in both("HTTP/1.1 200 OK\r\nSet-Cookie: secret\r\nContent-Length: 0\r\n\r\n") {
        assert!(!format!("{head:?}").contains("secret"));
    }
}
