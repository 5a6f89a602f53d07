//! Credentials and parameters of a request, in every location and notation that clients are known to use.
//!
//! Reads query, headers and body (JSON, urlencoded, multipart) into a few known fields, without judging them. The
//! query takes precedence over the headers, and these over the body; the upstream's own order is unknown.
//! Invariant: a request holds at most 32 MiB of its body while it is read, and afterwards only the known fields.

use std::collections::BTreeMap;

use bytes::{Buf as _, Bytes};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use http_body_util::{BodyDataStream, BodyExt as _};
use serde_json::Value;
use serde_json::value::RawValue;

use super::recorded_body::{ReadError, RecordedBody};

/// The longest body accepted under `/v2`: apps send files of 16 MB in base64, which makes 22 MB of JSON.
const MAX_BODY: usize = 32 << 20;

/// Bytes read of a text part in a multipart body.
const MAX_PART: usize = 64 << 10;

/// The fields that the sandbox uses.
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

/// The fields of one part of a request.
type Fields = BTreeMap<&'static str, Value>;

/// The parameters of a request. They include a token, therefore there is no `Debug`.
#[derive(Default)]
pub(super) struct Params {
    pub(super) instance: Option<String>,
    pub(super) token: Option<String>,
    fields: Fields,
}

/// Why a body could not be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    /// It does not match its content type; the text says why.
    Malformed(&'static str),
    /// It is longer than the sandbox accepts.
    TooLarge,
    /// It broke off; there is no client left to respond to.
    Broken,
}

/// The message ids of a receipt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ids {
    /// Absent or empty: the whole chat.
    Whole,
    /// Unchanged; an element that is not a string is given as JSON.
    Listed(Vec<String>),
    /// Not a list.
    NotAList,
}

impl Params {
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
                // Schemes are case-insensitive (RFC 9110 §11.1). `Basic` carries no access token.
                .eq_ignore_ascii_case("bearer")
                .then(|| token.trim().to_owned())
        });
        // An empty value counts as absent, so the next source is used.
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

    /// Reads the body to its end and adds the fields that the head does not have.
    pub(super) async fn read_body(
        &mut self,
        headers: &HeaderMap,
        body: &mut RecordedBody,
    ) -> Result<(), BodyError> {
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
            // From the original value: a boundary is case-sensitive.
            let boundary = multer::parse_boundary(content_type)
                .map_err(|_| BodyError::Malformed("the multipart body has no boundary"))?;
            put_parts(&mut fields, boundary, body).await?;
        } else if essence.is_empty() || essence == "text/plain" {
            // Some clients send JSON without its content type.
            let body = body.read(MAX_BODY).await?;
            if body.trim_ascii_start().starts_with(b"{") {
                put_json(&mut fields, &body)?;
            }
        }
        // The rest is read too: otherwise the connection could not be used again.
        while let Some(frame) = body.frame().await {
            frame.map_err(|_| BodyError::Broken)?;
        }
        let text = |name| fields.get(name).and_then(as_text).and_then(filled);
        self.instance = self.instance.take().or_else(|| text("instance_id"));
        self.token = self.token.take().or_else(|| text("access_token"));
        for (name, value) in fields {
            // What the query says takes precedence.
            self.fields.entry(name).or_insert(value);
        }
        Ok(())
    }

    /// A field as text, if it is present and not empty.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.fields.get(name).and_then(as_text).and_then(filled)
    }

    /// The message ids; the older field `messageId` adds one more.
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

/// The text, unless it is empty.
fn filled(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// A string or a number as text.
fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Adds the known fields of a JSON object.
fn put_json(fields: &mut Fields, body: &Bytes) -> Result<(), BodyError> {
    if body.trim_ascii().is_empty() {
        return Ok(());
    }
    // Values stay raw until their key is known: most of a body can be one long base64 string.
    let object: Option<BTreeMap<String, &RawValue>> = serde_json::from_slice(body)
        .map_err(|_| BodyError::Malformed("the body is not a JSON object"))?;
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

/// Adds the known fields of a query or a form.
fn put_pairs(fields: &mut Fields, pairs: &[u8]) {
    for (name, text) in form_urlencoded::parse(pairs) {
        put_text(fields, &name, text.into_owned());
    }
}

/// Adds a field that arrived as text. `chatId[]`, `messageIds[0]` and `messageIds[][0]` are arrays of PHP and qs.
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
        // `messageIds=["a","b"]`: JSON text in the query or in a form.
        Ok(Value::Array(ids)) if !indexed => ids,
        _ if text.is_empty() => Vec::new(),
        // `messageIds=a,b`, which `URLSearchParams` makes of an array.
        _ if !indexed && text.contains(',') => text.split(',').map(Value::from).collect(),
        _ => vec![Value::String(text)],
    };
    if let Value::Array(ids) = fields
        .entry(known)
        .or_insert_with(|| Value::Array(Vec::new()))
    {
        ids.extend(more);
    }
}

/// Adds the known text fields of a multipart body.
async fn put_parts(
    fields: &mut Fields,
    boundary: String,
    body: &mut RecordedBody,
) -> Result<(), BodyError> {
    // multer buffers whatever the stream has ready. Without a limit a fast sender would fill the memory.
    let limit = multer::SizeLimit::new().whole_stream(MAX_BODY as u64);
    let constraints = multer::Constraints::new().size_limit(limit);
    let stream = BodyDataStream::new(body);
    let mut parts = multer::Multipart::with_constraints(stream, boundary, constraints);
    while let Some(mut part) = parts.next_field().await? {
        let Some(name) = part
            .name()
            .map(str::to_owned)
            // A part with a file name is a file, whatever the name of its field.
            .filter(|_| part.file_name().is_none())
        else {
            continue;
        };
        let mut text = Vec::new();
        while let Some(chunk) = part.chunk().await? {
            // The rest of a long part is read and discarded, so that the next part is found.
            let room = MAX_PART - text.len();
            text.extend_from_slice(&chunk.chunk()[..chunk.len().min(room)]);
        }
        put_text(fields, &name, String::from_utf8_lossy(&text).into_owned());
    }
    Ok(())
}

impl From<multer::Error> for BodyError {
    fn from(error: multer::Error) -> Self {
        match error {
            multer::Error::StreamReadFailed(_) => Self::Broken,
            multer::Error::StreamSizeExceeded { .. } => Self::TooLarge,
            _ => Self::Malformed("the multipart body is not well formed"),
        }
    }
}

impl From<ReadError> for BodyError {
    fn from(unread: ReadError) -> Self {
        match unread {
            ReadError::TooLarge => Self::TooLarge,
            ReadError::Broken => Self::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn head(target: &str, headers: &[(&str, &str)]) -> Params {
        let request = headers
            .iter()
            .fold(Request::get(target), |request, (name, value)| {
                request.header(*name, *value)
            });
        Params::head(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn identity_is_read_from_every_place_in_the_head() {
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
            let params = head(target, headers);
            assert_eq!(
                (params.instance.as_deref(), params.token.as_deref()),
                (Some("i"), Some("t")),
                "{target} {headers:?}"
            );
        }
        let params = head(
            "/?instance_id=&access_token=",
            &[("authorization", "Basic dDp0")],
        );
        assert_eq!((params.instance, params.token), (None, None));
    }

    #[test]
    fn ids_are_read_from_every_notation_in_the_query() {
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
    fn fields_are_read_from_json_bodies() {
        let mut fields = Fields::new();
        put_json(
            &mut fields,
            &Bytes::from_static(br#"{"messageIds":null,"instance_id":7,"file":{"data":"AA"}}"#),
        )
        .unwrap();
        let params = Params {
            fields,
            ..Params::default()
        };
        assert_eq!(
            (params.ids(), params.text("instance_id")),
            (Ids::Whole, Some("7".to_owned()))
        );
        assert_eq!(params.fields.len(), 2, "unknown fields must not be kept");
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
            Params {
                fields,
                ..Params::default()
            }
            .ids(),
            Ids::NotAList
        );
    }
}
