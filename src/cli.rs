//! The command line, read into a [`Command`].
//!
//! Owns the flags and their help. Flags that are settings stay text: [`crate::config`] reads them
//! like every other layer, so that a mistake in a flag is reported together with those in the file.

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{Overrides, Quota, QuotaError, read_address};

pub use self::manual::write_manual;

mod manual;

/// What the program does.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Run the gateway.
    Serve {
        /// The settings file, if one is named.
        config: Option<PathBuf>,
        /// The settings among the flags.
        overrides: Overrides,
    },
    /// Check the settings and print the effective ones.
    Check {
        /// The settings file, if one is named.
        config: Option<PathBuf>,
        /// The settings among the flags.
        overrides: Overrides,
    },
    /// Print every setting with its default.
    Defaults,
    /// Print a settings file to begin with.
    Init {
        /// A response with a policy of the API; `-` is the standard input.
        from_policy: Option<PathBuf>,
        /// The slug of one of its policies.
        policy: Option<String>,
    },
    /// Ask a running gateway whether it accepts requests.
    Health {
        /// The settings file, if one is named.
        config: Option<PathBuf>,
        /// Its admin listener; the settings are not read then.
        admin: Option<SocketAddr>,
    },
    /// Run a local stand-in for api.wawp.net.
    Sandbox(SandboxArgs),
    /// Run sandbox, gateway and traffic together.
    Demo {
        /// Where the gateway's access log goes, as JSON.
        access_log: Option<PathBuf>,
        /// How long the apps send requests.
        length: Option<Duration>,
        /// Serve after that until a signal.
        keep: bool,
        /// How many gateways, if there are several.
        replicas: Option<u8>,
    },
    /// Print the completions of a shell.
    Completions(Shell),
    /// Print the manual page.
    Man,
    /// Estimate from access logs what the gateway would do.
    Estimate {
        /// The settings file, if one is named.
        config: Option<PathBuf>,
        /// The logs; `-` is the standard input.
        logs: Vec<PathBuf>,
        /// Where the page with charts goes.
        report: Option<PathBuf>,
    },
    /// Explain what the gateway would do with requests, and whether they merge.
    Explain {
        /// The settings file, if one is named.
        config: Option<PathBuf>,
        /// The requests; `-` is the standard input, and so is none.
        requests: Vec<PathBuf>,
    },
}

/// The settings of the local stand-in.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct SandboxArgs {
    /// Where it listens: IP:PORT
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8081", value_parser = read_address)]
    pub listen: SocketAddr,
    /// How long each response takes, such as 80ms
    #[arg(long, value_name = "DUR", default_value = "80ms", value_parser = latency)]
    pub latency: Duration,
    /// Requests per second and instance before a 429; 0 is unlimited
    #[arg(long, value_name = "N", default_value = "0", value_parser = rate, allow_negative_numbers = true)]
    pub rate: f64,
    /// Requests at once before a 429
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
    // clap's own without an empty line, so that the help fits one screen.
    help_template = "{about-with-newline}{usage-heading} {usage}\n\n{all-args}{after-help}",
    after_help = "Every setting also as WAWP_GATEWAY_<SECTION>__<KEY>: WAWP_GATEWAY_LIMIT__RATE=5"
)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<TypedCommand>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Subcommand)]
enum TypedCommand {
    /// Run the gateway; so does no command at all
    Serve(ServeArgs),
    /// Report every mistake in the settings, or their effect
    Check {
        #[command(flatten)]
        serve: ServeArgs,
        /// Print every setting with its default and a comment
        #[arg(long, exclusive = true)]
        defaults: bool,
    },
    /// Print a settings file with careful limits, or with those of a policy
    Init {
        /// A response of GET /v2/session/rate-limit, for its limits; - is stdin
        #[arg(long, value_name = "FILE")]
        from_policy: Option<PathBuf>,
        /// The slug of one of its policies [default: the policy in force]
        #[arg(long, value_name = "SLUG", requires = "from_policy")]
        policy: Option<String>,
    },
    /// Ask a running gateway whether it accepts requests: exit 0 or 1
    // Hidden, like those below: scripts call it, and the help fits one screen.
    #[command(hide = true)]
    Health {
        /// The settings file of that gateway [default: as for serve]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Its server.admin; its settings are not read then
        #[arg(long, value_name = "ADDR", value_parser = read_address, conflicts_with = "config")]
        admin: Option<SocketAddr>,
    },
    /// Run a local stand-in for api.wawp.net
    Sandbox(SandboxArgs),
    /// Run sandbox, gateway and traffic; show what merging saves
    Demo {
        /// Keep the gateway's access log, as JSON: what estimate reads
        #[arg(long, value_name = "FILE")]
        access_log: Option<PathBuf>,
        /// How long the apps send requests, 2s to 5m [default: 9s]
        #[arg(long = "for", value_name = "DUR", value_parser = demo_length)]
        length: Option<Duration>,
        /// Keep gateway and stand-in running after that, until Ctrl-C
        #[arg(long)]
        keep: bool,
        /// Run N gateways (2 to 9) through a redis-server; kill one
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=9), allow_negative_numbers = true)]
        replicas: Option<u8>,
    },
    /// Estimate from access logs what merging and pacing would do
    Estimate {
        /// The settings file; none is needed
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Also write a page with charts, to show to others
        #[arg(long, value_name = "FILE.html")]
        report: Option<PathBuf>,
        /// Logs of nginx, Apache, Caddy, Traefik or the gateway; - is stdin
        #[arg(value_name = "ACCESS_LOG", required = true)]
        logs: Vec<PathBuf>,
    },
    /// Explain how requests are read, and why they merge or not
    Explain {
        /// The settings file [default: as for serve]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Raw HTTP/1.1 requests, one or several in a file; - is stdin
        #[arg(value_name = "REQUEST")]
        requests: Vec<PathBuf>,
    },
    /// Print completions for a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page (roff), for man -l -
    #[command(hide = true)]
    Man,
}

#[derive(Args)]
struct ServeArgs {
    /// The settings file [env: WAWP_GATEWAY_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
}

/// Reads the command line of this process.
///
/// For help, the version or a mistake, prints that and ends the process (status 2 for a mistake).
pub fn parse() -> Command {
    try_parse_from(std::env::args_os()).unwrap_or_else(|mistake| mistake.exit())
}

/// Reads a command line; its first word is the name of the program.
///
/// # Errors
/// A mistake, as clap describes it. Help and version are errors too.
pub fn try_parse_from<I>(words: I) -> Result<Command, clap::Error>
where
    I: IntoIterator,
    I::Item: Into<OsString> + Clone,
{
    match CommandLine::try_parse_from(words) {
        Ok(line) => Ok(line.into()),
        Err(mistake) => Err(with_hint(mistake)),
    }
}

/// Adds a hint to the mistake of flags before a command: they belong after it.
fn with_hint(mut mistake: clap::Error) -> clap::Error {
    let conflict = mistake.kind() == ErrorKind::ArgumentConflict;
    let command = mistake.get(ContextKind::InvalidSubcommand);
    if let (true, Some(ContextValue::String(command))) = (conflict, command) {
        let tip = format!(
            "the flags of a command are written after it: wawp-gateway {command} [OPTIONS]"
        );
        // clap says only that the flag cannot be used with the command.
        let tip = ContextValue::StyledStrs(vec![tip.into()]);
        mistake.insert(ContextKind::Suggested, tip);
    }
    mistake
}

/// Returns the definition of the command line, from which completions and manual page are made.
pub fn definition() -> clap::Command {
    CommandLine::command()
}

/// Writes the completions for a shell.
///
/// # Errors
/// It cannot be written.
pub fn write_completions(shell: Shell, to: &mut impl Write) -> io::Result<()> {
    // The generator panics where it cannot write, so it writes into memory.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut definition(), "wawp-gateway", &mut text);
    to.write_all(&text)
}

impl From<CommandLine> for Command {
    fn from(line: CommandLine) -> Self {
        match line.command {
            None => line.serve.into(),
            Some(TypedCommand::Serve(serve)) => serve.into(),
            Some(TypedCommand::Check { defaults: true, .. }) => Self::Defaults,
            Some(TypedCommand::Check { serve, .. }) => Self::Check {
                config: serve.config,
                overrides: serve.overrides,
            },
            Some(TypedCommand::Init {
                from_policy,
                policy,
            }) => Self::Init {
                from_policy,
                policy,
            },
            Some(TypedCommand::Health { config, admin }) => Self::Health { config, admin },
            Some(TypedCommand::Sandbox(sandbox)) => Self::Sandbox(sandbox),
            Some(TypedCommand::Demo {
                access_log,
                length,
                keep,
                replicas,
            }) => Self::Demo {
                access_log,
                length,
                keep,
                replicas,
            },
            Some(TypedCommand::Completions { shell }) => Self::Completions(shell),
            Some(TypedCommand::Man) => Self::Man,
            Some(TypedCommand::Estimate {
                config,
                logs,
                report,
            }) => Self::Estimate {
                config,
                logs,
                report,
            },
            Some(TypedCommand::Explain { config, requests }) => Self::Explain { config, requests },
        }
    }
}

impl From<ServeArgs> for Command {
    fn from(ServeArgs { config, overrides }: ServeArgs) -> Self {
        Self::Serve { config, overrides }
    }
}

/// Reads the latency of the sandbox; no client waits longer than a minute.
fn latency(text: &str) -> Result<Duration, String> {
    let read = humantime::parse_duration(text)
        .ok()
        .filter(|time| *time <= Duration::from_secs(60));
    read.ok_or_else(|| "a time with its unit, such as 80ms, at most 60s".to_owned())
}

/// Reads the length of a demo. Its checks need the whole record of the sandbox, which is
/// bounded.
fn demo_length(text: &str) -> Result<Duration, String> {
    let allowed = Duration::from_secs(2)..=Duration::from_secs(300);
    let read = humantime::parse_duration(text)
        .ok()
        .filter(|time| allowed.contains(time));
    read.ok_or_else(|| "a time with its unit from 2s to 5m, such as 90s".to_owned())
}

/// Reads the rate of the sandbox, with the bounds of `limit.rate`.
fn rate(text: &str) -> Result<f64, String> {
    // NaN is outside the bounds, so text that is no number is refused below.
    let rate: f64 = text.parse().unwrap_or(f64::NAN);
    let is_allowed = rate == 0.0 || Quota::new(rate, NonZeroU32::MIN).is_ok();
    is_allowed
        .then_some(rate)
        .ok_or_else(|| QuotaError::Rate.to_string())
}

#[cfg(test)]
mod tests;
