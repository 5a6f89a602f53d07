//! The logs of an estimate, read side by side.
//!
//! Owns which log the next line is taken from: the one that is furthest
//! behind. So logs may be named in any order, and those of several replicas
//! become one. Invariant: no more is held of a log than a line and a buffer.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;

use super::Error;
use super::order::SPAN_NANOS;

/// A longer line is in no known format; it is passed over without being held.
const MAX_LINE_BYTES: u64 = 256 * 1024;

/// What all logs together are read ahead, and each at least: less would be
/// many small reads.
const BUFFERS: usize = 1 << 20;
const BUFFER: usize = 1 << 16;

/// A log that is open.
pub(super) struct Log {
    path: PathBuf,
    input: BufReader<Box<dyn Read>>,
    line: Vec<u8>,
    number: u64,
    /// A moment far ahead that the last line has told, and none before it.
    doubtful: Option<u64>,
}

/// All logs of an estimate.
pub(super) struct Logs {
    all: Vec<Log>,
    /// How far each log that has not ended has come, the one furthest behind
    /// first.
    places: BinaryHeap<Reverse<(u64, usize)>>,
}

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    path: PathBuf,
    line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

impl Logs {
    pub(super) fn new(logs: Vec<(PathBuf, Box<dyn Read>)>) -> Self {
        let buffer = (BUFFERS / logs.len().max(1)).max(BUFFER);
        let open = |(path, input)| Log {
            path,
            input: BufReader::with_capacity(buffer, input),
            line: Vec::new(),
            number: 0,
            doubtful: None,
        };
        Self {
            places: (0..logs.len()).map(|log| Reverse((0, log))).collect(),
            all: logs.into_iter().map(open).collect(),
        }
    }

    /// Reads a line of the log that is furthest behind, and says which that is;
    /// `None` when all have ended.
    pub(super) fn next_line(&mut self) -> Result<Option<usize>, Error> {
        while let Some(&Reverse((_, log))) = self.places.peek() {
            let open = &mut self.all[log];
            let read = open.next_line().map_err(|error| Error::Io {
                path: open.path.clone(),
                error,
            })?;
            if read {
                return Ok(Some(log));
            }
            self.places.pop();
        }
        Ok(None)
    }

    /// The line that was read last.
    pub(super) fn line(&self, log: usize) -> &str {
        let line = std::str::from_utf8(&self.all[log].line);
        line.unwrap_or_default().trim_end()
    }

    /// Where that line stands.
    pub(super) fn place(&self, log: usize) -> Place {
        let log = &self.all[log];
        Place {
            path: log.path.clone(),
            line: log.number,
        }
    }

    /// The log that was read last has come to a moment, unless it was there
    /// before; says how far it had come. A line far ahead is believed once
    /// another is as far: alone it would have all between them left out.
    pub(super) fn comes_to(&mut self, at: u64) -> u64 {
        let Some(mut first) = self.places.peek_mut() else {
            return 0;
        };
        let Reverse((before, log)) = *first;
        let doubtful = &mut self.all[log].doubtful;
        if at <= before.saturating_add(SPAN_NANOS) {
            first.0.0 = at.max(before);
            *doubtful = None;
        } else if let Some(told) = doubtful.replace(at) {
            first.0.0 = told.min(at);
        }
        before
    }

    /// Every log that has not ended has come to this moment.
    pub(super) fn all_come_to(&self) -> u64 {
        self.places.peek().map_or(u64::MAX, |first| first.0.0)
    }
}

impl Log {
    /// Reads a line, or as much of it as a call can be told in; false at the end.
    fn next_line(&mut self) -> io::Result<bool> {
        self.line.clear();
        self.number += 1;
        let input = &mut self.input;
        let read = input
            .by_ref()
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut self.line)?;
        if read as u64 == MAX_LINE_BYTES && self.line.last() != Some(&b'\n') {
            self.line.clear();
            input.skip_until(b'\n')?;
        }
        Ok(read > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_far_ahead_is_believed_when_two_lines_running_tell_it() {
        const MINUTE: u64 = SPAN_NANOS;
        for (told, come_to) in [
            // The first, too; then each as it comes.
            (&[100, 100, 101, 100][..], &[0, 100, 101, 101][..]),
            // One line alone is a slip, wherever it stands.
            (&[100, 5, 5, 6, 100, 6, 7], &[0, 5, 5, 6, 6, 6, 7]),
            // Calls minutes apart: always one line behind.
            (&[10, 20, 30, 40], &[0, 10, 20, 30]),
        ] {
            let log: Box<dyn Read> = Box::new(io::repeat(b'\n'));
            let mut logs = Logs::new(vec![(PathBuf::from("log"), log)]);
            for (told, come_to) in told.iter().zip(come_to) {
                assert!(logs.next_line().unwrap().is_some());
                logs.comes_to(told * MINUTE);
                assert_eq!(logs.all_come_to(), come_to * MINUTE, "{told}");
            }
        }
    }
}
