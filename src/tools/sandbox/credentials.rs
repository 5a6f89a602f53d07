//! Who calls and with which parameters, in every spelling clients are known to use.
//!
//! Owns the reading of query, headers and body (JSON, urlencoded, multipart) into a few known fields. It does not judge
//! them. Where places disagree, the query wins, then the headers, then the body; the upstream's order is unknown.
//! Invariant: one call holds at most 32 MiB of its body while it is read, and afterwards only the known fields.

use std::collections::BTreeMap;

use bytes::{Buf as _, Bytes};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use http_body_util::{BodyDataStream, BodyExt as _};
use serde_json::Value;
use serde_json::value::RawValue;

use super::call::{Noted, Unread};

/// The longest body under `/v2` that is taken in: apps send files of 16 MB in base64, which makes 22 MB of JSON.
const MAX_BODY: usize = 32 << 20;

/// The longest text part of a multipart body that is of interest.
const MAX_PART: usize = 64 << 10;

/// The fields that mean something here.
const KNOWN: [&str; 8] = [
    "instance_id",
    "access_token",
    "chatId",
    "messageIds",
    "messageId",
    "participant",
    "message",
    "policy_slug",
];

/// The fields of one place.
type Fields = BTreeMap<&'static str, Value>;

/// What a call asks for. It holds a token and therefore has no `Debug`.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) instance: Option<String>,
    pub(super) token: Option<String>,
    fields: Fields,
}

/// Why a body says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// It is not what its content type says; the text says what is wrong.
    Malformed(&'static str),
    /// It is longer than the sandbox takes in.
    TooLarge,
    /// It ended before its end; there is nobody to answer.
    Broken,
}

/// The message ids of a receipt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ids {
    /// Absent or empty: the whole chat.
    Whole,
    /// As they came; what is not a text stands as JSON.
    Listed(Vec<String>),
    /// Not a list.
    NotAList,
}

// === impl Asked ===

impl Asked {
    /// Reads query and headers.
    pub(super) fn head(parts: &Parts) -> Self {
        let mut fields = Fields::new();
        put_pairs(
            &mut fields,
            parts.uri.query().unwrap_or_default().as_bytes(),
        );
        let header =
            |name: HeaderName| filled(parts.headers.get(name)?.to_str().ok()?.trim().to_owned());
        let bearer = header(AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme
                .eq_ignore_ascii_case("bearer")
                .then(|| token.trim().to_owned())
        });
        let text = |name| fields.get(name).and_then(as_text).and_then(filled);
        Self {
            instance: text("instance_id")
                .or_else(|| header(HeaderName::from_static("x-instance-id"))),
            token: text("access_token")
                .or(bearer.and_then(filled))
                .or_else(|| header(HeaderName::from_static("access-token"))),
            fields,
        }
    }

    /// Reads the body to its end, and takes from it what the head left open.
    pub(super) async fn read_body(
        &mut self,
        headers: &HeaderMap,
        body: &mut Noted,
    ) -> Result<(), Bad> {
        let content_type = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let essence = content_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        let mut fields = Fields::new();
        if essence == "application/json" || essence.ends_with("+json") {
            put_json(&mut fields, &body.read(MAX_BODY).await?)?;
        } else if essence == "application/x-www-form-urlencoded" {
            put_pairs(&mut fields, &body.read(MAX_BODY).await?);
        } else if essence == "multipart/form-data" {
            let boundary = multer::parse_boundary(content_type)
                .map_err(|_| Bad::Malformed("the multipart body has no boundary"))?;
            put_parts(&mut fields, boundary, body).await?;
        } else if essence.is_empty() || essence == "text/plain" {
            // Some clients send JSON and do not say so.
            let body = body.read(MAX_BODY).await?;
            if body.trim_ascii_start().starts_with(b"{") {
                put_json(&mut fields, &body)?;
            }
        }
        // Whatever was not of interest is read all the same, as a server does that keeps its connections.
        while let Some(frame) = body.frame().await {
            frame.map_err(|_| Bad::Broken)?;
        }
        let text = |name| fields.get(name).and_then(as_text).and_then(filled);
        self.instance = self.instance.take().or_else(|| text("instance_id"));
        self.token = self.token.take().or_else(|| text("access_token"));
        for (name, value) in fields {
            self.fields.entry(name).or_insert(value);
        }
        Ok(())
    }

    /// Returns a field as text, if it is there and not empty.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.fields.get(name).and_then(as_text).and_then(filled)
    }

    /// Returns the message ids; the older `messageId` counts as one more.
    pub(super) fn ids(&self) -> Ids {
        let listed = match self.fields.get("messageIds") {
            None | Some(Value::Null) => &[],
            Some(Value::Array(ids)) => ids.as_slice(),
            Some(_) => return Ids::NotAList,
        };
        let ids: Vec<_> = listed
            .iter()
            .map(|id| id.as_str().map_or_else(|| id.to_string(), str::to_owned))
            .chain(self.text("messageId"))
            .collect();
        if ids.is_empty() {
            Ids::Whole
        } else {
            Ids::Listed(ids)
        }
    }
}

fn filled(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn put_json(fields: &mut Fields, body: &Bytes) -> Result<(), Bad> {
    if body.trim_ascii().is_empty() {
        return Ok(());
    }
    // Values stay raw until their key is known: most of a body can be one long base64 text.
    let object: Option<BTreeMap<String, &RawValue>> = serde_json::from_slice(body)
        .map_err(|_| Bad::Malformed("the body is not a JSON object"))?;
    for (name, value) in object.unwrap_or_default() {
        if let Some(known) = KNOWN.into_iter().find(|known| *known == name) {
            fields.insert(
                known,
                serde_json::from_str(value.get()).unwrap_or(Value::Null),
            );
        }
    }
    Ok(())
}

fn put_pairs(fields: &mut Fields, pairs: &[u8]) {
    for (name, text) in form_urlencoded::parse(pairs) {
        put_text(fields, &name, text.into_owned());
    }
}

/// Takes a field that came as text. `chatId[]`, `messageIds[0]` and `messageIds[][0]` are PHP's and qs's arrays.
fn put_text(fields: &mut Fields, name: &str, text: String) {
    let (base, indexed) = name
        .split_once('[')
        .map_or((name, false), |(base, _)| (base, true));
    let Some(known) = KNOWN.into_iter().find(|known| *known == base) else {
        return;
    };
    if known != "messageIds" {
        fields.insert(known, Value::String(text));
        return;
    }
    let more = match serde_json::from_str(&text) {
        Ok(Value::Array(ids)) if !indexed => ids,
        _ if text.is_empty() => Vec::new(),
        _ => vec![Value::String(text)],
    };
    if let Value::Array(ids) = fields
        .entry(known)
        .or_insert_with(|| Value::Array(Vec::new()))
    {
        ids.extend(more);
    }
}

async fn put_parts(fields: &mut Fields, boundary: String, body: &mut Noted) -> Result<(), Bad> {
    // multer takes in whatever the stream has ready, wanted or not; without a limit a fast sender fills the memory.
    let limit = multer::SizeLimit::new().whole_stream(MAX_BODY as u64);
    let constraints = multer::Constraints::new().size_limit(limit);
    let stream = BodyDataStream::new(body);
    let mut parts = multer::Multipart::with_constraints(stream, boundary, constraints);
    while let Some(mut part) = parts.next_field().await? {
        let Some(name) = part
            .name()
            .map(str::to_owned)
            .filter(|_| part.file_name().is_none())
        else {
            continue;
        };
        let mut text = Vec::new();
        while let Some(chunk) = part.chunk().await? {
            let room = MAX_PART - text.len();
            text.extend_from_slice(&chunk.chunk()[..chunk.len().min(room)]);
        }
        put_text(fields, &name, String::from_utf8_lossy(&text).into_owned());
    }
    Ok(())
}

impl From<multer::Error> for Bad {
    fn from(error: multer::Error) -> Self {
        match error {
            multer::Error::StreamReadFailed(_) => Self::Broken,
            multer::Error::StreamSizeExceeded { .. } => Self::TooLarge,
            _ => Self::Malformed("the multipart body is not well formed"),
        }
    }
}

impl From<Unread> for Bad {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::TooLarge => Self::TooLarge,
            Unread::Broken => Self::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn head(target: &str, headers: &[(&str, &str)]) -> Asked {
        let request = headers
            .iter()
            .fold(Request::get(target), |request, (name, value)| {
                request.header(*name, *value)
            });
        Asked::head(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn identity_in_the_head_in_every_spelling() {
        let cases: [(&str, &[(&str, &str)]); 6] = [
            ("/?instance_id=i&access_token=t", &[]),
            ("/?instance_id%5B0%5D=i&access_token[]=t", &[]),
            (
                "/",
                &[("authorization", "Bearer t"), ("x-instance-id", "i")],
            ),
            (
                "/",
                &[("authorization", "bearer  t"), ("X-Instance-ID", " i ")],
            ),
            ("/?instance_id=i", &[("access-token", "t")]),
            (
                "/?instance_id=i&access_token=t",
                &[("access-token", "other"), ("x-instance-id", "other")],
            ),
        ];
        for (target, headers) in cases {
            let asked = head(target, headers);
            assert_eq!(
                (asked.instance.as_deref(), asked.token.as_deref()),
                (Some("i"), Some("t")),
                "{target} {headers:?}"
            );
        }
        let asked = head(
            "/?instance_id=&access_token=",
            &[("authorization", "Basic dDp0")],
        );
        assert_eq!((asked.instance, asked.token), (None, None));
    }

    #[test]
    fn ids_in_the_query_in_every_spelling() {
        let listed = |ids: &[&str]| Ids::Listed(ids.iter().map(|id| (*id).to_owned()).collect());
        assert_eq!(
            head("/?messageIds=%5B%22a%22,%22b%22%5D", &[]).ids(),
            listed(&["a", "b"])
        );
        assert_eq!(
            head("/?messageIds=a&messageIds=b", &[]).ids(),
            listed(&["a", "b"])
        );
        assert_eq!(
            head("/?messageIds%5B%5D%5B0%5D=a&messageIds[1]=b", &[]).ids(),
            listed(&["a", "b"])
        );
        assert_eq!(
            head("/?messageIds=[1]&messageId=x", &[]).ids(),
            listed(&["1", "x"])
        );
        for whole in ["/", "/?messageIds=", "/?messageIds=[]"] {
            assert_eq!(head(whole, &[]).ids(), Ids::Whole, "{whole}");
        }
    }

    #[test]
    fn json_bodies() {
        let mut fields = Fields::new();
        put_json(
            &mut fields,
            &Bytes::from_static(br#"{"messageIds":null,"instance_id":7,"file":{"data":"AA"}}"#),
        )
        .unwrap();
        let asked = Asked {
            fields,
            ..Asked::default()
        };
        assert_eq!(
            (asked.ids(), asked.text("instance_id")),
            (Ids::Whole, Some("7".to_owned()))
        );
        assert_eq!(asked.fields.len(), 2, "unknown fields must not be kept");
        for nothing in ["", "  ", "null", "{}"] {
            let mut fields = Fields::new();
            put_json(&mut fields, &Bytes::from_static(nothing.as_bytes())).unwrap();
            assert!(fields.is_empty());
        }
        for bad in ["[1]", "{", "7", "{\"a\":1}x"] {
            assert!(
                put_json(&mut Fields::new(), &Bytes::from_static(bad.as_bytes())).is_err(),
                "{bad}"
            );
        }
        let mut fields = Fields::new();
        put_json(&mut fields, &Bytes::from_static(br#"{"messageIds":"x"}"#)).unwrap();
        assert_eq!(
            Asked {
                fields,
                ..Asked::default()
            }
            .ids(),
            Ids::NotAList
        );
    }
}
