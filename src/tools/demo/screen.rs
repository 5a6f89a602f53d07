//! The output of a demo.
//!
//! Owns the live line: rewritten in place on a terminal, one line per second
//! elsewhere. Invariant: no control character but `\r` and `\n` is written.

use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use super::figures::Figures;
use super::report::factor;
use crate::grouped::grouped;

/// The interval of the live line on a terminal.
const FRAME: Duration = Duration::from_millis(200);
/// The interval of lines elsewhere.
const LINE: Duration = Duration::from_secs(1);

/// The width of the live line, so that a short line overwrites a longer one.
const WIDTH: usize = 78;

/// The output of a demo.
#[derive(Debug)]
pub struct Screen<W> {
    out: W,
    rewrites: bool,
}

impl Screen<io::Stdout> {
    /// The process's standard output.
    #[must_use]
    pub fn stdout() -> Self {
        let out = io::stdout();
        Self {
            // In a file or a pipe, `\r` would join all frames into one line.
            rewrites: out.is_terminal(),
            out,
        }
    }
}

impl<W: Write> Screen<W> {
    /// Another output; `rewrites` if `\r` returns to the start of the line.
    pub fn new(out: W, rewrites: bool) -> Self {
        Self { out, rewrites }
    }

    /// Writes text that is not overwritten.
    pub(super) fn write(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// The interval between two live lines.
    pub(super) fn interval(&self) -> Duration {
        if self.rewrites { FRAME } else { LINE }
    }

    /// Shows the current figures.
    pub(super) fn show(&mut self, elapsed: Duration, figures: &Figures) -> io::Result<()> {
        let line = line(elapsed, figures);
        if self.rewrites {
            // Padded with spaces: an escape sequence to clear the line may not be supported.
            self.write(&format!("\r{line:<WIDTH$}"))
        } else {
            self.write(&format!("{line}\n"))
        }
    }

    /// Ends the live line.
    pub(super) fn end(&mut self) -> io::Result<()> {
        if self.rewrites {
            self.write("\n")
        } else {
            Ok(())
        }
    }
}

fn line(elapsed: Duration, figures: &Figures) -> String {
    let all = figures.all();
    format!(
        "{:>6.1} s   by apps {:>5}   upstream {:>5}   receipts {:>8}   waiting {:>4}",
        elapsed.as_secs_f64(),
        grouped(all.by_apps),
        grouped(all.upstream),
        factor(figures.receipts),
        figures.in_flight
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::demo::figures::Pair;

    #[test]
    fn a_terminal_gets_one_line_and_a_file_many() {
        let pair = Pair {
            by_apps: 12_345,
            upstream: 1_234,
        };
        let figures = Figures {
            receipts: pair,
            in_flight: 9_999,
            ..Figures::default()
        };
        for (rewrites, first, last) in [(true, '\r', '\n'), (false, ' ', '\n')] {
            let mut screen = Screen::new(Vec::new(), rewrites);
            screen.show(Duration::from_secs(9), &figures).unwrap();
            screen.end().unwrap();
            let text = String::from_utf8(screen.out).unwrap();
            assert!(text.starts_with(first) && text.ends_with(last), "{text:?}");
            assert!(text.trim().len() < WIDTH, "{text:?}");
            assert!(text.contains("10.0 : 1"), "{text:?}");
        }
    }
}
