//! The `wawp-gateway` program: the order of start, and the exit codes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use wawp_gateway::app::{App, Ended, Reload};
use wawp_gateway::cli::{self, Command};
use wawp_gateway::config::{self, Effective, Mistakes, Overrides};
use wawp_gateway::shutdown::Signals;
use wawp_gateway::systemd::Sockets;
use wawp_gateway::{Dial, telemetry};

/// The settings, the file or the command line are wrong.
const EXIT_SETTINGS: u8 = 2;
/// The gateway could not start, or a drain had to cut something.
const EXIT_FAILURE: u8 = 1;

fn main() -> ExitCode {
    match cli::parse() {
        Command::Serve { config, overrides } => serve(config, overrides),
        Command::Check { config } => check(&config),
        Command::Sandbox(_) | Command::Demo => ExitCode::SUCCESS,
    }
}

fn check(file: &Path) -> ExitCode {
    match config::check(file) {
        Ok(effective) => {
            print!("{effective}");
            ExitCode::SUCCESS
        }
        Err(mistakes) => fail(EXIT_SETTINGS, &mistakes),
    }
}

fn serve(file: Option<PathBuf>, overrides: Overrides) -> ExitCode {
    let load = move || -> Result<Effective, Mistakes> {
        config::load(file.as_deref(), std::env::vars_os(), &overrides)
    };
    let config = match load() {
        Ok(effective) => effective.config,
        Err(mistakes) => return fail(EXIT_SETTINGS, &mistakes),
    };
    telemetry::init(&config.log);
    telemetry::install_panic_hook();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(EXIT_FAILURE, &error),
    };
    let reload: Reload = Box::new(move || load().map(|effective| effective.config));
    let ended = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let upstream = config.upstream.url.to_string();
        let app = App::bind_or_inherit(config, Dial::Tcp, Sockets::inherited()?)?;
        let (address, admin) = (app.address()?, app.admin_address()?);
        tracing::info!(%address, %admin, %upstream, "serving");
        app.run(&mut signals, reload).await
    });
    // A name look-up may hang for long: it is not waited for.
    runtime.shutdown_background();
    match ended {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::Cut { .. }) => ExitCode::from(EXIT_FAILURE),
        Err(error) => fail(EXIT_FAILURE, &error),
    }
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("wawp-gateway: {error}");
    ExitCode::from(code)
}
