//! How a request is written: which of its fields are in the query and which in the body,
//! in every carrier, and its ids in every form of a list.
//!
//! What does not matter (the order of fields, white space, equivalent escapes, the
//! boundary) depends on the tag of the request.

use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::plan::{CredentialSource, RequestKind, Step};
use crate::rng::Rng;
use crate::wire::{SEEN, TAG};

/// How a receipt is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writing {
    pub(crate) body: BodyKind,
    chat_in_query: bool,
    ids_in_query: bool,
    pub(crate) form: ListForm,
}

/// How a body carries its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyKind {
    None,
    Json,
    Form,
    Multipart,
}

/// How a list of ids is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListForm {
    /// An array in a JSON body.
    Json,
    /// `messageIds=["a","b"]`
    JsonText,
    /// `messageIds[]=a&messageIds[]=b`
    Brackets,
    /// `messageIds[0]=a&messageIds[1]=b`
    Indices,
    /// `messageIds[][0]=a&messageIds[][1]=b`
    BracketsAndIndices,
    /// `messageIds=a&messageIds=b`
    Repeated,
    /// `messageIds=a,b`
    Commas,
    /// `messageIds=a`
    Single,
    /// `messageId=a`
    OldSingle,
}

/// A name and its value.
type Field = (String, Value);

impl Writing {
    /// All in a JSON object, as most clients write it.
    pub(crate) const JSON: Self = Self {
        body: BodyKind::Json,
        chat_in_query: false,
        ids_in_query: false,
        form: ListForm::Json,
    };

    /// All in the query.
    const QUERY: Self = Self {
        body: BodyKind::None,
        chat_in_query: true,
        ids_in_query: true,
        form: ListForm::JsonText,
    };

    pub(crate) fn drawn(rng: &mut Rng) -> Self {
        if rng.percent(30) {
            return Self::JSON;
        }
        let body = rng.pick(&[
            BodyKind::None,
            BodyKind::Json,
            BodyKind::Form,
            BodyKind::Multipart,
        ]);
        let mut in_query = || body == BodyKind::None || rng.percent(30);
        let (chat_in_query, ids_in_query) = (in_query(), in_query());
        let writing = Self {
            body,
            chat_in_query,
            ids_in_query,
            form: ListForm::Json,
        };
        writing.in_another_form(rng)
    }

    /// The same fields in the same places, with a list in any form.
    pub(crate) fn in_another_form(self, rng: &mut Rng) -> Self {
        use ListForm::*;
        let form = match self.body == BodyKind::Json && !self.ids_in_query {
            true => rng.pick(&[Json, Json, Json, Single, OldSingle]),
            false => rng.pick(&[
                JsonText,
                Brackets,
                Indices,
                BracketsAndIndices,
                Repeated,
                Commas,
                Single,
                OldSingle,
            ]),
        };
        Self { form, ..self }
    }

    /// Whether the ids are percent-encoded, which can be malformed.
    pub(crate) fn encodes_ids(self) -> bool {
        self.ids_in_query || self.body == BodyKind::Form
    }

    /// The fields of the ids, in their order.
    fn id_fields(&self, ids: &[String], tag: usize) -> Vec<Field> {
        // Both say that all messages of the chat are read.
        let is_left_out = !tag.is_multiple_of(3);
        let is_whole_list = matches!(self.form, ListForm::Json | ListForm::JsonText);
        if ids.is_empty() && (is_left_out || !is_whole_list) {
            return Vec::new();
        }
        let one = |name: &str, value| vec![(name.to_owned(), value)];
        let each = |name: &dyn Fn(usize) -> String| {
            let ids = ids.iter().enumerate();
            ids.map(|(number, id)| (name(number), json!(id))).collect()
        };
        match self.form {
            ListForm::Json => one("messageIds", json!(ids)),
            ListForm::JsonText => one("messageIds", json!(json!(ids).to_string())),
            ListForm::Commas => one("messageIds", json!(ids.join(","))),
            ListForm::Repeated | ListForm::Single => each(&|_| "messageIds".to_owned()),
            ListForm::OldSingle => each(&|_| "messageId".to_owned()),
            ListForm::Brackets => each(&|_| "messageIds[]".to_owned()),
            ListForm::Indices => each(&|number| format!("messageIds[{number}]")),
            ListForm::BracketsAndIndices => each(&|number| format!("messageIds[][{number}]")),
        }
    }
}

impl ListForm {
    /// Whether it has room for one id only.
    pub(crate) fn is_single(self) -> bool {
        matches!(self, Self::Single | Self::OldSingle)
    }
}

/// The head and the body of a planned request.
pub(crate) fn request(step: &Step) -> (Request<()>, Bytes) {
    let text = |length: &usize| vec![("text".to_owned(), json!("x".repeat(*length)))];
    let (path, writing, chat, more) = match &step.kind {
        RequestKind::Receipt {
            chat,
            participant,
            writing,
            ..
        } => {
            let participant = participant.map(|text| serde_json::from_str(text).unwrap());
            let more = participant.map(|value| ("participant".to_owned(), value));
            (SEEN, *writing, Some(&**chat), more.into_iter().collect())
        }
        RequestKind::Send(length) => ("/v2/send/text", Writing::JSON, Some("1@c.us"), text(length)),
        RequestKind::SendByGet => ("/v2/send/text", Writing::QUERY, Some("1@c.us"), text(&5)),
        RequestKind::Typing => (
            "/v2/send/start-typing",
            Writing::JSON,
            Some("1@c.us"),
            Vec::new(),
        ),
        RequestKind::Chats => ("/v2/chats", Writing::QUERY, None, Vec::new()),
    };
    let mut head = Request::builder()
        .header(TAG, step.tag)
        .header("content-type", writing.content_type(step.tag));
    let has_body = writing.body != BodyKind::None;
    let (mut query, mut body, mut beside_chat) = (Vec::new(), Vec::new(), Vec::new());
    let instance = ("instance_id".to_owned(), json!(step.instance));
    let token = ("access_token".to_owned(), json!(step.token));
    match step.source {
        CredentialSource::Bearer => {
            head = head
                .header("authorization", format!("Bearer {}", step.token))
                .header("x-instance-id", &step.instance);
        }
        CredentialSource::Header => {
            head = head.header("access-token", &step.token);
            // Before long texts: the gateway searches 64 KiB for it.
            beside_chat.push(instance);
        }
        CredentialSource::Body if has_body => body.extend([instance, token]),
        CredentialSource::Query | CredentialSource::Body => query.extend([instance, token]),
    }
    beside_chat.extend(chat.map(|chat| ("chatId".to_owned(), json!(chat))));
    beside_chat.extend(more);
    match writing.chat_in_query {
        true => query.extend(beside_chat),
        false => body.extend(beside_chat),
    }
    let mut method = Method::GET;
    if let RequestKind::Receipt { ids, .. } = &step.kind {
        method = Method::POST;
        if has_body {
            body.push(("session".to_owned(), json!("default")));
        }
        let place = match writing.ids_in_query {
            true => &mut query,
            false => &mut body,
        };
        // Other fields may be before, behind and between the ids.
        let mut ids = writing.id_fields(ids, step.tag);
        let at = step.tag % (ids.len() + 1);
        ids.splice(at..at, std::mem::take(place));
        *place = ids;
    } else if has_body {
        method = Method::POST;
    }
    let target = match query.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", urlencoded(&query, step.tag)),
    };
    let body = match writing.body {
        BodyKind::None => String::new(),
        BodyKind::Json => json_object(&body, step.tag),
        BodyKind::Form => urlencoded(&body, step.tag),
        BodyKind::Multipart => multipart(&body, step.tag),
    };
    let head = head.method(method).uri(target);
    (head.body(()).unwrap(), Bytes::from(body))
}

impl Writing {
    fn content_type(&self, tag: usize) -> String {
        match self.body {
            BodyKind::Json if tag.is_multiple_of(2) => "application/json; charset=utf-8".to_owned(),
            BodyKind::None | BodyKind::Json => "application/json".to_owned(),
            BodyKind::Form => "application/x-www-form-urlencoded".to_owned(),
            BodyKind::Multipart => format!("multipart/form-data; boundary=sim{tag}"),
        }
    }
}

fn urlencoded(fields: &[Field], tag: usize) -> String {
    let encoded = |text: &str| {
        let text: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
        match tag % 3 {
            0 => text.replace("%5B", "[").replace("%5D", "]"),
            1 => text.replace("%40", "@").replace("%2C", ","),
            _ => text,
        }
    };
    let pair = |(name, value): &Field| format!("{}={}", encoded(name), encoded(&plain(value)));
    let text = fields.iter().map(pair).collect::<Vec<_>>().join("&");
    // Some clients do not encode the sign itself, which makes it malformed.
    text.replace("%25", "%")
}

fn json_object(fields: &[Field], tag: usize) -> String {
    let blank = ["", " ", "\r\n"][tag % 3];
    let member = |(name, value): &Field| format!("{blank}{}:{blank}{value}", json!(name));
    let members: Vec<_> = fields.iter().map(member).collect();
    format!("{{{}{blank}}}", members.join(","))
}

fn multipart(fields: &[Field], tag: usize) -> String {
    let part = |(name, value): &Field| {
        let value = plain(value);
        format!("--sim{tag}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let parts: String = fields.iter().map(part).collect();
    format!("{parts}--sim{tag}--\r\n")
}

/// A value as text, for carriers that know nothing else.
fn plain(value: &Value) -> String {
    let text = value.as_str();
    text.map_or_else(|| value.to_string(), str::to_owned)
}
