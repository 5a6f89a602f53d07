//! The meaning of a request, read from the plan and from what arrived; the two are
//! equal if the gateway changed nothing that matters.
//!
//! Invariant: it is read as backends in PHP and Node read it, without code of the gateway.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use serde_json::Value;
use wawp_gateway::testing::backends::{Reading, as_node, as_php, without_ids};

use crate::plan::Step;
use crate::writing::{self, ListForm};

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
    /// The type of the body, without its parameters.
    carrier: String,
    /// Everything but the ids, as PHP and as Node read it.
    rest: [String; 2],
    /// Whether the ids are in the query, and their form; `None` is the whole chat.
    list: Option<(bool, ListForm)>,
    /// The ids of a receipt as Node reads them.
    pub(crate) ids: Vec<String>,
    /// The ids as PHP reads them.
    php_ids: Vec<String>,
    /// Target and body of a request that is forwarded byte for byte: it is no receipt, or it has
    /// a malformed percent sequence.
    raw: Option<(String, Bytes)>,
}

impl Parsed {
    /// Whether two receipts may share a call.
    pub(crate) fn may_share(&self, other: &Self) -> bool {
        let bare = |parsed: &Self| Self {
            ids: Vec::new(),
            php_ids: Vec::new(),
            ..parsed.clone()
        };
        let may_differ = || self.is_extensible() && other.is_extensible();
        bare(self) == bare(other) && (self.ids == other.ids || may_differ())
    }

    /// Whether ids may be added: only to what is a list already, and where no id is
    /// repeated, because only JSON is written anew.
    fn is_extensible(&self) -> bool {
        use ListForm::*;
        let is_distinct = || self.ids.len() == self.ids.iter().collect::<HashSet<_>>().len();
        self.list.is_some_and(|(_, form)| match form {
            Json | JsonText => true,
            Brackets | Indices | BracketsAndIndices => is_distinct(),
            Repeated | Commas => is_distinct() && self.ids.len() > 1,
            Single | OldSingle => false,
        })
    }

    /// Whether PHP reads the same ids as Node: of a repeated key only the last.
    pub(crate) fn is_read_alike(&self) -> bool {
        let last = self.ids.len().saturating_sub(1);
        match self.list {
            Some((_, ListForm::Repeated)) => self.php_ids == self.ids[last..],
            _ => self.php_ids == self.ids,
        }
    }

    /// Whether the request is understood as a receipt.
    pub(crate) fn is_receipt(&self) -> bool {
        self.raw.is_none()
    }
}

/// Reads the meaning of a request.
pub(crate) fn parsed(method: &Method, uri: &Uri, headers: &HeaderMap, body: &Bytes) -> Parsed {
    let query = uri.query().unwrap_or_default();
    let node = as_node(query, headers, body);
    let in_header = |name: &str| {
        let value = headers.get(name);
        value.map(|value| value.to_str().unwrap().to_owned())
    };
    let text = |place: &Value, name: &str| place[name].as_str().map(str::to_owned);
    let credential = [
        ("query", text(&node.query, "access_token")),
        ("bearer", in_header("authorization")),
        ("header", in_header("access-token")),
        ("body", text(&node.body, "access_token")),
    ];
    let credential = credential
        .into_iter()
        .filter_map(|(source, token)| Some(format!("{source}:{}", token?)))
        .collect::<Vec<_>>()
        .join("+");
    let instance = text(&node.query, "instance_id")
        .or(in_header("x-instance-id"))
        .or(text(&node.body, "instance_id"))
        .unwrap_or_default();
    let content_type = in_header("content-type").unwrap_or_default();
    let carrier = content_type.split(';').next().unwrap_or_default();
    let in_body = || body_form(carrier, body, &node.body);
    let in_query = form_of(form_urlencoded::parse(query.as_bytes()));
    let list = in_query
        .map(|form| (true, form))
        .or_else(|| in_body().map(|form| (false, form)));
    let is_encoded_body = carrier == "application/x-www-form-urlencoded";
    let is_malformed =
        has_malformed_percent(query.as_bytes()) || is_encoded_body && has_malformed_percent(body);
    let is_raw = uri.path() != SEEN || is_malformed;
    let target = uri.path_and_query().map(ToString::to_string);
    let (php_rest, php_ids) = split(as_php(query, headers, body));
    let (node_rest, ids) = split(node);
    Parsed {
        method: method.clone(),
        path: uri.path().to_owned(),
        instance,
        credential,
        carrier: carrier.to_owned(),
        rest: [php_rest, node_rest],
        list: list.filter(|_| !ids.is_empty()),
        ids,
        php_ids,
        raw: is_raw.then(|| (target.unwrap_or_default(), body.clone())),
    }
}

/// Whether a percent sign is not followed by two hexadecimal digits.
fn has_malformed_percent(text: &[u8]) -> bool {
    let mut pieces = text.split(|&byte| byte == b'%').skip(1);
    pieces.any(|piece| {
        !piece
            .get(..2)
            .is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
    })
}

/// Everything but the ids, and the ids.
fn split(reading: Reading) -> (String, Vec<String>) {
    let (query, mut ids) = without_ids(reading.query);
    let (body, more) = without_ids(reading.body);
    ids.extend(more);
    (format!("{query} {body}"), ids)
}

/// The form of the list in a body.
fn body_form(carrier: &str, body: &[u8], json: &Value) -> Option<ListForm> {
    match carrier {
        "application/x-www-form-urlencoded" => form_of(form_urlencoded::parse(body)),
        "multipart/form-data" => {
            let text = String::from_utf8_lossy(body);
            let parts = text.split("name=\"").skip(1);
            form_of(parts.filter_map(|part| {
                let (name, rest) = part.split_once('"')?;
                Some((name, rest.split("\r\n").nth(2)?))
            }))
        }
        _ if json["messageIds"].is_array() => Some(ListForm::Json),
        _ if json["messageIds"].is_string() => Some(ListForm::Single),
        _ => json["messageId"].is_string().then_some(ListForm::OldSingle),
    }
}

/// The form of the list among names and values.
fn form_of<T: AsRef<str>>(pairs: impl Iterator<Item = (T, T)>) -> Option<ListForm> {
    let mut fields = pairs.filter(|(name, _)| name.as_ref().starts_with("messageId"));
    let (name, value) = fields.next()?;
    let (name, value) = (name.as_ref(), value.as_ref());
    Some(match name.strip_prefix("messageIds") {
        None => ListForm::OldSingle,
        Some("[]") => ListForm::Brackets,
        Some(index) if index.starts_with("[][") => ListForm::BracketsAndIndices,
        Some(index) if index.starts_with('[') => ListForm::Indices,
        _ if fields.next().is_some() => ListForm::Repeated,
        _ if value.starts_with('[') => ListForm::JsonText,
        _ if value.contains(',') => ListForm::Commas,
        _ => ListForm::Single,
    })
}

/// A planned request as it would arrive if it were not merged.
pub(crate) fn planned(step: &Step) -> Parsed {
    let (head, body) = writing::request(step);
    parsed(head.method(), head.uri(), head.headers(), &body)
}

/// Time since the run began.
pub(crate) type At = Duration;
