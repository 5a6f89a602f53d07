//! What must come true where nothing stands in the way.

use super::Case;
use crate::plan::Manner;
use crate::wire::{At, Said};

impl Case {
    /// Where nothing fails and nothing is limited, everything succeeds, and
    /// receipts of one chat are a window apart.
    pub(super) fn calm(&mut self) {
        for outcome in self.seen.outcomes.clone() {
            let (tag, said) = (outcome.step.tag, self.said[&outcome.step.tag].clone());
            if let Some(answer) = outcome.answer()
                && !(200..300).contains(&answer.status)
                && outcome.step.manner != Manner::BreaksOff
            {
                self.breaks(
                    "in a calm everything succeeds",
                    format!("{tag} got {}", answer.status),
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
                        .answer
                        .as_ref()
                        .is_some_and(|answer| answer.status < 300)
                })
                .filter_map(|arrival| Some((arrival.tag, arrival.said.as_ref()?)))
                .collect();
            let done = match said.is_receipt() {
                true if said.ids.is_empty() => {
                    calls.iter().any(|(_, called)| called.may_share(&said))
                }
                true => said.ids.iter().all(|id| {
                    calls
                        .iter()
                        .any(|(_, called)| called.may_share(&said) && called.ids.contains(id))
                }),
                false => calls.iter().any(|(arrived, _)| *arrived == tag),
            };
            if !done {
                let what = format!(
                    "{tag}, sent at {:?}, never arrived: {:?}",
                    outcome.sent, outcome.ending
                );
                self.breaks("in a calm everything arrives", what);
            }
        }
        let batch = &self.config.batch;
        if self.reloads || self.drains || batch.max_ids < 100 || batch.max_callers < 1000 {
            return;
        }
        let window = batch.window;
        let mut last: Vec<(Said, At)> = Vec::new();
        for arrival in self.seen.arrivals.clone() {
            let Some(called) = arrival.said.filter(Said::is_receipt) else {
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
