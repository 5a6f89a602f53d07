//! Why the gateway makes a response itself (rule: gateway responses).

use std::time::Duration;

use super::{Case, TICK};
use crate::client::{Outcome, ReceivedResponse};
use crate::plan::Manner;

impl Case {
    /// A response that the gateway made must have a reason.
    pub(super) fn is_possible(&mut self, outcome: &Outcome, response: &ReceivedResponse) {
        const LAW: &str = "the gateway's own responses have their reasons";
        let Some(own) = &response.own else { return };
        let tag = outcome.step.tag;
        let arrivals = self
            .seen
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
            (
                502,
                "error=connection_refused"
                | "error=connection_timeout"
                | "error=connection_terminated",
            ) => !self.fault_free,
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
}
