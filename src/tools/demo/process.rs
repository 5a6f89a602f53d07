//! Child processes that end with the demo.
//!
//! Invariant: no process and no file of a group outlives it, however the demo ends.

use std::fmt::Display;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use super::Error;
use crate::cluster::random;

/// Longest time until a process is ready.
const START: Duration = Duration::from_secs(15);
/// Between two looks at a process.
const POLL: Duration = Duration::from_millis(20);

const SHELL: &str = "/bin/sh";
/// Waits for the end of its standard input, which comes with the end of the demo, also if that was
/// killed. Then it removes the directory and kills its process group, itself included.
const GUARD: &str = "read -r _; rm -rf -- \"$0\"; kill -s KILL 0";

/// A process group and its directory.
#[derive(Debug)]
pub(super) struct Group {
    directory: PathBuf,
    guard: Child,
}

impl Group {
    pub(super) fn start() -> io::Result<Self> {
        let name = format!("wawp-gateway-demo-{}", random::<8>());
        let directory = std::env::temp_dir().join(name);
        // It fails if there is one already, so the directory belongs to this demo.
        let created = DirBuilder::new().mode(0o700).create(&directory);
        created.map_err(|error| named(directory.display(), &error))?;
        let guard = Command::new(SHELL)
            .args(["-c", GUARD])
            .arg(&directory)
            .current_dir(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        match guard {
            Ok(guard) => Ok(Self { directory, guard }),
            Err(error) => {
                fs::remove_dir(&directory).ok();
                Err(named(SHELL, &error))
            }
        }
    }

    /// The working directory of all processes.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts a process. What it writes goes to its log, except for a `stdout` of its own.
    pub(super) fn spawn(
        &self,
        name: &str,
        command: &mut Command,
        stdout: Option<Stdio>,
    ) -> io::Result<Process> {
        let log = self.directory.join(format!("{name}.log"));
        let err = File::options().create(true).append(true).open(&log)?;
        let out = err.try_clone()?;
        let group = i32::try_from(self.guard.id()).map_err(io::Error::other)?;
        let child = command
            .current_dir(&self.directory)
            // Ctrl-C reaches only the demo, which ends them in their order.
            .process_group(group)
            .stdin(Stdio::null())
            .stdout(stdout.unwrap_or(out.into()))
            .stderr(err)
            .spawn();
        Ok(Process {
            name: name.to_owned(),
            child: child.map_err(|error| named(name, &error))?,
            log,
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.directory).ok();
        self.guard.kill().ok();
        self.guard.wait().ok();
    }
}

/// A process that ends with this value.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Waits until there is a value, which means that the process is ready.
    pub(super) async fn until<T>(
        &mut self,
        ready: impl AsyncFn() -> Option<T>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        loop {
            if let Some(value) = ready().await {
                return Ok(value);
            }
            if self.child.try_wait()?.is_some() || began.elapsed() > START {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                return Err(Error::Child {
                    name: self.name.clone(),
                    last_line: log.lines().next_back().unwrap_or("no output").to_owned(),
                });
            }
            sleep(POLL).await;
        }
    }

    /// What it has written.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// Asks it to end.
    pub(super) fn terminate(&self) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::TERM)?)
    }

    /// Waits for its end, which must come in this time.
    pub(super) async fn ended(&mut self, limit: Duration) -> io::Result<ExitStatus> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if began.elapsed() > limit {
                return Err(io::ErrorKind::TimedOut.into());
            }
            sleep(POLL).await;
        }
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) {
        // Without effect on a process that has ended and was waited for.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An error of the system with what it is about.
pub(super) fn named(what: impl Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
