//! The result of an estimate as a page, for the person who pays.
//!
//! Invariants: it contains everything it shows and requests nothing; of the log it
//! shows only counts, times and line numbers.

use std::fmt::Write as _;
use std::time::Duration;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::report::{Report, both, millis, rate};
use super::timeline::Bin;
use super::{Counts, Trial};
use crate::grouped::grouped;

const STYLE: &str = include_str!("report_page.css");

/// The size of a chart, with the space for its labels.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 56.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 200.0;

/// Columns of the chart over time: one every two pixels.
const COLUMNS: u64 = 330;

impl Report {
    /// The report as one HTML file.
    #[must_use]
    pub fn page(&self) -> String {
        let (_, window) = self.advice();
        let best = window
            .map(|choice| choice.trial)
            .ok()
            .or_else(|| self.in_force());
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { "What wawp-gateway would save" }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    h1 { "What wawp-gateway would save" }
                    (headline(&self.counts, best))
                    h2 { "Calls saved by window and rate" }
                    (saved_chart(self))
                    h2 { "Requests over time" }
                    (time_chart(&self.counts))
                    h2 { "The worst minutes" }
                    (worst_minutes(best))
                    h2 { "Recommendation" }
                    pre { (self.to_string()) }
                    h2 { "Everything that was tried" }
                    (all_trials(self))
                }
            }
        };
        page.into_string()
    }
}

/// The figures that matter most.
fn headline(counts: &Counts, best: Option<&Trial>) -> Markup {
    let (first, last) = counts.span.unwrap_or_default();
    let span = (last - first) / 1_000_000_000;
    let span = humantime::format_duration(Duration::from_secs(span));
    html! {
        p {
            "From " (utc(first / 1_000_000_000)) " on, " (span) ": " b { (grouped(counts.requests)) }
            " requests, " b { (grouped(counts.receipts)) } " of them read receipts."
        }
        @if let Some(trial) = best {
            @let outcome = &trial.outcome;
            @let calls = outcome.upstream + outcome.saved;
            dl {
                div { dt { "Upstream calls without merging" } dd { (grouped(calls)) } }
                div { dt { "with merging" } dd { (grouped(outcome.upstream)) } }
                div.good {
                    dt { "saved" }
                    dd { (grouped(outcome.saved)) " " small { (format!("{:.0} %", percent(outcome.saved, calls))) } }
                }
                div { dt { "requests refused" } dd { (grouped(outcome.refused)) } }
            }
            p.quiet { "With a window of " (millis(Some(trial.window))) " and " (rate_text(trial)) "." }
        }
    }
}

/// Bars: for each window one for each rate.
fn saved_chart(report: &Report) -> Markup {
    let trials = &report.trials;
    let mut windows: Vec<_> = trials.iter().map(|trial| trial.window).collect();
    windows.sort_unstable();
    windows.dedup();
    let of_rate = |trial: &Trial| trials.iter().position(|it| it.quota == trial.quota);
    let mut rates: Vec<_> = trials.iter().filter_map(of_rate).collect();
    rates.dedup();
    let top = trials.iter().map(|trial| trial.outcome.saved).max();
    let scale = Scale::to(top.unwrap_or(0));
    let group = (WIDTH - LEFT) / windows.len().max(1) as f64;
    let bar = group * 0.8 / rates.len().max(1) as f64;
    html! {
        svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label="Calls saved by window and rate" {
            (scale.grid())
            @for trial in trials {
                @let group_index = windows.iter().position(|it| *it == trial.window).unwrap_or(0);
                @let rate_index = rates.iter().position(|it| Some(*it) == of_rate(trial)).unwrap_or(0);
                @let x = LEFT + group * group_index as f64 + group * 0.1 + bar * rate_index as f64;
                @let y = scale.y(trial.outcome.saved as f64);
                rect class={ "c" (rate_index % 5) } x=(one(x)) y=(one(y)) width=(one(bar - 2.0)) height=(one(BOTTOM - y)) {
                    title { (grouped(trial.outcome.saved)) " calls, " (millis(Some(trial.window))) ", " (rate_text(trial)) }
                }
            }
            @for (index, window) in windows.iter().enumerate() {
                text x=(one(LEFT + group * (index as f64 + 0.5))) y=(BOTTOM + 18.0) text-anchor="middle" { (millis(Some(*window))) }
            }
        }
        p.legend {
            @for (index, first) in rates.iter().enumerate() {
                span { i class={ "c" (index % 5) } {} (rate_text(&trials[*first])) }
            }
        }
        p.quiet { "The window is how long receipts are collected. A lower rate makes receipts wait longer, so more of them merge." }
    }
}

/// Areas: all requests, and receipts among them, per minute.
fn time_chart(counts: &Counts) -> Markup {
    let (width, columns) = counts.timeline.columns(COLUMNS);
    let per_minute = |count: u64| count as f64 * 60.0 / width as f64;
    let top = columns
        .iter()
        .map(|bin| per_minute(bin.requests))
        .fold(0.0, f64::max);
    let scale = Scale::to(top.ceil() as u64);
    let step = (WIDTH - LEFT) / columns.len().max(1) as f64;
    let area = |count: fn(&Bin) -> u64| {
        let mut points = format!("{LEFT},{BOTTOM}");
        for (index, bin) in columns.iter().enumerate() {
            let (x, y) = (LEFT + step * index as f64, scale.y(per_minute(count(bin))));
            // A column, not a slope. Writing into a `String` cannot fail.
            write!(
                points,
                " {},{} {},{}",
                one(x),
                one(y),
                one(x + step),
                one(y)
            )
            .ok();
        }
        write!(points, " {WIDTH},{BOTTOM}").ok();
        points
    };
    let start = counts.timeline.start();
    html! {
        svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label="Requests per minute over time" {
            (scale.grid())
            polygon.c0 points=(area(|bin| bin.requests)) {}
            polygon.c1 points=(area(|bin| bin.receipts)) {}
            @for tick in [0, 2, 4_u64] {
                @let x = LEFT + (WIDTH - LEFT) * tick as f64 / 4.0;
                @let anchor = match tick { 0 => "start", 4 => "end", _ => "middle" };
                text x=(one(x)) y=(BOTTOM + 18.0) text-anchor=(anchor) {
                    (utc(start + width * columns.len() as u64 * tick / 4))
                }
            }
        }
        p.legend { span { i.c0 {} "requests per minute" } span { i.c1 {} "read receipts among them" } }
    }
}

fn worst_minutes(best: Option<&Trial>) -> Markup {
    let minutes = best.map(|trial| trial.outcome.minutes.all());
    html! {
        p.quiet { "Those with most refused requests, then those with the longest wait, under the settings above." }
        table {
            tr { th { "Minute (UTC)" } th { "Requests" } th { "Upstream calls" } th { "Refused" } th { "Longest wait" } }
            @for minute in minutes.iter().flatten() {
                tr {
                    td { (utc(minute.number * 60)) }
                    td { (grouped(minute.requests)) }
                    td { (grouped(minute.upstream)) }
                    td class=[(minute.refused > 0).then_some("bad")] { (grouped(minute.refused)) }
                    td { (millis(Some(minute.longest_wait))) }
                }
            }
        }
    }
}

fn all_trials(report: &Report) -> Markup {
    html! {
        table {
            tr {
                th { "Rate" } th { "Window" } th { "Upstream calls" } th { "Saved" } th { "Refused" }
                th { "Receipts wait" } th { "Others wait" }
            }
            @for trial in &report.trials {
                @let outcome = &trial.outcome;
                tr class=[report.is_in_force(trial).then_some("in-force")] {
                    td { (rate_text(trial)) }
                    td { (millis(Some(trial.window))) @if report.is_in_force(trial) { " (in force)" } }
                    td { (grouped(outcome.upstream)) }
                    td { (grouped(outcome.saved)) }
                    td { (grouped(outcome.refused)) }
                    td { (both(&outcome.receipts)) }
                    td { (both(&outcome.others)) }
                }
            }
        }
        p.quiet { "Waits: median/99 of 100 requests." }
    }
}

fn rate_text(trial: &Trial) -> String {
    match trial.quota {
        Some(_) => format!("{} requests a second", rate(trial.quota)),
        None => "no limit".to_owned(),
    }
}

/// The y axis of a chart.
#[derive(Clone, Copy, Debug)]
struct Scale {
    step: f64,
    top: f64,
}

impl Scale {
    /// A round step, at most five of which reach this value.
    fn to(value: u64) -> Self {
        let value = (value as f64).max(1.0);
        let power = 10_f64.powf(value.log10().floor());
        let steps = [0.2, 0.5, 1.0, 2.0].map(|part| power * part);
        let step = steps.into_iter().find(|step| value / step <= 5.0);
        let step = step.unwrap_or(power * 2.0).max(1.0);
        Self {
            step,
            top: (value / step).ceil() * step,
        }
    }

    fn y(self, value: f64) -> f64 {
        BOTTOM - value / self.top * (BOTTOM - TOP)
    }

    /// Lines with their values.
    fn grid(self) -> Markup {
        // At most five, see `to`.
        let lines = (self.top / self.step).round() as u64;
        html! {
            @for line in 0..=lines {
                @let value = self.step * line as f64;
                @let y = self.y(value);
                path.grid d={ "M" (LEFT) " " (one(y)) "H" (WIDTH) } {}
                text x=(LEFT - 8.0) y=(one(y + 4.0)) text-anchor="end" { (grouped(value as u64)) }
            }
        }
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole.max(1) as f64
}

/// A coordinate with one digit after the point.
fn one(coordinate: f64) -> String {
    format!("{coordinate:.1}")
}

/// A time to the minute.
fn utc(seconds: u64) -> String {
    let at = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
    let text = humantime::format_rfc3339_seconds(at).to_string();
    text.get(..16).unwrap_or(&text).replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_at_most_five_round_steps() {
        for value in [0, 1, 3, 9, 10, 99, 101, 4_999, 123_456_789] {
            let scale = Scale::to(value);
            assert!(
                scale.top >= value as f64 && scale.top / scale.step <= 5.0,
                "{scale:?}"
            );
            assert!(scale.y(scale.top) >= TOP && scale.y(0.0) <= BOTTOM);
        }
    }
}
