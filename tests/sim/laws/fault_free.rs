//! What must hold where nothing fails and nothing is limited.

use super::Case;
use crate::plan::Manner;
use crate::wire::{At, Parsed};

impl Case {
    /// Every request succeeds, and merged calls for one chat are a window apart.
    pub(super) fn fault_free(&mut self) {
        for outcome in self.seen.outcomes.clone() {
            let (tag, parsed) = (outcome.step.tag, self.parsed[&outcome.step.tag].clone());
            if let Some(response) = outcome.response()
                && !(200..300).contains(&response.status)
                && outcome.step.manner != Manner::BreaksOff
            {
                self.breaks(
                    "without faults every request succeeds",
                    format!("{tag} got {}", response.status),
                );
            }
            if !outcome.is_fully_sent() {
                continue;
            }
            let calls: Vec<_> = self
                .seen
                .arrivals
                .iter()
                .filter(|arrival| arrival.at >= outcome.sent)
                .filter(|arrival| {
                    arrival
                        .response
                        .as_ref()
                        .is_some_and(|response| response.status < 300)
                })
                .filter_map(|arrival| Some((arrival.tag, arrival.parsed.as_ref()?)))
                .collect();
            let done = match parsed.is_receipt() {
                true if parsed.ids.is_empty() => {
                    calls.iter().any(|(_, called)| called.may_share(&parsed))
                }
                true => parsed.ids.iter().all(|id| {
                    calls
                        .iter()
                        .any(|(_, called)| called.may_share(&parsed) && called.ids.contains(id))
                }),
                false => calls.iter().any(|(arrived, _)| *arrived == tag),
            };
            if !done {
                let what = format!(
                    "{tag}, sent at {:?}, never arrived: {:?}",
                    outcome.sent, outcome.ending
                );
                self.breaks("without faults every request arrives", what);
            }
        }
        let batch = &self.config.batch;
        if self.reloads || self.drains || batch.max_ids < 100 || batch.max_callers < 1000 {
            return;
        }
        let window = batch.window;
        let mut last: Vec<(Parsed, At)> = Vec::new();
        for arrival in self.seen.arrivals.clone() {
            let Some(called) = arrival.parsed.filter(Parsed::is_receipt) else {
                continue;
            };
            if arrival.at >= self.seen.drain {
                continue;
            }
            match last.iter_mut().find(|(other, _)| other.may_share(&called)) {
                None => last.push((called, arrival.at)),
                Some((_, before)) => {
                    let apart = arrival.at - std::mem::replace(before, arrival.at);
                    if apart < window {
                        self.breaks(
                            "receipts merge",
                            format!("{called:?} again after {apart:?}"),
                        );
                    }
                }
            }
        }
    }
}
