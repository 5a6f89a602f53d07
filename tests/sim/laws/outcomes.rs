//! What each client received, and that nothing is left behind.

use std::time::Duration;

use super::{Case, TICK, slow};
use crate::client::{Ending, Outcome};
use crate::plan::{LOST_AFTER, Manner};
use crate::upstream::STORM;

impl Case {
    pub(super) fn nothing_left_open(&mut self) {
        const LAW: &str = "nothing is left open";
        if !self.seen.drained {
            self.breaks(LAW, "the drain does not end".to_owned());
        }
        let gauges = [
            "in_flight_requests",
            "connections",
            "batches_open",
            "limit_queued",
        ];
        let left: Vec<_> = self
            .seen
            .metrics
            .lines()
            .filter(|line| {
                gauges
                    .iter()
                    .any(|gauge| line.starts_with(&format!("wawp_gateway_{gauge}")))
            })
            .filter(|line| !line.ends_with(" 0"))
            .map(str::to_owned)
            .collect();
        for line in left {
            self.breaks(LAW, line);
        }
        for gauge in &gauges[..3] {
            if !self
                .seen
                .metrics
                .contains(&format!("\nwawp_gateway_{gauge} "))
            {
                self.breaks(LAW, format!("no gauge {gauge}"));
            }
        }
        let connections = self.seen.upstream.connections.iter();
        let open = connections.filter(|it| it.closed.is_none()).count();
        if open > 0 {
            self.breaks(LAW, format!("{open} upstream connections"));
        }
        if self.seen.upstream.arrivals.len() >= STORM {
            let (calls, apps) = (self.seen.upstream.arrivals.len(), self.seen.outcomes.len());
            self.breaks(
                "no storm",
                format!("{apps} requests of apps became {calls} calls"),
            );
        }
        for panic in std::mem::take(&mut self.seen.panics) {
            self.breaks("nothing panics", panic);
        }
        for unexpected in std::mem::take(&mut self.seen.unexpected) {
            self.breaks("answered exactly once", unexpected);
        }
    }

    pub(super) fn every_caller_gets_one_outcome(&mut self) {
        const LAW: &str = "every client gets a response or sees its connection closed";
        for outcome in self.seen.outcomes.clone() {
            let (tag, sent) = (outcome.step.tag, outcome.sent);
            match &outcome.ending {
                Ending::Silence => self.breaks(LAW, format!("{tag} got nothing")),
                Ending::Cut if outcome.step.manner == Manner::BreaksOff => {}
                Ending::Cut if outcome.ended >= self.seen.drain => {}
                Ending::Cut if self.met_a_crash(&outcome) => {}
                // The upstream broke off before the head was passed on.
                Ending::Cut if self.broke_off(&outcome) => {}
                Ending::Cut => self.breaks(
                    LAW,
                    format!(
                        "{tag}, sent at {sent:?}, was cut at {:?} for no reason",
                        outcome.ended
                    ),
                ),
                Ending::Response(response) => self.is_possible(&outcome, response),
                Ending::Left | Ending::Unsent => {}
            }
        }
        let mut tags: Vec<_> = self
            .seen
            .outcomes
            .iter()
            .map(|outcome| outcome.step.tag)
            .collect();
        tags.sort_unstable();
        let count = tags.len();
        tags.dedup();
        assert_eq!(
            count,
            tags.len(),
            "the simulation records one outcome for each request"
        );
    }

    /// Whether the upstream's response to this request broke off.
    fn broke_off(&self, outcome: &Outcome) -> bool {
        let mine = self
            .seen
            .upstream
            .arrivals
            .iter()
            .filter(|arrival| arrival.tag == outcome.step.tag);
        mine.filter_map(|arrival| arrival.response.as_ref())
            .any(|response| {
                let meanwhile = response.at..=outcome.ended;
                response.cut
                    || self
                        .seen
                        .upstream
                        .kills
                        .iter()
                        .any(|kill| meanwhile.contains(kill))
            })
    }

    /// Each client has its response once the wait for the token and the call itself have had
    /// their time.
    pub(super) fn every_caller_is_answered_in_time(&mut self) {
        const LAW: &str = "every client has its response in time";
        let (upstream, behaviour) = (&self.config.upstream, &self.behaviour);
        let very_slow = Duration::from_secs(if behaviour.very_slow > 0 { 11 } else { 0 });
        let latency = very_slow.max(Duration::from_millis(behaviour.latency as u64));
        let lost = match (behaviour.losses, behaviour.http2) {
            (0, _) => Duration::ZERO,
            (_, Some(_)) => super::connections::PING_TIMES,
            (_, None) => LOST_AFTER,
        };
        let call = upstream.response_timeout.min(latency + lost);
        // Nothing may respond while a connection is made: for the request itself, for one that
        // makes a connection for both, and for a second one if the first ends at once.
        let may_hang = !behaviour.restarts.is_empty() || behaviour.losses > 0;
        let hangs = upstream.connect_timeout * if may_hang { 3 } else { 0 };
        let longest = self.config.limit.max_wait + self.server_wait() + self.dial + hangs + call;
        for outcome in self.seen.outcomes.clone() {
            let took = outcome.ended - outcome.sent;
            let is_bound = !matches!(outcome.ending, Ending::Left | Ending::Unsent);
            if is_bound && took > longest + slow(&outcome) + 10 * TICK {
                let what = format!(
                    "{} waited {took:?}, more than {longest:?}",
                    outcome.step.tag
                );
                self.breaks(LAW, what);
            }
        }
    }
}
