//! The access log: one line for each client request, written to stdout.
//!
//! A request never waits for it: lines go through a bounded channel to a writer
//! thread, and a line that finds the channel full is dropped and counted.
//! Invariants: while the log is off, nothing is allocated or computed for it; a
//! line contains no secret and no control character of a client.
//!
//! - `record`: the fields of a line;
//! - `format`: its two formats, JSON and text;
//! - `sanitize`: which client text may be logged;
//! - `writer`: the writer thread.

mod format;
mod record;
mod sanitize;
mod writer;

#[cfg(test)]
mod tests;

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::StatusCode;
use http::request::Parts;
use tokio::time::Instant;

use crate::batch::Timing;
use crate::body::ByteCounter;
use crate::config::{self, LogAccess, LogFormat};
use crate::http::forwarded_for::Client;
use crate::identity::Identity;
use crate::observe::metrics::{Metrics, Route};
use crate::receipt::{NotMerged, Receipt};
use crate::redact::Secrets;
use record::Record;
pub(crate) use sanitize::{WITHHELD, path};
use writer::Writer;

/// The access log of one gateway.
#[derive(Debug)]
pub(crate) struct AccessLog {
    /// The settings enable the log, and there is a writer. One load per request decides.
    on: AtomicBool,
    /// One of so many requests is logged.
    sample: AtomicU32,
    /// Secrets of the settings, which no line may contain.
    secrets: ArcSwapOption<Secrets>,
    /// Empty until the program provides an output.
    writer: OnceLock<Writer>,
    format: LogFormat,
    /// The settings enable the log.
    enabled: AtomicBool,
}

/// The log entry of a request while it is processed.
#[derive(Debug, Default)]
pub(crate) struct LogEntry {
    /// `None` while the access log is off.
    record: Option<Box<Record>>,
    /// The instance under which a failure is shown.
    instance_label: Option<Box<str>>,
    /// Whether a request to a path of receipts was merged; `None` for other requests.
    merging: Option<Result<(), NotMerged>>,
}

impl AccessLog {
    /// Creates the log; nothing is written before [`write_to`](Self::write_to).
    pub(crate) fn new(log: &config::Log, secrets: Option<Arc<Secrets>>) -> Self {
        let access_log = Self {
            on: AtomicBool::new(false),
            sample: AtomicU32::new(1),
            secrets: ArcSwapOption::empty(),
            writer: OnceLock::new(),
            format: log.format,
            enabled: AtomicBool::new(false),
        };
        access_log.reconfigure(log, secrets);
        access_log
    }

    /// Applies new settings, except for the format of lines.
    pub(crate) fn reconfigure(&self, log: &config::Log, secrets: Option<Arc<Secrets>>) {
        // First the secrets, then the switch: no line may be written without the filter for new
        // secrets.
        self.secrets.store(secrets);
        self.sample
            .store(log.access_sample.get(), Ordering::Relaxed);
        self.enabled
            .store(log.access == LogAccess::On, Ordering::Relaxed);
        self.update_on();
    }

    /// Starts the writer thread, which writes lines to `sink`.
    ///
    /// # Errors
    /// The thread could not be started.
    pub(crate) fn write_to(
        &self,
        sink: Box<dyn Write + Send>,
        metrics: &Metrics,
    ) -> std::io::Result<()> {
        let dropped = metrics.access_log_dropped.clone();
        // The thread is not started before there is an output: programs without a log need none.
        let writer = Writer::start(sink, self.format, dropped)?;
        // A second call has no effect; its writer ends when it is dropped.
        drop(self.writer.set(writer));
        self.update_on();
        Ok(())
    }

    /// Waits until all lines so far are written, at most `timeout`.
    pub(crate) fn flush(&self, timeout: Duration) {
        if let Some(writer) = self.writer.get() {
            writer.flush(timeout);
        }
    }

    /// Starts the entry of a request.
    pub(crate) fn begin(self: &Arc<Self>, head: &Parts, route: Route) -> LogEntry {
        let record = self
            .on
            .load(Ordering::Relaxed)
            // Nothing is allocated or filtered while the log is off.
            .then(|| Box::new(Record::new(Arc::clone(self), head, route)));
        LogEntry {
            record,
            instance_label: None,
            // Until it is known: whatever ends the request now refuses it.
            merging: (route == Route::ReceiptPath).then_some(Err(NotMerged::Refused)),
        }
    }

    /// Recomputes `on` after a change of the settings or of the writer.
    fn update_on(&self) {
        // `on` is true only if both are set, in whatever order that happens.
        let on = self.enabled.load(Ordering::Relaxed) && self.writer.get().is_some();
        self.on.store(on, Ordering::Relaxed);
    }

    /// Hands a record to the writer, or drops it: no request waits for the log.
    fn write(&self, record: Box<Record>) {
        if let Some(writer) = self.writer.get() {
            writer.write(record);
        }
    }
}

impl LogEntry {
    /// The counter for the bytes of the request body; `None` while the log is off.
    pub(crate) fn request_bytes(&mut self) -> Option<ByteCounter> {
        Some(self.record.as_mut()?.request_bytes())
    }

    /// Records the client's address.
    pub(crate) fn set_client(&mut self, client: Client) {
        if let Some(record) = &mut self.record {
            record.client = client.address();
        }
    }

    /// Records the instance and its tenant.
    pub(crate) fn set_identity(
        &mut self,
        identity: &Identity,
        head: &Parts,
        tenant: impl FnOnce() -> Option<Arc<str>>,
    ) {
        if let Some(record) = &mut self.record {
            record.set_instance(identity, head);
            record.tenant = tenant();
        }
    }

    /// Records a receipt that was understood.
    pub(crate) fn set_receipt(&mut self, receipt: &Receipt) {
        if let Some(record) = &mut self.record {
            record.set_receipt(receipt);
        }
    }

    /// Records how long a receipt waited for its batch, its token and the upstream.
    pub(crate) fn set_timing(&mut self, timing: &Timing) {
        if let Some(record) = &mut self.record {
            record.set_timing(timing);
        }
    }

    /// Records whether a receipt was merged. No other request can be.
    pub(crate) fn set_merging(&mut self, merging: Result<(), NotMerged>) {
        if let Some(known) = &mut self.merging {
            *known = merging;
        }
    }

    /// Whether the receipt was merged; `None` if the request is none.
    pub(crate) fn merging(&self) -> Option<Result<(), NotMerged>> {
        self.merging
    }

    /// Why the receipt was not merged; `None` if it was, or if the request is none.
    pub(crate) fn not_merged(&self) -> Option<NotMerged> {
        self.merging?.err()
    }

    /// Records how long a request that is passed through waited for its token.
    pub(crate) fn set_queue_wait(&mut self, wait: Duration) {
        if let Some(record) = &mut self.record {
            record.queue_wait = wait;
        }
    }

    /// Records that the response head has arrived, or that the upstream call failed.
    pub(crate) fn upstream_responded(&mut self, began: Instant) {
        if let Some(record) = &mut self.record {
            record.upstream_time = began.elapsed();
        }
    }

    /// Keeps the instance's label, for the list of failures.
    pub(crate) fn name_instance(&mut self, label: &str) {
        self.instance_label = Some(Box::from(label));
    }

    /// The label that was kept.
    pub(crate) fn instance_label(&self) -> Box<str> {
        let none = || Box::from(crate::observe::metrics::NONE);
        self.instance_label.clone().unwrap_or_else(none)
    }

    /// Records the response; `error` is the code of a response that the gateway
    /// itself made, `budget` the one that refused the request.
    pub(crate) fn set_response(
        &mut self,
        status: StatusCode,
        error: Option<&'static str>,
        budget: Option<&'static str>,
    ) {
        if let Some(record) = &mut self.record {
            record.status = Some(status);
            record.error = error;
            record.budget = budget;
            record.not_merged = self.merging.and_then(Result::err);
        }
    }

    /// The request has ended: writes the line, unless sampling leaves it out.
    pub(crate) fn finish(&mut self, bytes: u64, is_complete: bool, duration: Duration) {
        // `take`: the end of a request is written once, even if two parts of the code report it.
        let Some(mut record) = self.record.take() else {
            return;
        };
        if record.finish(bytes, is_complete, duration) {
            let log = Arc::clone(&record.log);
            log.write(record);
        }
    }
}
