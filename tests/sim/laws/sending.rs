//! What is sent once, and what may be sent again (rules: sent once, retries).

use std::collections::BTreeMap;

use super::{Case, TICK};
use crate::plan::Manner;
use crate::upstream::Arrival;

impl Case {
    pub(super) fn nothing_is_sent_twice_or_in_part(&mut self) {
        let mut arrivals: BTreeMap<usize, Vec<Arrival>> = BTreeMap::new();
        for arrival in &self.seen.upstream.arrivals {
            arrivals
                .entry(arrival.tag)
                .or_default()
                .push(arrival.clone());
        }
        for outcome in self.seen.outcomes.clone() {
            let tag = outcome.step.tag;
            let mine = arrivals.remove(&tag).unwrap_or_default();
            if !self.parsed[&tag].is_receipt() && mine.len() > 1 {
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

    /// What the upstream refused without processing it is sent again on another connection.
    pub(super) fn refused_requests(&mut self) {
        const LAW: &str = "a refused request is sent again on another connection";
        let (refusals, arrivals) = (&self.seen.upstream.refusals, &self.seen.upstream.arrivals);
        let (mut wrong, mut unknown) = (Vec::new(), Vec::new());
        for (number, refusal) in refusals.iter().enumerate() {
            if !self.parsed.contains_key(&refusal.tag) {
                unknown.push(refusal.tag);
            }
            let later = refusals[number + 1..]
                .iter()
                .map(|it| (it.tag, it.connection));
            let arrived = arrivals[refusal.arrivals..].iter();
            let mut later = later.chain(arrived.map(|it| (it.tag, it.connection)));
            if later.any(|it| it == (refusal.tag, refusal.connection)) {
                wrong.push(format!("{refusal:?}"));
            }
        }
        for what in wrong {
            self.breaks(LAW, what);
        }
        for tag in unknown {
            self.breaks("nothing comes from nowhere", tag);
        }
    }

    /// No receipt is sent again before the time that the response to it named.
    pub(super) fn retries_respect_retry_after(&mut self) {
        let mut early = Vec::new();
        let arrivals = &self.seen.upstream.arrivals;
        for (number, failed) in arrivals.iter().enumerate() {
            let response = failed.response.as_ref();
            let response = response.filter(|it| it.status >= 500 && self.is_heard(failed));
            let Some((at, pause)) = response.and_then(|it| Some((it.at, it.retry_after?))) else {
                continue;
            };
            let is_early = |again: &&Arrival| {
                again.tag == failed.tag && again.at >= at && again.at + TICK < at + pause
            };
            let again = arrivals[number + 1..].iter().find(is_early);
            early.extend(again.map(|again| (number, again.at - at, pause)));
        }
        for (number, after, pause) in early {
            let what = format!("call {number} again after {after:?}, asked to wait {pause:?}");
            self.breaks("a retry waits as the response asks", what);
        }
    }
}
