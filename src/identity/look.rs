//! The bounded look into a body for who calls.
//!
//! Invariant: at most [`LOOK`] bytes are held, as the buffers they came in;
//! the body that goes on is the very same, byte for byte.

use std::future::poll_fn;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

use super::json::Field;
use super::{Findings, INSTANCE_FIELD, Place, TOKEN_FIELD, form, json};
use crate::body::{self, ClientBody, LOOK};

/// Where in a body a field's raw value was found, in bytes from its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Spot {
    /// In a JSON object; a text with its quotes.
    Json(Range<usize>),
    /// In an urlencoded form.
    Form(Range<usize>),
    /// In some part of a multipart form.
    Part,
}

/// Looks into the body if the head did not tell all.
///
/// # Errors
/// The body broke off or came too slowly.
pub(crate) async fn into_body(
    findings: &mut Findings,
    headers: &HeaderMap,
    body: &mut ClientBody,
) -> Result<(), body::Error> {
    if findings.is_complete() {
        return Ok(());
    }
    for_fields(headers, body, |field, _| {
        match field {
            Field::Instance(name) => findings.instance(Some(&name)),
            Field::Token(token) => findings.credential(Place::Body, token.as_bytes()),
        }
        findings.is_complete()
    })
    .await
}

/// Tells of instances and tokens in the body, as far as it may be looked into
/// and until `found` says that it is enough.
///
/// # Errors
/// The body broke off or came too slowly.
pub(crate) async fn for_fields(
    headers: &HeaderMap,
    body: &mut ClientBody,
    found: impl FnMut(Field, Spot) -> bool,
) -> Result<(), body::Error> {
    if body.is_empty() || headers.contains_key(CONTENT_ENCODING) {
        return Ok(());
    }
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = content_type
        .unwrap_or("")
        .split(';')
        .next()
        .unwrap_or("")
        .trim();
    if essence.eq_ignore_ascii_case("multipart/form-data") {
        let Some(boundary) = content_type.and_then(|full| multer::parse_boundary(full).ok()) else {
            return Ok(());
        };
        return in_parts(boundary, body, found).await;
    }
    let is = |other: &str| essence.eq_ignore_ascii_case(other);
    let json = is("application/json") || essence.to_ascii_lowercase().ends_with("+json");
    // Many clients send JSON without saying so, or say it is a form.
    let unsaid = essence.is_empty() || is("text/plain") || is("application/x-www-form-urlencoded");
    if json || unsaid {
        in_text(json, body, found).await
    } else {
        Ok(())
    }
}

async fn in_text(
    json: bool,
    body: &mut ClientBody,
    mut found: impl FnMut(Field, Spot) -> bool,
) -> Result<(), body::Error> {
    let mut object = json::Scanner::new();
    let mut pairs = form::Scanner::default();
    let mut is_json = json.then_some(true);
    let mut enough = false;
    let mut pieces = Pieces::new(body);
    while !enough {
        let Some(piece) = poll_fn(|cx| pieces.poll(cx)).await? else {
            if is_json == Some(false) && pieces.is_all() {
                pairs.end(|field, at| enough |= found(field, Spot::Form(at)));
            }
            break;
        };
        if is_json.is_none() {
            is_json = piece
                .iter()
                .find(|byte| !byte.is_ascii_whitespace())
                .map(|&byte| byte == b'{');
        }
        // Blanks before anything else count too, for the places told.
        if is_json != Some(true) {
            pairs.push(&piece, |field, at| enough |= found(field, Spot::Form(at)));
        }
        if is_json != Some(false) {
            object.push(&piece, |field, at| enough |= found(field, Spot::Json(at)));
            if object.is_done() {
                break;
            }
        }
    }
    Ok(())
}

async fn in_parts(
    boundary: String,
    body: &mut ClientBody,
    mut found: impl FnMut(Field, Spot) -> bool,
) -> Result<(), body::Error> {
    let mut broken = None;
    {
        let pieces = Parsed {
            pieces: Pieces::new(body),
            broken: &mut broken,
        };
        let mut form = multer::Multipart::new(pieces, boundary);
        // An error here means no more than: what was held ends mid-form.
        while let Ok(Some(field)) = form.next_field().await {
            let wanted: fn(String) -> Field = match field.name() {
                Some(INSTANCE_FIELD) => Field::Instance,
                Some(TOKEN_FIELD) => Field::Token,
                _ => continue,
            };
            let Ok(text) = field.text().await else { break };
            if found(wanted(text), Spot::Part) {
                break;
            }
        }
    }
    broken.map_or(Ok(()), Err)
}

/// The pieces of a body up to [`LOOK`] bytes: what a client may have found is
/// not to depend on how the network cut its body.
struct Pieces<'b> {
    body: &'b mut ClientBody,
    index: usize,
    /// Bytes that may still be looked at.
    left: usize,
    /// The last piece went on beyond them.
    cut: bool,
}

impl<'b> Pieces<'b> {
    fn new(body: &'b mut ClientBody) -> Self {
        Self {
            body,
            index: 0,
            left: LOOK,
            cut: false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, body::Error>> {
        if self.left == 0 {
            return Poll::Ready(Ok(None));
        }
        let Some(mut piece) = ready!(self.body.poll_piece(self.index, cx))? else {
            return Poll::Ready(Ok(None));
        };
        self.index += 1;
        self.cut = piece.len() > self.left;
        piece.truncate(self.left);
        self.left -= piece.len();
        Poll::Ready(Ok(Some(piece)))
    }

    /// True when nothing of the body was left unseen.
    fn is_all(&self) -> bool {
        self.body.is_complete() && !self.cut
    }
}

/// The same as the stream that the multipart parser reads.
struct Parsed<'b> {
    pieces: Pieces<'b>,
    broken: &'b mut Option<body::Error>,
}

impl Stream for Parsed<'_> {
    type Item = Result<Bytes, multer::Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        match ready!(this.pieces.poll(cx)) {
            Ok(piece) => Poll::Ready(piece.map(Ok)),
            Err(error) => {
                *this.broken = Some(error);
                Poll::Ready(None)
            }
        }
    }
}

const _: () = assert!(LOOK == 64 * 1024, "design §3.1 names 64 KiB");
