//! The program's allocator, and what it is told before calls are served.
//!
//! Invariant: none of it is needed to serve. Where the system refuses, more
//! memory is taken, and nothing else.

use std::io;

/// Calls come and go by the thousand in pieces of a few hundred bytes. Others
/// took as much processor time for them, and kept several times the memory of
/// a connection that has gone idle (`benches/README.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the allocator is told, in milliseconds: how long free memory waits for
/// whoever wants it next, and how much longer with every piece freed after it.
/// By itself it waits 10 ms, and then for somebody to free more nearby: after a
/// burst of calls a gateway at rest would keep most of what they took. Without
/// any wait one call in five would pay for a page just given back.
#[cfg(target_os = "linux")]
const WAITS: [(&str, &str); 2] = [
    ("MIMALLOC_PURGE_DELAY", "1"),
    ("MIMALLOC_PURGE_EXTEND_DELAY", "0"),
];

/// Has the allocator give memory back soon after it is free. It reads this from
/// the environment before `main` runs, so the program replaces itself by itself,
/// once: the same process still, with its id, files and arguments. An operator's
/// own values stand.
///
/// # Errors
/// Why that failed: everything else works without it.
pub(crate) fn start_over_to_give_memory_back() -> io::Result<()> {
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

/// Has the kernel give this process small pages only. The allocator asks for
/// huge ones, and then every buffer that is used in part takes memory in full:
/// of what a call in flight takes, a third (`benches/README.md`).
pub(crate) fn keep_to_small_pages() {
    #[cfg(target_os = "linux")]
    rustix::thread::disable_transparent_huge_pages(true).ok();
}
