//! The thread that writes the lines.
//!
//! Invariants: whoever hands over a line never waits; a line is written whole
//! or not at all as far as that is in our hands; what cannot be written is
//! counted, and said once.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError};
use std::time::Duration;

use prometheus::IntCounter;

use super::record::Record;
use crate::config::LogFormat;

/// Lines that may wait to be written; some 4 MB at the most.
const CAPACITY: usize = 8192;
/// Lines are gathered this long before they are written: it bounds the wakings
/// of the thread and the system calls to a hundred a second.
const GATHER: Duration = Duration::from_millis(10);
/// More text than this is not held back.
const PIECE: usize = 64 * 1024;
/// Somebody waits for a full channel to have room for the mark of a flush.
const ROOM_PAUSE: Duration = Duration::from_millis(1);

/// Hands lines to the thread that writes them.
#[derive(Debug)]
pub(super) struct Writer {
    lines: SyncSender<Message>,
    dropped: IntCounter,
}

#[derive(Debug)]
enum Message {
    Line(Box<Record>),
    /// Everything before this is to be written now; then it is answered.
    Flush(SyncSender<()>),
}

impl Writer {
    /// Starts the thread, which ends with the process or with this handle.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub(super) fn start(
        sink: Box<dyn Write + Send>,
        format: LogFormat,
        dropped: IntCounter,
    ) -> io::Result<Self> {
        let (lines, received) = mpsc::sync_channel(CAPACITY);
        let page = Page {
            sink,
            format,
            dropped: dropped.clone(),
            text: Vec::new(),
            lines: 0,
            is_broken: false,
        };
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || page.keep(&received))?;
        Ok(Self { lines, dropped })
    }

    /// Hands a line over, or drops it.
    pub(super) fn write(&self, record: Box<Record>) {
        if self.lines.try_send(Message::Line(record)).is_err() {
            self.dropped.inc();
        }
    }

    /// Waits until all lines handed over before have been written, or this
    /// long: nobody may read what we write.
    pub(super) fn flush(&self, patience: Duration) {
        let (done, is_done) = mpsc::sync_channel(1);
        let mut message = Message::Flush(done);
        let mut left = patience;
        while let Err(TrySendError::Full(returned)) = self.lines.try_send(message) {
            message = returned;
            let Some(less) = left.checked_sub(ROOM_PAUSE) else {
                return;
            };
            left = less;
            std::thread::sleep(ROOM_PAUSE);
        }
        if is_done.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the access log's last lines could not be written in time");
        }
    }
}

/// What the thread holds.
struct Page {
    sink: Box<dyn Write + Send>,
    format: LogFormat,
    dropped: IntCounter,
    text: Vec<u8>,
    /// In `text`.
    lines: u64,
    /// Writing has failed before.
    is_broken: bool,
}

impl Page {
    fn keep(mut self, received: &Receiver<Message>) {
        while let Ok(message) = received.recv() {
            self.take(message);
            self.gather(received);
            self.write();
        }
        self.write();
    }

    /// Takes what comes within a moment, or all that is there if somebody
    /// waits for it.
    fn gather(&mut self, received: &Receiver<Message>) {
        if self.lines > 0 {
            // Many come in this time, and none of them need wake anybody.
            std::thread::sleep(GATHER);
        }
        loop {
            match received.try_recv() {
                Ok(message) => self.take(message),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Line(record) => {
                record.append(self.format, &mut self.text);
                self.lines += 1;
                if self.text.len() >= PIECE {
                    self.write();
                }
            }
            Message::Flush(done) => {
                self.write();
                // Whoever asked may have lost patience.
                done.try_send(()).ok();
            }
        }
    }

    fn write(&mut self) {
        if self.lines == 0 {
            return;
        }
        let written = self
            .sink
            .write_all(&self.text)
            .and_then(|()| self.sink.flush());
        if let Err(error) = written {
            self.dropped.inc_by(self.lines);
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
