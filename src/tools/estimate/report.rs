//! What an estimate found, as text.
//!
//! Invariants: no line is longer than 100 characters, and nothing of the log
//! is in it but counts and the number of a line.

use std::fmt;
use std::time::Duration;

use super::waits::Waits;
use super::{Late, Seen, Trial};
use crate::config::{Config, Quota};

/// A window is chosen that saves this share of what the best one saves: longer
/// ones hold every receipt up for little more.
const ENOUGH: f64 = 0.9;

/// What an estimate found; displays as a table and the settings to choose.
#[derive(Clone, Debug)]
pub struct Report {
    seen: Seen,
    trials: Vec<Trial>,
    window: Duration,
    quota: Option<Quota>,
}

impl Report {
    pub(super) fn new(config: &Config, seen: Seen, mut trials: Vec<Trial>) -> Self {
        let rate = |quota: Option<Quota>| quota.map_or(f64::INFINITY, |quota| quota.rate);
        trials.sort_by(|a, b| {
            let rates = rate(a.quota).total_cmp(&rate(b.quota));
            rates.then(a.window.cmp(&b.window))
        });
        Self {
            seen,
            trials,
            window: config.batch.window,
            quota: config.limit.quota,
        }
    }

    /// Upstream calls that the settings in force would save.
    #[must_use]
    pub fn saved(&self) -> u64 {
        self.in_force().map_or(0, |trial| trial.outcome.saved)
    }

    /// Calls that the settings in force would refuse.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.in_force().map_or(0, |trial| trial.outcome.refused)
    }

    fn in_force(&self) -> Option<&Trial> {
        let mut trials = self.trials.iter();
        trials.find(|trial| trial.window == self.window && trial.quota == self.quota)
    }

    /// The lowest rate that refuses nobody, and there the shortest window that
    /// saves nearly what the best one does.
    fn choice(&self) -> Option<(&Trial, u64)> {
        let refuses = |quota| {
            let of = self.trials.iter().filter(move |trial| trial.quota == quota);
            of.map(|trial| trial.outcome.refused).min().unwrap_or(0)
        };
        let least = self.trials.iter().map(|trial| refuses(trial.quota)).min()?;
        let quota = self
            .trials
            .iter()
            .find(|trial| refuses(trial.quota) == least)?
            .quota;
        let same = || self.trials.iter().filter(|trial| trial.quota == quota);
        let most = same().map(|trial| trial.outcome.saved).max()?;
        let good = same().find(|trial| {
            trial.outcome.saved as f64 >= most as f64 * ENOUGH && trial.outcome.refused == least
        });
        Some((good.or_else(|| same().next_back())?, most))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = &self.seen;
        let span = seen.span.map_or(0, |(first, last)| last - first) / 1_000_000_000;
        writeln!(
            f,
            "{} calls in {span} s, {} of them read receipts",
            seen.calls, seen.receipts
        )?;
        if let Some(place) = &seen.first_unread {
            writeln!(f, "{} lines not understood, the first {place}", seen.unread)?;
        }
        if let Some(Late { place, by }) = &seen.first_late {
            let seconds = by.as_secs_f64();
            writeln!(
                f,
                "{} calls stand too late in their log and are left out: they took more than a minute, or\n  \
                 it is not in order; the first is {place}, behind one that came {seconds:.0} s later",
                seen.late
            )?;
        }
        if seen.nameless > 0 {
            writeln!(
                f,
                "{} calls tell no instance in the log (it may be in their bodies): left out",
                seen.nameless
            )?;
        }
        if seen.keyless > 0 {
            writeln!(
                f,
                "{} receipts tell no chat in the log (it is in their bodies): counted as not merged",
                seen.keyless
            )?;
        }
        if seen.coarse > 0 {
            writeln!(
                f,
                "{} calls are timed to the second only and taken to come evenly over it: a rough guess",
                seen.coarse
            )?;
        }
        if seen.played() == 0 {
            return writeln!(f, "\nNo call is left to play: nothing is advised.");
        }
        writeln!(
            f,
            "\n{:>7} {:>8} {:>10} {:>10} {:>9}   {:>17}   {:>17}",
            "rate/s",
            "window",
            "upstream",
            "saved",
            "refused",
            "receipts p50/p99",
            "others p50/p99"
        )?;
        for trial in &self.trials {
            let outcome = &trial.outcome;
            let mark = match self.in_force() {
                Some(own) if own.window == trial.window && own.quota == trial.quota => {
                    "  < in force"
                }
                _ => "",
            };
            writeln!(
                f,
                "{:>7} {:>8} {:>10} {:>10} {:>9}   {:>17}   {:>17}{mark}",
                rate(trial.quota),
                millis(Some(trial.window)),
                outcome.upstream,
                outcome.saved,
                outcome.refused,
                both(&outcome.receipts),
                both(&outcome.calls),
            )?;
        }
        let Some((choice, most)) = self.choice() else {
            return Ok(());
        };
        let window = millis(Some(choice.window)).replace(' ', "");
        writeln!(f, "\nbatch.window = \"{window}\"")?;
        writeln!(
            f,
            "  the shortest that saves {:.0} % or more of what the longest does ({} of {most} calls)",
            ENOUGH * 100.0,
            choice.outcome.saved
        )?;
        let numeric = choice.quota.map_or(0.0, |quota| quota.rate);
        writeln!(f, "limit.rate = {numeric}")?;
        match choice.outcome.refused {
            0 => writeln!(f, "  the lowest of those tried at which nothing is refused"),
            refused => writeln!(
                f,
                "  the lowest of those with the fewest refusals ({refused}): the upstream is asked for more than that"
            ),
        }?;
        writeln!(
            f,
            "\nOne bucket per instance and class; repeats, splits, pauses, tenants and [egress] are not played."
        )
    }
}

fn rate(quota: Option<Quota>) -> String {
    quota.map_or_else(|| "none".to_owned(), |quota| quota.rate.to_string())
}

fn both(waits: &Waits) -> String {
    let text = |percent| millis(waits.percentile(percent));
    format!("{}/{}", text(50), text(99))
}

fn millis(time: Option<Duration>) -> String {
    time.map_or_else(
        || "-".to_owned(),
        |time| format!("{:.0} ms", time.as_secs_f64() * 1000.0),
    )
}
