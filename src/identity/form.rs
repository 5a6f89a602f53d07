//! Finds two fields of an urlencoded form that arrives in pieces.
//!
//! Invariant: linear in the bytes pushed; keeps no more than the pair at hand.

use super::json::Field;
use super::{INSTANCE_FIELD, TOKEN_FIELD, decode};

/// Longer pairs are none of ours and are skipped.
const MAX_PAIR: usize = 4096;

/// Reads a form piece by piece.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    pair: Vec<u8>,
    skipping: bool,
}

impl Scanner {
    /// Reads on, telling of each field found.
    pub(super) fn push(&mut self, piece: &[u8], mut found: impl FnMut(Field)) {
        for &byte in piece {
            if byte == b'&' {
                self.end(&mut found);
            } else if self.pair.len() < MAX_PAIR {
                self.pair.push(byte);
            } else {
                self.skipping = true;
            }
        }
    }

    /// The pair is complete: at `&`, or at the end of the body.
    pub(super) fn end(&mut self, mut found: impl FnMut(Field)) {
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
        match &*decode(key) {
            INSTANCE_FIELD => found(Field::Instance(decode(value).into_owned())),
            TOKEN_FIELD => found(Field::Token(decode(value).into_owned())),
            _ => {}
        }
    }
}
