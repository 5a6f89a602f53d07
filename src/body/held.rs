//! Frames of a request body that were received, but not passed on yet.
//!
//! Invariant: they are in the order in which they arrived, and none is lost.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use http_body::Frame;

use super::splice;

/// The least memory, in bytes, that a piece is counted with. A body that
/// arrives in single bytes would otherwise take a hundred times its size.
const PIECE_COST: usize = 64;

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

    pub(super) fn push_back(&mut self, frame: Frame<Bytes>) {
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
        spliced.into_iter().for_each(|frame| self.push_back(frame));
    }

    fn count(&mut self, length: usize) {
        self.bytes += length;
        self.cost += length.max(PIECE_COST);
    }
}
