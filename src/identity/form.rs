//! Finds instance and token in an urlencoded form that arrives in pieces.
//!
//! Invariants: the time is linear in the bytes pushed; only the current pair is held.

use std::ops::Range;

use super::names::{Field, Named};
use super::query::decode;

/// The longest pair that is held, in bytes. No instance id or token is longer.
const MAX_PAIR: usize = 4096;

/// One character more than the longest name of a field that counts.
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
    /// Reads the next piece. Reports each field found, and the range of its raw value
    /// in all bytes pushed.
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

    /// Ends the current pair: at `&`, or at the end of the body.
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
        let named = Named::read(&*name);
        if is_overlong {
            // PHP ignores spaces before a name. If the part that was held is mostly
            // spaces, the rest may have completed a name that counts.
            let may_be_named = value.is_none() && name.trim_start().len() < LONGER_THAN_A_NAME;
            if named.is_some() || may_be_named {
                found(Field::Unclear, value_at);
            }
            return;
        }
        let Some(named) = named else { return };
        // `instance_id[]=1`: some backends use the element, others ignore it.
        if named.is_list {
            found(Field::Unclear, value_at.clone());
        }
        let Some(value) = value else { return };
        let value = String::from_utf8_lossy(value);
        found(named.name.with(decode(&value).into_owned()), value_at);
    }
}
