//! What is told of a call, and the two forms in which it is.
//!
//! The names of the JSON form are an interface: tools read them. Invariant:
//! whatever a client chose has come through [`clean`] and is
//! escaped, so a line is one line and says who said what.

use std::collections::hash_map::RandomState;
use std::fmt::Write as _;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::request::Parts;
use serde::Serialize;
use serde_json::ser::Formatter;

use super::AccessLog;
use super::clean::{self, Guard};
use crate::batch::Timing;
use crate::body::ByteCounter;
use crate::config::LogFormat;
use crate::identity::Identity;
use crate::observe::metrics::Route;
use crate::receipt::Receipt;

/// Keys the hash under which receipts of one chat are told to belong together:
/// drawn at start, so that a merge key cannot be guessed from a line.
static MERGE_KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// What is told of a call.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) log: Arc<AccessLog>,
    arrived: SystemTime,
    duration: Duration,
    method: &'static str,
    path: String,
    route: Route,
    request_id: String,
    instance: Option<Box<str>>,
    pub(super) tenant: Option<Arc<str>>,
    pub(super) client: Option<IpAddr>,
    pub(super) status: Option<StatusCode>,
    pub(super) error: Option<&'static str>,
    request_bytes: Option<ByteCounter>,
    bytes: u64,
    is_complete: bool,
    receipt: Option<Understood>,
    batch: Timing,
    pub(super) queue_wait: Duration,
    pub(super) upstream_time: Duration,
    /// One in how many this call stands for.
    sampled: u32,
}

/// What is told of a receipt that was understood.
#[derive(Clone, Copy, Debug)]
struct Understood {
    ids: usize,
    merge_key: u64,
}

/// The JSON form.
#[derive(Serialize)]
struct Json<'r> {
    time: String,
    duration: f64,
    method: &'static str,
    path: &'r str,
    instance: Option<&'r str>,
    tenant: Option<&'r str>,
    route: &'static str,
    status: Option<u16>,
    request_bytes: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ids: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    merge_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_callers: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_ids: Option<usize>,
    batch_wait: f64,
    queue_wait: f64,
    upstream_time: f64,
    request_id: &'r str,
    client: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aborted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sampled: Option<u32>,
}

// === impl Record ===

impl Record {
    pub(super) fn new(log: Arc<AccessLog>, head: &Parts, route: Route) -> Self {
        let secrets = log.secrets.load();
        let guard = Guard::new(secrets.as_deref(), head);
        let path = clean::path(head.uri.path());
        let path = if guard.allows(&path) {
            path
        } else {
            clean::WITHHELD.to_owned()
        };
        let request_id = match clean::request_id(head) {
            Some(id) if guard.allows(id) => id.to_owned(),
            Some(_) => clean::WITHHELD.to_owned(),
            None => format!("{:016x}", draw()),
        };
        drop(secrets);
        Self {
            log,
            arrived: SystemTime::now(),
            duration: Duration::ZERO,
            method: clean::method(&head.method),
            path,
            route,
            request_id,
            instance: None,
            tenant: None,
            client: None,
            status: None,
            error: None,
            request_bytes: None,
            bytes: 0,
            is_complete: false,
            receipt: None,
            batch: Timing::default(),
            queue_wait: Duration::ZERO,
            upstream_time: Duration::ZERO,
            sampled: 1,
        }
    }

    pub(super) fn request_bytes(&mut self) -> ByteCounter {
        self.request_bytes.get_or_insert_default().clone()
    }

    pub(super) fn identified(&mut self, identity: &Identity, head: &Parts) {
        let secrets = self.log.secrets.load();
        let guard = Guard::new(secrets.as_deref(), head);
        self.instance = identity.instance.as_deref().map(|instance| {
            let told = guard.allows(instance) && !identity.shows_its_credential();
            Box::from(if told { instance } else { clean::WITHHELD })
        });
    }

    pub(super) fn receipt(&mut self, receipt: &Receipt) {
        self.receipt = Some(Understood {
            ids: receipt.ids.len(),
            merge_key: MERGE_KEY.hash_one(&receipt.key),
        });
    }

    pub(super) fn timing(&mut self, timing: &Timing) {
        self.batch = *timing;
        self.queue_wait = timing.queue;
        self.upstream_time = timing.upstream;
    }

    /// Notes the end; says whether the line is to be written.
    pub(super) fn end(&mut self, bytes: u64, is_complete: bool, duration: Duration) -> bool {
        self.bytes = bytes;
        self.is_complete = is_complete;
        self.duration = duration;
        let failed = self.status.is_none_or(|status| status.is_server_error());
        let sample = self.log.sample.load(Ordering::Relaxed);
        if sample <= 1 || failed || self.error.is_some() {
            return true;
        }
        self.sampled = sample;
        draw().is_multiple_of(u64::from(sample))
    }

    /// Adds the line, with its end, to a text.
    pub(super) fn append(&self, format: LogFormat, text: &mut Vec<u8>) {
        match format {
            LogFormat::Json => {
                let mut writer = serde_json::Serializer::with_formatter(&mut *text, Ascii);
                self.json()
                    .serialize(&mut writer)
                    .expect("a Vec takes whatever is written");
            }
            LogFormat::Text => text.extend_from_slice(self.text().as_bytes()),
        }
        text.push(b'\n');
    }

    fn json(&self) -> Json<'_> {
        let merged = self.batch.callers > 1;
        Json {
            time: self.time(),
            duration: seconds(self.duration),
            method: self.method,
            path: &self.path,
            instance: self.instance.as_deref(),
            tenant: self.tenant.as_deref(),
            route: self.route.as_str(),
            status: self.status.map(|status| status.as_u16()),
            request_bytes: self.body_bytes(),
            bytes: self.bytes,
            ids: self.receipt.map(|receipt| receipt.ids),
            merge_key: self
                .receipt
                .map(|receipt| format!("{:016x}", receipt.merge_key)),
            batch_callers: merged.then_some(self.batch.callers),
            batch_ids: merged.then_some(self.batch.ids),
            batch_wait: seconds(self.batch.window),
            queue_wait: seconds(self.queue_wait),
            upstream_time: seconds(self.upstream_time),
            request_id: &self.request_id,
            client: self.client,
            error: self.error,
            aborted: (!self.is_complete).then_some(true),
            sampled: (self.sampled > 1).then_some(self.sampled),
        }
    }

    /// The form for people: what everybody looks for first, then the rest by
    /// its name in the JSON form; what is not there is left out.
    fn text(&self) -> String {
        let mut text = format!("{} {} {} ", self.time(), self.method, self.path);
        let line = &mut Text(&mut text);
        match self.status {
            Some(status) => line.put(status.as_u16()),
            None => line.put("-"),
        }
        line.put(format_args!(" {:.6}s", self.duration.as_secs_f64()));
        line.named("instance", self.instance.as_deref().map(quoted));
        line.named("tenant", self.tenant.as_deref());
        line.named("route", Some(self.route.as_str()));
        line.named("request_bytes", Some(self.body_bytes()));
        line.named("bytes", Some(self.bytes));
        if let Some(receipt) = self.receipt {
            line.named("ids", Some(receipt.ids));
            line.named(
                "merge_key",
                Some(format_args!("{:016x}", receipt.merge_key)),
            );
        }
        if self.batch.callers > 1 {
            line.named("batch_callers", Some(self.batch.callers));
            line.named("batch_ids", Some(self.batch.ids));
        }
        for (name, wait) in [
            ("batch_wait", self.batch.window),
            ("queue_wait", self.queue_wait),
            ("upstream_time", self.upstream_time),
        ] {
            let told = (!wait.is_zero()).then(|| seconds(wait));
            line.named(name, told.map(|wait| format!("{wait}s")));
        }
        line.named("request_id", Some(quoted(&self.request_id)));
        line.named("client", self.client);
        line.named("error", self.error);
        line.named("aborted", (!self.is_complete).then_some(true));
        line.named("sampled", (self.sampled > 1).then_some(self.sampled));
        text
    }

    fn time(&self) -> String {
        humantime::format_rfc3339_micros(self.arrived).to_string()
    }

    fn body_bytes(&self) -> u64 {
        let counted = self.request_bytes.as_ref();
        counted.map_or(0, ByteCounter::get)
    }
}

/// Escapes all that is no visible ASCII: some readers end a line at other
/// characters, and some terminals obey others.
struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + io::Write,
    {
        const DELETE: char = '\u{7f}';
        if fragment.is_ascii() && !fragment.contains(DELETE) {
            return writer.write_all(fragment.as_bytes());
        }
        for letter in fragment.chars() {
            if letter.is_ascii() && letter != DELETE {
                write!(writer, "{letter}")?;
            } else {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

/// A line that is being written.
struct Text<'t>(&'t mut String);

impl Text<'_> {
    fn put(&mut self, what: impl std::fmt::Display) {
        write!(self.0, "{what}").expect("a String takes whatever is written");
    }

    fn named(&mut self, name: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.put(format_args!(" {name}={value}"));
        }
    }
}

/// A client's text, so that it is plain where it ends: in quotes, with all
/// escaped that is no visible ASCII, unless letters, digits and the like are
/// all there is.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:@+/".contains(&byte);
    if text == clean::WITHHELD || (!text.is_empty() && text.bytes().all(plain)) {
        text.to_owned()
    } else {
        format!("\"{}\"", text.escape_default())
    }
}

/// Seconds to the microsecond.
fn seconds(time: Duration) -> f64 {
    let micros =
        u32::try_from(time.as_micros()).map_or_else(|_| time.as_secs_f64() * 1e6, f64::from);
    micros.round() / 1e6
}

/// A number that nobody can foresee, without a lock.
fn draw() -> u64 {
    RandomState::new().build_hasher().finish()
}
