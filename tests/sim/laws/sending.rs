//! What is sent once, and what may be sent again (rules: sent once, retries).

use std::collections::BTreeMap;

use super::Case;
use crate::plan::Manner;
use crate::upstream::Arrival;
use crate::wire::SEEN;

impl Case {
    pub(super) fn nothing_is_sent_twice_or_in_part(&mut self) {
        let mut arrivals: BTreeMap<usize, Vec<Arrival>> = BTreeMap::new();
        for arrival in &self.seen.arrivals {
            arrivals
                .entry(arrival.tag)
                .or_default()
                .push(arrival.clone());
        }
        for outcome in self.seen.outcomes.clone() {
            let tag = outcome.step.tag;
            let mine = arrivals.remove(&tag).unwrap_or_default();
            if self.parsed[&tag].path != SEEN && mine.len() > 1 {
                self.breaks(
                    "no send is repeated",
                    format!("{tag} arrived {} times", mine.len()),
                );
            }
            let whole = mine.iter().any(|arrival| arrival.parsed.is_some());
            if outcome.step.manner == Manner::BreaksOff && whole {
                self.breaks("no half request becomes whole", format!("{tag}"));
            }
            let planned = &self.parsed[&tag];
            if let Some(other) = mine
                .iter()
                .filter_map(|arrival| arrival.parsed.as_ref())
                .find(|parsed| {
                    if planned.is_receipt() {
                        !parsed.may_share(planned)
                    } else {
                        *parsed != planned
                    }
                })
            {
                let what = format!("{tag} {planned:?} arrived as {other:?}");
                self.breaks("a request arrives as it was sent", what);
            }
        }
        if let Some(tag) = arrivals.keys().next() {
            self.breaks("nothing comes from nowhere", format!("{tag}"));
        }
    }
}
