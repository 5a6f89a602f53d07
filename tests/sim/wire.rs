//! The meaning of a request, read from the plan and from what arrived; the two are
//! equal if the gateway changed nothing that matters.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri};
use serde_json::{Map, Value, json};

use crate::plan::{CredentialSource, RequestKind, Step};

/// Identifies requests.
pub(crate) const TAG: &str = "x-sim-tag";
/// Identifies responses.
pub(crate) const RESPONSE: &str = "x-sim-response";
/// The path of receipts.
pub(crate) const SEEN: &str = "/v2/send/seen";

/// The meaning of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) instance: String,
    /// CredentialSource and text.
    pub(crate) credential: String,
    /// Everything else but the ids, sorted.
    pub(crate) rest: String,
    /// The ids of a receipt.
    pub(crate) ids: Vec<String>,
}

impl Parsed {
    /// Whether two receipts may share a call.
    pub(crate) fn may_share(&self, other: &Self) -> bool {
        let lists = (self.ids.is_empty(), other.ids.is_empty());
        let bare = |parsed: &Self| Self {
            ids: Vec::new(),
            ..parsed.clone()
        };
        lists.0 == lists.1 && bare(self) == bare(other)
    }

    pub(crate) fn is_receipt(&self) -> bool {
        self.path == SEEN
    }
}

/// The head and the body of a planned request.
pub(crate) fn request(step: &Step) -> (Request<()>, Bytes) {
    let (method, path, fields) = match &step.kind {
        RequestKind::Receipt {
            chat,
            ids,
            participant,
            ..
        } => {
            let mut fields = Map::new();
            fields.insert("chatId".to_owned(), json!(chat));
            if !ids.is_empty() {
                fields.insert("messageIds".to_owned(), json!(ids));
            }
            if let Some(participant) = participant {
                let value = serde_json::from_str(participant).unwrap();
                fields.insert("participant".to_owned(), value);
            }
            (Method::POST, SEEN, fields)
        }
        RequestKind::Send(length) => {
            let text = json!({ "chatId": "1@c.us", "text": "x".repeat(*length) });
            (
                Method::POST,
                "/v2/send/text",
                text.as_object().unwrap().clone(),
            )
        }
        RequestKind::SendByGet => {
            let text = json!({ "chatId": "1@c.us", "text": "hello" });
            (
                Method::GET,
                "/v2/send/text",
                text.as_object().unwrap().clone(),
            )
        }
        RequestKind::Typing => {
            let chat = json!({ "chatId": "1@c.us" });
            (
                Method::POST,
                "/v2/send/start-typing",
                chat.as_object().unwrap().clone(),
            )
        }
        RequestKind::Chats => (Method::GET, "/v2/chats", Map::new()),
    };
    let in_query =
        method == Method::GET || matches!(step.kind, RequestKind::Receipt { in_query: true, .. });
    let mut query = Vec::new();
    let mut body = Map::new();
    let mut head = Request::builder()
        .header(TAG, step.tag)
        .header("content-type", "application/json");
    let (instance, token) = (json!(step.instance), json!(step.token));
    match step.source {
        CredentialSource::Bearer => {
            head = head
                .header("authorization", format!("Bearer {}", step.token))
                .header("x-instance-id", &step.instance);
        }
        CredentialSource::Header => {
            head = head.header("access-token", &step.token);
            match in_query {
                true => query.push(("instance_id".to_owned(), instance)),
                false => drop(body.insert("instance_id".to_owned(), instance)),
            }
        }
        CredentialSource::Body if !in_query => {
            body.insert("instance_id".to_owned(), instance);
            body.insert("access_token".to_owned(), token);
        }
        CredentialSource::Query | CredentialSource::Body => {
            query.push(("instance_id".to_owned(), instance));
            query.push(("access_token".to_owned(), token));
        }
    }
    match in_query {
        true => query.extend(fields),
        false => body.extend(fields),
    }
    let pairs: Vec<_> = query
        .iter()
        .map(|(name, value)| {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            let text: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
            format!("{name}={text}")
        })
        .collect();
    let target = match pairs.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", pairs.join("&")),
    };
    let body = match in_query {
        true => Bytes::new(),
        false => Bytes::from(Value::Object(body).to_string()),
    };
    let head = head.method(method).uri(target);
    (head.body(()).unwrap(), body)
}

/// Reads the meaning of a request.
pub(crate) fn parsed(method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Parsed {
    let query: Vec<(String, String)> = uri
        .query()
        .map(|query| {
            form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect()
        })
        .unwrap_or_default();
    let mut fields: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
    let ids_text = query
        .iter()
        .find(|(name, _)| name == "messageIds")
        .map(|(_, ids)| ids.clone());
    let in_query = |name: &str| {
        query
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    };
    let in_header = |name: &str| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    let mut in_body = |name: &str| {
        fields
            .remove(name)
            .map(|value| value.as_str().unwrap_or_default().to_owned())
    };
    let body_token = in_body("access_token");
    let body_instance = in_body("instance_id");
    let credential = [
        ("query", in_query("access_token")),
        ("bearer", in_header("authorization")),
        ("header", in_header("access-token")),
        ("body", body_token),
    ];
    let credential = credential
        .into_iter()
        .filter_map(|(source, token)| Some(format!("{source}:{}", token?)))
        .collect::<Vec<_>>()
        .join("+");
    let instance = in_query("instance_id")
        .or(in_header("x-instance-id"))
        .or(body_instance)
        .unwrap_or_default();
    let ids = fields
        .remove("messageIds")
        .or(ids_text.map(|ids| serde_json::from_str(&ids).unwrap()))
        .map(|ids| serde_json::from_value(ids).unwrap())
        .unwrap_or_default();
    let mut rest: Vec<_> = query
        .iter()
        .filter(|(name, _)| !["messageIds", "instance_id", "access_token"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    rest.sort();
    Parsed {
        method: method.clone(),
        path: uri.path().to_owned(),
        instance,
        credential,
        rest: format!("{rest:?} {}", Value::Object(fields)),
        ids,
    }
}

/// A planned request as it would arrive if it were not merged.
pub(crate) fn planned(step: &Step) -> Parsed {
    let (head, body) = request(step);
    parsed(head.method(), head.uri(), head.headers(), &body)
}

/// Time since the run began.
pub(crate) type At = Duration;
