//! Whose response a caller received.

use super::{Case, TICK, slow};
use crate::client::Outcome;

impl Case {
    pub(super) fn responses_belong_to_their_callers(&mut self) {
        const LAW: &str = "a response belongs to its caller";
        for outcome in self.seen.outcomes.clone() {
            let (tag, parsed) = (outcome.step.tag, self.parsed[&outcome.step.tag].clone());
            let Some(response) = outcome.response().cloned() else {
                continue;
            };
            let Some(number) = response.call else {
                if response.own.is_none() {
                    self.breaks(
                        LAW,
                        format!("{tag} got {} without a source", response.status),
                    );
                }
                continue;
            };
            let arrival = self.seen.upstream.arrivals[number].clone();
            let (Some(called), Some(given)) = (&arrival.parsed, &arrival.response) else {
                self.breaks(
                    LAW,
                    format!("{tag} got a response that call {number} never had"),
                );
                continue;
            };
            let whole = response.whole && given.body == response.body && !given.cut;
            let broken = !response.whole && given.body.starts_with(&response.body);
            let killed = self
                .seen
                .upstream
                .kills
                .iter()
                .any(|kill| given.at <= *kill && *kill <= outcome.ended);
            let killed = killed || self.met_a_crash(&outcome);
            if given.status != response.status || !(whole || (broken && (given.cut || killed))) {
                self.breaks(
                    LAW,
                    format!("{tag} got {response:?}, call {number} had {given:?}"),
                );
            }
            if arrival.at < outcome.sent {
                self.breaks(
                    LAW,
                    format!(
                        "{tag}, sent at {:?}, joined call {number} of {:?}",
                        outcome.sent, arrival.at
                    ),
                );
            }
            if !parsed.is_receipt() {
                if arrival.tag != tag {
                    self.breaks(LAW, format!("{tag} got the response to {}", arrival.tag));
                }
                continue;
            }
            if !parsed.may_share(called) {
                self.breaks(
                    LAW,
                    format!("{tag} {parsed:?} shared call {number} {called:?}"),
                );
            }
            let is_rejected = [400, 413, 414, 422, 500].contains(&response.status);
            let is_common = is_rejected && self.is_common(&outcome, response.status);
            let lost = parsed.ids.iter().find(|id| !called.ids.contains(id));
            if let Some(lost) = lost.filter(|_| !is_common) {
                self.breaks(
                    "no id is lost",
                    format!("{lost} of {tag} was not in call {number}"),
                );
            }
            // A caller whose ids are all of the call's ids has its own verdict.
            let is_own = called.ids.iter().all(|id| parsed.ids.contains(id));
            if is_rejected && !is_own && !is_common && !self.may_run_out_of_time(&outcome) {
                self.breaks(
                    "no caller fails because of another caller's id",
                    format!("{tag} got the {} of {}", response.status, arrival.tag),
                );
            }
            let late = outcome.sent + self.config.limit.max_wait + self.dial + 2 * TICK;
            let late = late + self.server_wait();
            if arrival.at > late + slow(&outcome) {
                self.breaks(
                    "a deadline holds",
                    format!(
                        "{tag}, sent at {:?}, went out at {:?}",
                        outcome.sent, arrival.at
                    ),
                );
            }
        }
    }

    /// Whether the rejections that the gateway saw leave no other conclusion than
    /// that a receipt would be rejected too: no single id explains them, or one
    /// that the receipt has.
    fn is_common(&self, outcome: &Outcome, status: u16) -> bool {
        let parsed = &self.parsed[&outcome.step.tag];
        let rejected = self.seen.upstream.arrivals.iter().filter_map(|arrival| {
            let called = arrival.parsed.as_ref()?;
            let response = arrival.response.as_ref()?;
            let counts = response.status == status && response.at <= outcome.ended;
            (counts && parsed.may_share(called)).then_some(&called.ids)
        });
        let rejected: Vec<_> = rejected.collect();
        let Some(first) = rejected.first() else {
            return false;
        };
        let is_in_all = |id: &&String| rejected.iter().all(|ids| ids.contains(id));
        let mut suspects = first.iter().filter(is_in_all).peekable();
        let is_independent = suspects.peek().is_none();
        rejected.len() >= if is_independent { 3 } else { 2 }
            && suspects.all(|id| parsed.ids.contains(id))
    }

    /// Whether a caller may get the last verdict of its batch because its part of
    /// a split would come too late.
    fn may_run_out_of_time(&self, outcome: &Outcome) -> bool {
        let config = &self.config;
        let is_limited = config.limit.quota.is_some()
            || !config.limit.classes.is_empty()
            || config.egress.quota.is_some()
            || config.tenants.iter().any(|tenant| tenant.quota.is_some());
        let is_paused = self.seen.upstream.arrivals.iter().any(|arrival| {
            let response = arrival.response.as_ref();
            response.is_some_and(|response| response.status == 429)
        });
        is_limited || is_paused || outcome.ended - outcome.sent >= config.limit.max_wait
    }
}
