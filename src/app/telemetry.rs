//! What the process writes to stderr: the log's subscriber, the panic hook, and words outside the log.
//!
//! Owns form, level and filter; the events belong to whoever meets them. Invariants: only this crate's own events pass,
//! and no panic's payload is written, because either could carry an access token; a stderr that is closed or full stops
//! nothing.

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

/// Writes this process's events to stderr from now on, with UTC times as in RFC 3339.
///
/// Where a subscriber is set already, that one stays.
pub fn init(log: &Log) {
    let wants_colour = io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if tracing::subscriber::set_global_default(subscriber(log, io::stderr, wants_colour)).is_err() {
        tracing::debug!("the log was set up before; that one stays");
    }
}

/// Says something on stderr, outside the log. Where nobody can hear it, it is not said: `eprintln!` would panic.
pub fn say(text: &dyn Display) {
    let line = format!("wawp-gateway: {text}\n");
    io::stderr().write_all(line.as_bytes()).ok();
}

/// Logs where a panic happened from now on, or says it while there is no log, in place of Rust's own message.
///
/// The payload is withheld: a slice's panic quotes the text it failed on, which may be a URL with a token.
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
        say(&format_args!(
            "panicked at {location}; the message is withheld, it may quote a secret"
        ));
        return;
    }
    // Only where RUST_BACKTRACE asks for it; frames name code, never data.
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

/// Makes the subscriber. hyper, h2 and rustls are shut out at every level: at trace they print header fields and URLs,
/// and with those the access tokens of our callers.
fn subscriber<W>(log: &Log, writer: W, wants_colour: bool) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
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

    /// Runs something under a subscriber of these settings and returns what was written.
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
    fn nobody_elses_events_pass_at_any_level() {
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
