//! The first screen: state, problems, figures, chart.

use std::fmt::Write as _;
use std::time::Duration;

use maud::{Markup, html};

use super::super::history::STEPS;
use super::super::problems::{self, Severity};
use super::super::state::Status;
use super::{rate, visible};
use crate::grouped::grouped;

/// So many of the last rates make the figure that is shown, about ten seconds: a single
/// one jumps.
const SMOOTHED: usize = 5;

/// Name, state and uptime.
pub(super) fn header(status: &Status) -> Markup {
    let (class, state) = if status.ready {
        ("good", "serving")
    } else {
        ("critical", "draining")
    };
    html! {
        header {
            h1 { "wawp-gateway" }
            span #state data-live class=(class) role="status" { (state) }
            span.quiet #uptime data-live { "version " (status.version) ", up for " (uptime(status.uptime)) }
        }
        noscript { p.quiet { "Without scripts this page reloads every 10 seconds." } }
    }
}

/// The notice that settings only observe, and what enforcing them would have done.
pub(super) fn observing(status: &Status) -> Markup {
    let observing = &status.observing;
    let would = observing.would;
    let which = match (observing.limit, observing.batch) {
        (true, true) => "limit.mode and batch.mode are “observe”",
        (true, false) => "limit.mode is “observe”",
        _ => "batch.mode is “observe”",
    };
    html! {
        div #observing data-live {
            @if observing.is_on() {
                section.banner aria-label="Observe mode" {
                    p {
                        strong { "Observing only: " } (which)
                        ", so requests are forwarded as if the gateway were not there."
                    }
                    p {
                        "Enforcing would have"
                        @if observing.batch { " saved " b { (grouped(would.save)) } " upstream calls" }
                        @if observing.batch && observing.limit { "," }
                        @if observing.limit {
                            " delayed " b { (grouped(would.delay)) } " and refused " b { (grouped(would.reject)) } " requests"
                        }
                        " since the start."
                    }
                }
            }
        }
    }
}

/// What is wrong now, or that all is well.
pub(super) fn problems(status: &Status) -> Markup {
    let lines = problems::lines(&status.problems);
    let instances = status.instances.instances.len();
    html! {
        section #problems .card data-live role="status" aria-label="What is wrong now" {
            @if lines.is_empty() {
                p {
                    strong.good { @if status.ready { "All is well." } @else { "Draining without problems." } }
                    " " (instances) " instance" @if instances != 1 { "s" }
                    ", " (rate(latest(&status.history.requests))) " requests per second."
                }
            }
            ul.problems {
                @for line in &lines {
                    li {
                        strong class=(class(line.kind.severity())) { (line.kind.title()) }
                        " " (visible(&line.text)) " "
                        a href={ "runbook#" (line.kind.runbook()) } { "what to do" }
                    }
                }
            }
        }
    }
}

/// The class of a severity in the style.
pub(super) fn class(severity: Severity) -> &'static str {
    match severity {
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    }
}

/// The figures that an operator looks at first.
pub(super) fn figures(status: &Status) -> Markup {
    let history = &status.history;
    // Before the first receipt there is no factor; 0 or infinity would be wrong.
    let factor = history
        .factor
        .map_or_else(|| "–".to_owned(), |factor| format!("{factor:.1}"));
    let share = match status.receipts {
        0 => 0.0,
        receipts => status.saved as f64 * 100.0 / receipts as f64,
    };
    html! {
        dl.figures #figures data-live {
            div { dt { "Requests per second" } dd #calls { (rate(latest(&history.requests))) } }
            div { dt { "Upstream per second" } dd #upstream { (rate(latest(&history.upstream))) } }
            div { dt { "Receipts per call" } dd #factor { (factor) } }
            div {
                dt { "Calls saved" }
                dd { span #saved { (grouped(status.saved)) } " " small.quiet { (format!("{share:.0} % of receipts")) } }
            }
            div { dt { "Requests in flight" } dd #in_flight { (status.in_flight) } }
            div { dt { "Connections" } dd #connections { (status.connections) } }
        }
    }
}

/// The mean of the last rates.
fn latest(rates: &[f64]) -> f64 {
    let last = &rates[rates.len().saturating_sub(SMOOTHED)..];
    if last.is_empty() {
        return 0.0;
    }
    last.iter().sum::<f64>() / last.len() as f64
}

/// The last two minutes.
pub(super) fn chart(status: &Status) -> Markup {
    let history = &status.history;
    let all = history.requests.iter().chain(&history.upstream);
    let top = all.copied().fold(1.0, f64::max);
    let [requests, upstream] = [&history.requests, &history.upstream].map(|of| points(of, top));
    html! {
        figure #chart .card data-live aria-label="Requests per second in the last two minutes" {
            figcaption.quiet {
                "Per second: " b.in { "requests from apps" } " (line), " b.out { "upstream calls" } " (dashes)"
            }
            div.plot {
                span.quiet { (rate(top)) }
                // As wide as the number of intervals, whatever their number so far.
                svg viewBox={ "0 0 " (STEPS - 1) " 100" } preserveAspectRatio="none" aria-hidden="true" {
                    @if !requests.is_empty() {
                        polygon.in points={ (first_x(history.requests.len())) ",100 " (requests) " " (STEPS - 1) ",100" } {}
                    }
                    polyline.in points=(requests) {}
                    polyline.out points=(upstream) {}
                }
                span.quiet { "0" }
            }
            p.axis.quiet { span { "2 minutes ago" } span { "now" } }
        }
    }
}

/// The x of the oldest of so many rates: the newest is at the right.
fn first_x(rates: usize) -> usize {
    STEPS - rates.min(STEPS)
}

fn points(rates: &[f64], top: f64) -> String {
    let mut points = String::new();
    let first = first_x(rates.len());
    for (index, rate) in rates.iter().enumerate() {
        let y = 98.0 - 96.0 * rate / top;
        // Writing into a `String` cannot fail.
        write!(points, "{},{y:.1} ", first + index).ok();
    }
    points.truncate(points.trim_end().len());
    points
}

/// The two largest units.
fn uptime(seconds: f64) -> String {
    let whole = Duration::from_secs_f64(seconds).as_secs();
    let (days, hours, minutes) = (whole / 86400, whole / 3600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uptime_is_shown_in_its_two_largest_units() {
        for (seconds, text) in [
            (59.9, "59 s"),
            (60.0, "1 min"),
            (7260.0, "2 h 1 min"),
            (90_000.0, "1 d 1 h"),
        ] {
            assert_eq!(uptime(seconds), text);
        }
    }

    #[test]
    fn the_newest_rate_is_at_the_right_of_the_chart() {
        assert_eq!(points(&[0.0, 5.0], 10.0), "58,98.0 59,50.0");
        let full = points(&[1.0; STEPS], 1.0);
        assert!(full.starts_with("0,2.0 ") && full.ends_with(" 59,2.0"));
        assert_eq!(points(&[], 1.0), "");
    }
}
