//! The logs of an estimate, read side by side.
//!
//! The next line comes from the log that is furthest behind. So logs may be given
//! in any order, and those of several replicas become one. Invariant: only a line
//! and a buffer of each log are in memory.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;

use flate2::bufread::MultiGzDecoder;

use super::Error;
use super::arrival_order::SPAN_NANOS;

/// A longer line is in no known format; it is skipped.
const MAX_LINE_BYTES: u64 = 256 * 1024;

/// Bytes read ahead of all logs together.
const MAX_BUFFERED: usize = 1 << 20;
/// Bytes read ahead of one log at least: less would be many small reads.
const MIN_BUFFER: usize = 1 << 16;

/// A log that is open.
struct Log {
    path: PathBuf,
    input: Box<dyn BufRead>,
    line: Vec<u8>,
    number: u64,
    /// A time far ahead in the last line, not yet confirmed by a second line.
    unconfirmed: Option<u64>,
}

/// All logs of an estimate.
pub(super) struct LogFiles {
    all: Vec<Log>,
    /// The time that each unfinished log has reached, the earliest first.
    reached: BinaryHeap<Reverse<(u64, usize)>>,
}

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPosition {
    path: PathBuf,
    line: u64,
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

impl LogFiles {
    /// Opens the logs; gzip is recognised by its first bytes.
    ///
    /// # Errors
    /// A log cannot be read.
    pub(super) fn new(logs: Vec<(PathBuf, Box<dyn Read>)>) -> Result<Self, Error> {
        // Hundreds of rotated logs must not take a megabyte each.
        let buffer = (MAX_BUFFERED / logs.len().max(1)).max(MIN_BUFFER);
        let reached = (0..logs.len()).map(|log| Reverse((0, log))).collect();
        let open = |(path, input)| match uncompressed(input, buffer) {
            Ok(input) => Ok(Log {
                path,
                input,
                line: Vec::new(),
                number: 0,
                unconfirmed: None,
            }),
            Err(error) => Err(Error::Io { path, error }),
        };
        let all = logs.into_iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { all, reached })
    }

    /// Reads a line of the log that is furthest behind; returns the number of that
    /// log, or `None` when all have ended.
    pub(super) fn next_line(&mut self) -> Result<Option<usize>, Error> {
        while let Some(&Reverse((_, log))) = self.reached.peek() {
            let open = &mut self.all[log];
            let read = open.next_line().map_err(|error| Error::Io {
                path: open.path.clone(),
                error,
            })?;
            if read {
                return Ok(Some(log));
            }
            // The log has ended. It must not hold back the release of requests from the others.
            self.reached.pop();
        }
        Ok(None)
    }

    /// The last line of a log.
    pub(super) fn line(&self, log: usize) -> &str {
        let line = std::str::from_utf8(&self.all[log].line);
        // A line that is not UTF-8 is in no known format; an empty one is reported as such.
        line.unwrap_or_default().trim_end()
    }

    /// The position of that line.
    pub(super) fn position(&self, log: usize) -> LogPosition {
        let log = &self.all[log];
        LogPosition {
            path: log.path.clone(),
            line: log.number,
        }
    }

    /// Records that the log read last has reached a time; returns the time that it
    /// had reached before. A time far ahead counts only when the next line confirms
    /// it: a single wrong line would otherwise make all lines up to it late.
    pub(super) fn record_time(&mut self, at: u64) -> u64 {
        let Some(mut first) = self.reached.peek_mut() else {
            return 0;
        };
        let Reverse((before, log)) = *first;
        let unconfirmed = &mut self.all[log].unconfirmed;
        if at <= before.saturating_add(SPAN_NANOS) {
            // Never backwards: lines are in the order of the end of their requests.
            first.0.0 = at.max(before);
            *unconfirmed = None;
        } else if let Some(ahead) = unconfirmed.replace(at) {
            // The second line in a row that is far ahead: the log really has a gap.
            first.0.0 = ahead.min(at);
        }
        before
    }

    /// The time that every unfinished log has reached.
    pub(super) fn all_reached(&self) -> u64 {
        self.reached.peek().map_or(u64::MAX, |first| first.0.0)
    }
}

impl Log {
    /// Reads a line; false at the end. A line that is too long is left empty.
    fn next_line(&mut self) -> io::Result<bool> {
        self.line.clear();
        self.number += 1;
        let input = &mut self.input;
        let read = input
            .by_ref()
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut self.line)?;
        // The limit was reached before the line ended, so the rest of it is skipped.
        if read as u64 == MAX_LINE_BYTES && self.line.last() != Some(&b'\n') {
            self.line.clear();
            input.skip_until(b'\n')?;
        }
        Ok(read > 0)
    }
}

/// Decompresses what is compressed with gzip.
fn uncompressed(input: Box<dyn Read>, buffer: usize) -> io::Result<Box<dyn BufRead>> {
    const GZIP: &[u8] = b"\x1f\x8b";
    let mut input = BufReader::with_capacity(buffer, input);
    // By content, not by name: rotated logs and standard input have no reliable name.
    if !input.fill_buf()?.starts_with(GZIP) {
        return Ok(Box::new(input));
    }
    // Multi: rotated logs are often several gzip members in one file.
    Ok(Box::new(BufReader::new(MultiGzDecoder::new(input))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_far_ahead_counts_when_two_successive_lines_have_it() {
        const MINUTE: u64 = SPAN_NANOS;
        for (times, reached) in [
            // From the first line on; then each line counts.
            (&[100, 100, 101, 100][..], &[0, 100, 101, 101][..]),
            // A single line is an error, wherever it is.
            (&[100, 5, 5, 6, 100, 6, 7], &[0, 5, 5, 6, 6, 6, 7]),
            // Requests minutes apart: always one line behind.
            (&[10, 20, 30, 40], &[0, 10, 20, 30]),
        ] {
            let log: Box<dyn Read> = Box::new(io::repeat(b'\n'));
            let mut logs = LogFiles::new(vec![(PathBuf::from("log"), log)]).unwrap();
            for (time, reached) in times.iter().zip(reached) {
                assert!(logs.next_line().unwrap().is_some());
                logs.record_time(time * MINUTE);
                assert_eq!(logs.all_reached(), reached * MINUTE, "{time}");
            }
        }
    }
}
