//! The page for people: rendered here, kept up to date by its script.
//!
//! Invariants: `maud` escapes every value; the page runs only its own script and
//! style (their hashes are in the policy) and contacts only this gateway.

use std::fmt::Display;
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use ring::digest::{SHA256, digest};

use super::state::{Failed, Instance, Status};
use crate::limit::Budget;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Shown for a value that does not exist.
const NONE: &str = "–";

const INSTANCE_COLUMNS: [&str; 9] = [
    "Instance",
    "Tenant",
    "Tokens left",
    "Waiting",
    "Pause",
    "Receipts",
    "Other requests",
    "Rejected",
    "Upstream 429",
];
const FAILURE_COLUMNS: [&str; 6] = [
    "Last (UTC)",
    "Status",
    "Made by",
    "Route",
    "Instance",
    "Count",
];

/// What the page may do (CSP level 3). `data:` allows the empty icon, without
/// which browsers would request one.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let [style, script] = [STYLE, SCRIPT].map(hash);
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

/// The value of the page's `Content-Security-Policy`.
pub(super) fn policy() -> &'static str {
    &POLICY
}

/// The SHA-256 of a text in base64, as CSP writes it.
fn hash(text: &str) -> String {
    BASE64_STANDARD.encode(digest(&SHA256, text.as_bytes()))
}

/// Renders the page. Without scripts it is complete as it is.
pub(super) fn render(status: &Status) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                // Without scripts, reloading is the only way to keep the page up to date.
                noscript { meta http-equiv="refresh" content="5"; }
                link rel="icon" href="data:,";
                title { "wawp-gateway" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (header(status))
                (figures(status))
                (chart())
                (instances(status))
                (failures(status))
                p.quiet {
                    "More: " a href="metrics" { "metrics" } ", "
                    a href="instances" { "instances as JSON" } ", "
                    a href="config" { "settings in force" } ", "
                    a href="readyz" { "readiness" } "."
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}

/// Name, state and uptime.
fn header(status: &Status) -> Markup {
    let (class, state) = if status.ready {
        ("good", "serving")
    } else {
        ("bad", "draining")
    };
    html! {
        header {
            h1 { "wawp-gateway" }
            span #state class=(class) role="status" { (state) }
            span.quiet { "version " (status.version) ", up for " span #uptime { (uptime(status.uptime)) } }
        }
        noscript {
            p.quiet { "Without scripts this page reloads every 5 seconds and shows totals since the start." }
        }
    }
}

/// The totals; the script replaces two of them by rates.
fn figures(status: &Status) -> Markup {
    // Before the first receipt there is no factor; 0 or infinity would be wrong.
    let factor = if status.receipt_calls > 0 && status.receipts > 0 {
        format!(
            "{:.1}",
            status.receipts as f64 / status.receipt_calls as f64
        )
    } else {
        NONE.to_owned()
    };
    // The script finds a figure by the field's name in `/status`.
    html! {
        dl.figures {
            div { dt #calls-label { "Requests from apps" } dd #calls { (status.calls) } }
            div { dt #upstream-label { "Upstream calls" } dd #upstream { (status.upstream) } }
            div { dt { "Receipts per upstream call" } dd #factor { (factor) } }
            div { dt { "Calls saved by merging" } dd #saved { (status.saved) } }
            div { dt { "Requests in flight" } dd #in_flight { (status.in_flight) } }
            div { dt { "Connections" } dd #connections { (status.connections) } }
        }
    }
}

/// The chart, which only the script fills and shows.
fn chart() -> Markup {
    html! {
        section #chart .card hidden aria-label="Requests per second in the last two minutes" {
            p.quiet {
                "Per second, last two minutes: " b.in { "requests from apps" } " (line), "
                b.out { "upstream calls" } " (dashes); top: " span #top { "0" }
            }
            // 60 samples make 59 intervals. The script knows the same number (`POINTS`).
            svg viewBox="0 0 59 100" preserveAspectRatio="none" aria-hidden="true" {
                polyline #line-in .in {}
                polyline #line-out .out {}
            }
        }
    }
}

/// The table of instances, with the totals of all others at its end.
fn instances(status: &Status) -> Markup {
    let all = &status.instances;
    let rows = html! {
        @for row in all.instances.iter().chain([&all.other, &all.none]) { (instance(row)) }
    };
    html! {
        (table("Instances", "instances", &INSTANCE_COLUMNS, &rows))
        p.quiet {
            "Listed are instances that the upstream has accepted, at most metrics.max_instances; “other” is the "
            "total of the rest, “none” are requests that name no instance."
        }
    }
}

/// The table of the last failures.
fn failures(status: &Status) -> Markup {
    let rows = html! {
        // An empty table looks like one that failed to load.
        @if status.failures.is_empty() { tr { td colspan="6" { "None since the start." } } }
        @for row in &status.failures { (failure(row)) }
    };
    table("Last failures", "failures", &FAILURE_COLUMNS, &rows)
}

/// A table that scrolls by itself on narrow screens.
fn table(title: &str, id: &str, columns: &[&str], rows: &Markup) -> Markup {
    html! {
        h2 id={ (id) "-title" } { (title) }
        div.card role="region" aria-labelledby={ (id) "-title" } tabindex="0" {
            table {
                thead { tr { @for column in columns { th scope="col" { (column) } } } }
                tbody id=(id) { (rows) }
            }
        }
    }
}

fn instance(row: &Instance) -> Markup {
    // The longest, because each class has its own pause.
    let pause = row.budgets.iter().map(|of| of.pause).fold(0.0, f64::max);
    let rejected = row.rejected.queue_full + row.rejected.max_wait + row.rejected.paused;
    let [
        name,
        tenant,
        tokens,
        waiting,
        paused,
        receipts,
        others,
        refused,
        throttled,
    ] = INSTANCE_COLUMNS;
    html! {
        tr {
            th scope="row" data-label=(name) { (visible(&row.instance)) }
            (cell(tenant, row.tenant.as_deref().unwrap_or(NONE)))
            td data-label=(tokens) {
                div {
                    @if row.budgets.is_empty() { (NONE) }
                    @for of in &row.budgets { (budget(of)) }
                }
            }
            (cell(waiting, row.queued))
            @if pause > 0.0 { (cell(paused, format_args!("{pause:.1} s"))) } @else { (cell(paused, NONE)) }
            (cell(receipts, row.requests.seen))
            (cell(others, row.requests.other))
            (cell(refused, rejected))
            (cell(throttled, row.throttled))
        }
    }
}

/// The tokens of one bucket, as a meter and as text.
fn budget(of: &Budget) -> Markup {
    html! {
        div {
            @if let (Some(tokens), Some(burst)) = (of.tokens, of.burst) {
                // Tokens can be negative while a bucket is in debt; `meter` shows that as empty.
                meter max=(burst) value={ (format_args!("{tokens:.2}")) } {}
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

fn failure(row: &Failed) -> Markup {
    let [last, status, made_by, route, instance, count] = FAILURE_COLUMNS;
    html! {
        tr {
            // `2026-11-25T06:45:01.123Z`
            (cell(last, row.time.get(11..19).unwrap_or(&row.time)))
            (cell(status, row.status))
            @match row.code {
                Some(code) => (cell(made_by, format_args!("gateway: {code}"))),
                None => (cell(made_by, "upstream")),
            }
            (cell(route, row.route))
            (cell(instance, visible(&row.instance)))
            (cell(count, row.times))
        }
    }
}

/// A cell; narrow screens show the label of its column beside it.
fn cell(label: &str, value: impl Display) -> Markup {
    html! { td data-label=(label) { (value.to_string()) } }
}

/// Replaces control characters, which have no meaning in HTML.
fn visible(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// The two largest units, as the script shows them.
fn uptime(seconds: f64) -> String {
    let whole = Duration::from_secs_f64(seconds).as_secs();
    let (days, hours, minutes) = (whole / 86400, whole / 3600 % 24, whole / 60 % 60);
    // The units of the script (`uptime` in page.js), or the text would change after the first poll.
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
    fn any_text_in_a_cell_stays_text() {
        let text = cell("a", visible("<script>&\"\u{1b}\n</td>")).into_string();
        let escaped = "&lt;script&gt;&amp;&quot;\u{fffd}\u{fffd}&lt;/td&gt;";
        assert_eq!(text, format!("<td data-label=\"a\">{escaped}</td>"));
    }

    #[test]
    fn the_policy_allows_exactly_the_style_and_the_script_of_the_page() {
        // From RFC 6234's own test, in base64.
        assert_eq!(hash("abc"), "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
        for (text, element) in [(STYLE, "style"), (SCRIPT, "script")] {
            assert!(policy().contains(&hash(text)), "{element}");
            assert!(!text.contains(&format!("</{element}")), "{element}");
        }
        let source = include_str!("page.rs").split("mod tests").next().unwrap();
        assert!(!source.contains("style=") && !source.contains("onclick"));
    }

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
}
