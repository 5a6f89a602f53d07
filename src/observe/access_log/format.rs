//! The two formats of a line: JSON for tools, text for people.
//!
//! The field names of the JSON format are an interface: tools read them.
//! Invariant: text of a client is escaped, so that a record is always one line
//! and cannot imitate other fields.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;
use serde_json::ser::Formatter;

use super::WITHHELD;
use super::record::Record;
use crate::body::ByteCounter;
use crate::config::LogFormat;
use crate::receipt::NotMerged;

/// The JSON format.
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
    #[serde(skip_serializing_if = "Option::is_none")]
    not_merged: Option<&'static str>,
    batch_wait: f64,
    queue_wait: f64,
    upstream_time: f64,
    request_id: &'r str,
    client: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aborted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sampled: Option<u32>,
}

impl Record {
    /// Appends the line, including its line end.
    pub(super) fn append(&self, format: LogFormat, text: &mut Vec<u8>) {
        match format {
            LogFormat::Json => {
                let mut writer = serde_json::Serializer::with_formatter(&mut *text, AsciiFormatter);
                self.json()
                    .serialize(&mut writer)
                    .expect("writing to a Vec does not fail");
            }
            LogFormat::Text => text.extend_from_slice(self.text().as_bytes()),
        }
        text.push(b'\n');
    }

    fn json(&self) -> Json<'_> {
        // A batch of one caller was sent unchanged, so nothing was merged.
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
            not_merged: self.not_merged.map(NotMerged::as_str),
            batch_wait: seconds(self.batch.window),
            queue_wait: seconds(self.queue_wait),
            upstream_time: seconds(self.upstream_time),
            request_id: &self.request_id,
            client: self.client,
            error: self.error,
            budget: self.budget,
            // Absent in the usual case, which keeps lines short.
            aborted: (!self.is_complete).then_some(true),
            sampled: (self.sampled > 1).then_some(self.sampled),
        }
    }

    /// The text format: the most important fields first, then the others by their
    /// JSON names. Absent fields are left out.
    fn text(&self) -> String {
        let mut text = format!("{} {} {} ", self.time(), self.method, self.path);
        let line = &mut TextLine(&mut text);
        match self.status {
            Some(status) => line.put(status.as_u16()),
            None => line.put("-"),
        }
        line.put(format_args!(" {:.6}s", self.duration.as_secs_f64()));
        // Only instance and request id are text of clients; the tenant is a name of the settings.
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
        line.named("not_merged", self.not_merged);
        for (name, wait) in [
            ("batch_wait", self.batch.window),
            ("queue_wait", self.queue_wait),
            ("upstream_time", self.upstream_time),
        ] {
            let wait = (!wait.is_zero()).then(|| format!("{}s", seconds(wait)));
            line.named(name, wait);
        }
        line.named("request_id", Some(quoted(&self.request_id)));
        line.named("client", self.client);
        line.named("error", self.error);
        line.named("budget", self.budget);
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

/// Escapes all characters except visible ASCII: some readers treat other
/// characters as line ends, and terminals execute some of them.
struct AsciiFormatter;

impl Formatter for AsciiFormatter {
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
                // JSON escapes characters beyond 16 bits as surrogate pairs (RFC 8259 §7).
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

/// A text line that is being written.
struct TextLine<'t>(&'t mut String);

impl TextLine<'_> {
    /// Appends a value.
    fn put(&mut self, what: impl std::fmt::Display) {
        write!(self.0, "{what}").expect("writing to a String does not fail");
    }

    /// Appends ` name=value`; nothing if the value is absent.
    fn named(&mut self, name: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.put(format_args!(" {name}={value}"));
        }
    }
}

/// Text of a client, so that its end is visible: in quotes and escaped, unless it
/// consists of letters, digits and a few signs.
fn quoted(text: &str) -> String {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:@+/".contains(&byte);
    // The mark is no text of a client; in quotes it would look like one.
    if text == WITHHELD || (!text.is_empty() && text.bytes().all(allowed)) {
        text.to_owned()
    } else {
        format!("\"{}\"", text.escape_default())
    }
}

/// Seconds, rounded to microseconds.
fn seconds(time: Duration) -> f64 {
    let micros =
        // A `u32` is exact in an `f64`, and covers more than an hour; longer times are rounded.
        u32::try_from(time.as_micros()).map_or_else(|_| time.as_secs_f64() * 1e6, f64::from);
    micros.round() / 1e6
}
