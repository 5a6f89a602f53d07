//! Plain text of at most 80 columns.

/// Columns of a line.
const WIDTH: usize = 80;

/// A text that is being written.
#[derive(Default)]
pub(super) struct Page(pub(super) String);

impl Page {
    /// A blank line and a heading.
    pub(super) fn heading(&mut self, text: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.block("", "  ", text);
    }

    /// A label and a text, in two columns from `indent` on.
    pub(super) fn entry(&mut self, indent: usize, column: usize, label: &str, text: &str) {
        let start = format!("{:indent$}{label}", "");
        let next = " ".repeat(column);
        if start.chars().count() < column {
            self.block(&format!("{start:<column$}"), &next, text);
        } else {
            self.block(&start, &next, "");
            if !text.is_empty() {
                self.block(&next, &next, text);
            }
        }
    }

    /// A line of HTTP, broken anywhere: it has to be read letter by letter.
    pub(super) fn http(&mut self, text: &str) {
        let letters: Vec<char> = text.chars().collect();
        let mut indent = "    ";
        for piece in letters.chunks(WIDTH - 2 - indent.len()) {
            let piece: String = piece.iter().collect();
            self.lines(indent, indent, [piece]);
            indent = "      ";
        }
    }

    /// A text that begins with `first`, and its further lines with `next`.
    pub(super) fn block(&mut self, first: &str, next: &str, text: &str) {
        let width = WIDTH - first.chars().count().max(next.chars().count());
        self.lines(first, next, wrapped(text, width));
    }

    fn lines(&mut self, first: &str, next: &str, lines: impl IntoIterator<Item = String>) {
        let mut start = first;
        for line in lines {
            let line = format!("{start}{line}");
            self.0.push_str(line.trim_end());
            self.0.push('\n');
            start = next;
        }
    }
}

/// The lines of a text, broken between words where that is possible.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let (mut lines, mut line, mut length) = (Vec::new(), String::new(), 0);
    for word in text.split_inclusive(' ') {
        let mut word: Vec<char> = word.chars().collect();
        let visible = word.len() - usize::from(word.last() == Some(&' '));
        if length > 0 && length + visible > width {
            lines.push(std::mem::take(&mut line));
            length = 0;
        }
        while word.len() > width && visible > width {
            lines.push(word.drain(..width).collect());
        }
        length += word.len();
        line.extend(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_has_more_than_80_columns_and_no_letter_is_lost() {
        let texts = [
            "word ".repeat(60),
            "x".repeat(500),
            format!("a {} b", "é".repeat(200)),
            String::new(),
        ];
        for text in texts {
            let mut page = Page::default();
            page.entry(2, 16, "label", &text);
            page.entry(4, 32, &"l".repeat(60), &text);
            page.http(&text);
            assert!(
                page.0.lines().all(|line| line.chars().count() <= WIDTH),
                "{}",
                page.0
            );
            let letters = |text: &str| text.chars().filter(|it| !it.is_whitespace()).count();
            assert_eq!(letters(&page.0), 3 * letters(&text) + 65, "{}", page.0);
        }
    }
}
