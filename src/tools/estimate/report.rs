//! The result of an estimate, as text.
//!
//! Invariants: no line of text is longer than 80 characters, apart from the names of
//! logs; of the log it shows only counts and line numbers; nothing is recommended
//! without evidence.

use std::fmt;
use std::time::Duration;

use super::waits::Waits;
use super::{Counts, Late, Trial};
use crate::config::{Config, Quota};

/// A window is good if it saves this share of what the best one saves: longer
/// windows delay every receipt for little gain.
const ENOUGH_SAVED: f64 = 0.9;

/// Fewer requests are no evidence for a setting.
const ENOUGH_REQUESTS: u64 = 100;

/// The result of an estimate; displays as a table and recommended settings.
#[derive(Clone, Debug)]
pub struct Report {
    pub(super) counts: Counts,
    pub(super) trials: Vec<Trial>,
    window: Duration,
    quota: Option<Quota>,
}

/// The settings to recommend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice<'r> {
    pub(super) trial: &'r Trial,
    /// Upstream calls that the best window saves at the same rate.
    pub(super) most_saved: u64,
}

impl Report {
    pub(super) fn new(config: &Config, counts: Counts, mut trials: Vec<Trial>) -> Self {
        let rate = |quota: Option<Quota>| quota.map_or(f64::INFINITY, |quota| quota.rate);
        trials.sort_by(|a, b| {
            let rates = rate(a.quota).total_cmp(&rate(b.quota));
            rates.then(a.window.cmp(&b.window))
        });
        Self {
            counts,
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

    /// Requests that the settings in force would refuse.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.in_force().map_or(0, |trial| trial.outcome.refused)
    }

    pub(super) fn in_force(&self) -> Option<&Trial> {
        let mut trials = self.trials.iter();
        trials.find(|trial| self.is_in_force(trial))
    }

    pub(super) fn is_in_force(&self, trial: &Trial) -> bool {
        trial.window == self.window && trial.quota == self.quota
    }

    /// The lowest rate with the fewest refusals, and for that rate the shortest
    /// window that saves nearly what the best one does.
    fn choice(&self) -> Option<Choice<'_>> {
        let refuses = |quota| {
            let of = self.trials.iter().filter(move |trial| trial.quota == quota);
            of.map(|trial| trial.outcome.refused).min().unwrap_or(0)
        };
        let least = self.trials.iter().map(|trial| refuses(trial.quota)).min()?;
        let quota = self
            .trials
            .iter()
            // Trials are sorted by rate, so this is the lowest rate that refuses as few as any.
            .find(|trial| refuses(trial.quota) == least)?
            .quota;
        let same = || self.trials.iter().filter(|trial| trial.quota == quota);
        let most_saved = same().map(|trial| trial.outcome.saved).max()?;
        // And by window, so this is the shortest that is good enough.
        let good = same().find(|trial| {
            trial.outcome.saved as f64 >= most_saved as f64 * ENOUGH_SAVED
                && trial.outcome.refused == least
        });
        Some(Choice {
            // Without a window that has both the fewest refusals and most of the savings, the
            // longest one.
            trial: good.or_else(|| same().next_back())?,
            most_saved,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_counts(f)?;
        if self.counts.replayed() > 0 {
            self.write_table(f)?;
        }
        self.write_advice(f)
    }
}

impl Report {
    /// What was read, and what was left out and why.
    fn write_counts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        let span = counts.span.map_or(0, |(first, last)| last - first) / 1_000_000_000;
        let span = humantime::format_duration(Duration::from_secs(span));
        writeln!(
            f,
            "{} requests in {span}, {} of them read receipts",
            counts.requests, counts.receipts
        )?;
        if let Some(position) = &counts.first_unknown {
            let unknown = counts.unknown_lines;
            writeln!(f, "{unknown} lines not understood, the first is {position}")?;
        }
        if let Some(Late { position, by }) = &counts.first_late {
            let (late, seconds) = (counts.late, by.as_secs_f64());
            writeln!(
                f,
                "{late} requests are left out, because they took more than a minute or the log\n  \
                 is not in order; the first is {position},\n  \
                 after a request that arrived {seconds:.0} s later"
            )?;
        }
        for (count, text) in [
            (
                counts.nameless,
                "requests are left out, because the log does not show their instance",
            ),
            (
                counts.keyless,
                "receipts count as not merged: the log does not show their chat",
            ),
            (
                counts.coarse,
                "requests have a time in whole seconds; they are spread evenly",
            ),
        ] {
            if count > 0 {
                writeln!(f, "{count} {text}")?;
            }
        }
        // The names are those of `not_merged` in the gateway's access log.
        for (reason, count) in &counts.unmerged {
            writeln!(
                f,
                "{count} receipts would not merge as they are written: {reason}"
            )?;
        }
        Ok(())
    }

    /// Without merging, with the settings in force, and with the recommended ones.
    fn write_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<28}{:>8}{:>8}{:>8}{:>13}{:>13}",
            "", "upstream", "saved", "refused", "receipt wait", "other wait"
        )?;
        for (name, trial) in self.rows() {
            let outcome = &trial.outcome;
            writeln!(
                f,
                "{name:<28}{:>8}{:>8}{:>8}{:>13}{:>13}",
                outcome.upstream,
                outcome.saved,
                outcome.refused,
                both(&outcome.receipts),
                both(&outcome.others),
            )?;
        }
        writeln!(
            f,
            "\nWaits: median/99 of 100, for the window and a bucket token. One bucket per\n\
             instance and class; retries, splits, pauses, tenants and [egress] are not\n\
             simulated. --report FILE.html shows every window and rate that was tried."
        )
    }

    /// The trials that matter most, each with its name.
    pub(super) fn rows(&self) -> Vec<(String, &Trial)> {
        let of = |window: Duration, quota| {
            let mut trials = self.trials.iter();
            trials.find(move |trial| trial.window == window && trial.quota == quota)
        };
        let named = |name: &str, trial: &Trial| {
            let window = millis(Some(trial.window)).replace(' ', "");
            let rate = match trial.quota {
                Some(_) => format!("{}/s", rate(trial.quota)),
                None => "no limit".to_owned(),
            };
            format!("{name} {window}, {rate}")
        };
        // Without advice for the window, the one in force is the best that is known.
        let advised = match self.advice() {
            (_, Ok(choice)) => Some(choice.trial),
            (Ok(choice), Err(_)) => of(self.window, choice.trial.quota),
            (Err(_), Err(_)) => None,
        };
        let is_advised = advised.is_some_and(|trial| self.is_in_force(trial));
        let in_force = if is_advised {
            "in force, advised"
        } else {
            "in force"
        };
        let unmerged =
            of(Duration::ZERO, self.quota).map(|trial| (named("unmerged", trial), trial));
        let mut rows: Vec<_> = unmerged.into_iter().collect();
        rows.extend(self.in_force().map(|trial| (named(in_force, trial), trial)));
        rows.extend(
            advised
                .filter(|_| !is_advised)
                .map(|trial| (named("advised", trial), trial)),
        );
        rows
    }

    /// The recommended settings, each with its reason, or why there is none.
    fn write_advice(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (advice, window) = self.advice();
        match window {
            Ok(choice) => {
                let window = millis(Some(choice.trial.window)).replace(' ', "");
                writeln!(f, "\nbatch.window = \"{window}\"")?;
                writeln!(
                    f,
                    "  the shortest that saves {:.0} % of what the best does: {} of {} calls",
                    ENOUGH_SAVED * 100.0,
                    choice.trial.outcome.saved,
                    choice.most_saved
                )?;
            }
            Err(why) => {
                writeln!(f, "\nbatch.window: no recommendation, because {why}.")?;
                writeln!(
                    f,
                    "  Measure it instead: run the gateway with batch.mode = \"observe\", which changes\n  \
                     no request; the status page then says what merging would save."
                )?;
            }
        }
        match advice {
            Ok(choice) => {
                let rate = choice.trial.quota.map_or(0.0, |quota| quota.rate);
                writeln!(f, "limit.rate = {rate}")?;
                match choice.trial.outcome.refused {
                    0 => writeln!(f, "  the lowest rate tried at which no request is refused"),
                    refused => writeln!(
                        f,
                        "  the lowest rate tried with the fewest refusals ({refused}); all are too low"
                    ),
                }
            }
            Err(why) => {
                writeln!(f, "limit.rate: no recommendation, because {why}.")?;
                writeln!(
                    f,
                    "  Measure it instead: run the gateway with limit.mode = \"observe\"; the status\n  \
                     page then says what the limit would delay and refuse."
                )
            }
        }
    }

    /// The trial to recommend for the rate, and for the window, or why there is none.
    #[allow(clippy::type_complexity)] // two results of one kind, used by their names
    pub(super) fn advice(
        &self,
    ) -> (
        Result<Choice<'_>, &'static str>,
        Result<Choice<'_>, &'static str>,
    ) {
        // A wrong recommendation costs more than none: evidence is required for each setting.
        let advice = match self.missing_evidence() {
            Some(why) => Err(why),
            None => self.choice().ok_or("nothing was replayed"),
        };
        let window = advice.and_then(|choice| match () {
            // The rate needs only the instance of a request; the window also needs the chats.
            () if self.counts.mergeable < ENOUGH_REQUESTS => {
                Err("too few receipts show their chat")
            }
            () if choice.most_saved == 0 => Err("no receipts could have been merged"),
            () => Ok(choice),
        });
        (advice, window)
    }

    /// Why the logs are no basis for any recommendation.
    fn missing_evidence(&self) -> Option<&'static str> {
        let counts = &self.counts;
        // In a file of another kind, a few lines may look like requests by chance.
        if counts.unknown_lines > counts.lines / 2 {
            return Some("most lines are no access log");
        }
        let too_few = counts.replayed() < ENOUGH_REQUESTS;
        too_few.then_some("too few requests show their instance")
    }
}

pub(super) fn rate(quota: Option<Quota>) -> String {
    quota.map_or_else(|| "none".to_owned(), |quota| quota.rate.to_string())
}

/// The median and the 99th percentile.
pub(super) fn both(waits: &Waits) -> String {
    let text = |percent| millis(waits.percentile(percent));
    format!("{}/{}", text(50).trim_end_matches(" ms"), text(99))
}

pub(super) fn millis(time: Option<Duration>) -> String {
    time.map_or_else(
        || "-".to_owned(),
        |time| format!("{:.0} ms", time.as_secs_f64() * 1000.0),
    )
}
