//! Replaces some bytes of a body that is held in pieces: tenant keys, which become tokens.
//!
//! Invariant: all other bytes stay in their buffers, without a copy; trailers stay
//! last.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use http_body::Frame;

/// Replaces ranges of bytes, counted from the beginning of the first frame. They
/// are in order, not empty, and do not touch each other.
pub(super) fn splice(
    frames: VecDeque<Frame<Bytes>>,
    edits: &[(Range<usize>, Bytes)],
) -> VecDeque<Frame<Bytes>> {
    let mut edits = edits.iter().peekable();
    let mut spliced = VecDeque::with_capacity(frames.len() + 2 * edits.len());
    let mut start = 0;
    for frame in frames {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(trailers) => {
                // Trailers have no position in the body.
                spliced.push_back(trailers);
                continue;
            }
        };
        let mut push = |piece: Bytes| {
            if !piece.is_empty() {
                spliced.push_back(Frame::data(piece));
            }
        };
        // `start`, `kept` and the ranges count from the beginning of the body.
        let end = start + data.len();
        let mut kept = start;
        while let Some((range, text)) = edits.peek().filter(|(range, _)| range.start < end) {
            // A range may span frames: its text was written where it began, and only
            // its rest is skipped here.
            if range.start >= start {
                push(data.slice(kept - start..range.start - start));
                push(text.clone());
            }
            kept = range.end.min(end);
            if range.end > end {
                // The range continues in the next frame, so the edit stays.
                break;
            }
            edits.next();
        }
        push(data.slice(kept - start..));
        start = end;
    }
    spliced
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pieces of a body, each to be kept or to be replaced, and where else it is cut.
    fn pieces() -> impl Strategy<Value = Vec<(Vec<u8>, Option<Vec<u8>>)>> {
        let bytes = |least| proptest::collection::vec(any::<u8>(), least..6);
        let piece = (bytes(1), proptest::option::of(bytes(0)));
        proptest::collection::vec(piece, 0..8)
    }

    proptest! {
        #[test]
        fn nothing_but_the_ranges_changes(
            pieces in pieces(),
            cuts in proptest::collection::vec(0..50_usize, 0..10),
            trailers in any::<bool>(),
        ) {
            let (mut body, mut expected, mut edits) = (Vec::new(), Vec::new(), Vec::new());
            for (piece, text) in &pieces {
                let start = body.len();
                body.extend_from_slice(piece);
                expected.extend_from_slice(text.as_ref().unwrap_or(piece));
                if let Some(text) = text {
                    edits.push((start..body.len(), Bytes::from(text.clone())));
                }
            }
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(body.len())).collect();
            cuts.extend([0, body.len()]);
            cuts.sort_unstable();
            let body = Bytes::from(body);
            let mut frames: VecDeque<_> = cuts
                .windows(2)
                .map(|cut| Frame::data(body.slice(cut[0]..cut[1])))
                .collect();
            if trailers {
                frames.push_back(Frame::trailers(http::HeaderMap::new()));
            }
            let spliced = splice(frames, &edits);
            let got: Vec<u8> = spliced
                .iter()
                .filter_map(Frame::data_ref)
                .flat_map(|data| data.to_vec())
                .collect();
            prop_assert_eq!(got, expected);
            prop_assert_eq!(spliced.back().is_some_and(Frame::is_trailers), trailers);
            // Nothing is copied: what is kept lies where it lay.
            let whole = body.as_ptr() as usize..body.as_ptr() as usize + body.len();
            let ours = |data: &Bytes| {
                whole.contains(&(data.as_ptr() as usize))
                    || edits.iter().any(|(_, text)| text.as_ptr() == data.as_ptr())
            };
            prop_assert!(spliced.iter().filter_map(Frame::data_ref).all(ours));
        }
    }
}
