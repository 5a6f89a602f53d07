//! The allocator of the program and its options.
//!
//! Invariant: no option is needed to serve. Where the system refuses one, the process
//! takes more memory, and nothing else changes.

use std::io;

/// Requests allocate and free pieces of a few hundred bytes by the thousand. Other
/// allocators took as much processor time and kept several times the memory for an
/// idle connection (`benches/README.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Options in milliseconds: how long free memory is kept for reuse, and how much
/// longer with every piece freed after it. The defaults keep it for 10 ms, and then
/// until more is freed nearby: an idle gateway would keep most memory of its last
/// burst. With 0 ms, one request in five would pay for a page that was just returned.
#[cfg(target_os = "linux")]
const WAITS: [(&str, &str); 2] = [
    ("MIMALLOC_PURGE_DELAY", "1"),
    ("MIMALLOC_PURGE_EXTEND_DELAY", "0"),
];

/// Makes the allocator return free memory soon. It reads its options from the
/// environment before `main` runs, so the program executes itself once more with them
/// set: the process keeps its id, files and arguments. Values that the operator set
/// are kept.
///
/// # Errors
/// The program could not execute itself; the options are not set, nothing else fails.
pub(crate) fn exec_with_options() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt as _;
        use std::process::Command;

        let is_unset = |(name, _): &(&str, &str)| std::env::var_os(name).is_none();
        let mut missing = WAITS.into_iter().filter(is_unset).peekable();
        if missing.peek().is_none() {
            return Ok(());
        }
        let mut arguments = std::env::args_os();
        let mut program = Command::new(std::env::current_exe()?);
        if let Some(name) = arguments.next() {
            program.arg0(name);
        }
        Err(program.args(arguments).envs(missing).exec())
    }
    #[cfg(not(target_os = "linux"))]
    Ok(())
}

/// Limits this process to small pages. The allocator asks for huge pages, and then a
/// buffer that is used in part takes its memory in full: a third of the memory of a
/// request in flight (`benches/README.md`).
pub(crate) fn disable_huge_pages() {
    #[cfg(target_os = "linux")]
    rustix::thread::disable_transparent_huge_pages(true).ok();
}
