//! What the process writes to stderr: log events, panics, and errors before there is a log.
//!
//! Owns format, level and filter of the log. Invariants (rule: secrets): events of other
//! crates and the payloads of panics are not written, because they can contain access
//! tokens; a closed or full stderr stops nothing.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt::Display,
    io::{self, IsTerminal, Write},
    panic::PanicHookInfo,
    thread,
};

use tracing::{Subscriber, dispatcher, level_filters::LevelFilter, subscriber::NoSubscriber};
use tracing_subscriber::{
    filter::Targets,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
};

use crate::config::{Log, LogFormat, LogLevel};

/// The target that all events of this crate begin with.
const OURS: &str = env!("CARGO_CRATE_NAME");

/// Writes log events to stderr from now on, with UTC times as in RFC 3339.
///
/// A subscriber that is already set stays.
pub fn init(log: &Log) {
    // https://no-color.org: any value that is not empty turns colours off.
    let wants_colour = io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if tracing::subscriber::set_global_default(subscriber(log, io::stderr, wants_colour)).is_err() {
        tracing::debug!("another log subscriber was set before, and stays");
    }
}

/// Writes a line to stderr, outside the log.
pub fn write_stderr(text: &dyn Display) {
    let line = format!("wawp-gateway: {text}\n");
    // `eprintln!` would panic if stderr is closed.
    io::stderr().write_all(line.as_bytes()).ok();
}

/// Replaces Rust's message about a panic by a log event with its location; before
/// [`init`], by a line on stderr.
///
/// The payload is withheld: a panic of a slice quotes the text, which may be a URL with a
/// token.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(report_panic));
}

fn report_panic(info: &PanicHookInfo<'_>) {
    let location = info
        .location()
        .map_or_else(|| "unknown".to_owned(), ToString::to_string);
    let thread = thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    if dispatcher::get_default(|log| log.is::<NoSubscriber>()) {
        write_stderr(&format_args!(
            "panicked at {location}; the message is withheld, it may quote a secret"
        ));
        return;
    }
    // Captured only if RUST_BACKTRACE asks for it. Frames name code and contain no data.
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!(location, thread, %backtrace, "panicked; the message is withheld, it may quote a secret");
    } else {
        tracing::error!(
            location,
            thread,
            "panicked; the message is withheld, it may quote a secret"
        );
    }
}

/// Makes the subscriber.
fn subscriber<W>(log: &Log, writer: W, wants_colour: bool) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // hyper, h2 and rustls are excluded at every level: at `trace` they print headers
    // and URLs, and with them access tokens.
    let ours = Targets::new().with_target(OURS, level(log.level));
    let registry = tracing_subscriber::registry().with(ours);
    let layer = fmt::layer().with_writer(writer);
    match log.format {
        LogFormat::Text => Box::new(registry.with(layer.with_ansi(wants_colour))),
        LogFormat::Json => {
            Box::new(registry.with(layer.json().flatten_event(true).with_span_list(false)))
        }
    }
}

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::config::Config;

    /// Runs a function under a subscriber with these settings, and returns what was written.
    fn written(
        format: LogFormat,
        level: LogLevel,
        wants_colour: bool,
        run: impl FnOnce(),
    ) -> String {
        #[derive(Clone, Default)]
        struct Buffer(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Buffer {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let log = Log {
            format,
            level,
            ..Config::default().log
        };
        let subscriber = subscriber(&log, move || writer.clone(), wants_colour);
        tracing::subscriber::with_default(subscriber, run);
        String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
    }

    fn is_utc(stamp: &str) -> bool {
        stamp.ends_with('Z') && humantime::parse_rfc3339(stamp).is_ok()
    }

    #[test]
    fn text_is_one_line_with_time_level_and_fields() {
        let text = written(LogFormat::Text, LogLevel::Info, false, || {
            tracing::info!(port = 80, "listening")
        });
        let (stamp, rest) = text.split_once(' ').unwrap();
        assert!(is_utc(stamp), "{text}");
        assert_eq!(
            rest,
            " INFO wawp_gateway::app::telemetry::tests: listening port=80\n"
        );
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = written(LogFormat::Json, LogLevel::Info, true, || {
            tracing::warn!(port = 80, "a \"b\"\n")
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let event: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(is_utc(event["timestamp"].as_str().unwrap()), "{text}");
        assert_eq!(
            (&event["level"], &event["message"], &event["port"]),
            (&"WARN".into(), &"a \"b\"\n".into(), &80.into())
        );
    }

    #[test]
    fn colour_only_when_wanted() {
        for (wants, has) in [(true, true), (false, false)] {
            let text = written(LogFormat::Text, LogLevel::Info, wants, || {
                tracing::info!("here")
            });
            assert_eq!(text.contains('\u{1b}'), has);
        }
    }

    #[test]
    fn no_escape_sequence_of_a_client_reaches_the_terminal() {
        let text = written(LogFormat::Text, LogLevel::Info, false, || {
            tracing::info!("a\u{1b}[2Jb {}", "\u{1b}]0;c")
        });
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn each_level_lets_the_more_severe_pass() {
        use LogLevel::{Debug, Error, Info, Off, Trace, Warn};
        for (level, lines) in [
            (Off, 0),
            (Error, 1),
            (Warn, 2),
            (Info, 3),
            (Debug, 4),
            (Trace, 5),
        ] {
            let text = written(LogFormat::Text, level, false, || {
                tracing::error!("");
                tracing::warn!("");
                tracing::info!("");
                tracing::debug!("");
                tracing::trace!("");
            });
            assert_eq!(text.lines().count(), lines, "{level:?}");
        }
    }

    #[test]
    fn events_of_other_crates_are_written_at_no_level() {
        let text = written(LogFormat::Text, LogLevel::Trace, false, || {
            tracing::error!(target: "hyper::proto::h1", "GET /?access_token=secret");
            tracing::trace!(target: "h2", "secret");
            tracing::info!(target: "rustls::client", "secret");
            tracing::info!(target: "wawp_gateway::server", "ours");
        });
        assert!(!text.contains("secret") && text.contains("ours"), "{text}");
    }

    #[test]
    fn a_panic_is_logged_without_its_message() {
        let url = "/v2/send/seen?access_token=sécret";
        let text = written(LogFormat::Text, LogLevel::Error, false, || {
            let before = std::panic::take_hook();
            install_panic_hook();
            let end = url.len() - 5; // inside the é
            let result = std::panic::catch_unwind(|| url[..end].len());
            std::panic::set_hook(before);
            assert!(result.is_err());
        });
        assert!(
            text.contains("panicked") && text.contains("src/app/telemetry.rs:"),
            "{text}"
        );
        assert!(
            text.contains("a_panic_is_logged"),
            "the thread's name: {text}"
        );
        assert!(
            !text.contains("access_token") && !text.contains("sécret"),
            "{text}"
        );
    }
}
