//! Finds two fields of an urlencoded form that arrives in pieces.
//!
//! Invariant: linear in the bytes pushed; keeps no more than the pair at hand.

use std::ops::Range;

use super::json::Field;
use super::{INSTANCE_FIELD, TOKEN_FIELD, decode};

/// Longer pairs are none of ours and are skipped.
const MAX_PAIR: usize = 4096;

/// Reads a form piece by piece.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    pair: Vec<u8>,
    skipping: bool,
    /// Where the pair at hand begins, in all bytes pushed.
    start: usize,
    /// All bytes pushed.
    pushed: usize,
}

impl Scanner {
    /// Reads on, telling of each field found and where its raw value stands in
    /// all bytes pushed.
    pub(super) fn push(&mut self, piece: &[u8], mut found: impl FnMut(Field, Range<usize>)) {
        for &byte in piece {
            self.pushed += 1;
            if byte == b'&' {
                self.end(&mut found);
                self.start = self.pushed;
            } else if self.pair.len() < MAX_PAIR {
                self.pair.push(byte);
            } else {
                self.skipping = true;
            }
        }
    }

    /// The pair is complete: at `&`, or at the end of the body.
    pub(super) fn end(&mut self, mut found: impl FnMut(Field, Range<usize>)) {
        let skipped = std::mem::take(&mut self.skipping);
        let pair = std::mem::take(&mut self.pair);
        if skipped {
            return;
        }
        let Ok(pair) = std::str::from_utf8(&pair) else {
            return;
        };
        let Some((key, value)) = pair.split_once('=') else {
            return;
        };
        let field = match &*decode(key) {
            INSTANCE_FIELD => Field::Instance,
            TOKEN_FIELD => Field::Token,
            _ => return,
        };
        let value_at = self.start + key.len() + 1;
        found(
            field(decode(value).into_owned()),
            value_at..value_at + value.len(),
        );
    }
}
