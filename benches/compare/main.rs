//! The gateway beside nginx, HAProxy and a plain hyper proxy.
//!
//! One command measures all of them on the same machine in the same minutes:
//! `cargo bench --bench compare`. Every round measures each proxy in turn, so that
//! other load on the machine affects all of them. A proxy has one core to
//! itself; load generator and upstream share another.
//!
//! It does not measure the cost of a network, and compares no features:
//! see `benches/README.md`.

mod head;
mod load;
mod peers;
mod plain;
mod process;
mod scenarios;
mod settings;
mod table;
mod tls;
mod upstream;
mod wire;

use std::error::Error;
use std::process::Command;

use tokio::signal::unix::{SignalKind, signal};

use peers::TestBed;
use settings::Settings;
use upstream::Upstream;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, listen, upstream] = &arguments[..]
        && role == "plain"
    {
        return plain::run(listen.parse()?, upstream.parse()?);
    }
    if arguments == ["awake"] {
        process::stay_awake();
        return Ok(());
    }
    // `cargo test --benches` only wants to know that it starts.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let settings = Settings::read(&arguments)?;
    peers::ensure_installed()?;
    let cores = cores()?;
    let [proxy_core, load_core] = cores[..] else {
        return Err("two cores are needed: one for a proxy, one for the load".into());
    };
    let own = std::process::id().to_string();
    run("taskset", &["-cp", &load_core.to_string(), &own])?;
    // Both ends of thousands of connections are here; without the right to raise the limit, use all of it.
    let files = "prlimit --nofile=65536:65536 --pid $0 || prlimit --nofile=$(ulimit -Hn):$(ulimit -Hn) --pid $0";
    run("sh", &["-c", files, &own])?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let directory = tempfile::tempdir()?;
        let bed = TestBed {
            upstream: Upstream::start(directory.path()).await?,
            directory,
            proxy_core,
            load_core,
            gateway: settings.gateway.clone(),
            other_gateway: settings.other_gateway.clone(),
        };
        let mut terminated = signal(SignalKind::terminate())?;
        // Whichever comes first: programs under measurement end when they are dropped.
        tokio::select! {
            ended = scenarios::all(&bed, &settings) => ended,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
            _ = terminated.recv() => Err("terminated".into()),
        }
    })
}

/// The first and the last core this process may use.
fn cores() -> Result<Vec<usize>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .ok_or("no Cpus_allowed_list in /proc/self/status")?;
    let mut numbers = list
        .trim()
        .split([',', '-'])
        .map(str::parse)
        .collect::<std::result::Result<Vec<usize>, _>>()?;
    numbers.dedup();
    Ok(match numbers[..] {
        [first, .., last] => vec![first, last],
        _ => numbers,
    })
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr)).into())
}
