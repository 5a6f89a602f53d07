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

/// Whoever wants to know what stands in a body.
pub(crate) trait Finder {
    /// Takes a field; not called any more when that is enough.
    fn take(&mut self, field: Field, spot: Spot);

    /// True when nothing more need be looked for.
    fn has_all(&self) -> bool;
}

impl Finder for Findings {
    fn take(&mut self, field: Field, _: Spot) {
        match field {
            Field::Instance(name) => self.instance(Some(&name)),
            Field::Token(token) => self.credential(Place::Body, token.as_bytes()),
        }
    }

    fn has_all(&self) -> bool {
        self.is_complete()
    }
}

/// Looks into the body if the head did not tell all.
///
/// # Errors
/// The body broke off or came too slowly.
pub(crate) async fn into_body(
    findings: &mut impl Finder,
    headers: &HeaderMap,
    body: &mut ClientBody,
) -> Result<(), body::Error> {
    if findings.has_all() || body.is_empty() {
        return Ok(());
    }
    match Shape::of(headers) {
        // Boxed, or every call would carry the room its parser needs.
        Some(Shape::Multipart(boundary)) => Box::pin(multipart(findings, boundary, body)).await,
        Some(Shape::Fields(reader)) => fields(findings, reader, body).await,
        None => Ok(()),
    }
}

/// What a body says it is, as far as one can look into that.
pub(crate) enum Shape {
    /// A form in parts, with this boundary.
    Multipart(String),
    /// A JSON object or an urlencoded form.
    Fields(Reader),
}

impl Shape {
    /// Reads what the headers say; `None` is nothing to look into.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        if headers.contains_key(CONTENT_ENCODING) {
            return None;
        }
        let content_type = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let is = |other: &str| essence.eq_ignore_ascii_case(other);
        if is("multipart/form-data") {
            return multer::parse_boundary(content_type)
                .ok()
                .map(Self::Multipart);
        }
        let json = is("application/json") || essence.to_ascii_lowercase().ends_with("+json");
        // Many clients send JSON without saying so, or say it is a form.
        let unsaid =
            essence.is_empty() || is("text/plain") || is("application/x-www-form-urlencoded");
        (json || unsaid).then(|| Self::Fields(Reader::new(json)))
    }
}

/// Reads a JSON object or an urlencoded form, whichever it turns out to be.
pub(crate) struct Reader {
    object: json::Scanner,
    pairs: form::Scanner,
    /// `None` until the first byte that is no white space.
    is_json: Option<bool>,
    /// The white space before it, in bytes.
    blank: usize,
}

impl Reader {
    fn new(json: bool) -> Self {
        Self {
            object: json::Scanner::new(),
            pairs: form::Scanner::default(),
            is_json: json.then_some(true),
            blank: 0,
        }
    }

    /// Reads the next piece; false when nothing more can be found.
    pub(crate) fn push(&mut self, piece: &[u8], findings: &mut impl Finder) -> bool {
        let mut piece = piece;
        if self.is_json.is_none() {
            // Left out also of a form, or its first key would depend on
            // where the body was cut.
            let length = piece.len();
            piece = piece.trim_ascii_start();
            self.blank += length - piece.len();
            self.is_json = piece.first().map(|&byte| byte == b'{');
        }
        let blank = self.blank;
        match self.is_json {
            None => true,
            Some(false) => {
                self.pairs.push(piece, |field, at| {
                    take(findings, field, Spot::Form(behind(blank, &at)));
                });
                !findings.has_all()
            }
            Some(true) => {
                self.object.push(piece, |field, at| {
                    take(findings, field, Spot::Json(behind(blank, &at)));
                });
                !self.object.is_done() && !findings.has_all()
            }
        }
    }

    /// The body has ended.
    pub(crate) fn end(mut self, findings: &mut impl Finder) {
        if self.is_json == Some(false) {
            let blank = self.blank;
            self.pairs.end(|field, at| {
                take(findings, field, Spot::Form(behind(blank, &at)));
            });
        }
    }
}

async fn fields(
    findings: &mut impl Finder,
    mut reader: Reader,
    body: &mut ClientBody,
) -> Result<(), body::Error> {
    let mut pieces = Pieces::new(body);
    while let Some(piece) = poll_fn(|cx| pieces.poll(cx)).await? {
        if !reader.push(&piece, findings) {
            return Ok(());
        }
    }
    if pieces.is_all() {
        reader.end(findings);
    }
    Ok(())
}

fn take(findings: &mut impl Finder, field: Field, spot: Spot) {
    // The look ends where all is found. What stands in the same piece may not
    // count, or who calls would depend on where the body was cut.
    if !findings.has_all() {
        findings.take(field, spot);
    }
}

fn behind(blank: usize, at: &Range<usize>) -> Range<usize> {
    blank + at.start..blank + at.end
}

async fn multipart(
    findings: &mut impl Finder,
    boundary: String,
    body: &mut ClientBody,
) -> Result<(), body::Error> {
    let mut broken = None;
    let pieces = Parsed {
        pieces: Pieces::new(body),
        broken: &mut broken,
    };
    parts(findings, boundary, pieces).await;
    broken.map_or(Ok(()), Err)
}

/// Reads a form in parts as far as it goes, or until all is found.
pub(crate) async fn parts<'p>(
    findings: &mut impl Finder,
    boundary: String,
    pieces: impl Stream<Item = Result<Bytes, multer::Error>> + Send + 'p,
) {
    let mut form = multer::Multipart::new(pieces, boundary);
    // An error here means no more than: what was held ends mid-form.
    while let Ok(Some(field)) = form.next_field().await {
        let wanted: fn(String) -> Field = match field.name() {
            Some(INSTANCE_FIELD) => Field::Instance,
            Some(TOKEN_FIELD) => Field::Token,
            _ => continue,
        };
        let Ok(text) = field.text().await else { break };
        take(findings, wanted(text), Spot::Part);
        if findings.has_all() {
            break;
        }
    }
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
