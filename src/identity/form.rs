//! Finds our two fields in an urlencoded form that arrives in pieces.
//!
//! Invariant: its cost is linear in the bytes pushed; it keeps no more than
//! the current pair.

use std::ops::Range;

use super::names::{Field, Named};
use super::query::decode;

/// Longer pairs hold no value of ours.
const MAX_PAIR: usize = 4096;

/// The longest of our names, with one character more.
const LONGER_THAN_A_NAME: usize = "access_token".len() + 1;

/// Reads a form piece by piece.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    pair: Vec<u8>,
    /// The current pair is longer than [`MAX_PAIR`].
    is_overlong: bool,
    /// Where the current pair begins, in all bytes pushed.
    start: usize,
    /// All bytes pushed.
    pushed: usize,
}

impl Scanner {
    /// Reads on. Reports each field found, and where its raw value stands in
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
                self.is_overlong = true;
            }
        }
    }

    /// The pair is complete: at `&`, or at the end of the body.
    pub(super) fn end(&mut self, mut found: impl FnMut(Field, Range<usize>)) {
        let is_overlong = std::mem::take(&mut self.is_overlong);
        let pair = std::mem::take(&mut self.pair);
        let equals = pair.iter().position(|byte| *byte == b'=');
        let (key, value) = match equals {
            Some(at) => (&pair[..at], Some(&pair[at + 1..])),
            None => (&pair[..], None),
        };
        let key_text = String::from_utf8_lossy(key);
        let name = decode(&key_text);
        let value_at = self.start + key.len() + 1..self.start + pair.len();
        let named = Named::read(&name);
        if is_overlong {
            // Blanks before a name mean nothing, however many they are.
            let is_open = value.is_none() && name.trim_start().len() < LONGER_THAN_A_NAME;
            if named.is_some() || is_open {
                found(Field::Unclear, value_at);
            }
            return;
        }
        let Some(named) = named else { return };
        if named.is_list {
            found(Field::Unclear, value_at.clone());
        }
        let Some(value) = value else { return };
        let value = String::from_utf8_lossy(value);
        found(named.name.with(decode(&value).into_owned()), value_at);
    }
}
