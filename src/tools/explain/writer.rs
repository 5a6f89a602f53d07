//! What all parts of the report write.
//!
//! Invariant: everything is written through the [`Mask`].

use super::difference::Part;
use super::mask::{Mask, printable};
use super::page::Page;
use super::reasons::meaning;
use crate::body::{RequestBody, UpstreamRequest};
use crate::config::Config;
use crate::observe::access_log::WITHHELD;
use crate::receipt::NotMerged;
use crate::receipt::key::KeyPart;
use crate::receipt::shown::{in_words, masked_body};
use crate::upstream::Upstream;

/// Column of the texts about a request, and of those about its key.
const COLUMN: usize = 16;
pub(super) const KEY_COLUMN: usize = 32;

/// Lines of a body that are shown.
const MAX_LINES: usize = 40;
/// Letters of a body or a value that are shown.
const MAX_LETTERS: usize = 2000;

/// Writes the report.
pub(super) struct Writer<'r> {
    pub(super) config: &'r Config,
    pub(super) upstream: &'r Upstream,
    pub(super) mask: &'r Mask,
    pub(super) page: Page,
}

impl Writer<'_> {
    /// The values of a part, masked where they are not shown.
    pub(super) fn values(&self, part: &Part) -> String {
        let key = part.part();
        let is_shown = match key {
            KeyPart::Query(name) | KeyPart::Body(name) => self.mask.shows_field(name),
            KeyPart::Header(name) => self.mask.shows_header(name),
            KeyPart::Path | KeyPart::Carrier | KeyPart::IdsForm | KeyPart::Ids => true,
        };
        let values = part.values.iter().map(|value| match value {
            None => "(no value)".to_owned(),
            Some(_) if !is_shown => WITHHELD.to_owned(),
            Some(value) => in_words(key, value)
                .unwrap_or_else(|| printable(&String::from_utf8_lossy(value)).into_owned()),
        });
        values.collect::<Vec<_>>().join(", ")
    }

    /// A request as it is sent.
    pub(super) fn sent(&mut self, request: &UpstreamRequest, is_receipt: bool) {
        let body = match &request.body {
            RequestBody::Whole(None) => None,
            RequestBody::Whole(Some(body)) if is_receipt => {
                let shows = |name: &[u8]| self.mask.shows_field(name);
                let batch = &self.config.batch;
                let masked = masked_body(batch, &request.head, body, shows, WITHHELD);
                masked.map(|body| String::from_utf8_lossy(&body).into_owned())
            }
            _ => Some("(the body, unchanged; not shown)".to_owned()),
        };
        for line in self.mask.head(request, is_receipt) {
            self.page.http(&line);
        }
        let Some(body) = body else { return };
        self.page.block("", "", "");
        let lines: Vec<_> = body.lines().collect();
        for line in lines.iter().take(MAX_LINES) {
            self.page.http(&cut(&printable(line)));
        }
        if lines.len() > MAX_LINES {
            let more = format!("… and {} lines more", lines.len() - MAX_LINES);
            self.page.block("    ", "    ", &more);
        }
    }

    pub(super) fn entry(&mut self, label: &str, text: &str) {
        self.page.entry(2, COLUMN, label, text);
    }
}

/// The name of a part.
pub(super) fn label(part: &Part) -> String {
    printable(&part.part().to_string()).into_owned()
}

/// The beginning of a text.
pub(super) fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_LETTERS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
    }
}

/// A reason and what it means.
pub(super) fn not_merged(reason: NotMerged) -> String {
    format!("not merged: {reason} ({})", meaning(reason))
}
