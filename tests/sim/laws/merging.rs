//! What a merged call holds (rule: merge equality).
//!
//! Two requests that differ in more than their ids, that are written in another form, or
//! whose form is no list, may not share a call: [`Parsed::may_share`].

use std::collections::HashSet;

use super::Case;
use crate::client::{Ending, Outcome};
use crate::upstream::Arrival;
use crate::wire::Parsed;

impl Case {
    pub(super) fn merging(&mut self) {
        for (number, arrival) in self.seen.upstream.arrivals.clone().into_iter().enumerate() {
            let Some(called) = arrival.parsed.clone().filter(Parsed::is_receipt) else {
                continue;
            };
            if !called.is_read_alike() {
                let what = format!("call {number} {called:?}");
                self.breaks("all backends read the same ids", what);
            }
            let own = self.parsed.get(&arrival.tag);
            let own = own.map(|parsed| parsed.ids.clone()).unwrap_or_default();
            // A lone request may repeat ids and have more than a batch.
            if called.ids != own {
                self.merged_call(number, &arrival, &called, &own);
            }
        }
    }

    fn merged_call(&mut self, number: usize, arrival: &Arrival, called: &Parsed, own: &[String]) {
        const LAW: &str = "a merged call holds the ids of its callers";
        if called.ids.len() > self.config.batch.max_ids && self.reload.is_none() {
            self.breaks(LAW, format!("call {number} holds {} ids", called.ids.len()));
        }
        let distinct: HashSet<_> = called.ids.iter().collect();
        if distinct.len() < called.ids.len() {
            self.breaks(LAW, format!("call {number} holds an id twice"));
        }
        let mut first_seen = HashSet::new();
        let own = own.iter().filter(|id| first_seen.insert(*id));
        if !called.ids.iter().zip(own).all(|(sent, own)| sent == own) {
            let what = format!("call {number}, {called:?}, does not begin with those of the first");
            self.breaks(LAW, what);
        }
        // Each caller of a call that succeeded got its response, unless it left.
        let is_success = |arrival: &Arrival| {
            let response = arrival.response.as_ref();
            response.is_some_and(|it| (200..300).contains(&it.status) && !it.cut)
        };
        // A gateway that follows in a cluster may not hear it.
        let is_heard = is_success(arrival) && self.is_heard(arrival) && self.cluster.is_none();
        let may_be_caller = |outcome: &&Outcome| match &outcome.ending {
            Ending::Response(response) => !is_heard || response.call == Some(number),
            Ending::Cut | Ending::Left | Ending::Silence => true,
            Ending::Unsent => false,
        };
        let outcomes = self.seen.outcomes.iter();
        let asked: HashSet<&String> = outcomes
            .filter(|outcome| outcome.sent <= arrival.at)
            .filter(may_be_caller)
            .map(|outcome| &self.parsed[&outcome.step.tag])
            .filter(|parsed| parsed.may_share(called))
            .flat_map(|parsed| &parsed.ids)
            .collect();
        if let Some(id) = called.ids.iter().find(|id| !asked.contains(id)) {
            let what = format!("call {number}, {called:?}: no caller of it asked for {id}");
            self.breaks(LAW, what);
        }
    }
}
