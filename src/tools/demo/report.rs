//! What came of a demo, as text.
//!
//! Owns the table. Invariant: no line is longer than 80 characters.

use std::fmt;
use std::time::Duration;

use super::apps::Seen;
use super::audit::{Accounts, Promise};
use super::figures::{Figures, Pair};
use super::plan::{CAMPAIGN, What};
use crate::config::Config;

/// What came of a demo; displays as a table.
#[derive(Clone, Debug)]
pub struct Report {
    pub(super) figures: Figures,
    pub(super) promises: Vec<Promise>,
    pub(super) growth: Vec<Option<usize>>,
    latency: Duration,
    waits: [Waits; 4],
}

/// The added waits of one kind of calls.
#[derive(Clone, Debug)]
struct Waits {
    of: &'static str,
    /// Sorted.
    times: Vec<Duration>,
}

impl Report {
    pub(super) fn new(
        accounts: &Accounts<'_>,
        growth: Vec<Option<usize>>,
        latency: Duration,
    ) -> Self {
        let waits = |of, which: fn(&Seen) -> bool| {
            let times = accounts.apps.iter().filter(|seen| which(seen));
            let mut times: Vec<_> = times.filter_map(|seen| seen.added(latency)).collect();
            times.sort_unstable();
            Waits { of, times }
        };
        Self {
            figures: *accounts.gateway,
            promises: accounts.promises(),
            growth,
            latency,
            waits: [
                waits("receipts, instance within its budget", |seen| {
                    seen.is_receipt() && !seen.is_pressed()
                }),
                waits("receipts, instance beyond its budget", |seen| {
                    seen.is_receipt() && seen.is_pressed()
                }),
                waits("other calls, instance within its budget", |seen| {
                    !seen.is_receipt() && !seen.is_pressed()
                }),
                waits("other calls, instance beyond its budget", |seen| {
                    !seen.is_receipt() && seen.is_pressed()
                }),
            ],
        }
    }

    /// True if every promise was kept.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.promises.iter().all(|promise| promise.kept)
    }
}

impl Seen {
    fn is_receipt(&self) -> bool {
        matches!(self.order.what, What::Receipt { .. })
    }

    fn is_pressed(&self) -> bool {
        self.order.instance == CAMPAIGN
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures {
            receipts, others, ..
        } = self.figures;
        let all = self.figures.all();
        let row = |f: &mut fmt::Formatter<'_>, name, cells: [String; 3]| {
            let [receipts, others, all] = cells;
            writeln!(f, "  {name:<30}{receipts:>14}{others:>14}{all:>14}")
        };
        let of = |count: fn(Pair) -> u64| [receipts, others, all].map(|pair| grouped(count(pair)));
        writeln!(f)?;
        row(f, "", ["receipts", "other calls", "all"].map(str::to_owned))?;
        row(f, "calls by the apps", of(|pair| pair.by_apps))?;
        row(f, "calls upstream", of(|pair| pair.upstream))?;
        let saved = grouped(self.figures.saved);
        row(
            f,
            "saved by merging",
            [saved.clone(), "0".to_owned(), saved],
        )?;
        let factors = [receipts, others, all].map(factor);
        row(f, "calls by apps : calls upstream", factors)?;
        let refused = grouped(self.figures.refused);
        row(
            f,
            "refused by a bucket (429)",
            [String::new(), String::new(), refused],
        )?;

        writeln!(f)?;
        writeln!(f, "  {:<44}{:>14}{:>14}", "added wait", "p50", "p99")?;
        for waits in &self.waits {
            let (p50, p99) = (waits.percentile(50), waits.percentile(99));
            writeln!(f, "  {:<44}{p50:>14}{p99:>14}", waits.of)?;
        }
        let latency = self.latency.as_millis();
        writeln!(
            f,
            "  (measured by the apps: time to the full answer, less the sandbox's {latency} ms)"
        )?;

        if self.growth.iter().flatten().count() > 1 {
            writeln!(f)?;
            writeln!(
                f,
                "  '{CAMPAIGN}' spends its budget on sends: its receipts wait, and share calls."
            )?;
            write!(f, "  Receipts per upstream call, second by second: ")?;
            for average in self.growth.iter().take(10) {
                match average {
                    Some(average) => write!(f, "{average:>3}")?,
                    None => write!(f, "  -")?,
                }
            }
            writeln!(f)?;
        }

        writeln!(f)?;
        writeln!(f, "  checked against what the sandbox received")?;
        for promise in &self.promises {
            let mark = if promise.kept { "ok    " } else { "BROKEN" };
            writeln!(f, "    {mark}  {}", promise.text)?;
        }
        writeln!(f)?;
        let default = Config::default();
        writeln!(
            f,
            "To point an app at it: run `wawp-gateway serve`, then change the app's"
        )?;
        writeln!(
            f,
            "base URL from {} to http://{}.",
            default.upstream.url, default.server.listen
        )
    }
}

impl Waits {
    /// The nearest rank.
    fn percentile(&self, percent: usize) -> String {
        let rank = (self.times.len() * percent).div_ceil(100).max(1);
        match self.times.get(rank - 1) {
            Some(time) => format!("{:.0} ms", time.as_secs_f64() * 1000.0),
            None => "-".to_owned(),
        }
    }
}

pub(super) fn factor(pair: Pair) -> String {
    match pair.merge_factor() {
        Some(factor) => format!("{factor:.1} : 1"),
        None => "-".to_owned(),
    }
}

/// A number with a comma after every third digit.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let times = (1..=100).map(Duration::from_millis).collect();
        let waits = Waits { of: "", times };
        assert_eq!(
            (waits.percentile(50), waits.percentile(99)),
            ("50 ms".into(), "99 ms".into())
        );
        let none = Waits {
            of: "",
            times: vec![],
        };
        assert_eq!(none.percentile(99), "-");
    }
}
