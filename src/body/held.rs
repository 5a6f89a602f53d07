//! Frames of a request body that were received, but not passed on yet.
//!
//! Invariant: they are in the order in which they arrived, and none is lost.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use http_body::Frame;

use super::splice;

/// From this length on, a piece is held in the buffer in which it arrived; a shorter one is copied.
/// A piece keeps its whole buffer alive, and hyper may read each piece into a new one of 8 KiB: a
/// shared piece fills three quarters of that, but single bytes would take 8 KiB each.
pub(super) const SHARED_FROM: usize = 6 * 1024;

/// The least memory, in bytes, that a piece is counted with: its entry. A body that
/// arrives in single bytes would otherwise take a hundred times its size.
const PIECE_COST: usize = size_of::<Frame<Bytes>>();

/// Frames of a request body.
#[derive(Debug, Default)]
pub(super) struct HeldFrames {
    /// Nearly every body is one piece, and takes no allocation here.
    first: Option<Bytes>,
    others: VecDeque<Frame<Bytes>>,
    /// The number of their bytes.
    pub(super) bytes: usize,
    /// The memory they take, as counted with [`PIECE_COST`].
    pub(super) cost: usize,
}

impl HeldFrames {
    /// One piece, or nothing.
    pub(super) fn of(piece: Bytes) -> Self {
        let mut held = Self::default();
        if !piece.is_empty() {
            held.push_front(piece);
        }
        held
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none() && self.others.is_empty()
    }

    /// Whether there are no trailers.
    pub(super) fn is_data(&self) -> bool {
        self.others.iter().all(Frame::is_data)
    }

    /// The pieces.
    pub(super) fn data(&self) -> impl Iterator<Item = &Bytes> {
        let others = self.others.iter().filter_map(Frame::data_ref);
        self.first.iter().chain(others)
    }

    /// The data of one frame (from 0); trailers hold none.
    pub(super) fn data_at(&self, index: usize) -> Option<&Bytes> {
        match (&self.first, index) {
            (Some(first), 0) => Some(first),
            (Some(_), index) => self.others.get(index - 1)?.data_ref(),
            (None, index) => self.others.get(index)?.data_ref(),
        }
    }

    pub(super) fn push_front(&mut self, piece: Bytes) {
        self.count(piece.len());
        if let Some(second) = self.first.replace(piece) {
            self.others.push_front(Frame::data(second));
        }
    }

    /// Holds a frame that has arrived. A short piece is copied; see [`SHARED_FROM`].
    pub(super) fn push_back(&mut self, frame: Frame<Bytes>) {
        self.append(frame.map_data(|piece| match piece.len() < SHARED_FROM {
            true => Bytes::copy_from_slice(&piece),
            false => piece,
        }));
    }

    fn append(&mut self, frame: Frame<Bytes>) {
        self.count(frame.data_ref().map_or(0, Bytes::len));
        self.others.push_back(frame);
    }

    /// Takes the next frame. Its bytes stay counted: no further ones are held.
    pub(super) fn pop_front(&mut self) -> Option<Frame<Bytes>> {
        let first = self.first.take().map(Frame::data);
        first.or_else(|| self.others.pop_front())
    }

    /// Replaces some of the bytes; see [`splice`](splice::splice).
    pub(super) fn splice(&mut self, edits: &[(Range<usize>, Bytes)]) {
        let mut held = std::mem::take(self);
        if let Some(first) = held.first {
            held.others.push_front(Frame::data(first));
        }
        let spliced = splice::splice(held.others, edits);
        // Without a copy: they are parts of pieces that are held already.
        spliced.into_iter().for_each(|frame| self.append(frame));
    }

    fn count(&mut self, length: usize) {
        self.bytes += length;
        self.cost += length.max(PIECE_COST);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;

    /// A buffer as hyper reads into; counts itself while it exists.
    struct Buffer {
        bytes: [u8; 8192],
        _alive: Arc<()>,
    }

    impl AsRef<[u8]> for Buffer {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }

    /// Pieces of this length, each in a buffer of its own, which holds a clone of `alive`.
    pub(in crate::body) fn pieces(
        count: usize,
        length: usize,
        alive: &Arc<()>,
    ) -> impl Iterator<Item = Bytes> {
        (0..count).map(move |n| {
            let bytes = [(n % 251) as u8; 8192];
            let _alive = Arc::clone(alive);
            Bytes::from_owner(Buffer { bytes, _alive }).slice(..length)
        })
    }

    #[test]
    fn held_pieces_do_not_keep_buffers_that_they_hardly_fill() {
        for (length, kept) in [(1, 0), (SHARED_FROM - 1, 0), (SHARED_FROM, 10)] {
            let (mut held, alive) = (HeldFrames::default(), Arc::new(()));
            for piece in pieces(10, length, &alive) {
                held.push_back(Frame::data(piece));
            }
            assert_eq!(Arc::strong_count(&alive) - 1, kept, "{length}");
            assert_eq!(held.bytes, 10 * length);
            for (piece, expected) in held.data().zip(pieces(10, length, &alive)) {
                assert_eq!(piece, &expected);
            }
        }
    }

    #[test]
    fn the_cost_of_single_bytes_is_that_of_their_entries() {
        let (mut held, alive) = (HeldFrames::default(), Arc::new(()));
        for piece in pieces(1000, 1, &alive) {
            held.push_back(Frame::data(piece));
        }
        assert_eq!(held.cost, 1000 * size_of::<Frame<Bytes>>());
    }
}
