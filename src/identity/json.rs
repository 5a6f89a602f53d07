//! Finds instance and token at the top level of a JSON object that arrives in pieces.
//!
//! It does not validate: malformed JSON is for the upstream to refuse. Invariants: only
//! the current field is held; the time is linear in the bytes pushed, and the result
//! does not depend on how they are cut.

use std::ops::Range;

use super::names::{Field, FieldName};

/// The longest key that is held, in bytes. `access_token` with each character escaped
/// as `\uXXXX` has 72.
const MAX_KEY: usize = 80;
/// The longest value that is held, in bytes. No instance id or token is longer.
const MAX_VALUE: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the opening brace.
    Start,
    /// Between tokens.
    Between,
    /// Inside a string; `true` after a backslash.
    Text(bool),
    /// Inside a number that is the value of a wanted field.
    Number,
    /// The object has ended, or the text is no object.
    Done,
}

/// Reads a JSON object piece by piece.
#[derive(Debug)]
pub(crate) struct Scanner {
    state: State,
    depth: usize,
    /// At depth 1: the next string is a key.
    at_key: bool,
    /// The field whose value follows.
    wanted: Option<FieldName>,
    /// The raw text of the current key or value; `None` if it is not needed or too long.
    kept: Option<Vec<u8>>,
    /// Bytes pushed before the current piece.
    before: usize,
    /// Where the current string or number begins, in all bytes pushed.
    value_at: usize,
}

impl Scanner {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Start,
            depth: 0,
            at_key: false,
            wanted: None,
            kept: None,
            before: 0,
            value_at: 0,
        }
    }

    /// Whether the object has ended, or the text is no object.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Reads the next piece. Reports each field found, and the range of its raw value in
    /// all bytes pushed, quotes included.
    pub(crate) fn push(&mut self, piece: &[u8], mut found: impl FnMut(Field, Range<usize>)) {
        // `after` is the position behind the current byte, in all bytes pushed.
        let end = self.before + piece.len();
        let mut rest = piece.iter();
        while let Some(&byte) = rest.next() {
            let after = end - rest.len();
            match self.state {
                State::Done => return,
                State::Start => match byte {
                    // White space, and a byte order mark, which parsers may skip (RFC 8259
                    // §8.1).
                    b' ' | b'\t' | b'\r' | b'\n' | 0xef | 0xbb | 0xbf => {}
                    b'{' => {
                        self.depth = 1;
                        self.at_key = true;
                        self.state = State::Between;
                    }
                    _ => self.state = State::Done,
                },
                State::Text(true) => {
                    self.keep(byte);
                    self.state = State::Text(false);
                }
                State::Text(false) => match byte {
                    b'"' => self.text_ends(after, &mut found),
                    b'\\' => {
                        self.keep(byte);
                        self.state = State::Text(true);
                    }
                    _ => self.keep(byte),
                },
                State::Number => match byte {
                    b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-' => self.keep(byte),
                    // Only the byte behind a number shows that it has ended.
                    _ => {
                        self.number_ends(after - 1, &mut found);
                        self.between(byte, after, &mut found);
                    }
                },
                State::Between => self.between(byte, after, &mut found),
            }
        }
        self.before = end;
    }

    /// A byte between tokens, which may begin or end one.
    fn between(&mut self, byte: u8, after: usize, found: &mut impl FnMut(Field, Range<usize>)) {
        match byte {
            b'"' => {
                self.state = State::Text(false);
                // Most strings are message texts: they are skipped without a copy.
                let keep = self.depth == 1 && (self.at_key || self.wanted.is_some());
                self.kept = keep.then(Vec::new);
                self.value_at = after - 1;
            }
            b'{' | b'[' => {
                // Some languages convert a list with one string into that string.
                if byte == b'[' && self.wanted.take().is_some() {
                    found(Field::Unclear, after - 1..after);
                }
                self.wanted = None;
                self.depth += 1;
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    self.state = State::Done;
                }
            }
            b',' if self.depth == 1 => {
                self.at_key = true;
                self.wanted = None;
            }
            b':' if self.depth == 1 => self.at_key = false,
            b'0'..=b'9' | b'-' if self.depth == 1 && self.wanted.is_some() => {
                self.state = State::Number;
                self.kept = Some(vec![byte]);
                self.value_at = after - 1;
            }
            _ => {}
        }
    }

    fn keep(&mut self, byte: u8) {
        let limit = if self.at_key { MAX_KEY } else { MAX_VALUE };
        if let Some(kept) = &mut self.kept {
            if kept.len() < limit {
                kept.push(byte);
            } else {
                self.kept = None;
            }
        }
    }

    fn text_ends(&mut self, end: usize, found: &mut impl FnMut(Field, Range<usize>)) {
        self.state = State::Between;
        let text = self.kept.take().and_then(|raw| unescape(&raw));
        if self.depth != 1 {
            return;
        }
        if self.at_key {
            self.wanted = text.as_deref().and_then(FieldName::of_json);
        } else if let Some(field) = self.wanted.take() {
            // `None`: it is too long or not Unicode, and a backend may cut it to another id.
            let field = text.map_or(Field::Unclear, |text| field.with(text));
            found(field, self.value_at..end);
        }
    }

    fn number_ends(&mut self, end: usize, found: &mut impl FnMut(Field, Range<usize>)) {
        self.state = State::Between;
        let text = self.kept.take().and_then(|raw| String::from_utf8(raw).ok());
        if let Some(field) = self.wanted.take() {
            let field = text.map_or(Field::Unclear, |text| field.with(text));
            found(field, self.value_at..end);
        }
    }
}

/// Decodes the inside of a JSON string; `None` if it is not Unicode.
fn unescape(raw: &[u8]) -> Option<String> {
    if !raw.contains(&b'\\') {
        return String::from_utf8(raw.to_vec()).ok();
    }
    let mut quoted = Vec::with_capacity(raw.len() + 2);
    quoted.push(b'"');
    quoted.extend_from_slice(raw);
    quoted.push(b'"');
    serde_json::from_slice(&quoted).ok()
}
