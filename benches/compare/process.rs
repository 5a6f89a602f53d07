//! A program under measurement, and what the kernel knows about it; and
//! programs that do nothing but keep cores from falling asleep.
//!
//! Invariant: they run on the cores they were given and are gone when this is
//! dropped, or when the bench itself is killed.

use std::ffi::OsStr;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::Result;

/// A program that does not serve by then never will.
const START: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(20);
/// Longer than any scenario needs cores to be awake.
const LONGEST_WATCH: Duration = Duration::from_secs(1800);

/// A running program.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
}

/// An address that was free a moment ago.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

impl Process {
    /// Starts a program on these cores (as `taskset` lists them) and waits
    /// until it accepts connections; `log` takes what it says.
    pub(crate) async fn start(
        command: &[&OsStr],
        environment: &[(String, String)],
        cores: &str,
        address: SocketAddr,
        log: &Path,
    ) -> Result<Self> {
        let output = fs::File::create(log)?;
        // Both replace themselves by what they start: one process id for all three.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "taskset", "-c", cores])
            .args(command)
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        let mut process = Self { child, address };
        let began = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            if process.child.try_wait()?.is_some() || began.elapsed() > START {
                let said = fs::read_to_string(log).unwrap_or_default();
                return Err(format!("{command:?} does not serve: {said}").into());
            }
            tokio::time::sleep(STEP).await;
        }
        Ok(process)
    }

    /// What all its threads and children have had of the processors so far, by
    /// the scheduler's own count (proc(5), `schedstat`: nanoseconds).
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        let mut total = 0;
        for pid in self.family()? {
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                let stat = fs::read_to_string(task?.path().join("schedstat"))?;
                total += stat.split(' ').next().unwrap_or("").parse::<u64>()?;
            }
        }
        Ok(Duration::from_nanos(total))
    }

    /// The memory that is its own, and its share of what it shares, in bytes.
    pub(crate) fn memory(&self) -> Result<f64> {
        let mut total = 0.0;
        for pid in self.family()? {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let line = rollup.lines().find(|line| line.starts_with("Pss:"));
            let kib = line.and_then(|line| line.split_whitespace().nth(1));
            total += kib.ok_or("no Pss in smaps_rollup")?.parse::<f64>()? * 1024.0;
        }
        Ok(total)
    }

    /// The program and its children: nginx serves from a worker.
    fn family(&self) -> Result<Vec<u32>> {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let mut family = vec![pid];
        for child in children.split_whitespace() {
            family.push(child.parse()?);
        }
        Ok(family)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // SIGTERM first, so that nginx takes its worker with it.
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().ok();
        for _ in 0..25 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(STEP);
        }
        // It may have ended by itself; either way it is gone afterwards.
        self.child.kill().and_then(|()| self.child.wait()).ok();
    }
}

/// Keeps cores from falling asleep: on each a program spins that gives way to
/// every other (`SCHED_IDLE`). Else what a lone call takes is mostly what a
/// virtual machine's host takes to wake a core, four times.
#[derive(Debug)]
pub(crate) struct Awake(Vec<Child>);

impl Awake {
    /// Until it is ended or dropped, and not for long (see [`stay_awake`]).
    pub(crate) fn keep(cores: &[usize]) -> Result<Self> {
        let program = std::env::current_exe()?;
        let mut awake = Self(Vec::new());
        for core in cores {
            let child = Command::new("setpriv")
                .args(["--pdeathsig", "KILL", "chrt", "--idle", "0"])
                .args(["taskset", "-c", &core.to_string()])
                .arg(&program)
                .arg("awake")
                .stdin(Stdio::null())
                .spawn()?;
            awake.0.push(child);
        }
        Ok(awake)
    }

    /// Lets them sleep again.
    ///
    /// # Errors
    /// One of the programs has ended before, or never began.
    pub(crate) fn end(mut self) -> Result<()> {
        for child in &mut self.0 {
            if let Some(status) = child.try_wait()? {
                return Err(format!("a core was not kept awake: {status}").into());
            }
        }
        Ok(())
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().and_then(|()| child.wait()).ok();
        }
    }
}

/// What such a program does.
pub(crate) fn stay_awake() {
    let began = Instant::now();
    while began.elapsed() < LONGEST_WATCH {
        for _ in 0..1000 {
            std::hint::spin_loop();
        }
    }
}
