//! Reading the files that settings name: a bounded read, and plain words for what goes wrong.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

const IS_DIRECTORY: &str = "this is a directory, not a file";

/// Reads a file of at most `max` bytes.
///
/// # Errors
/// What is wrong with the file, without its name; `too_large` for a longer one.
pub(super) fn read(path: &Path, max: u64, too_large: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| problem(&error))?;
    // One byte more than allowed shows that the file is too long. Its metadata may be wrong
    // (`/proc`, a file that grows).
    file.take(max + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| problem(&error))?;
    if bytes.len() as u64 > max {
        return Err(too_large.to_owned());
    }
    Ok(bytes)
}

/// Refuses a path that exists but is not a regular file: a read of a pipe may never end, and what
/// was read from it is gone afterwards. A missing file is reported by [`read`].
pub(super) fn regular(path: &Path) -> Result<(), String> {
    // `metadata` does not open the file; opening a named pipe would already block.
    let Ok(found) = std::fs::metadata(path) else {
        return Ok(());
    };
    match found.file_type() {
        kind if kind.is_dir() => Err(IS_DIRECTORY.to_owned()),
        kind if kind.is_fifo() => Err("this is a named pipe, not a file".to_owned()),
        kind if !kind.is_file() => Err("this is a device or a socket, not a file".to_owned()),
        _ => Ok(()),
    }
}

/// Says in plain words why a file cannot be read.
fn problem(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::IsADirectory => IS_DIRECTORY.to_owned(),
        io::ErrorKind::PermissionDenied => "the file may not be read by this user".to_owned(),
        _ => format!("the file cannot be read: {error}"),
    }
}
