//! Pieces of a request body that were sent, and may have to be sent again.
//!
//! Invariant: they are in the order in which they were sent, and take memory in proportion to
//! their bytes, however many they are.

use bytes::Bytes;

use super::held::SHARED_FROM;

/// Pieces that were sent.
#[derive(Debug, Default)]
pub(super) struct KeptPieces {
    pieces: Vec<Bytes>,
    /// The bytes of the short pieces since then. A buffer for each would take fifty times its
    /// byte, and the one in which it arrived 8 KiB.
    short: Vec<u8>,
    /// The number of bytes.
    pub(super) length: usize,
}

impl KeptPieces {
    /// Keeps one piece more.
    pub(super) fn push(&mut self, piece: &Bytes) {
        self.length += piece.len();
        if piece.len() < SHARED_FROM {
            self.short.extend_from_slice(piece);
        } else {
            self.end_short();
            self.pieces.push(piece.clone());
        }
    }

    pub(super) fn into_pieces(mut self) -> Vec<Bytes> {
        self.end_short();
        self.pieces
    }

    fn end_short(&mut self) {
        if !self.short.is_empty() {
            self.pieces.push(std::mem::take(&mut self.short).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::held::tests::pieces;
    use super::*;

    #[test]
    fn many_short_pieces_take_about_the_memory_of_their_bytes() {
        let (mut kept, alive) = (KeptPieces::default(), Arc::new(()));
        pieces(60_000, 1, &alive).for_each(|piece| kept.push(&piece));
        assert_eq!(Arc::strong_count(&alive), 1, "buffers are kept");
        assert_eq!(kept.length, 60_000);
        assert!(kept.short.capacity() <= 2 * 60_000);
        assert_eq!(kept.into_pieces().len(), 1);
    }

    #[test]
    fn pieces_of_all_lengths_stay_in_order() {
        let (mut kept, mut expected, alive) = (KeptPieces::default(), Vec::new(), Arc::new(()));
        for length in [1, 2, SHARED_FROM, SHARED_FROM + 1, 0, 3, SHARED_FROM - 1] {
            for piece in pieces(3, length, &alive) {
                kept.push(&piece);
                expected.extend_from_slice(&piece);
            }
        }
        assert_eq!(kept.length, expected.len());
        // Long ones are shared.
        assert_eq!(Arc::strong_count(&alive), 1 + 6);
        let pieces = kept.into_pieces();
        assert_eq!(pieces.len(), 1 + 6 + 1);
        assert_eq!(pieces.concat(), expected);
    }
}
