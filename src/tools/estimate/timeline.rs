//! How many requests a log has over time.
//!
//! Invariant: bounded by [`MAX_BINS`]. A log that is too long for its bins gets bins of
//! twice the width.

use std::collections::BTreeMap;

/// A day has 1,440 minutes.
const MAX_BINS: usize = 2880;
const SECOND: u64 = 1_000_000_000;

/// The requests of one bin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bin {
    pub(super) requests: u64,
    pub(super) receipts: u64,
}

/// The requests of a log over time.
#[derive(Clone, Debug)]
pub(super) struct Timeline {
    /// The width of a bin in seconds.
    width: u64,
    bins: BTreeMap<u64, Bin>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            width: 60,
            bins: BTreeMap::new(),
        }
    }
}

impl Timeline {
    /// Adds a request; `at` in nanoseconds since 1970.
    pub(super) fn add(&mut self, at: u64, is_receipt: bool) {
        let bin = self.bins.entry(at / SECOND / self.width).or_default();
        bin.requests += 1;
        bin.receipts += u64::from(is_receipt);
        if self.bins.len() > MAX_BINS {
            self.width *= 2;
            for (number, old) in std::mem::take(&mut self.bins) {
                self.bins.entry(number / 2).or_default().add(old);
            }
        }
    }

    /// At most so many bins of equal width, from the first request to the last, and
    /// their width in seconds.
    pub(super) fn columns(&self, most: u64) -> (u64, Vec<Bin>) {
        let (Some((&first, _)), Some((&last, _))) =
            (self.bins.first_key_value(), self.bins.last_key_value())
        else {
            return (self.width, Vec::new());
        };
        let together = (last - first + 1).div_ceil(most.max(1));
        let count = (last - first) / together + 1;
        let mut columns = vec![Bin::default(); usize::try_from(count).unwrap_or(0)];
        for (number, bin) in &self.bins {
            let index = usize::try_from((number - first) / together).unwrap_or(0);
            columns[index].add(*bin);
        }
        (self.width * together, columns)
    }

    /// When the first bin begins, in seconds since 1970.
    pub(super) fn start(&self) -> u64 {
        self.bins
            .keys()
            .next()
            .map_or(0, |first| first * self.width)
    }
}

impl Bin {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.receipts += other.receipts;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_takes_wider_bins_and_loses_no_request() {
        let mut timeline = Timeline::default();
        // A year, one request every ten minutes, every second one a receipt.
        for n in 0..52_560_u64 {
            timeline.add((1_000_000 + n * 600) * SECOND, n % 2 == 0);
        }
        assert!(timeline.bins.len() <= MAX_BINS);
        for most in [1, 7, 300, 100_000] {
            let (width, columns) = timeline.columns(most);
            assert!(columns.len() as u64 <= most && width >= 60);
            let requests: u64 = columns.iter().map(|bin| bin.requests).sum();
            let receipts: u64 = columns.iter().map(|bin| bin.receipts).sum();
            assert_eq!((requests, receipts), (52_560, 26_280), "{most}");
        }
        assert!(timeline.start() <= 1_000_000 && timeline.start() > 990_000);
    }

    #[test]
    fn quiet_minutes_are_columns_too() {
        let mut timeline = Timeline::default();
        timeline.add(0, true);
        timeline.add(180 * SECOND, false);
        let (width, columns) = timeline.columns(100);
        let counts: Vec<_> = columns.iter().map(|bin| bin.requests).collect();
        assert_eq!((width, counts), (60, vec![1, 0, 0, 1]));
    }
}
