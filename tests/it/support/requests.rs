//! Requests as apps write them.

use serde_json::json;

/// The token that the sandbox takes, like any other that is not empty.
const TOKEN: &str = "token-1";

/// A POST of JSON.
pub(crate) fn post(target: &str, body: &str) -> String {
    format!(
        "POST {target} HTTP/1.1\r\nHost: gateway.test\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub(crate) fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: gateway.test\r\n\r\n")
}

/// A text message of instance 123.
pub(crate) fn text(words: &str) -> String {
    let body = json!({ "instance_id": "123", "access_token": TOKEN, "chatId": "1@c.us", "message": words });
    post("/v2/send/text", &body.to_string())
}

/// The ids of messages `numbers` in chat 1.
pub(crate) fn ids(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
    numbers
        .into_iter()
        .map(|number| format!("false_1@c.us_{number:04}"))
        .collect()
}

/// A read receipt of instance 123 for chat 1, all in the body.
pub(crate) fn receipt(numbers: impl IntoIterator<Item = usize>) -> String {
    receipt_of("123", TOKEN, "1@c.us", &ids(numbers))
}

pub(crate) fn receipt_of(instance: &str, token: &str, chat: &str, ids: &[String]) -> String {
    let body = json!({ "instance_id": instance, "access_token": token, "chatId": chat, "messageIds": ids });
    post("/v2/send/seen", &body.to_string())
}

/// The same receipt, all in the query.
pub(crate) fn receipt_in_query(numbers: impl IntoIterator<Item = usize>) -> String {
    let list = serde_json::to_string(&ids(numbers)).unwrap();
    let list = percent_encoding::utf8_percent_encode(&list, percent_encoding::NON_ALPHANUMERIC);
    format!(
        "POST /v2/send/seen?instance_id=123&access_token={TOKEN}&chatId=1%40c.us&messageIds={list}&participant=null \
         HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 0\r\n\r\n"
    )
}

/// A request cut behind its head.
pub(crate) fn head_and_body(request: &str) -> (&str, &str) {
    request.split_at(request.find("\r\n\r\n").unwrap() + 4)
}
