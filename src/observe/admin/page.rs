//! The page for people: rendered here; its script only fetches it again.
//!
//! Invariants: `maud` escapes every value; the page runs only its own script and
//! style (their hashes are in the policy) and contacts only this gateway; without
//! scripts it shows the same.
//!
//! - [`overview`]: what is wrong, the figures and the chart;
//! - [`cluster`]: the gateways of the cluster;
//! - [`tables`]: failures, tenants, receipts not merged and instances.

mod cluster;
mod overview;
mod tables;

use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use ring::digest::{SHA256, digest};

use super::runbook::RUNBOOK;
use super::state::Status;
use crate::grouped::grouped;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// A longer text finds nothing.
const MAX_FIND: usize = 64;

/// What the page may do (CSP level 3). `data:` allows the empty icon, without
/// which browsers would request one.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let [style, script] = [STYLE, SCRIPT].map(hash);
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
});

/// What the reader asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    /// Part of the name of an instance or tenant.
    find: String,
}

impl View {
    /// Reads the query of the page.
    pub(super) fn of(query: Option<&str>) -> Self {
        let mut fields = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let find = fields.find_map(|(name, value)| (name == "find").then_some(value));
        let find = find.unwrap_or_default();
        Self {
            find: find.trim().chars().take(MAX_FIND).collect(),
        }
    }

    /// Whether an instance is one that the reader looks for.
    fn finds(&self, instance: &str, tenant: Option<&str>) -> bool {
        let find = self.find.to_lowercase();
        let mut names = [Some(instance), tenant].into_iter().flatten();
        names.any(|name| name.to_lowercase().contains(&find))
    }
}

/// The value of the page's `Content-Security-Policy`.
pub(super) fn policy() -> &'static str {
    &POLICY
}

/// The SHA-256 of a text in base64, as CSP writes it.
fn hash(text: &str) -> String {
    BASE64_STANDARD.encode(digest(&SHA256, text.as_bytes()))
}

/// Renders the page. The script replaces every element with `data-live` by the one with
/// its id in a later page.
pub(super) fn render(status: &Status, view: &View) -> String {
    let problems = status.problems.len();
    let title = match problems {
        0 => "wawp-gateway".to_owned(),
        1 => "1 problem: wawp-gateway".to_owned(),
        _ => format!("{problems} problems: wawp-gateway"),
    };
    let body = html! {
        (overview::header(status))
        main {
            (overview::observing(status))
            (overview::problems(status))
            (overview::figures(status))
            (overview::chart(status))
            div.pair {
                div {
                    (tables::failures(status))
                    (tables::unmerged(status))
                }
                (tables::tenants(status))
            }
            (cluster::cluster(status))
            (tables::instances(status, view))
        }
        footer.quiet {
            "More: " a href="runbook" { "runbook" } ", " a href="metrics" { "metrics" } ", "
            a href="status" { "this page as JSON" } ", " a href="config" { "settings in force" } "."
        }
        script { (PreEscaped(SCRIPT)) }
    };
    // Without scripts, reloading is the only way to keep the page up to date. Not more often, so
    // that there is time to write into the search box.
    let refresh = html! { noscript { meta http-equiv="refresh" content="10"; } };
    frame(&title, &refresh, &body)
}

/// Renders the runbook. It needs no script.
pub(super) fn render_runbook() -> String {
    let body = html! {
        p { a href="." { "← wawp-gateway" } }
        main.text { (PreEscaped(&*RUNBOOK)) }
    };
    frame("Runbook: wawp-gateway", &html! {}, &body)
}

/// What both pages have around them.
fn frame(title: &str, head: &Markup, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                (head)
                link rel="icon" href="data:,";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    };
    page.into_string()
}

/// A rate, with a digit after the point only where it matters.
fn rate(number: f64) -> String {
    if number < 10.0 {
        // An empty sum is -0.0.
        format!("{:.1}", number.abs())
    } else {
        // A rate is far below 2^53.
        grouped(number.round() as u64)
    }
}

/// Replaces control characters, which have no meaning in HTML.
fn visible(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_allows_exactly_the_style_and_the_script_of_the_page() {
        // From RFC 6234's own test, in base64.
        assert_eq!(hash("abc"), "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
        for (text, element) in [(STYLE, "style"), (SCRIPT, "script")] {
            assert!(policy().contains(&hash(text)), "{element}");
            assert!(!text.contains(&format!("</{element}")), "{element}");
        }
        for source in [
            include_str!("page.rs").split("mod tests").next().unwrap(),
            include_str!("page/cluster.rs"),
            include_str!("page/overview.rs"),
            include_str!("page/tables.rs"),
        ] {
            assert!(!source.contains(" style=") && !source.contains("onclick"));
        }
    }

    #[test]
    fn a_search_finds_instances_and_tenants_in_any_case() {
        let view = View::of(Some("other=x&find=%20AcM&find=y"));
        assert!(view.finds("1", Some("acme")) && view.finds("acM-1", None));
        assert!(!view.finds("1", Some("other")) && !view.finds("1", None));
        assert!(View::of(None).finds("1", None));
        let long = View::of(Some(&format!("find={}", "x".repeat(100_000))));
        assert_eq!(long.find.len(), MAX_FIND);
    }

    #[test]
    fn rates_are_short_and_grouped() {
        assert_eq!(
            [-0.0, 0.04, 9.94, 1234.5].map(rate),
            ["0.0", "0.0", "9.9", "1,235"]
        );
    }
}
