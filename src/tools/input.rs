//! A file that a command reads; `-` is the standard input.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What messages call it.
pub(super) fn name(path: &Path) -> String {
    match is_stdin(path) {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    }
}

/// At most so many bytes of it.
///
/// # Errors
/// It cannot be read.
pub(super) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    match is_stdin(path) {
        true => io::stdin().take(most).read_to_end(&mut content)?,
        false => File::open(path)?.take(most).read_to_end(&mut content)?,
    };
    Ok(content)
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}
