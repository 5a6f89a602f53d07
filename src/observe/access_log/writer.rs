//! The writer thread.
//!
//! Invariants: handing over a line never waits; the sink receives only whole
//! lines; lines that cannot be written are counted, with one warning.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError};
use std::time::Duration;

use prometheus::IntCounter;

use super::record::Record;
use crate::config::LogFormat;

/// Lines waiting to be written: about 4 MB at most.
const CAPACITY: usize = 8192;
/// Lines are collected for this time before they are written. This limits
/// wake-ups of the thread and system calls to about a hundred per second.
const GATHER: Duration = Duration::from_millis(10);
/// Bytes collected at most before they are written.
const MAX_BUFFERED: usize = 64 * 1024;
/// The pause before a flush tries again to enter a full channel.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// Hands lines to the writer thread.
#[derive(Debug)]
pub(super) struct Writer {
    lines: SyncSender<Message>,
    dropped: IntCounter,
}

/// What the thread receives.
#[derive(Debug)]
enum Message {
    Line(Box<Record>),
    /// Write all lines before this one now, then reply.
    Flush(SyncSender<()>),
}

impl Writer {
    /// Starts the thread; it ends with the process or with this handle.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub(super) fn start(
        sink: Box<dyn Write + Send>,
        format: LogFormat,
        dropped: IntCounter,
    ) -> io::Result<Self> {
        let (lines, received) = mpsc::sync_channel(CAPACITY);
        let thread = WriterThread {
            sink,
            format,
            dropped: dropped.clone(),
            text: Vec::new(),
            lines: 0,
            is_broken: false,
        };
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || thread.run(&received))?;
        Ok(Self { lines, dropped })
    }

    /// Hands a line over, or drops it.
    pub(super) fn write(&self, record: Box<Record>) {
        // Full, or the thread has ended; a worker must wait for neither.
        if self.lines.try_send(Message::Line(record)).is_err() {
            self.dropped.inc();
        }
    }

    /// Waits until all earlier lines are written, at most `timeout`: the reader of
    /// the log may be stuck.
    pub(super) fn flush(&self, timeout: Duration) {
        let (done, is_done) = mpsc::sync_channel(1);
        let mut message = Message::Flush(done);
        let mut left = timeout;
        // `SyncSender` has no send with a timeout, so a full channel is tried again.
        while let Err(TrySendError::Full(returned)) = self.lines.try_send(message) {
            message = returned;
            let Some(less) = left.checked_sub(FULL_PAUSE) else {
                return;
            };
            left = less;
            std::thread::sleep(FULL_PAUSE);
        }
        // If the thread has ended instead, nothing is left to be written.
        if is_done.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the access log's last lines could not be written in time");
        }
    }
}

/// The state of the thread.
struct WriterThread {
    sink: Box<dyn Write + Send>,
    format: LogFormat,
    dropped: IntCounter,
    text: Vec<u8>,
    /// Lines in `text`.
    lines: u64,
    /// The last write failed.
    is_broken: bool,
}

impl WriterThread {
    /// Writes until the handle is dropped.
    fn run(mut self, received: &Receiver<Message>) {
        // Blocks while there is nothing to write: an idle gateway causes no wake-ups.
        while let Ok(message) = received.recv() {
            self.take(message);
            self.gather(received);
            self.write();
        }
        self.write();
    }

    /// Collects the lines of the next 10 ms; after a flush only those already there.
    fn gather(&mut self, received: &Receiver<Message>) {
        if self.lines > 0 {
            // Lines that arrive during the sleep do not wake the thread.
            std::thread::sleep(GATHER);
        }
        loop {
            match received.try_recv() {
                Ok(message) => self.take(message),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }

    /// Formats a line, or completes a flush.
    fn take(&mut self, message: Message) {
        match message {
            Message::Line(record) => {
                record.append(self.format, &mut self.text);
                self.lines += 1;
                // A burst must not collect megabytes before the pause is over.
                if self.text.len() >= MAX_BUFFERED {
                    self.write();
                }
            }
            Message::Flush(done) => {
                self.write();
                // The caller may have timed out.
                done.try_send(()).ok();
            }
        }
    }

    /// Writes the collected lines to the sink.
    fn write(&mut self) {
        if self.lines == 0 {
            return;
        }
        let written = self
            .sink
            // One system call for many lines.
            .write_all(&self.text)
            .and_then(|()| self.sink.flush());
        if let Err(error) = written {
            // Some of them may have been written before the error; the count is an upper bound.
            self.dropped.inc_by(self.lines);
            // One warning per outage, not one per write: stderr may be the same broken disk.
            if !self.is_broken {
                tracing::warn!(%error, "the access log cannot be written: its lines are lost");
            }
            self.is_broken = true;
        } else {
            self.is_broken = false;
        }
        self.text.clear();
        self.lines = 0;
    }
}
