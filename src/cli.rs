//! The command line: what was typed, turned into a [`Command`].
//!
//! Owns flags, their help and nothing behind them. The settings among them stay text: [`crate::config`] reads them like
//! every other layer, so that a mistake in a flag is reported together with those in the file.

use std::{
    ffi::OsString,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use clap::{
    Args, CommandFactory, Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};

use clap_complete::Shell;
use clap_mangen::Man;

use crate::config::{Overrides, read_address};

/// What the program is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Run the gateway.
    Serve {
        /// The settings file, if one is named.
        config: Option<PathBuf>,
        /// The settings among the flags.
        overrides: Overrides,
    },
    /// Check a settings file and print the effective settings.
    Check {
        /// The file.
        config: PathBuf,
    },
    /// Run a local stand-in for api.wawp.net.
    Sandbox(SandboxArgs),
    /// Run sandbox, gateway and traffic together.
    Demo {
        /// Where the gateway's access log goes, as JSON.
        access_log: Option<PathBuf>,
    },
    /// Print a shell's completions.
    Completions(Shell),
    /// Print the manual page.
    Man,
    /// Tell what the gateway would do to the traffic of access logs.
    Estimate {
        /// The settings file, if one is named.
        config: Option<PathBuf>,
        /// The logs; `-` is the standard input.
        logs: Vec<PathBuf>,
    },
}

/// How the local stand-in behaves.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct SandboxArgs {
    /// Where it listens: IP:PORT
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8081", value_parser = read_address)]
    pub listen: SocketAddr,
    /// How long each answer takes, such as 80ms
    #[arg(long, value_name = "DUR", default_value = "80ms", value_parser = latency)]
    pub latency: Duration,
    /// Calls per second and instance before it answers 429; 0 is unlimited
    #[arg(long, value_name = "N", default_value = "0", value_parser = rate, allow_negative_numbers = true)]
    pub rate: f64,
    /// Calls at once before it answers 429
    #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u32).range(1..), allow_negative_numbers = true)]
    pub burst: u32,
}

/// Merges read receipts for api.wawp.net and paces every WhatsApp instance
#[derive(Parser)]
#[command(
    name = "wawp-gateway",
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    override_usage = "wawp-gateway [COMMAND] [OPTIONS]",
    after_help = "Every setting also as WAWP_GATEWAY_<SECTION>__<KEY>: WAWP_GATEWAY_LIMIT__RATE=5"
)]
struct Line {
    #[command(subcommand)]
    command: Option<Typed>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Subcommand)]
enum Typed {
    /// Run the gateway; so does no command at all
    Serve(ServeArgs),
    /// Report every mistake in a settings file, or its effect
    Check {
        /// The settings file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Run a local stand-in for api.wawp.net
    Sandbox(SandboxArgs),
    /// Run sandbox, gateway and traffic; show what merging saves
    Demo {
        /// Keep the gateway's access log, as JSON: what estimate reads
        #[arg(long, value_name = "FILE")]
        access_log: Option<PathBuf>,
    },
    /// Tell from access logs what merging and pacing would do
    Estimate {
        /// The settings file; none is needed
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Logs of nginx, Apache, Caddy, Traefik or the gateway; - is stdin
        #[arg(value_name = "ACCESS_LOG", required = true)]
        logs: Vec<PathBuf>,
    },
    /// Print a shell's completions; `man` prints the manual page
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page (roff), for man -l -
    // Told of beside the completions: the help fits one screen.
    #[command(hide = true)]
    Man,
}

#[derive(Args)]
struct ServeArgs {
    /// The settings file; none is needed
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where clients connect [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where metrics and pages are [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// Where calls go [default: https://api.wawp.net]
    #[allow(rustdoc::bare_urls)] // the text is the help too, where a link would be noise
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// How long receipts are gathered; 0 is off [default: 50ms]
    #[arg(long, value_name = "DUR")]
    window: Option<String>,
    /// Calls a second per instance; 0 is no limit [default: 10]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    rate: Option<String>,
    /// Calls at once per instance [default: 20]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    burst: Option<String>,
}

/// Reads this process's command line.
///
/// Prints help, the version or what is wrong with the line, and then ends the process (status 2 for a mistake).
pub fn parse() -> Command {
    try_parse_from(std::env::args_os()).unwrap_or_else(|mistake| mistake.exit())
}

/// Reads a command line whose first word is the program's name.
///
/// # Errors
/// As clap says; help and version are such errors too.
pub fn try_parse_from<I>(words: I) -> Result<Command, clap::Error>
where
    I: IntoIterator,
    I::Item: Into<OsString> + Clone,
{
    match Line::try_parse_from(words) {
        Ok(line) => Ok(line.into()),
        Err(mistake) => Err(placed(mistake)),
    }
}

/// Says where flags belong that stand before a command.
fn placed(mut mistake: clap::Error) -> clap::Error {
    let conflict = mistake.kind() == ErrorKind::ArgumentConflict;
    let command = mistake.get(ContextKind::InvalidSubcommand);
    if let (true, Some(ContextValue::String(command))) = (conflict, command) {
        let tip = format!("a command's flags stand behind it: wawp-gateway {command} [OPTIONS]");
        let tip = ContextValue::StyledStrs(vec![tip.into()]);
        mistake.insert(ContextKind::Suggested, tip);
    }
    mistake
}

/// Returns the definition that completions and the manual page are made from.
pub fn definition() -> clap::Command {
    Line::command()
}

/// Writes what a shell needs to complete this program's command lines.
///
/// # Errors
/// It cannot be written.
pub fn write_completions(shell: Shell, to: &mut impl Write) -> io::Result<()> {
    // The generator panics where it cannot write: into memory it can.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut definition(), "wawp-gateway", &mut text);
    to.write_all(&text)
}

/// Writes the manual page, its commands with their flags included.
///
/// # Errors
/// It cannot be written.
pub fn write_manual(to: &mut impl Write) -> io::Result<()> {
    let mut definition = definition();
    definition.build();
    let page = Man::new(definition.clone());
    page.render_title(to)?;
    page.render_name_section(to)?;
    page.render_synopsis_section(to)?;
    page.render_description_section(to)?;
    page.render_options_section(to)?;
    for command in definition.get_subcommands() {
        writeln!(
            to,
            ".SH \"WAWP-GATEWAY {}\"",
            command.get_name().to_uppercase()
        )?;
        if let Some(about) = command.get_about() {
            writeln!(to, "{about}.")?;
        }
        let mut options = Vec::new();
        Man::new(command.clone()).render_options_section(&mut options)?;
        // Its own heading would end the command's section.
        let options = String::from_utf8_lossy(&options).replace(".SH OPTIONS", ".SS OPTIONS");
        to.write_all(options.as_bytes())?;
    }
    let mut extra = Vec::new();
    page.render_extra_section(&mut extra)?;
    let extra = String::from_utf8_lossy(&extra).replace(".SH EXTRA", ".SH ENVIRONMENT");
    to.write_all(extra.as_bytes())?;
    page.render_version_section(to)
}

impl From<Line> for Command {
    fn from(line: Line) -> Self {
        match line.command {
            None => line.serve.into(),
            Some(Typed::Serve(serve)) => serve.into(),
            Some(Typed::Check { config }) => Self::Check { config },
            Some(Typed::Sandbox(sandbox)) => Self::Sandbox(sandbox),
            Some(Typed::Demo { access_log }) => Self::Demo { access_log },
            Some(Typed::Completions { shell }) => Self::Completions(shell),
            Some(Typed::Man) => Self::Man,
            Some(Typed::Estimate { config, logs }) => Self::Estimate { config, logs },
        }
    }
}

impl From<ServeArgs> for Command {
    fn from(typed: ServeArgs) -> Self {
        let ServeArgs {
            config,
            listen,
            admin,
            upstream,
            window,
            rate,
            burst,
        } = typed;
        Self::Serve {
            config,
            overrides: Overrides {
                listen,
                admin,
                upstream,
                window,
                rate,
                burst,
            },
        }
    }
}

/// Reads the sandbox's latency; a minute is past every client's patience.
fn latency(text: &str) -> Result<Duration, String> {
    let read = humantime::parse_duration(text)
        .ok()
        .filter(|time| *time <= Duration::from_secs(60));
    read.ok_or_else(|| "a time with its unit, such as 80ms, at most 60s".to_owned())
}

/// Reads the sandbox's rate, with the bounds of the gateway's own.
fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().unwrap_or(f64::NAN);
    let good = rate == 0.0 || crate::config::Quota::new(rate, std::num::NonZeroU32::MIN).is_ok();
    if good {
        Ok(rate)
    } else {
        Err(crate::config::QuotaError::Rate.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, clap::Error> {
        try_parse_from(std::iter::once("wawp-gateway").chain(line.split_whitespace()))
    }

    fn sandbox(listen: &str, latency: u64, rate: f64, burst: u32) -> Command {
        let (listen, latency) = (listen.parse().unwrap(), Duration::from_millis(latency));
        Command::Sandbox(SandboxArgs {
            listen,
            latency,
            rate,
            burst,
        })
    }

    #[test]
    fn the_definition_is_sound() {
        definition().debug_assert();
    }

    #[test]
    fn serve_is_the_default_command() {
        let bare = read("").unwrap();
        assert_eq!(
            bare,
            Command::Serve {
                config: None,
                overrides: Overrides::default()
            }
        );
        assert_eq!(bare, read("serve").unwrap());

        let flags = "--config g.toml --listen [::]:80 --admin :1 --upstream http://a --window 0 --rate -1 --burst x";
        let some = |text: &str| Some(text.to_owned());
        let overrides = Overrides {
            listen: some("[::]:80"),
            admin: some(":1"),
            upstream: some("http://a"),
            window: some("0"),
            rate: some("-1"),
            burst: some("x"),
        };
        let expected = Command::Serve {
            config: Some("g.toml".into()),
            overrides,
        };
        assert_eq!(read(flags).unwrap(), expected);
        assert_eq!(read(&format!("serve {flags}")).unwrap(), expected);
    }

    #[test]
    fn the_other_commands() {
        assert_eq!(
            read("check --config g.toml").unwrap(),
            Command::Check {
                config: "g.toml".into()
            }
        );
        assert_eq!(read("demo").unwrap(), Command::Demo { access_log: None });
        let access_log = Some(PathBuf::from("demo.jsonl"));
        assert_eq!(
            read("demo --access-log demo.jsonl").unwrap(),
            Command::Demo { access_log }
        );
        assert_eq!(read("man").unwrap(), Command::Man);
        assert_eq!(
            read("completions zsh").unwrap(),
            Command::Completions(Shell::Zsh)
        );
        assert_eq!(
            read("sandbox").unwrap(),
            sandbox("127.0.0.1:8081", 80, 0.0, 20)
        );
        let line = "sandbox --listen 127.0.0.1:1 --latency 0 --rate 0.5 --burst 3";
        assert_eq!(read(line).unwrap(), sandbox("127.0.0.1:1", 0, 0.5, 3));
    }

    #[test]
    fn mistakes_are_refused() {
        for (line, kind) in [
            ("check", ErrorKind::MissingRequiredArgument),
            ("serv", ErrorKind::InvalidSubcommand),
            ("--lisen x", ErrorKind::UnknownArgument),
            ("--listen", ErrorKind::InvalidValue),
            ("--rate 1 --rate 2", ErrorKind::ArgumentConflict),
            ("--rate 1 serve", ErrorKind::ArgumentConflict),
            ("demo --rate 1", ErrorKind::UnknownArgument),
            ("sandbox --listen 8081", ErrorKind::ValueValidation),
            ("sandbox --latency soon", ErrorKind::ValueValidation),
            ("sandbox --latency 2m", ErrorKind::ValueValidation),
            ("sandbox --rate nan", ErrorKind::ValueValidation),
            ("sandbox --burst 0", ErrorKind::ValueValidation),
            ("sandbox --rate -1", ErrorKind::ValueValidation),
            ("sandbox --burst -1", ErrorKind::ValueValidation),
            ("completions", ErrorKind::MissingRequiredArgument),
            ("completions cmd", ErrorKind::InvalidValue),
            ("--version", ErrorKind::DisplayVersion),
            ("sandbox --help", ErrorKind::DisplayHelp),
        ] {
            assert_eq!(read(line).unwrap_err().kind(), kind, "{line}");
        }
    }

    #[test]
    fn a_mistake_says_what_is_allowed() {
        for (line, said) in [
            ("sandbox --listen localhost:1", "an IP address and a port"),
            ("sandbox --listen localhost:1", "write 127.0.0.1:1"),
            ("sandbox --rate -1", "0 (unlimited)"),
            ("--config g.toml check", "wawp-gateway check [OPTIONS]"),
            ("--rate 1 serve", "wawp-gateway serve [OPTIONS]"),
        ] {
            let text = read(line).unwrap_err().to_string();
            assert!(text.contains(said), "{line}: {text}");
        }
    }

    #[test]
    fn help_fits_one_screen_and_names_the_environment() {
        let help = definition().render_help().to_string();
        assert!(help.lines().count() <= 24, "{help}");
        assert!(
            help.lines().all(|line| line.chars().count() <= 80),
            "{help}"
        );
        assert!(help.contains("WAWP_GATEWAY_<SECTION>__<KEY>"), "{help}");
        assert_eq!(read("--help").unwrap_err().to_string(), help);
    }

    #[test]
    fn defaults_in_the_help_are_those_of_the_settings() {
        let config = crate::config::Config::default();
        let help = definition().render_help().to_string();
        let quota = config.limit.quota.unwrap();
        for default in [
            config.server.listen.to_string(),
            config.server.admin.to_string(),
            config.upstream.url.to_string(),
            humantime::format_duration(config.batch.window).to_string(),
            quota.rate.to_string(),
            quota.burst.to_string(),
        ] {
            assert!(help.contains(&format!("[default: {default}]")), "{default}");
        }
    }
}
