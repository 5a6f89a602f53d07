//! What requests become together: which merge, and in what the others differ.

use super::difference::{self, Difference};
use super::writer::{KEY_COLUMN, Writer, cut, label, not_merged};
use super::{Explained, merging};
use crate::receipt::merge;

impl Writer<'_> {
    /// Writes it for several requests.
    pub(super) fn together(&mut self, explained: &[Explained]) {
        let calls = merging::calls(explained, &self.config.batch);
        for (index, request) in explained.iter().enumerate() {
            if request.receipt().is_none() {
                let text = format!(
                    "Request {} merges with no other: see its result.",
                    index + 1
                );
                self.page.heading(&text);
            }
        }
        for (number, call) in calls.iter().enumerate() {
            if let [_, _, ..] = call[..] {
                self.merged(call, explained);
            }
            let first = &calls[0];
            if number > 0 {
                self.apart(first[0], call[0], explained);
            }
        }
    }

    fn merged(&mut self, call: &[usize], explained: &[Explained]) {
        let receipts: Vec<_> = call
            .iter()
            .filter_map(|index| explained[*index].receipt())
            .collect();
        let (mut request, ids) = merge(receipts.into_iter(), &[]);
        let numbers: Vec<_> = call.iter().map(|index| (index + 1).to_string()).collect();
        let (last, others) = numbers.split_last().expect("a call has callers");
        let unit = if ids == 1 { "id" } else { "ids" };
        let ids = match ids {
            0 => "for the whole chat".to_owned(),
            ids => format!("with {ids} {unit}"),
        };
        self.page.heading(&format!(
            "Requests {} and {last} merge into one call {ids}, if they arrive within \
             batch.window and none of the ids is in quarantine:",
            others.join(", ")
        ));
        self.page.block("", "", "");
        self.upstream.prepare(&mut request);
        self.sent(&request, true);
    }

    /// Why two requests are in different calls.
    fn apart(&mut self, one: usize, other: usize, explained: &[Explained]) {
        let numbers = format!("Requests {} and {}", one + 1, other + 1);
        let both = explained[one].receipt().zip(explained[other].receipt());
        let Some((first, second)) = both else { return };
        let batch = &self.config.batch;
        let (first_key, second_key) = (
            difference::parts(first, batch),
            difference::parts(second, batch),
        );
        let differences = difference::differences(&first_key, &second_key);
        let excluded = [(one, first), (other, second)]
            .into_iter()
            .find_map(|(index, receipt)| Some((index, merging::excluded(receipt, batch)?)));
        if let Some((index, reason)) = excluded {
            let text = format!(
                "{numbers} do not merge. Request {}: {}",
                index + 1,
                not_merged(reason)
            );
            self.page.heading(&text);
        } else if differences.is_empty() {
            self.page.heading(&format!(
                "{numbers} are equal but for their ids, and do not fit into one call \
                 (batch.max_ids, batch.max_callers; 64 KiB of body, 8,000 bytes of target)."
            ));
        }
        if differences.is_empty() {
            return;
        }
        if excluded.is_none() {
            self.page
                .heading(&format!("{numbers} do not merge. They differ in:"));
        } else {
            self.page.block("", "", "They also differ in:");
        }
        for difference in differences {
            self.difference((one + 1, other + 1), difference);
        }
    }

    fn difference(&mut self, (one, other): (usize, usize), difference: Difference<'_>) {
        let (part, text) = match difference {
            (Some(first), Some(second)) => {
                let (one, other) = (self.values(first), self.values(second));
                let text = match one == other {
                    // Masked, or equal as far as it can be printed.
                    true => "different values".to_owned(),
                    false => format!("{one} | {other}"),
                };
                (first, text)
            }
            (Some(part), None) => (part, format!("only in request {one}")),
            (None, Some(part)) => (part, format!("only in request {other}")),
            (None, None) => return,
        };
        self.page.entry(2, KEY_COLUMN, &label(part), &cut(&text));
    }
}
