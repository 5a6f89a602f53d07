//! `demo --replicas`: its claims hold, and nothing stays behind, however it ends.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::gateways::may_run;
use super::servers::until;

/// The guard, the server and three gateways.
const PROCESSES: usize = 5;

/// A demo of three gateways.
struct Demo {
    child: Child,
    directory: TempDir,
}

impl Demo {
    fn start(length: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = |name| File::create(directory.path().join(name)).unwrap();
        let (out, err) = (log("out"), log("err"));
        std::fs::create_dir(directory.path().join("tmp")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_wawp-gateway"))
            .args(["demo", "--replicas", "3", "--for", length])
            .env("TMPDIR", directory.path().join("tmp"))
            // A gateway that took over the settings of the environment would not start.
            .env("WAWP_GATEWAY_LIMIT__RATE", "none")
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap();
        Self { child, directory }
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(name)).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        until("the demo ends", || child.try_wait().unwrap().is_some()).await;
        self.child.wait().unwrap()
    }

    fn files(&self) -> Vec<PathBuf> {
        let files = self.directory.path().join("tmp").read_dir().unwrap();
        files.map(|file| file.unwrap().path()).collect()
    }

    /// The processes that work in a directory of the demo.
    fn processes(&self) -> Vec<PathBuf> {
        let all = Path::new("/proc").read_dir().unwrap();
        let directory = self.directory.path().join("tmp");
        let is_ours = |process: &PathBuf| {
            let works_in = process.join("cwd").read_link();
            works_in.is_ok_and(|path| path.starts_with(&directory))
        };
        let all = all.map(|process| process.unwrap().path());
        all.filter(is_ours).collect()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test]
async fn a_demo_of_three_gateways_holds_what_its_table_claims() {
    let _running = may_run().await;
    let mut demo = Demo::start("2s");
    let status = demo.ended().await;
    let (text, errors) = (demo.read("out"), demo.read("err"));
    println!("{text}");
    assert!(status.success() && errors.is_empty(), "{errors}");
    assert!(text.lines().all(|line| line.chars().count() <= 60));
    assert!(!text.contains("BROKEN"));
    for name in ["1", "2", "3, killed after 1.0 s"] {
        let row = format!(" {name:<26}");
        let row = text.lines().find_map(|line| line.strip_prefix(&row));
        let figures = row.unwrap().split_whitespace();
        let figures: Vec<u64> = figures.map(|it| it.parse().unwrap()).collect();
        // Requests, upstream calls, and those of them that were shared.
        assert!(
            figures.len() == 3 && figures[0] > 0 && figures[1] > 0,
            "{name}"
        );
    }
    assert_eq!(demo.files(), Vec::<PathBuf>::new());
    assert_eq!(demo.processes(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn nothing_of_a_demo_stays_behind() {
    let _running = may_run().await;
    for (signal, code) in [(Signal::INT, Some(0)), (Signal::KILL, None)] {
        let mut demo = Demo::start("60s");
        until("all processes run", || demo.processes().len() == PROCESSES).await;
        if code.is_some() {
            until("requests are sent", || {
                demo.read("out").contains(" s apps ")
            })
            .await;
        }
        demo.signal(signal);
        assert_eq!(demo.ended().await.code(), code, "{}", demo.read("err"));
        until("all processes have ended", || demo.processes().is_empty()).await;
        assert_eq!(demo.files(), Vec::<PathBuf>::new());
    }
}
