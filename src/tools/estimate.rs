//! `wawp-gateway estimate`: what the gateway would do with the traffic of an access log.
//!
//! One thread reads the logs; the others each replay some of the settings that are
//! tried. Invariants: the gateway's own batches and buckets decide, in the time of
//! the log; memory holds open requests, not the log; no text of a line gets into
//! the output; requests that are left out are counted and reported.
//!
//! - `log_files`, `formats`, `timestamp`, `line`: from files to requests;
//! - `arrival`, `arrival_order`: requests in the order of their arrival;
//! - `replay`, `pending`, `waits`: one setting tried on them;
//! - `outcome`, `timeline`: what a setting would have done, and how busy the log is;
//! - `report`: three rows and the recommended settings; `report_page`: all of it with charts.

mod arrival;
mod arrival_order;
mod formats;
mod line;
mod log_files;
mod offline;
mod outcome;
mod pending;
mod replay;
mod replayed;
mod report;
mod report_page;
mod timeline;
mod timestamp;
mod waits;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::config::{Config, Quota};
use crate::observe::metrics::NotMerged;
use arrival::{Arrival, RequestKind};
use arrival_order::ArrivalOrder;
use line::{Line, LineError, LineReader};
use log_files::LogFiles;
use outcome::Outcome;
use replay::Replay;
use timeline::Timeline;

pub use log_files::LogPosition;
pub use report::Report;

/// Windows that are tried in addition to the one of the settings.
const WINDOWS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
];

/// Rates that are tried in addition to the one of the settings.
const RATES: [f64; 3] = [5.0, 10.0, 20.0];

/// The burst if the settings have no limit: the default of `limit.burst`.
const BURST: NonZeroU32 = NonZeroU32::new(20).expect("not zero");

/// Requests that are handed to the workers at once, because a message for each would be slow.
const CHUNK: usize = 4096;
/// Chunks that may wait for each worker.
const QUEUE: usize = 8;

/// Why there is no estimate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A log cannot be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The log.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The log has only some of the requests.
    #[error(
        "{0}: the log is sampled, so it does not show which requests arrived together; record one with log.access_sample = 1"
    )]
    Sampled(LogPosition),
    /// Nothing could be read.
    #[error(
        "no request found in {lines} lines. Known formats: the gateway's own (JSON and text), Caddy (JSON), Traefik, nginx-proxy-manager, and the common and combined formats of nginx and Apache; also compressed with gzip, and behind the prefixes of journald, Docker and Kubernetes"
    )]
    Empty {
        /// Lines that are in no known format.
        lines: u64,
    },
    /// A worker thread ended early.
    #[error("the estimate broke off")]
    Broken,
}

/// What was found in the logs.
#[derive(Clone, Debug, Default)]
struct Counts {
    lines: u64,
    requests: u64,
    receipts: u64,
    /// Receipts for which the log shows instance and chat.
    mergeable: u64,
    /// Receipts for which the log shows no chat, so their merge key is unknown.
    keyless: u64,
    /// Receipts that would merge at no time, or only with equal ones, by reason.
    unmerged: BTreeMap<NotMerged, u64>,
    /// Requests for which the log shows no instance: their bucket is unknown.
    nameless: u64,
    /// Requests with a time in whole seconds.
    coarse: u64,
    unknown_lines: u64,
    first_unknown: Option<LogPosition>,
    /// Requests that are too far behind later ones.
    late: u64,
    first_late: Option<Late>,
    /// The first and the last arrival, in nanoseconds since 1970.
    span: Option<(u64, u64)>,
    timeline: Timeline,
}

/// A request that is out of order.
#[derive(Clone, Debug)]
struct Late {
    position: LogPosition,
    /// How much later a request before it in the log arrived.
    by: Duration,
}

/// A setting that was tried.
#[derive(Clone, Debug)]
struct Trial {
    window: Duration,
    quota: Option<Quota>,
    outcome: Outcome,
}

/// Estimates what these settings, and similar ones, would do with the requests of
/// these logs; `-` is the standard input. Shows on stderr how far it has come, if that is
/// a terminal.
///
/// # Errors
/// [`Error`] says why.
pub fn run(config: &Config, logs: &[PathBuf]) -> Result<Report, Error> {
    let progress = progress(logs);
    let report = run_with(config, logs, &progress);
    // Also after an error, whose message must not follow the bar.
    progress.finish_and_clear();
    report
}

/// A bar over the bytes of all logs. It draws nothing if stderr is no terminal.
fn progress(logs: &[PathBuf]) -> ProgressBar {
    let sizes = logs.iter().map(|path| {
        let file = std::fs::metadata(path)
            .ok()
            .filter(std::fs::Metadata::is_file);
        file.map(|file| file.len())
    });
    // The length of a pipe is unknown, and so is the total.
    let (bar, template) = match sizes.sum::<Option<u64>>() {
        Some(total) => (
            ProgressBar::new(total),
            "reading logs {wide_bar} {bytes} of {total_bytes}, {eta} left",
        ),
        None => (ProgressBar::no_length(), "reading logs {spinner} {bytes}"),
    };
    let style = ProgressStyle::with_template(template);
    bar.with_style(style.expect("the templates above are valid"))
}

fn run_with(config: &Config, logs: &[PathBuf], progress: &ProgressBar) -> Result<Report, Error> {
    let mut stdin = Some(io::stdin());
    let opened = logs.iter().map(|path| {
        let input: Box<dyn Read> = if path == Path::new("-") {
            match stdin.take() {
                Some(stdin) => Box::new(stdin),
                // Two readers would split its lines.
                None => Box::new(io::empty()),
            }
        } else {
            let opened = File::open(path);
            Box::new(opened.map_err(|error| Error::Io {
                path: path.clone(),
                error,
            })?)
        };
        let input: Box<dyn Read> = Box::new(progress.wrap_read(input));
        Ok((path.clone(), input))
    });
    estimate(config, opened.collect::<Result<_, _>>()?)
}

/// Replays the logs with every trial, spread over the cores.
fn estimate(config: &Config, logs: Vec<(PathBuf, Box<dyn Read>)>) -> Result<Report, Error> {
    let trials = trials(config);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    // Each worker replays several trials in turn: one thread per trial would contend for the cores.
    let workers = workers.min(trials.len()).max(1);
    thread::scope(|scope| {
        let mut senders = Vec::new();
        let mut threads = Vec::new();
        for worker in 0..workers {
            // Bounded: the reader waits for the slowest worker, so memory does not grow with the
            // log.
            let (sender, chunks) = sync_channel::<Arc<Vec<Arrival>>>(QUEUE);
            let share: Vec<_> = trials
                .iter()
                // Every n-th trial: neighbours cost about the same, so the work is spread evenly.
                .skip(worker)
                .step_by(workers)
                .cloned()
                .collect();
            senders.push(sender);
            threads.push(scope.spawn(move || {
                let mut replays: Vec<_> = share
                    .iter()
                    .map(|trial| Replay::new(trial.config(config)))
                    .collect();
                for chunk in chunks {
                    for replay in &mut replays {
                        // Replay by replay, so that the tables of one stay in the cache for a whole
                        // chunk.
                        chunk.iter().for_each(|arrival| replay.arrive(arrival));
                    }
                }
                let outcomes = replays.into_iter().map(Replay::finish);
                share
                    .into_iter()
                    .zip(outcomes)
                    .map(|(trial, outcome)| Trial { outcome, ..trial })
                    .collect::<Vec<_>>()
            }));
        }
        let read = read(config, logs, &senders);
        // The threads end when the senders are gone.
        drop(senders);
        let mut tried = Vec::new();
        for thread in threads {
            // Before an error of the reader is returned: a worker that panicked is the likelier
            // cause.
            tried.extend(thread.join().map_err(|_| Error::Broken)?);
        }
        Ok(Report::new(config, read?, tried))
    })
}

/// Reads the logs and hands the requests to the workers in the order of arrival.
fn read(
    config: &Config,
    logs: Vec<(PathBuf, Box<dyn Read>)>,
    senders: &[SyncSender<Arc<Vec<Arrival>>>],
) -> Result<Counts, Error> {
    let reader = LineReader::new(config);
    let (mut counts, mut ready) = (Counts::default(), Vec::new());
    let mut order = ArrivalOrder::default();
    let mut logs = LogFiles::new(logs)?;
    while let Some(log) = logs.next_line()? {
        counts.lines += 1;
        match reader.read(logs.line(log)) {
            Ok(line) => {
                counts.add(&line);
                let at = line.arrival.at;
                // Also for lines that are not replayed: their time shows how far the log has come.
                let newest = logs.record_time(at);
                // Without an instance the bucket is unknown, so replaying the request would fill a
                // wrong one.
                if !line.is_nameless && !order.push(line.arrival, line.is_coarse, log) {
                    counts.late += 1;
                    counts.first_late.get_or_insert_with(|| Late {
                        position: logs.position(log),
                        by: Duration::from_nanos(newest.saturating_sub(at)),
                    });
                }
                order.release(logs.all_reached(), &mut ready);
            }
            // A sample hides the receipts that would have merged, so any figure would be wrong.
            Err(LineError::Sampled) => return Err(Error::Sampled(logs.position(log))),
            Err(LineError::Unknown) => {
                counts.unknown_lines += 1;
                counts
                    .first_unknown
                    .get_or_insert_with(|| logs.position(log));
            }
        }
        if ready.len() >= CHUNK {
            hand_over(&mut ready, senders)?;
        }
    }
    order.finish(&mut ready);
    hand_over(&mut ready, senders)?;
    if counts.requests == 0 {
        return Err(Error::Empty {
            lines: counts.lines,
        });
    }
    Ok(counts)
}

/// Sends the released requests to every worker.
fn hand_over(
    ready: &mut Vec<Arrival>,
    senders: &[SyncSender<Arc<Vec<Arrival>>>],
) -> Result<(), Error> {
    // Shared, because every worker replays every request.
    let chunk = Arc::new(std::mem::take(ready));
    for sender in senders {
        sender.send(Arc::clone(&chunk)).map_err(|_| Error::Broken)?;
    }
    Ok(())
}

/// The settings that are tried, each window with each rate.
fn trials(config: &Config) -> Vec<Trial> {
    let mut windows = WINDOWS.to_vec();
    windows.push(config.batch.window);
    windows.sort_unstable();
    windows.dedup();
    let burst = config.limit.quota.map_or(BURST, |quota| quota.burst);
    let mut quotas: Vec<_> = RATES
        .iter()
        .filter_map(|&rate| Quota::new(rate, burst).ok())
        .map(Some)
        .collect();
    if !quotas.contains(&config.limit.quota) {
        quotas.push(config.limit.quota);
    }
    quotas.sort_by(|a, b| {
        // No limit is the highest rate.
        let rate = |quota: &Option<Quota>| quota.map_or(f64::INFINITY, |quota| quota.rate);
        rate(a).total_cmp(&rate(b))
    });
    let pairs = quotas
        .iter()
        .flat_map(|quota| windows.iter().map(move |window| (*quota, *window)));
    pairs
        .map(|(quota, window)| Trial {
            window,
            quota,
            outcome: Outcome::default(),
        })
        .collect()
}

impl Trial {
    /// The settings with the window and the quota of this trial.
    fn config(&self, config: &Config) -> Config {
        let mut config = config.clone();
        config.batch.window = self.window;
        config.limit.quota = self.quota;
        config
    }
}

impl Counts {
    fn add(&mut self, line: &Line) {
        let is_receipt = line.arrival.kind != RequestKind::Other || line.reason.is_some();
        let is_clear = !line.is_keyless && !line.is_nameless && line.reason.is_none();
        let is_mergeable = is_receipt && is_clear;
        if let Some(reason) = line.reason {
            *self.unmerged.entry(reason).or_default() += 1;
        }
        self.requests += 1;
        self.receipts += u64::from(is_receipt);
        self.mergeable += u64::from(is_mergeable);
        self.nameless += u64::from(line.is_nameless);
        self.keyless += u64::from(line.is_keyless && !line.is_nameless);
        self.coarse += u64::from(line.is_coarse);
        // The logs of several replicas overlap, so the span is not first to last line.
        let at = line.arrival.at;
        let (first, last) = self.span.unwrap_or((at, at));
        self.span = Some((first.min(at), last.max(at)));
        self.timeline.add(at, is_receipt);
    }

    /// Requests that were replayed.
    fn replayed(&self) -> u64 {
        self.requests - self.nameless - self.late
    }
}
