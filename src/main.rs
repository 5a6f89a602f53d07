//! The `wawp-gateway` program: the order of start, and the exit codes.

mod allocator;

use std::fs::File;
use std::io::{self, StdoutLock, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use wawp_gateway::app::signals::Signals;
use wawp_gateway::app::systemd::Sockets;
use wawp_gateway::app::telemetry;
use wawp_gateway::app::{self, App, Ended, LoadSettings, StartError};
use wawp_gateway::cli::{self, Command, SandboxArgs};
use wawp_gateway::config::{self, Effective, InForce, Mistakes, Overrides};
use wawp_gateway::demo::{self, Plan, Screen};
use wawp_gateway::{Dial, health as health_check, init, sandbox};

/// A setting, a file that the settings name, or an argument is wrong.
const EXIT_SETTINGS: u8 = 2;
/// The gateway could not start, or a drain cut a request or a connection.
const EXIT_FAILURE: u8 = 1;

fn main() -> ExitCode {
    // Before anything can panic: Rust's own message may quote a secret.
    telemetry::install_panic_hook();
    match cli::parse() {
        Command::Serve { config, overrides } => serve(config, overrides),
        Command::Check { config, overrides } => check(config, &overrides),
        Command::Defaults => print(|out| out.write_all(config::DEFAULTS.as_bytes())),
        Command::Init {
            from_policy,
            policy,
        } => init(from_policy.as_deref(), policy.as_deref()),
        Command::Health { config, admin } => health(config, admin),
        Command::Sandbox(args) => sandbox(&args),
        Command::Demo {
            access_log,
            length,
            keep,
            replicas,
        } => demo(access_log.as_deref(), length, keep, replicas),
        Command::Completions(shell) => print(|out| cli::write_completions(shell, out)),
        Command::Man => print(|out| cli::write_manual(out)),
        Command::Estimate {
            config,
            logs,
            report,
        } => estimate(config, &logs, report.as_deref()),
        Command::Explain { config, requests } => explain(config, &requests),
    }
}

/// Finds the settings file that `serve` would read.
fn settings_file(named: Option<PathBuf>) -> Option<PathBuf> {
    let variable = std::env::var_os(config::FILE_VARIABLE);
    config::find_file(named, variable, Path::new(config::DEFAULT_FILE))
}

/// Reads the settings as `serve` without flags would.
fn load(named: Option<PathBuf>) -> Result<Effective, Mistakes> {
    let file = settings_file(named);
    config::load(file.as_deref(), std::env::vars_os(), &Overrides::default())
}

fn check(named: Option<PathBuf>, overrides: &Overrides) -> ExitCode {
    // Without a file, variables and flags can still be wrong.
    let file = settings_file(named);
    match app::check(file.as_deref(), std::env::vars_os(), overrides) {
        Ok(effective) => {
            warn(effective.warnings());
            let found =
                block_on::<_, io::Error>(async { Ok(app::check_cluster(&effective.config).await) });
            for line in found.unwrap_or_default() {
                eprintln!("{line}");
            }
            print(|out| write!(out, "{effective}"))
        }
        Err(mistakes) => fail(EXIT_SETTINGS, &mistakes),
    }
}

fn init(from_policy: Option<&Path>, policy: Option<&str>) -> ExitCode {
    let starter = match from_policy {
        Some(source) => init::from_policy(source, policy),
        None => Ok(init::recommended()),
    };
    match starter {
        Ok(starter) => {
            warn(starter.warnings());
            print(|out| write!(out, "{starter}"))
        }
        Err(error) => fail(EXIT_SETTINGS, &error),
    }
}

/// To stderr: what is printed on stdout can be read as a settings file.
fn warn(warnings: impl IntoIterator<Item = impl std::fmt::Display>) {
    for warning in warnings {
        telemetry::write_stderr(&format_args!("warning: {warning}"));
    }
}

/// Writes to stdout. A closed pipe is no failure: `head` closes it.
fn print(write: impl FnOnce(&mut StdoutLock<'_>) -> io::Result<()>) -> ExitCode {
    let mut out = io::stdout().lock();
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(
            EXIT_FAILURE,
            &format_args!("cannot write to stdout: {error}"),
        ),
        _ => ExitCode::SUCCESS,
    }
}

fn serve(named: Option<PathBuf>, overrides: Overrides) -> ExitCode {
    // First, because it may replace this process by the same program with options of the
    // allocator set. What was read before would be read twice.
    let options_set = allocator::exec_with_options();
    allocator::disable_huge_pages();
    let file = settings_file(named);
    let config_file = file.as_ref().map(|file| file.display().to_string());
    let load = move || -> Result<Effective, Mistakes> {
        config::load(file.as_deref(), std::env::vars_os(), &overrides)
    };
    // Read outside the log: the settings decide what is logged, and how.
    let effective = match load() {
        Ok(effective) => effective,
        Err(mistakes) => return fail(EXIT_SETTINGS, &mistakes),
    };
    let shown = InForce::from(&effective);
    let config = effective.config;
    telemetry::init(&config.log);
    if let Err(error) = options_set {
        tracing::info!(%error, "memory of a burst of requests may be kept after it");
    }
    let load_settings: LoadSettings = Arc::new(load);
    let ended = block_on::<_, StartError>(async {
        // Before the sockets are bound: a SIGTERM that arrives during the start drains, too.
        let mut signals = Signals::listen()?;
        let upstream = config.upstream.url.to_string();
        // Without its credentials.
        let proxy = config.upstream.proxy.as_ref().map(ToString::to_string);
        let app = App::bind_or_inherit(config, Dial::Tcp, Sockets::inherited()?)?;
        app.gateway().show_settings(shown);
        app.gateway().log_access_to(Box::new(io::stdout()))?;
        let (address, admin) = (app.address()?, app.admin_address()?);
        tracing::info!(%address, %admin, %upstream, proxy, config = config_file, "serving");
        let gateway = app.gateway().clone();
        Ok((app.run(&mut signals, load_settings).await?, gateway))
    });
    let (ended, gateway) = match ended {
        Ok(ended) => ended,
        // A file that the settings name cannot be used, such as a certificate.
        Err(error @ StartError::Build(_)) => return fail(EXIT_SETTINGS, &error),
        Err(error) => return fail(EXIT_FAILURE, &error),
    };
    // `block_on` has dropped the runtime. Only that ended the requests that were cut, and
    // wrote their entries.
    gateway.flush_access_log();
    match ended {
        Ended::Drained => ExitCode::SUCCESS,
        Ended::Cut { .. } => ExitCode::from(EXIT_FAILURE),
    }
}

fn health(named: Option<PathBuf>, admin: Option<SocketAddr>) -> ExitCode {
    let admin = match admin {
        Some(admin) => admin,
        None => match load(named) {
            Ok(effective) => effective.config.server.admin,
            // Health checks know two results: healthy (0) and unhealthy (1).
            Err(mistakes) => return fail(EXIT_FAILURE, &mistakes),
        },
    };
    match block_on(health_check::check(admin)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(unhealthy) => fail(EXIT_FAILURE, &unhealthy),
    }
}

fn sandbox(args: &SandboxArgs) -> ExitCode {
    telemetry::init(&config::Config::default().log);
    let settings = sandbox::Settings {
        latency: args.latency,
        quota: Some((args.rate, args.burst)),
        ..sandbox::Settings::default()
    };
    let ended = block_on(async {
        let mut signals = Signals::listen()?;
        // SIGHUP ends it, too: there are no settings to read again.
        let stop = async {
            signals.next().await;
        };
        sandbox::run(args.listen, settings, stop).await
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(EXIT_FAILURE, &error),
    }
}

fn demo(
    access_log: Option<&Path>,
    length: Option<Duration>,
    keep: bool,
    replicas: Option<u8>,
) -> ExitCode {
    let access_log = match access_log.map(|path| (path, File::create(path))) {
        Some((path, Err(error))) => {
            let path = path.display();
            return fail(EXIT_FAILURE, &format_args!("--access-log: {path}: {error}"));
        }
        Some((_, Ok(file))) => Some(file),
        None => None,
    };
    telemetry::init(&demo::log());
    let plan = Plan::default();
    let plan = Plan {
        length: length.unwrap_or(plan.length),
        ..plan
    };
    let ended = block_on(async {
        let mut signals = Signals::listen()?;
        let stop = async {
            signals.next().await;
        };
        let screen = Screen::stdout();
        match replicas {
            None => {
                let sink = access_log.map(|file| Box::new(file) as Box<dyn Write + Send>);
                demo::run(&plan, screen, sink, keep, stop).await
            }
            Some(replicas) => {
                let log = access_log.as_ref();
                demo::run_replicas(&plan, replicas, screen, log, keep, stop).await
            }
        }
    });
    match ended {
        Ok(report) if report.is_good() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(EXIT_FAILURE),
        Err(error) => fail(EXIT_FAILURE, &error),
    }
}

fn estimate(named: Option<PathBuf>, logs: &[PathBuf], page: Option<&Path>) -> ExitCode {
    let config = match load(named) {
        Ok(effective) => effective.config,
        Err(mistakes) => return fail(EXIT_SETTINGS, &mistakes),
    };
    match wawp_gateway::estimate::run(&config, logs) {
        Ok(report) => {
            if let Some(path) = page
                && let Err(error) = std::fs::write(path, report.page())
            {
                let path = path.display();
                return fail(EXIT_FAILURE, &format_args!("--report: {path}: {error}"));
            }
            print(|out| write!(out, "{report}"))
        }
        Err(error) => fail(EXIT_SETTINGS, &error),
    }
}

fn explain(named: Option<PathBuf>, requests: &[PathBuf]) -> ExitCode {
    let config = match load(named) {
        Ok(effective) => effective.config,
        Err(mistakes) => return fail(EXIT_SETTINGS, &mistakes),
    };
    match block_on(wawp_gateway::explain::run(&config, requests)) {
        Ok(report) => print(|out| write!(out, "{report}")),
        Err(error) => fail(EXIT_SETTINGS, &error),
    }
}

/// Runs a future on this thread. Other workers start threads and runtimes for themselves.
fn block_on<T, E: From<io::Error>>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(work);
    // Does not wait for blocking threads: a DNS query may hang for long.
    runtime.shutdown_background();
    done
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    telemetry::write_stderr(error);
    ExitCode::from(code)
}
