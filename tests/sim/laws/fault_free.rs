//! What must hold where nothing is limited, and nothing fails that the gateway does not hide: an
//! upstream may have dead addresses, end connections by a GOAWAY, or send what must not be there.

use std::time::Duration;

use wawp_gateway::config::BatchEdge;

use super::{Case, TICK};
use crate::plan::Manner;
use crate::upstream::Arrival;
use crate::wire::{At, Parsed};

/// Longest time for the body of a slow client, and a little more.
const BODY: Duration = Duration::from_millis(250);

impl Case {
    /// Every request succeeds, and receipts merge as far as they may.
    pub(super) fn fault_free(&mut self) {
        for outcome in self.seen.outcomes.clone() {
            let (tag, parsed) = (outcome.step.tag, self.parsed[&outcome.step.tag].clone());
            // What must be sent again cannot be, if it was long (rule: sent once).
            let mut refusals = self.seen.upstream.refusals.iter();
            if self.is_long(&outcome) && refusals.any(|refusal| refusal.tag == tag) {
                continue;
            }
            if let Some(response) = outcome.response()
                && !is_success(response.status)
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
                .upstream
                .arrivals
                .iter()
                .filter(|arrival| arrival.at >= outcome.sent)
                .filter(|arrival| {
                    arrival
                        .response
                        .as_ref()
                        .is_some_and(|response| is_success(response.status))
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
        // Where a connection takes time, calls arrive late.
        if self.dial.is_zero() {
            self.leading_receipts_do_not_wait();
            self.receipts_merge();
        }
    }

    /// Merged calls for one chat are a window apart.
    fn receipts_merge(&mut self) {
        let batch = &self.config.batch;
        if self.reload.is_some() || self.drains || batch.max_ids < 100 || batch.max_callers < 1000 {
            return;
        }
        let window = batch.window;
        let mut last: Vec<(Parsed, At)> = Vec::new();
        for arrival in self.seen.upstream.arrivals.clone() {
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

    /// With `batch.edge = "leading"` the window delays no receipt of an idle key.
    fn leading_receipts_do_not_wait(&mut self) {
        let (window, edge) = (self.config.batch.window, self.config.batch.edge);
        if edge != BatchEdge::Leading || self.reload.is_some() {
            return;
        }
        for outcome in self.seen.outcomes.clone() {
            let (tag, sent) = (outcome.step.tag, outcome.sent);
            let parsed = self.parsed[&tag].clone();
            let is_prompt = outcome.step.manner == Manner::Waits && sent < self.seen.drain;
            if !is_prompt || !parsed.is_receipt() || !outcome.is_fully_sent() {
                continue;
            }
            let arrivals = self.seen.upstream.arrivals.iter().filter(|arrival| {
                let called = arrival.parsed.as_ref();
                called.is_some_and(|called| called.may_share(&parsed))
            });
            // A body may take this long to arrive.
            let recent = sent.saturating_sub(window + BODY);
            let has_company = self.seen.outcomes.iter().any(|other| {
                other.step.tag != tag
                    && (recent..=sent).contains(&other.sent)
                    && self.parsed[&other.step.tag].may_share(&parsed)
            });
            let is_busy = |arrival: &Arrival| {
                let response = arrival.response.as_ref();
                let ended = response.map_or(At::MAX, |response| response.at + 2 * TICK);
                arrival.at < sent && ended.max(arrival.at + window + 2 * TICK) >= sent
            };
            if has_company || arrivals.clone().any(is_busy) {
                continue;
            }
            let mut since = arrivals.filter(|arrival| arrival.at >= sent);
            let first = since.next().map(|arrival| arrival.at);
            if first.is_none_or(|first| first > sent + 2 * TICK) {
                let what = format!("{tag}, sent at {sent:?}, left at {first:?}");
                self.breaks("a receipt of an idle key does not wait", what);
            }
        }
    }
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status) || status == 304
}
