//! What the gateway would do to the traffic of an access log.
//!
//! Owns `wawp-gateway estimate`: one thread reads, the others each play some of
//! the settings in question on every call. Invariants: the gateway's own
//! batches and buckets decide, in the log's time; memory holds what is open,
//! not the log; no text of a line gets into any output; what is not played is
//! counted and said.

mod line;
mod logs;
mod moment;
mod offline;
mod order;
mod play;
mod report;
mod waits;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use crate::config::{Config, Quota};
use line::{Reader, Unread};
use logs::Logs;
use order::Order;
use play::{Arrival, Outcome, Play};

pub use logs::Place;
pub use report::Report;

/// Windows that are tried beside the one in force.
const WINDOWS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
];

/// Rates that are tried beside the one in force.
const RATES: [f64; 3] = [5.0, 10.0, 20.0];

/// Calls at once where the settings in force have no limit: the default.
const BURST: NonZeroU32 = NonZeroU32::new(20).expect("not zero");

/// Calls handed over at once; with `QUEUE` a bound on what is under way.
const CHUNK: usize = 4096;
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
    /// The log holds only some of the calls.
    #[error(
        "{0}: a sampled log (one call in several) cannot tell what came together; record one with every call"
    )]
    Sampled(Place),
    /// Nothing could be read.
    #[error(
        "no call found in {lines} lines; known are the gateway's own JSON, Caddy JSON, Traefik, and the common and combined formats"
    )]
    Empty {
        /// Lines that are in no known format.
        lines: u64,
    },
    /// A player's thread ended early.
    #[error("an estimate broke off")]
    Broken,
}

/// What was read.
#[derive(Clone, Debug, Default)]
struct Seen {
    lines: u64,
    calls: u64,
    receipts: u64,
    keyless: u64,
    /// Calls whose instance, and so whose bucket, the log does not tell.
    nameless: u64,
    coarse: u64,
    unread: u64,
    first_unread: Option<Place>,
    /// Calls that stand behind others that came too long after them.
    late: u64,
    first_late: Option<Late>,
    span: Option<(u64, u64)>,
}

/// A call out of its log's order.
#[derive(Clone, Debug)]
struct Late {
    place: Place,
    /// After a call that came this much later.
    by: Duration,
}

/// A setting that was tried.
#[derive(Clone, Debug)]
struct Trial {
    window: Duration,
    quota: Option<Quota>,
    outcome: Outcome,
}

/// Estimates what these settings, and others near them, would do to the calls
/// of these logs; `-` is the standard input.
///
/// # Errors
/// [`Error`] says why.
pub fn run(config: &Config, logs: &[PathBuf]) -> Result<Report, Error> {
    let mut stdin = Some(io::stdin());
    let opened = logs.iter().map(|path| {
        let input: Box<dyn Read> = if path == Path::new("-") {
            match stdin.take() {
                Some(stdin) => Box::new(stdin),
                // Two readers would tear its lines apart.
                None => Box::new(io::empty()),
            }
        } else {
            let opened = File::open(path);
            Box::new(opened.map_err(|error| Error::Io {
                path: path.clone(),
                error,
            })?)
        };
        Ok((path.clone(), input))
    });
    estimate(config, opened.collect::<Result<_, _>>()?)
}

fn estimate(config: &Config, logs: Vec<(PathBuf, Box<dyn Read>)>) -> Result<Report, Error> {
    let trials = trials(config);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let workers = workers.min(trials.len()).max(1);
    thread::scope(|scope| {
        let mut senders = Vec::new();
        let mut players = Vec::new();
        for worker in 0..workers {
            let (sender, chunks) = sync_channel::<Arc<Vec<Arrival>>>(QUEUE);
            let share: Vec<_> = trials
                .iter()
                .skip(worker)
                .step_by(workers)
                .cloned()
                .collect();
            senders.push(sender);
            players.push(scope.spawn(move || {
                let mut plays: Vec<_> = share
                    .iter()
                    .map(|trial| Play::new(trial.config(config)))
                    .collect();
                for chunk in chunks {
                    for play in &mut plays {
                        chunk.iter().for_each(|arrival| play.play(arrival));
                    }
                }
                let outcomes = plays.into_iter().map(Play::end);
                share
                    .into_iter()
                    .zip(outcomes)
                    .map(|(trial, outcome)| Trial { outcome, ..trial })
                    .collect::<Vec<_>>()
            }));
        }
        let read = read(config, logs, &senders);
        // Without this the players would wait for more.
        drop(senders);
        let mut played = Vec::new();
        for player in players {
            played.extend(player.join().map_err(|_| Error::Broken)?);
        }
        Ok(Report::new(config, read?, played))
    })
}

/// Reads the logs and hands their calls over in the order of their arrival.
fn read(
    config: &Config,
    logs: Vec<(PathBuf, Box<dyn Read>)>,
    senders: &[SyncSender<Arc<Vec<Arrival>>>],
) -> Result<Seen, Error> {
    let reader = Reader::new(config);
    let (mut seen, mut order, mut ready) = (Seen::default(), Order::default(), Vec::new());
    let mut logs = Logs::new(logs);
    while let Some(log) = logs.next_line()? {
        seen.lines += 1;
        match reader.read(logs.line(log)) {
            Ok(read) => {
                seen.note(&read);
                let at = read.arrival.at;
                let newest = logs.comes_to(at);
                if !read.nameless && !order.push(read.arrival, read.coarse, log) {
                    seen.late += 1;
                    seen.first_late.get_or_insert_with(|| Late {
                        place: logs.place(log),
                        by: Duration::from_nanos(newest.saturating_sub(at)),
                    });
                }
                order.release(logs.all_come_to(), &mut ready);
            }
            Err(Unread::Sampled) => return Err(Error::Sampled(logs.place(log))),
            Err(Unread::Unknown) => {
                seen.unread += 1;
                seen.first_unread.get_or_insert_with(|| logs.place(log));
            }
        }
        if ready.len() >= CHUNK {
            hand_over(&mut ready, senders)?;
        }
    }
    order.end(&mut ready);
    hand_over(&mut ready, senders)?;
    if seen.calls == 0 {
        return Err(Error::Empty { lines: seen.lines });
    }
    Ok(seen)
}

fn hand_over(
    ready: &mut Vec<Arrival>,
    senders: &[SyncSender<Arc<Vec<Arrival>>>],
) -> Result<(), Error> {
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
    fn config(&self, config: &Config) -> Config {
        let mut config = config.clone();
        config.batch.window = self.window;
        config.limit.quota = self.quota;
        config
    }
}

impl Seen {
    fn note(&mut self, read: &line::Read) {
        self.calls += 1;
        self.nameless += u64::from(read.nameless);
        self.keyless += u64::from(read.keyless && !read.nameless);
        self.coarse += u64::from(read.coarse);
        self.receipts += u64::from(read.arrival.what != play::What::Call);
        let at = read.arrival.at;
        let (first, last) = self.span.unwrap_or((at, at));
        self.span = Some((first.min(at), last.max(at)));
    }

    /// Calls that were played.
    fn played(&self) -> u64 {
        self.calls - self.nameless - self.late
    }
}
