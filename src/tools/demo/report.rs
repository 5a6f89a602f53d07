//! The result of a demo, as text.
//!
//! Invariant: no line is longer than 60 characters.

use std::fmt;
use std::time::Duration;

use console::Style;
use tokio::time::Instant;

use super::apps::Observed;
use super::audit::replicas::{Killed, Part};
use super::audit::{Accounts, Check};
use super::figures::{Figures, Pair, factor};
use super::plan::{CAMPAIGN, Operation};
use super::screen::{Colours, wrapped};
use crate::config::Config;
use crate::grouped::grouped;

/// So many columns fit into a line; a longer demo changes little after that.
const SECONDS: usize = 10;

/// The result of a demo; displays as a table.
#[derive(Clone, Debug)]
pub struct Report {
    pub(super) figures: Figures,
    pub(super) checks: Vec<Check>,
    pub(super) growth: Vec<Option<usize>>,
    latency: Duration,
    waits: [AddedWaits; 4],
    /// `None` for a single gateway.
    replicas: Option<Parts>,
}

/// What several gateways did.
#[derive(Clone, Debug)]
struct Parts {
    gateways: Vec<Part>,
    killed: Option<Killed>,
    /// Their upstream calls of [`CAMPAIGN`] in each second.
    by_second: Vec<usize>,
}

/// The added waits of one kind of requests.
#[derive(Clone, Debug)]
struct AddedWaits {
    of: &'static str,
    /// Sorted.
    times: Vec<Duration>,
}

impl Report {
    /// `began`: when the traffic began.
    pub(super) fn new(accounts: &Accounts<'_>, began: Instant, latency: Duration) -> Self {
        let waits = |of, which: fn(&Observed) -> bool| {
            let times = accounts.apps.iter().filter(|observed| which(observed));
            let mut times: Vec<_> = times
                .filter_map(|observed| observed.added(latency))
                .collect();
            times.sort_unstable();
            AddedWaits { of, times }
        };
        Self {
            figures: accounts.figures(),
            checks: accounts.checks(),
            growth: accounts.growth(began),
            replicas: accounts.replicas.map(|replicas| Parts {
                gateways: accounts.parts(replicas),
                killed: replicas.killed,
                by_second: accounts.calls_by_second(began),
            }),
            latency,
            waits: [
                waits("receipts, instance within its limit", |observed| {
                    observed.is_receipt() && !observed.is_beyond_limit()
                }),
                waits("receipts, instance beyond its limit", |observed| {
                    observed.is_receipt() && observed.is_beyond_limit()
                }),
                waits("others, instance within its limit", |observed| {
                    !observed.is_receipt() && !observed.is_beyond_limit()
                }),
                waits("others, instance beyond its limit", |observed| {
                    !observed.is_receipt() && observed.is_beyond_limit()
                }),
            ],
        }
    }

    /// Whether every check passed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }
}

impl Observed {
    fn is_receipt(&self) -> bool {
        matches!(self.request.operation, Operation::Receipt { .. })
    }

    /// Whether its instance sends more than its limit allows.
    fn is_beyond_limit(&self) -> bool {
        self.request.instance == CAMPAIGN
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, &Colours::new(false))
    }
}

/// A report with colours.
#[derive(Debug)]
pub(super) struct Coloured<'r>(pub(super) &'r Report, pub(super) &'r Colours);

impl fmt::Display for Coloured<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f, self.1)
    }
}

impl Report {
    /// Everything; the main table last, so that it stays on the screen.
    fn write(&self, f: &mut fmt::Formatter<'_>, colours: &Colours) -> fmt::Result {
        self.write_growth(f)?;
        let title = |text: &'static str| colours.title.apply_to(text);
        writeln!(
            f,
            "{}",
            title(" checked against what the stand-in received")
        )?;
        for check in &self.checks {
            let (mark, style) = match check.passed {
                true => ("ok", &colours.good),
                false => ("BROKEN", &colours.bad),
            };
            let text = wrapped(&format!(" {mark:<6} {}", check.text), 8);
            // After the wrapping, which counts characters.
            let text = text.replacen(mark, &style.apply_to(mark).to_string(), 1);
            writeln!(f, "{text}")?;
        }
        self.write_waits(f, colours)?;
        // The address of a real gateway, not the free port of the demo.
        let default = Config::default();
        writeln!(
            f,
            "\nTo point an app at it: run `wawp-gateway`, then change\n\
             the app's base URL from {}\nto http://{}.\n",
            default.upstream.url, default.server.listen
        )?;
        if let Some(replicas) = &self.replicas {
            replicas.write_gateways(f, colours)?;
        }
        self.write_figures(f, colours)
    }

    /// Requests and upstream calls by kind.
    fn write_figures(&self, f: &mut fmt::Formatter<'_>, colours: &Colours) -> fmt::Result {
        let (receipts, others) = (self.figures.receipts, self.figures.others);
        let pairs = [receipts, others, self.figures.all()];
        let mut row = |style: &Style, name, [receipts, others, all]: [String; 3]| {
            let row = format!(" {name:<26}{receipts:>11}{others:>11}{all:>11}");
            writeln!(f, "{}", style.apply_to(row))
        };
        let plain = Style::new();
        let counts = |count: fn(Pair) -> u64| pairs.map(|pair| grouped(count(pair)));
        let [saved, refused] = [self.figures.saved, self.figures.refused].map(grouped);
        let columns = ["receipts", "others", "all"].map(str::to_owned);
        row(&colours.title, "", columns)?;
        row(
            &colours.apps,
            "requests of the apps",
            counts(|pair| pair.by_apps),
        )?;
        row(
            &colours.upstream,
            "upstream calls",
            counts(|pair| pair.upstream),
        )?;
        let saved = [saved.clone(), "0".to_owned(), saved];
        row(&colours.good, "saved by merging", saved)?;
        row(&plain, "requests : upstream calls", pairs.map(factor))?;
        // Refusals are counted by instance, not by kind of request.
        let none = String::new;
        row(
            &plain,
            "refused by a bucket (429)",
            [none(), none(), refused],
        )
    }

    /// Percentiles of the added waits.
    fn write_waits(&self, f: &mut fmt::Formatter<'_>, colours: &Colours) -> fmt::Result {
        let latency = self.latency.as_millis();
        let title = format!("\n {:<39}{:>10}{:>10}", "added wait", "p50", "p99");
        writeln!(f, "{}", colours.title.apply_to(title))?;
        for waits in &self.waits {
            let (p50, p99) = (waits.percentile(50), waits.percentile(99));
            writeln!(f, " {:<39}{p50:>10}{p99:>10}", waits.of)?;
        }
        let note = format!(" (by the apps, to the full response, without the API's {latency} ms)");
        writeln!(f, "{}", colours.quiet.apply_to(wrapped(&note, 2)))
    }

    /// How merging grows while an instance has no bucket tokens.
    fn write_growth(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One second shows no growth.
        if self.growth.iter().flatten().count() < 2 {
            return Ok(());
        }
        writeln!(
            f,
            " '{CAMPAIGN}' sends up to its limit, so its receipts wait\n \
             and merge. Receipts per upstream call in each second:"
        )?;
        for average in self.growth.iter().take(SECONDS) {
            match average {
                Some(average) => write!(f, "{average:>4}")?,
                None => write!(f, "   -")?,
            }
        }
        writeln!(f, "\n")?;
        let Some(replicas) = &self.replicas else {
            return Ok(());
        };
        writeln!(
            f,
            " All its upstream calls in each second, of all gateways:"
        )?;
        for calls in replicas.by_second.iter().take(SECONDS) {
            write!(f, "{calls:>4}")?;
        }
        writeln!(f, "\n")
    }
}

impl Parts {
    /// What each gateway did.
    fn write_gateways(&self, f: &mut fmt::Formatter<'_>, colours: &Colours) -> fmt::Result {
        let mut row = |style: &Style, name: String, [requests, calls, shared]: [String; 3]| {
            let row = format!(" {name:<26}{requests:>11}{calls:>11}{shared:>11}");
            writeln!(f, "{}", style.apply_to(row))
        };
        let columns = ["requests", "calls", "shared"].map(str::to_owned);
        row(&colours.title, "gateway".to_owned(), columns)?;
        for (index, part) in self.gateways.iter().enumerate() {
            let killed = self.killed.filter(|killed| killed.gateway == index);
            let name = match killed {
                Some(killed) => format!(
                    "{}, killed after {:.1} s",
                    index + 1,
                    killed.after.as_secs_f64()
                ),
                None => (index + 1).to_string(),
            };
            let figures = [part.requests, part.calls, part.shared_calls];
            row(&Style::new(), name, figures.map(grouped))?;
        }
        let note = " (shared: calls with receipts that other gateways had received)";
        writeln!(f, "{}\n", colours.quiet.apply_to(wrapped(note, 2)))
    }
}

impl AddedWaits {
    /// The nearest rank.
    fn percentile(&self, percent: usize) -> String {
        // At least 1: `rank - 1` must not underflow for an empty list.
        let rank = (self.times.len() * percent).div_ceil(100).max(1);
        match self.times.get(rank - 1) {
            Some(time) => format!("{:.0} ms", time.as_secs_f64() * 1000.0),
            None => "-".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let times = (1..=100).map(Duration::from_millis).collect();
        let waits = AddedWaits { of: "", times };
        assert_eq!(
            (waits.percentile(50), waits.percentile(99)),
            ("50 ms".into(), "99 ms".into())
        );
        let none = AddedWaits {
            of: "",
            times: vec![],
        };
        assert_eq!(none.percentile(99), "-");
    }
}
