//! The tables: failures, receipts not merged, tenants, instances.
//!
//! Invariant: at most [`MAX_ROWS`] instances and [`MAX_GROUPS`] kinds of failures are
//! shown, so the page stays short whatever the number of instances.

use std::fmt::Display;

use maud::{Markup, html};

use super::super::instances::{Instance, Rejected, Would};
use super::super::state::{Failed, Status, Tenant};
use super::overview::class;
use super::{View, rate, visible};
use crate::grouped::grouped;
use crate::limit::Budget;

/// The others are found with the search box.
const MAX_ROWS: usize = 20;
/// Kinds of failures.
const MAX_GROUPS: usize = 6;
/// Instances named for one kind of failure.
const MAX_NAMED: usize = 4;

/// Shown for a value that does not exist.
const NONE: &str = "–";

/// Failures of one kind at any instance.
struct Group<'s> {
    newest: &'s Failed,
    times: u64,
    /// Those with the newest failures first.
    instances: Vec<&'s str>,
}

/// The latest failures by kind, the newest first.
pub(super) fn failures(status: &Status) -> Markup {
    let groups = groups(&status.failures);
    html! {
        section #failures data-live {
            h2 { "Latest failures" }
            @if groups.is_empty() {
                // An empty table looks like one that failed to load.
                p.quiet { "None since the start." }
            } @else {
                (table("Latest failures", &["Last (UTC)", "Status", "Made by", "Route", "Instances", "Count"], &html! {
                    @for group in groups.iter().take(MAX_GROUPS) { (failure(group)) }
                }))
                @if let Some(more @ 1..) = groups.len().checked_sub(MAX_GROUPS) {
                    p.quiet { (more) " more kinds are older." }
                }
            }
        }
    }
}

fn groups(failures: &[Failed]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for failed in failures {
        let kind = |of: &Failed| (of.status, of.code, of.budget, of.route);
        let known = groups
            .iter_mut()
            .find(|group| kind(group.newest) == kind(failed));
        if let Some(group) = known {
            group.times += failed.times;
            group.instances.push(&failed.instance);
        } else {
            groups.push(Group {
                newest: failed,
                times: failed.times,
                instances: vec![&failed.instance],
            });
        }
    }
    groups
}

fn failure(group: &Group<'_>) -> Markup {
    let of = group.newest;
    let instances = group.instances.iter().take(MAX_NAMED);
    let mut named = instances
        .map(|name| visible(name))
        .collect::<Vec<_>>()
        .join(", ");
    if let Some(more @ 1..) = group.instances.len().checked_sub(MAX_NAMED) {
        named += &format!(" and {more} more");
    }
    let runbook = match (of.status, of.code) {
        (401 | 404, None) => Some("instance-unlinked"),
        (429, None) => Some("instance-throttled"),
        (429, Some(_)) => Some("refusing-requests"),
        (500.., _) => Some("upstream-failing"),
        _ => None,
    };
    html! {
        tr {
            // `2026-11-25T06:45:01.123Z`
            (cell("Last (UTC)", of.time.get(11..19).unwrap_or(&of.time)))
            td data-label="Status" {
                @match runbook {
                    Some(section) => a href={ "runbook#" (section) } { (of.status) },
                    None => (of.status),
                }
            }
            @match (of.code, of.budget) {
                (Some(code), Some(budget)) => (cell("Made by", format_args!("gateway: {code} ({budget})"))),
                (Some(code), None) => (cell("Made by", format_args!("gateway: {code}"))),
                (None, _) => (cell("Made by", "the API")),
            }
            (cell("Route", of.route))
            (cell("Instances", named))
            (cell("Count", grouped(group.times)))
        }
    }
}

/// The receipts that were not merged, by reason.
pub(super) fn unmerged(status: &Status) -> Markup {
    html! {
        section #unmerged data-live {
            @if !status.unmerged.is_empty() {
                h2 { "Receipts not merged" }
                (table("Receipts not merged", &["Reason", "Receipts"], &html! {
                    @for of in status.unmerged.iter().take(MAX_GROUPS) {
                        tr {
                            th scope="row" data-label="Reason" {
                                a href="runbook#merge-factor-collapsed" { (of.reason) }
                            }
                            (cell("Receipts", grouped(of.receipts)))
                        }
                    }
                }))
                @if let Some(more @ 1..) = status.unmerged.len().checked_sub(MAX_GROUPS) {
                    p.quiet { (more) " more reasons are rarer." }
                }
            }
        }
    }
}

/// The totals of the tenants.
pub(super) fn tenants(status: &Status) -> Markup {
    html! {
        section #tenants data-live {
            @if !status.tenants.is_empty() {
                h2 { "Tenants" }
                (table("Tenants", &["Tenant", "Instances", "Per minute", "Requests", "Upstream", "Saved"], &html! {
                    @for of in &status.tenants { (tenant(of)) }
                }))
                p.quiet {
                    "Since the start, but for the requests per minute. For one day: the dashboard, with a tenant and "
                    "the range “Today”."
                }
            }
        }
    }
}

fn tenant(of: &Tenant) -> Markup {
    let requests = of.requests.seen + of.requests.other;
    let share = of.saved as f64 * 100.0 / requests.max(1) as f64;
    let find = form_urlencoded::Serializer::new(String::new())
        .append_pair("find", &of.tenant)
        .finish();
    html! {
        tr {
            th scope="row" data-label="Tenant" { a href={ "?" (find) "#instances" } { (visible(&of.tenant)) } }
            td data-label="Instances" {
                (of.instances)
                @if of.problems > 0 { " " span.warning { (of.problems) " problem" @if of.problems != 1 { "s" } } }
            }
            (cell("Per minute", rate(of.per_minute)))
            (cell("Requests", grouped(requests)))
            (cell("Upstream", grouped(of.upstream)))
            td data-label="Saved" { (grouped(of.saved)) " " small.quiet { (format!("{share:.0} %")) } }
        }
    }
}

/// The instances, those with a problem first, and the totals of all others.
pub(super) fn instances(status: &Status, view: &View) -> Markup {
    let all = &status.instances;
    let found: Vec<_> = all
        .instances
        .iter()
        .filter(|of| view.finds(&of.instance, of.tenant.as_deref()))
        .collect();
    let is_observing = status.observing.is_on();
    let mut columns = vec![
        "Instance",
        "Tenant",
        "State",
        "Per minute",
        "Requests",
        "Tokens left",
        "Waiting",
        "Saved",
        "Refused",
        "API errors",
    ];
    if is_observing {
        columns.push("Enforcing would");
    }
    let rows = html! {
        @for of in found.iter().take(MAX_ROWS) { (instance(of, is_observing)) }
        @if view.find.is_empty() {
            @for of in [&all.other, &all.none] { (instance(of, is_observing)) }
        }
    };
    html! {
        h2 #instances { "Instances" }
        form method="get" role="search" {
            label for="find" { "Find an instance or tenant " }
            input #find type="search" name="find" value=(view.find) autocomplete="off" spellcheck="false" maxlength="64";
            " " button { "Find" }
        }
        div #rows data-live {
            (table("Instances", &columns, &rows))
            p.quiet {
                @if found.len() > MAX_ROWS {
                    "The first " (MAX_ROWS) " of " (found.len()) ". "
                } @else if !view.find.is_empty() {
                    (found.len()) " of " (all.instances.len()) " found. "
                }
                "Problems first, then the most requests in the last two minutes; other figures are since the start. "
                "Listed are instances that the API has accepted, at most metrics.max_instances; “other” is the "
                "sum of the rest, “none” are requests that name no instance."
            }
        }
    }
}

fn instance(of: &Instance, is_observing: bool) -> Markup {
    let requests = of.requests.seen + of.requests.other;
    let is_sum = of.tenant.is_none() && of.budgets.is_empty();
    html! {
        tr {
            th scope="row" data-label="Instance" { (visible(&of.instance)) }
            (cell("Tenant", of.tenant.as_deref().map_or_else(|| NONE.to_owned(), visible)))
            td data-label="State" class=[is_sum.then_some("empty")] {
                @if of.problems.is_empty() { span.quiet { @if is_sum { (NONE) } @else { "ok" } } }
                @for problem in &of.problems {
                    div {
                        a class=(class(problem.severity)) href={ "runbook#" (problem.runbook) } { (problem.kind.short()) }
                        " " small.quiet { (problem.detail) }
                    }
                }
            }
            (cell("Per minute", if is_sum { NONE.to_owned() } else { rate(of.per_minute) }))
            (cell("Requests", grouped(requests)))
            td data-label="Tokens left" class=(if of.budgets.is_empty() { "empty" } else { "tokens" }) {
                @if of.budgets.is_empty() { (NONE) }
                @for budget in scarcest(&of.budgets) { (tokens(budget)) }
            }
            (cell("Waiting", of.queued))
            (cell("Saved", grouped(of.saved)))
            (cell("Refused", refused(&of.rejected)))
            (cell("API errors", errors(of)))
            @if is_observing {
                (cell("Enforcing would", would(of.would)))
            }
        }
    }
}

/// In total, and by the shared budgets, if they refused any.
fn refused(of: &Rejected) -> String {
    let shared = [("tenant", of.tenant_budget), ("egress", of.egress_budget)];
    let shared = shared.into_iter().filter(|(_, requests)| *requests > 0);
    let by: Vec<String> = shared
        .map(|(budget, requests)| format!("{budget} {}", grouped(requests)))
        .collect();
    let own = of.queue_full + of.max_wait + of.paused;
    let total = grouped(own + of.tenant_budget + of.egress_budget);
    match by.is_empty() {
        true => total,
        false => format!("{total} ({})", by.join(", ")),
    }
}

/// What enforcing would have done, without what it would not: `save 5, refuse 2`.
fn would(of: Would) -> String {
    let parts = [
        ("save", of.save),
        ("delay", of.delay),
        ("refuse", of.reject),
    ];
    let parts = parts.iter().filter(|(_, times)| *times > 0);
    let parts: Vec<_> = parts
        .map(|(what, times)| format!("{what} {}", grouped(*times)))
        .collect();
    if parts.is_empty() {
        NONE.to_owned()
    } else {
        parts.join(", ")
    }
}

/// The two buckets with the fewest tokens or places for their size: an instance may have one for
/// each class.
fn scarcest(budgets: &[Budget]) -> Vec<&Budget> {
    let filled = |of: &Budget| {
        let tokens = match (of.tokens, of.burst) {
            (Some(tokens), Some(burst)) => tokens / f64::from(burst),
            _ => f64::INFINITY,
        };
        let places = match (of.in_flight, of.max_in_flight) {
            // Both are far below 2^53.
            (Some(calls), Some(most)) => 1.0 - calls as f64 / f64::from(most),
            _ => f64::INFINITY,
        };
        tokens.min(places)
    };
    let mut budgets: Vec<_> = budgets.iter().collect();
    budgets.sort_by(|one, other| filled(one).total_cmp(&filled(other)));
    budgets.truncate(2);
    budgets
}

/// The tokens of one bucket, as a meter and as text.
fn tokens(of: &Budget) -> Markup {
    html! {
        div {
            @if let (Some(tokens), Some(burst)) = (of.tokens, of.burst) {
                // Tokens can be negative while a bucket is in debt; `meter` shows that as empty.
                meter max=(burst) value={ (format_args!("{tokens:.1}")) } {}
                " " (tokens.floor()) " of " (burst)
            } @else {
                "no limit"
            }
            @if let (Some(calls), Some(most)) = (of.in_flight, of.max_in_flight) {
                ", " (calls) " of " (most) " in flight"
            }
            @if let Some(class) = &of.class { " (" (class) ")" }
        }
    }
}

/// The failures of the API that there were: `12 × 401, 3 × 429`.
fn errors(of: &Instance) -> String {
    let throttled = [("429", of.throttled)];
    let all = of.errors.iter().map(|(code, times)| (*code, *times));
    let all = all.chain(throttled).filter(|(_, times)| *times > 0);
    let text: Vec<_> = all
        .map(|(code, times)| format!("{} × {code}", grouped(times)))
        .collect();
    if text.is_empty() {
        "0".to_owned()
    } else {
        text.join(", ")
    }
}

/// A table that scrolls by itself where it is too wide.
pub(super) fn table(label: &str, columns: &[&str], rows: &Markup) -> Markup {
    html! {
        div.card role="region" aria-label=(label) tabindex="0" {
            table {
                thead { tr { @for column in columns { th scope="col" { (column) } } } }
                tbody { (rows) }
            }
        }
    }
}

/// A cell; narrow screens show the label of its column beside it, unless there is
/// nothing to show.
pub(super) fn cell(label: &str, value: impl Display) -> Markup {
    let value = value.to_string();
    let is_empty = value == "0" || value == NONE;
    html! { td data-label=(label) class=[is_empty.then_some("empty")] { (value) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_in_a_cell_stays_text() {
        let text = cell("a", visible("<script>&\"\u{1b}\n</td>")).into_string();
        let escaped = "&lt;script&gt;&amp;&quot;\u{fffd}\u{fffd}&lt;/td&gt;";
        assert_eq!(text, format!("<td data-label=\"a\">{escaped}</td>"));
    }

    #[test]
    fn failures_of_one_kind_are_one_row() {
        let failed = |status, code, instance: &str, times| Failed {
            time: String::new(),
            status,
            code,
            budget: None,
            route: "other",
            instance: Box::from(instance),
            times,
        };
        let failures = [
            failed(401, None, "b", 2),
            failed(429, Some("rate_limited"), "c", 1),
            failed(401, None, "a", 5),
            failed(429, None, "c", 1),
        ];
        let groups: Vec<_> = groups(&failures)
            .into_iter()
            .map(|group| (group.newest.status, group.times, group.instances))
            .collect();
        assert_eq!(
            groups,
            [
                (401, 7, vec!["b", "a"]),
                (429, 1, vec!["c"]),
                (429, 1, vec!["c"])
            ]
        );
    }
}
