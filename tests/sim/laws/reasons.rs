//! Why the gateway makes a response itself (rule: gateway responses).
//!
//! Invariant: what the upstream certainly did not process, and may be sent again, fails no
//! request (rule: sent once).

use std::time::Duration;

use super::{Case, TICK};
use crate::client::{Outcome, ReceivedResponse};
use crate::plan::{Manner, RequestKind};
use crate::upstream::Arrival;

/// A body that is longer is not sent again.
const KEPT_BODY: usize = 64 * 1024;

impl Case {
    /// A response that the gateway made must have a reason.
    pub(super) fn is_possible(&mut self, outcome: &Outcome, response: &ReceivedResponse) {
        const LAW: &str = "the gateway's own responses have their reasons";
        let Some(own) = &response.own else { return };
        let tag = outcome.step.tag;
        let arrivals = self
            .seen
            .upstream
            .arrivals
            .iter()
            .filter(|arrival| arrival.tag == tag)
            .count();
        let reason = own.split(';').nth(1).unwrap_or_default().trim();
        let waited = outcome.ended - outcome.sent;
        let fits = match (response.status, reason) {
            (429, "error=http_request_denied") => {
                let receipt = self.parsed[&tag].is_receipt();
                // A slow body is part of the wait.
                if !receipt
                    && waited > self.config.limit.max_wait + 5 * TICK + Duration::from_millis(90)
                {
                    self.breaks(LAW, format!("{tag} was refused after {waited:?}"));
                }
                !self.fault_free && (receipt || arrivals == 0)
            }
            (503, "error=connection_limit_reached") => {
                arrivals == 0 && self.config.server.max_in_flight < 100
            }
            (502, "error=connection_refused") => self.was_unreachable(outcome),
            (502, "error=connection_timeout") => {
                self.was_unreachable(outcome) || self.met_a_lost_connection(outcome)
            }
            (502, "error=connection_terminated") => {
                self.met_a_fault(outcome)
                    || self.was_refused(outcome)
                    || self.met_a_lost_connection(outcome)
            }
            (504, "error=http_response_timeout") => {
                waited >= self.config.upstream.response_timeout && !self.fault_free
            }
            (400, "error=http_request_error") => outcome.step.manner == Manner::BreaksOff,
            _ => false,
        };
        if !fits {
            self.breaks(
                LAW,
                format!(
                    "{tag} got {} {own} after {waited:?}, {arrivals} arrivals",
                    response.status
                ),
            );
        }
    }

    /// Whether the upstream was away during a request.
    fn was_unreachable(&self, outcome: &Outcome) -> bool {
        let mut absences = self.seen.upstream.absences.iter();
        // A request waits for the connection that another one makes, and fails with it.
        let shared = match self.behaviour.http2 {
            Some(_) => self.config.upstream.connect_timeout,
            None => Duration::ZERO,
        };
        absences.any(|(from, to)| *from <= outcome.ended && outcome.sent <= *to + shared)
    }

    /// Whether there was a connection during a request on which nothing arrived any more.
    fn met_a_lost_connection(&self, outcome: &Outcome) -> bool {
        let mut connections = self.seen.upstream.connections.iter();
        connections.any(|connection| {
            let is_open = connection
                .closed
                .is_none_or(|closed| outcome.sent <= closed);
            is_open && connection.loss().is_some_and(|loss| loss <= outcome.ended)
        })
    }

    /// Whether a call for a request was cut, or may have been.
    fn met_a_fault(&self, outcome: &Outcome) -> bool {
        let has_fault = |arrival: &Arrival| {
            let response = arrival.response.as_ref();
            response.is_none_or(|response| response.cut || response.lost)
        };
        let upstream = &self.seen.upstream;
        let meanwhile = outcome.sent..=outcome.ended;
        let mut arrivals = upstream.arrivals.iter();
        upstream.kills.iter().any(|kill| meanwhile.contains(kill))
            || arrivals.any(|it| {
                has_fault(it) && meanwhile.contains(&it.at) && self.may_be_of(it.tag, outcome)
            })
    }

    /// Whether the upstream refused a request so often, or so late, that it is not sent again.
    fn was_refused(&self, outcome: &Outcome) -> bool {
        let refusals = self.seen.upstream.refusals.iter();
        let own = refusals.filter(|refusal| self.may_be_of(refusal.tag, outcome));
        own.count() >= if self.is_long(outcome) { 1 } else { 2 }
    }

    /// Whether the body of a request is too long to be sent again.
    pub(super) fn is_long(&self, outcome: &Outcome) -> bool {
        matches!(outcome.step.kind, RequestKind::Send(length) if length > KEPT_BODY)
    }

    /// Whether a call with this tag may be one for this request.
    fn may_be_of(&self, tag: usize, outcome: &Outcome) -> bool {
        let own = &self.parsed[&outcome.step.tag];
        let is_shared = |other| own.is_receipt() && own.may_share(other);
        tag == outcome.step.tag || self.parsed.get(&tag).is_some_and(is_shared)
    }
}
