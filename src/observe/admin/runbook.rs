//! The runbook as a page, so that it can be read where the alert is.
//!
//! Invariant: it is the section of `grafana/README.md` to which the alerts point, of
//! the version that runs; links that lead out of it are text.

use std::sync::LazyLock;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd, html};

const README: &str = include_str!("../../../grafana/README.md");
/// Its heading there.
const HEADING: &str = "## Alerts and runbook";

/// The runbook as HTML, without the frame of a page.
pub(super) static RUNBOOK: LazyLock<String> = LazyLock::new(|| {
    let start = README.find(HEADING).unwrap_or(README.len());
    let mut text = String::new();
    html::push_html(&mut text, linked(&README[start..]).into_iter());
    text
});

/// The events of the section: headings have anchors as on a forge, and links
/// lead to headings only.
fn linked(section: &str) -> Vec<Event<'_>> {
    let mut events = Vec::new();
    let mut heading = None;
    let mut leads_out = false;
    for event in Parser::new_ext(section, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(events.len()),
            Event::End(TagEnd::Heading(_)) => {
                if let Some(start) = heading.take() {
                    let id = anchor(&events[start + 1..]);
                    if let Some(Event::Start(Tag::Heading { id: empty, .. })) =
                        events.get_mut(start)
                    {
                        *empty = Some(id.into());
                    }
                }
            }
            Event::Start(Tag::Link { ref dest_url, .. }) if !dest_url.starts_with('#') => {
                leads_out = true;
                continue;
            }
            Event::End(TagEnd::Link) if std::mem::take(&mut leads_out) => continue,
            _ => {}
        }
        events.push(event);
    }
    events
}

/// The anchor that a forge gives a heading with this text.
fn anchor(events: &[Event<'_>]) -> String {
    let text = events.iter().filter_map(|event| match event {
        Event::Text(text) | Event::Code(text) => Some(&**text),
        _ => None,
    });
    text.collect::<String>().to_lowercase().replace(' ', "-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::admin::problems::ALL;

    #[test]
    fn every_problem_has_its_section() {
        for kind in ALL {
            let id = format!("id=\"{}\"", kind.runbook());
            assert!(RUNBOOK.contains(&id), "{id}");
        }
    }

    #[test]
    fn no_link_leads_out_of_the_page() {
        for link in RUNBOOK.split("href=\"").skip(1) {
            assert!(link.starts_with('#'), "{}", link.split('"').next().unwrap());
        }
        assert!(!RUNBOOK.contains("<img") && !RUNBOOK.contains("<script"));
    }
}
