//! The page for people: one file, filled in here, kept fresh by its script.
//!
//! Invariants: every value is escaped before it stands in the page; the page
//! runs no script and wears no style but its own (their hashes are in the
//! policy), and asks nobody but this gateway.

use std::fmt::{Display, Write as _};
use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::digest::{SHA256, digest};

use super::state::{Failed, Instance, Status};
use crate::limit::Budget;

/// The page, with `{{names}}` where values go.
const PAGE: &str = include_str!("page.html");

/// What the page may do (CSP level 3). `data:` is the empty icon, without which
/// browsers would ask for one.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let [style, script] = ["style", "script"].map(|element| hash(within(element)));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

/// The value of the page's `Content-Security-Policy`.
pub(super) fn policy() -> &'static str {
    &POLICY
}

fn within(element: &str) -> &'static str {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let inner = PAGE.split_once(&open).map(|(_, rest)| rest);
    let inner = inner.and_then(|rest| rest.split_once(&close));
    inner.map_or("", |(inner, _)| inner)
}

fn hash(text: &str) -> String {
    BASE64_STANDARD.encode(digest(&SHA256, text.as_bytes()))
}

/// Fills the page in. Without scripts it stays as it is here.
pub(super) fn render(status: &Status) -> String {
    let mut page = String::with_capacity(PAGE.len() + 4096);
    let mut rest = PAGE;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((name, after)) = after.split_once("}}") else {
            break;
        };
        page.push_str(before);
        fill(&mut page, name, status);
        rest = after;
    }
    page.push_str(rest);
    page
}

fn fill(page: &mut String, name: &str, status: &Status) {
    match name {
        "state" => page.push_str(if status.ready { "serving" } else { "draining" }),
        "state-class" => page.push_str(if status.ready { "good" } else { "bad" }),
        "version" => put(page, status.version),
        "uptime" => put(page, uptime(status.uptime)),
        "calls" => put(page, status.calls),
        "upstream" => put(page, status.upstream),
        "factor" if status.receipt_calls > 0 && status.receipts > 0 => {
            let factor = status.receipts as f64 / status.receipt_calls as f64;
            put(page, format_args!("{factor:.1}"));
        }
        "saved" => put(page, status.saved),
        "in_flight" => put(page, status.in_flight),
        "connections" => put(page, status.connections),
        "instances" => {
            let all = &status.instances;
            for row in all.instances.iter().chain([&all.other, &all.none]) {
                instance(page, row);
            }
        }
        "failures" if status.failures.is_empty() => {
            page.push_str("<tr><td colspan=\"6\">None since the start.</td></tr>");
        }
        "failures" => status.failures.iter().for_each(|row| failure(page, row)),
        _ => page.push('–'),
    }
}

fn instance(page: &mut String, row: &Instance) {
    page.push_str("<tr><th scope=\"row\" data-label=\"Instance\">");
    put(page, &row.instance);
    page.push_str("</th>");
    cell(page, "Tenant", row.tenant.as_deref().unwrap_or("–"));
    page.push_str("<td data-label=\"Tokens left\"><div>");
    if row.budgets.is_empty() {
        page.push('–');
    }
    row.budgets.iter().for_each(|of| budget(page, of));
    page.push_str("</div></td>");
    cell(page, "Waiting", row.queued);
    let pause = row.budgets.iter().map(|of| of.pause).fold(0.0, f64::max);
    if pause > 0.0 {
        cell(page, "Pause", format_args!("{pause:.1} s"));
    } else {
        cell(page, "Pause", "–");
    }
    cell(page, "Receipts", row.requests.seen);
    cell(page, "Other calls", row.requests.other);
    let rejected = &row.rejected;
    let refused = rejected.queue_full + rejected.max_wait + rejected.paused;
    cell(page, "Refused here", refused);
    cell(page, "Upstream 429", row.throttled);
    page.push_str("</tr>");
}

fn budget(page: &mut String, of: &Budget) {
    page.push_str("<div>");
    if let (Some(tokens), Some(burst)) = (of.tokens, of.burst) {
        let whole = tokens.floor();
        put_markup(
            page,
            format_args!(
                "<meter max=\"{burst}\" value=\"{tokens:.2}\"></meter> {whole} of {burst}"
            ),
        );
    } else {
        page.push_str("no limit");
    }
    if let Some(class) = &of.class {
        put(page, format_args!(" ({class})"));
    }
    page.push_str("</div>");
}

fn failure(page: &mut String, row: &Failed) {
    page.push_str("<tr>");
    // `2026-11-25T06:45:01.123Z`
    cell(
        page,
        "Last (UTC)",
        row.time.get(11..19).unwrap_or(&row.time),
    );
    cell(page, "Status", row.status);
    match row.code {
        Some(code) => cell(page, "Whose", format_args!("ours: {code}")),
        None => cell(page, "Whose", "upstream's"),
    }
    cell(page, "Route", row.route);
    cell(page, "Instance", &row.instance);
    cell(page, "Times", row.times);
    page.push_str("</tr>");
}

fn cell(page: &mut String, label: &str, value: impl Display) {
    put_markup(page, format_args!("<td data-label=\"{label}\">"));
    put(page, value);
    page.push_str("</td>");
}

/// As the script says it.
fn uptime(seconds: f64) -> String {
    let whole = std::time::Duration::from_secs_f64(seconds).as_secs();
    let (days, hours, minutes) = (whole / 86400, whole / 3600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// Adds a value, whatever stands in it, as text.
fn put(page: &mut String, value: impl Display) {
    for letter in value.to_string().chars() {
        match letter {
            '&' => page.push_str("&amp;"),
            '<' => page.push_str("&lt;"),
            '>' => page.push_str("&gt;"),
            '"' => page.push_str("&quot;"),
            '\'' => page.push_str("&#39;"),
            // Neither in HTML nor on a screen do they mean anything good.
            letter if letter.is_control() => page.push('\u{fffd}'),
            letter => page.push(letter),
        }
    }
}

/// Adds what is ours: words and numbers of this file.
fn put_markup(page: &mut String, markup: impl Display) {
    write!(page, "{markup}").expect("a String takes whatever is written");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_stands_in_a_value_stays_text() {
        let mut page = String::new();
        put(&mut page, "<script>'&\"\u{1b}\n</td>");
        assert_eq!(
            page,
            "&lt;script&gt;&#39;&amp;&quot;\u{fffd}\u{fffd}&lt;/td&gt;"
        );
    }

    #[test]
    fn the_policy_knows_the_pages_own_style_and_script() {
        assert!(within("style").contains("--back") && within("script").contains("use strict"));
        // From RFC 6234's own test, in base64.
        assert_eq!(hash("abc"), "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
        for element in ["<style", "<script", "style=", "onclick", "{{"] {
            let times = PAGE.matches(element).count();
            let expected = match element {
                "<style" | "<script" => 1,
                "{{" => 12,
                _ => 0,
            };
            assert_eq!(times, expected, "{element}: no other would be let run");
        }
    }

    #[test]
    fn times_are_told_in_their_two_largest_units() {
        for (seconds, told) in [
            (59.9, "59 s"),
            (60.0, "1 min"),
            (7260.0, "2 h 1 min"),
            (90_000.0, "1 d 1 h"),
        ] {
            assert_eq!(uptime(seconds), told);
        }
    }
}
