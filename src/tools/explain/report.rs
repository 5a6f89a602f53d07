//! The report.

use super::Explained;
use super::mask::Mask;
use super::page::Page;
use super::writer::Writer;
use crate::config::Config;
use crate::proxy::inspect::Inspection;
use crate::upstream::Upstream;

/// Writes the report.
pub(super) fn write(config: &Config, upstream: &Upstream, explained: &[Explained]) -> String {
    let inspected = || explained.iter().filter_map(Explained::inspected);
    let mask = Mask::new(
        config,
        inspected().map(|it| &it.places),
        inspected().map(|it| match &it.request {
            Inspection::Receipt(receipt) => &receipt.head().headers,
            Inspection::Other { request, .. } => &request.head.headers,
        }),
        inspected().any(|it| it.identity.shows_its_credential()),
    );
    let mut report = Writer {
        config,
        upstream,
        mask: &mask,
        page: Page::default(),
    };
    for (index, request) in explained.iter().enumerate() {
        report.request(index, request);
    }
    if explained.len() > 1 {
        report.together(explained);
    }
    mask.all(report.page.0)
}
