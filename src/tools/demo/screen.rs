//! The output of a demo.
//!
//! Owns the live display: rewritten in place on a terminal, one line at a time
//! elsewhere. Invariants: no line is wider than the terminal, and none that stays is
//! wider than [`WIDTH`]; without colour no escape sequence sets one.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write};
use std::net::SocketAddr;
use std::time::Duration;

use console::{Style, Term};

use super::figures::{Figures, factor};
use crate::grouped::grouped;

/// The width of everything that stays on the screen: a narrow terminal shows it too.
pub(super) const WIDTH: usize = 60;
/// Columns of the live display beside its bars.
const LABELS: usize = 34;
/// A bar longer than this says no more.
const MAX_BAR: usize = 60;

/// The interval of the live display on a terminal.
const FRAME: Duration = Duration::from_millis(200);
/// The interval of lines elsewhere, and that of a long demo.
const LINE: Duration = Duration::from_secs(1);
const LONG_LINE: Duration = Duration::from_secs(10);

/// Moves to the start of the line so many lines up, and clears to the end of the screen.
fn back(lines: usize) -> String {
    match lines {
        0 => String::new(),
        _ => format!("\x1b[{lines}A\r\x1b[J"),
    }
}

/// The colours of the output; without colour all are plain.
#[derive(Clone, Debug)]
pub(super) struct Colours {
    pub(super) apps: Style,
    pub(super) upstream: Style,
    pub(super) good: Style,
    pub(super) bad: Style,
    pub(super) title: Style,
    pub(super) quiet: Style,
}

impl Colours {
    pub(super) fn new(is_on: bool) -> Self {
        // Forced: whether there is colour has been decided, not by what stdout of this process is.
        let style = || Style::new().force_styling(is_on);
        Self {
            apps: style().cyan(),
            upstream: style().yellow(),
            good: style().green(),
            bad: style().red().bold(),
            title: style().bold(),
            quiet: style().dim(),
        }
    }
}

/// The output of a demo.
#[derive(Debug)]
pub struct Screen<W> {
    out: W,
    /// The terminal whose width counts; `None` for another output.
    term: Option<Term>,
    rewrites: bool,
    colours: Colours,
    /// Lines of the live display that is on the screen.
    drawn: usize,
}

/// What the live display shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'f> {
    pub(super) elapsed: Duration,
    pub(super) length: Duration,
    pub(super) admin: SocketAddr,
    pub(super) figures: &'f Figures,
}

impl Screen<io::Stdout> {
    /// The process's standard output.
    #[must_use]
    pub fn stdout() -> Self {
        let out = io::stdout();
        // In a file or a pipe, and on a terminal that cannot move its cursor, frames would follow
        // one another.
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let is_terminal = out.is_terminal() && !is_dumb;
        // https://no-color.org: any value that is not empty turns colours off.
        let wants_colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            term: is_terminal.then(Term::stdout),
            ..Self::new(out, is_terminal, is_terminal && wants_colour)
        }
    }
}

impl<W: Write> Screen<W> {
    /// Another output, of 80 columns; `rewrites` if its cursor can move up.
    pub fn new(out: W, rewrites: bool, has_colour: bool) -> Self {
        Self {
            out,
            term: None,
            rewrites,
            colours: Colours::new(has_colour),
            drawn: 0,
        }
    }

    pub(super) fn colours(&self) -> &Colours {
        &self.colours
    }

    /// Writes text that is not overwritten, in place of the live display.
    pub(super) fn write(&mut self, text: &str) -> io::Result<()> {
        let text = format!("{}{text}", back(std::mem::take(&mut self.drawn)));
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// The interval between two frames or lines of a demo of this length.
    pub(super) fn interval(&self, length: Duration) -> Duration {
        match (self.rewrites, length > LINE * 60) {
            (true, _) => FRAME,
            (false, false) => LINE,
            (false, true) => LONG_LINE,
        }
    }

    /// Shows the current figures.
    pub(super) fn show(&mut self, frame: Frame<'_>) -> io::Result<()> {
        if !self.rewrites {
            return self.write(&format!("{}\n", line(frame)));
        }
        // At every frame, because a window may be resized. One column less: a full line would
        // wrap on some terminals.
        let size = self.term.as_ref().and_then(Term::size_checked);
        let width = size.map_or(80, |(_, columns)| usize::from(columns)) - 1;
        let text = self.display(frame, width);
        self.write(&text)?;
        self.drawn = text.lines().count();
        Ok(())
    }

    /// The live display, with lines of this width at most.
    fn display(&self, frame: Frame<'_>, width: usize) -> String {
        let (figures, colours) = (frame.figures, &self.colours);
        let all = figures.all();
        let mut text = String::new();
        let now = frame.elapsed.min(frame.length).as_secs_f64();
        let time = format!("{now:>5.1} s of {:.0} s", frame.length.as_secs_f64());
        let page = format!("admin page http://{}/", frame.admin);
        // Writing into a `String` cannot fail.
        writeln!(text, "{}", cut(&format!(" {time}   {page}"), width)).ok();
        writeln!(text).ok();
        let bar = width.saturating_sub(LABELS).min(MAX_BAR);
        for (label, count, style) in [
            ("requests of the apps", all.by_apps, &colours.apps),
            ("upstream calls", all.upstream, &colours.upstream),
            ("saved by merging", figures.saved, &colours.good),
        ] {
            let filled = (bar as u64 * count).checked_div(all.by_apps).unwrap_or(0);
            let filled = "█".repeat(usize::try_from(filled).unwrap_or(bar).min(bar));
            let line = cut(&format!(" {label:<20} {:>9}  ", grouped(count)), width);
            writeln!(text, "{line}{}", style.apply_to(filled)).ok();
        }
        let state = format!(
            " receipts {}, waiting {}, refused {}",
            factor(figures.receipts),
            figures.in_flight,
            figures.refused
        );
        writeln!(text, "{}", colours.quiet.apply_to(cut(&state, width))).ok();
        text
    }
}

/// The first characters of a line.
fn cut(line: &str, width: usize) -> String {
    line.chars().take(width).collect()
}

/// All figures in one line, for a file.
fn line(frame: Frame<'_>) -> String {
    let all = frame.figures.all();
    format!(
        "{:>5.0} s apps {:>7} upstream {:>6} saved {:>7} {:>8}",
        frame.elapsed.as_secs_f64(),
        grouped(all.by_apps),
        grouped(all.upstream),
        grouped(frame.figures.saved),
        factor(frame.figures.receipts),
    )
}

/// Breaks a text into lines of at most [`WIDTH`] characters; all but the first begin
/// with `indent` spaces.
pub(super) fn wrapped(text: &str, indent: usize) -> String {
    let mut lines = String::new();
    let mut line = 0;
    for (index, word) in text.split(' ').enumerate() {
        let length = word.chars().count();
        if line > indent && line + 1 + length > WIDTH {
            lines.push('\n');
            lines.push_str(&" ".repeat(indent));
            line = indent;
        } else if index > 0 {
            lines.push(' ');
            line += 1;
        }
        lines.push_str(word);
        line += length;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::demo::figures::Pair;

    fn figures() -> Figures {
        Figures {
            receipts: Pair {
                by_apps: 123_456,
                upstream: 12_346,
            },
            saved: 111_110,
            in_flight: 9_999,
            refused: 9_999,
            ..Figures::default()
        }
    }

    fn frame(figures: &Figures) -> Frame<'_> {
        Frame {
            elapsed: Duration::from_secs(9),
            length: Duration::from_secs(300),
            admin: "127.0.0.1:54321".parse().unwrap(),
            figures,
        }
    }

    #[test]
    fn a_terminal_gets_one_display_and_a_file_many_lines() {
        let figures = figures();
        let mut text = Vec::new();
        let mut screen = Screen::new(&mut text, true, false);
        screen.show(frame(&figures)).unwrap();
        screen.show(frame(&figures)).unwrap();
        screen.write("the end\n").unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.matches("\x1b[6A\r\x1b[J").count(), 2, "{text:?}");
        assert!(text.ends_with("\x1b[Jthe end\n"), "{text:?}");

        let mut text = Vec::new();
        let mut screen = Screen::new(&mut text, false, false);
        screen.show(frame(&figures)).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(!text.contains(['\x1b', '\r']) && text.contains("10.0 : 1"));
        assert!(text.trim_end().chars().count() <= WIDTH, "{text:?}");
    }

    #[test]
    fn the_display_fits_its_width_and_names_the_admin_page() {
        let screen = Screen::new(Vec::new(), true, false);
        for width in [10, 59, 79, 300] {
            let text = screen.display(frame(&figures()), width);
            for line in text.lines() {
                assert!(line.chars().count() <= width, "{width}: {line:?}");
            }
            assert!(width < 59 || text.contains("http://127.0.0.1:54321/"));
            assert!(!text.contains('\x1b'), "no colour: {text:?}");
        }
        let colourful = Screen::new(Vec::new(), true, true);
        let text = colourful.display(frame(&figures()), 79);
        assert!(text.contains("\x1b[36m"), "{text:?}");
    }

    #[test]
    fn long_texts_are_wrapped() {
        let text = "word ".repeat(30);
        let lines = wrapped(text.trim_end(), 6);
        assert!(lines.lines().all(|line| line.chars().count() <= WIDTH));
        assert!(
            lines
                .lines()
                .skip(1)
                .all(|line| line.starts_with("      word"))
        );
        assert_eq!(lines.split_whitespace().count(), 30);
        assert_eq!(wrapped("  ok  short", 6), "  ok  short");
    }
}
