//! The access log: one line for each client call, written to stdout.
//!
//! Owns what is remembered of a call for its line, and when one is written.
//! Refuses to hold up a call: lines go through a bounded channel to a thread
//! of their own, and what finds it full is dropped and counted. Invariants:
//! with the log off nothing is allocated or computed for it; no secret is in
//! a line, and none of a client's control characters.
//!
//! - [`record`]: what is told of a call, and its two forms;
//! - [`clean`]: what of a client's text may be told;
//! - [`writer`]: the thread that writes.

mod clean;
mod record;
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
use crate::observe::metrics::{InstanceSeries, Metrics, Route};
use crate::receipt::Receipt;
use crate::redact::Secrets;
pub(crate) use clean::WITHHELD;
use record::Record;
use writer::Writer;

/// The access log of one gateway.
#[derive(Debug)]
pub(crate) struct AccessLog {
    /// Calls are to be written, and there is somewhere to write them.
    on: AtomicBool,
    /// One in how many.
    sample: AtomicU32,
    /// What the settings keep secret.
    secrets: ArcSwapOption<Secrets>,
    /// Set once the program says where lines go.
    writer: OnceLock<Writer>,
    format: LogFormat,
    wanted: AtomicBool,
}

/// What is remembered of a call until it ends.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    /// `None` while the access log is off.
    record: Option<Box<Record>>,
    /// In whose figures a failure counts, as far as the instance may be named.
    pub(crate) failed: Option<Arc<InstanceSeries>>,
}

// === impl AccessLog ===

impl AccessLog {
    /// Writes nothing until [`write_to`](Self::write_to) says where.
    pub(crate) fn new(log: &config::Log, secrets: Option<Arc<Secrets>>) -> Self {
        let access_log = Self {
            on: AtomicBool::new(false),
            sample: AtomicU32::new(1),
            secrets: ArcSwapOption::empty(),
            writer: OnceLock::new(),
            format: log.format,
            wanted: AtomicBool::new(false),
        };
        access_log.renew(log, secrets);
        access_log
    }

    /// Puts other settings in force; the form of lines stays.
    pub(crate) fn renew(&self, log: &config::Log, secrets: Option<Arc<Secrets>>) {
        self.secrets.store(secrets);
        self.sample
            .store(log.access_sample.get(), Ordering::Relaxed);
        self.wanted
            .store(log.access == LogAccess::On, Ordering::Relaxed);
        self.switch();
    }

    /// Has lines written there from now on, by a thread of their own.
    ///
    /// # Errors
    /// The thread could not be started.
    pub(crate) fn write_to(
        &self,
        sink: Box<dyn Write + Send>,
        metrics: &Metrics,
    ) -> std::io::Result<()> {
        let dropped = metrics.access_log_dropped.clone();
        let writer = Writer::start(sink, self.format, dropped)?;
        // Whoever came first stays.
        drop(self.writer.set(writer));
        self.switch();
        Ok(())
    }

    /// Waits until every line so far is written, but no longer than this.
    pub(crate) fn flush(&self, patience: Duration) {
        if let Some(writer) = self.writer.get() {
            writer.flush(patience);
        }
    }

    /// Begins the trail of a call.
    pub(crate) fn begin(self: &Arc<Self>, head: &Parts, route: Route) -> Trail {
        let record = self
            .on
            .load(Ordering::Relaxed)
            .then(|| Box::new(Record::new(Arc::clone(self), head, route)));
        Trail {
            record,
            failed: None,
        }
    }

    fn switch(&self) {
        let on = self.wanted.load(Ordering::Relaxed) && self.writer.get().is_some();
        self.on.store(on, Ordering::Relaxed);
    }

    /// Writes a call's line, or drops it: no call waits for this.
    fn write(&self, record: Box<Record>) {
        if let Some(writer) = self.writer.get() {
            writer.write(record);
        }
    }
}

// === impl Trail ===

impl Trail {
    /// Where the bytes of the request's body are to be counted.
    pub(crate) fn request_bytes(&mut self) -> Option<ByteCounter> {
        Some(self.record.as_mut()?.request_bytes())
    }

    /// Who speaks.
    pub(crate) fn client(&mut self, client: Client) {
        if let Some(record) = &mut self.record {
            record.client = client.address();
        }
    }

    /// Which instance is called, and whose it is.
    pub(crate) fn identified(
        &mut self,
        identity: &Identity,
        head: &Parts,
        tenant: impl FnOnce() -> Option<Arc<str>>,
    ) {
        if let Some(record) = &mut self.record {
            record.identified(identity, head);
            record.tenant = tenant();
        }
    }

    /// A receipt that was understood.
    pub(crate) fn receipt(&mut self, receipt: &Receipt) {
        if let Some(record) = &mut self.record {
            record.receipt(receipt);
        }
    }

    /// How a receipt's caller's time was spent.
    pub(crate) fn timing(&mut self, timing: &Timing) {
        if let Some(record) = &mut self.record {
            record.timing(timing);
        }
    }

    /// A call that is passed through waited this long for its token.
    pub(crate) fn queued(&mut self, queue: Duration) {
        if let Some(record) = &mut self.record {
            record.queue_wait = queue;
        }
    }

    /// The upstream has given the head of its answer, or failed.
    pub(crate) fn upstream(&mut self, began: Instant) {
        if let Some(record) = &mut self.record {
            record.upstream_time = began.elapsed();
        }
    }

    /// As which instance a failure may be told.
    pub(crate) fn failed_instance(&self) -> Box<str> {
        let unnamed = || Box::from(crate::observe::metrics::NONE);
        self.failed
            .as_ref()
            .map_or_else(unnamed, |series| series.name.clone())
    }

    /// What the call is answered; `error` is the word for a failure that the
    /// gateway answers itself.
    pub(crate) fn answered(&mut self, status: StatusCode, error: Option<&'static str>) {
        if let Some(record) = &mut self.record {
            record.status = Some(status);
            record.error = error;
        }
    }

    /// The call has ended: its line is written, if it is one to be written.
    pub(crate) fn end(&mut self, bytes: u64, is_complete: bool, duration: Duration) {
        let Some(mut record) = self.record.take() else {
            return;
        };
        if record.end(bytes, is_complete, duration) {
            let log = Arc::clone(&record.log);
            log.write(record);
        }
    }
}
