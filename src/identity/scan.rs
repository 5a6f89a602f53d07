//! The bounded scan of a body for instance and credentials.
//!
//! Invariants: at most [`SCAN_LIMIT`] bytes are held; the body is forwarded byte for byte.

use std::borrow::Borrow;
use std::future::poll_fn;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use futures_core::Stream;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

use super::findings::Findings;
use super::names::Field;
use super::{form, json, multipart};
use crate::body::{self, ClientBody, SCAN_LIMIT};

/// The position of a field's raw value in a body, in bytes from its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// In a JSON object; a string includes its quotes.
    Json(Range<usize>),
    /// In an urlencoded form.
    Form(Range<usize>),
    /// In a part of a multipart form. The parser does not say where.
    Part,
}

/// Receives the fields found in a body.
pub(crate) trait FieldSink {
    /// Receives a field.
    fn field(&mut self, field: Field, position: Position);
}

/// How much of a body was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of it.
    Whole,
    /// Less: it is too long, compressed, or of a type without fields.
    Part,
}

impl FieldSink for Findings {
    fn field(&mut self, field: Field, _: Position) {
        self.body_field(field);
    }
}

/// Scans the first [`SCAN_LIMIT`] bytes of a body that is still arriving.
///
/// # Errors
/// The body broke off, or the client sent nothing for too long.
pub(crate) async fn scan_body(
    sink: &mut (impl FieldSink + Send),
    headers: &HeaderMap,
    body: &mut ClientBody,
) -> Result<Extent, body::Error> {
    if body.is_empty() {
        return Ok(Extent::Whole);
    }
    match Format::of(headers) {
        Format::Multipart(boundary) => {
            let mut broken = None;
            let pieces = PieceStream {
                pieces: BoundedPieces::new(body),
                broken: &mut broken,
            };
            // Boxed: the multipart parser is large, and most requests have no such body.
            let extent = Box::pin(scan_parts(sink, boundary, pieces)).await;
            broken.map_or(Ok(extent), Err)
        }
        Format::Fields(reader) => scan_fields(sink, reader, body).await,
        Format::Unclear => {
            sink.field(Field::Unclear, Position::Part);
            Ok(Extent::Part)
        }
        Format::Opaque => Ok(Extent::Part),
    }
}

/// Scans a body of at most [`SCAN_LIMIT`] bytes that has arrived completely.
pub(crate) fn scan_pieces(
    sink: &mut (impl FieldSink + Send),
    headers: &HeaderMap,
    pieces: impl IntoIterator<Item: Borrow<Bytes>, IntoIter: Send + Unpin>,
) -> Extent {
    let mut pieces = pieces.into_iter();
    match Format::of(headers) {
        Format::Multipart(boundary) => {
            let parts = pin!(scan_parts(sink, boundary, ReadyPieces(pieces)));
            // One poll without a waker: a stream that is always ready needs no runtime.
            match parts.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(extent) => extent,
                // Unreachable: all pieces are there.
                Poll::Pending => Extent::Part,
            }
        }
        Format::Fields(mut reader) => {
            let is_read = pieces.all(|piece| reader.push(piece.borrow(), sink));
            if is_read {
                reader.end(sink);
            }
            Extent::Whole
        }
        Format::Unclear => {
            sink.field(Field::Unclear, Position::Part);
            Extent::Part
        }
        Format::Opaque => Extent::Part,
    }
}

/// How a body contains fields.
enum Format {
    /// A multipart form with this boundary.
    Multipart(String),
    /// A JSON object or an urlencoded form.
    Fields(Reader),
    /// Backends differ in how they read it: the request is ambiguous.
    Unclear,
    /// It has no fields, or they cannot be read.
    Opaque,
}

impl Format {
    fn of(headers: &HeaderMap) -> Self {
        let (mut content_type, mut types) = (b"" as &[u8], 0);
        // One pass over the few headers costs less than two lookups.
        for (name, value) in headers {
            if name == CONTENT_TYPE {
                (content_type, types) = (value.as_bytes(), types + 1);
            } else if name == CONTENT_ENCODING
                && !value.as_bytes().eq_ignore_ascii_case(b"identity")
            {
                return Self::Opaque;
            }
        }
        // A backend may use either.
        if types > 1 {
            return Self::Unclear;
        }
        // As most clients write it: nothing needs to be parsed.
        if content_type == b"application/json" {
            return Self::Fields(Reader::new(Declared::Json));
        }
        let content_type = String::from_utf8_lossy(content_type).to_ascii_lowercase();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        match essence {
            "multipart/form-data" => {
                // From the original, because a boundary is case-sensitive.
                let text = headers
                    .get(CONTENT_TYPE)
                    .and_then(|value| value.to_str().ok());
                let boundary = text.and_then(|text| multer::parse_boundary(text).ok());
                boundary.map_or(Self::Unclear, Self::Multipart)
            }
            _ if essence.contains("json") => Self::Fields(Reader::new(Declared::Json)),
            "application/x-www-form-urlencoded" => Self::Fields(Reader::new(Declared::Form)),
            // Many clients send JSON without a type, or as text.
            "" | "text/plain" => Self::Fields(Reader::new(Declared::Nothing)),
            _ => Self::Opaque,
        }
    }
}

/// What `Content-Type` says about a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Declared {
    Json,
    Form,
    Nothing,
}

/// Reads a JSON object, an urlencoded form, or both: the first byte and the declared
/// type decide.
struct Reader {
    object: json::Scanner,
    pairs: form::Scanner,
    declared: Declared,
    /// `None` until the first byte that is not white space.
    is_json: Option<bool>,
    /// White space before that byte, in bytes.
    blank: usize,
}

impl Reader {
    fn new(declared: Declared) -> Self {
        Self {
            object: json::Scanner::new(),
            pairs: form::Scanner::default(),
            declared,
            is_json: (declared == Declared::Json).then_some(true),
            blank: 0,
        }
    }

    /// Reads the next piece; false when nothing more can be found.
    fn push(&mut self, piece: &[u8], sink: &mut impl FieldSink) -> bool {
        let mut piece = piece;
        if self.is_json.is_none() {
            // Removed in front of a form, too: otherwise its first key would depend on
            // where the network cut the body.
            let length = piece.len();
            piece = piece.trim_ascii_start();
            self.blank += length - piece.len();
            self.is_json = piece.first().map(|&byte| byte == b'{');
        }
        let Some(is_json) = self.is_json else {
            return true;
        };
        let blank = self.blank;
        if is_json {
            self.object.push(piece, |field, at| {
                sink.field(field, Position::Json(shifted(&at, blank)));
            });
        }
        if self.reads_pairs() {
            self.pairs.push(piece, |field, at| {
                take_pair(field, shifted(&at, blank), is_json, sink)
            });
        }
        !self.object.is_done() || self.reads_pairs()
    }

    /// The body has ended.
    fn end(mut self, sink: &mut impl FieldSink) {
        if self.reads_pairs() {
            let (blank, is_json) = (self.blank, self.is_json == Some(true));
            self.pairs
                .end(|field, at| take_pair(field, shifted(&at, blank), is_json, sink));
        }
    }

    /// JSON that is declared a form is read as both: backends differ in which they use.
    fn reads_pairs(&self) -> bool {
        self.is_json == Some(false) || self.declared == Declared::Form
    }
}

fn take_pair(field: Field, at: Range<usize>, is_json: bool, sink: &mut impl FieldSink) {
    match field {
        // A token in the middle of a JSON text may be part of a message.
        Field::Token(_) if is_json => {}
        // Not an instance: which of the two readings finds one first depends on how the
        // network cut the body, and the first one counts.
        Field::Instance(_) if is_json => sink.field(Field::Unclear, Position::Form(at)),
        field => sink.field(field, Position::Form(at)),
    }
}

fn shifted(at: &Range<usize>, by: usize) -> Range<usize> {
    by + at.start..by + at.end
}

async fn scan_fields(
    sink: &mut impl FieldSink,
    mut reader: Reader,
    body: &mut ClientBody,
) -> Result<Extent, body::Error> {
    let mut pieces = BoundedPieces::new(body);
    while let Some(piece) = poll_fn(|cx| pieces.poll(cx)).await? {
        // The object has ended: parsers ignore or refuse what follows.
        if !reader.push(&piece, sink) {
            return Ok(Extent::Whole);
        }
    }
    // A pair that is cut off is not read: the first digits of an id may be another id.
    if !pieces.is_whole() {
        return Ok(Extent::Part);
    }
    reader.end(sink);
    Ok(Extent::Whole)
}

async fn scan_parts<'p>(
    sink: &mut impl FieldSink,
    boundary: String,
    pieces: impl Stream<Item = Result<Bytes, multer::Error>> + Send + 'p,
) -> Extent {
    let found = |field| sink.field(field, Position::Part);
    match multipart::scan(boundary, pieces, found).await {
        true => Extent::Whole,
        false => Extent::Part,
    }
}

/// The pieces of a body, cut at [`SCAN_LIMIT`] bytes. Otherwise the length of the last piece
/// would decide what is found.
struct BoundedPieces<'b> {
    body: &'b mut ClientBody,
    index: usize,
    /// Bytes that may still be read.
    left: usize,
    /// The last piece was longer than that.
    is_cut: bool,
}

impl<'b> BoundedPieces<'b> {
    fn new(body: &'b mut ClientBody) -> Self {
        Self {
            body,
            index: 0,
            left: SCAN_LIMIT,
            is_cut: false,
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
        self.is_cut = piece.len() > self.left;
        piece.truncate(self.left);
        self.left -= piece.len();
        Poll::Ready(Ok(Some(piece)))
    }

    /// Whether all of the body was read.
    fn is_whole(&self) -> bool {
        self.body.is_complete() && !self.is_cut
    }
}

/// [`BoundedPieces`] as the stream that the multipart parser reads.
struct PieceStream<'b> {
    pieces: BoundedPieces<'b>,
    /// The error of the body: the parser's error type cannot carry it.
    broken: &'b mut Option<body::Error>,
}

impl Stream for PieceStream<'_> {
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

/// Pieces that have all arrived, as a stream.
struct ReadyPieces<I>(I);

impl<I: Iterator<Item: Borrow<Bytes>> + Unpin> Stream for ReadyPieces<I> {
    type Item = Result<Bytes, multer::Error>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.next().map(|piece| Ok(piece.borrow().clone())))
    }
}

const _: () = assert!(SCAN_LIMIT == 64 * 1024, "rule: identity names 64 KiB");
