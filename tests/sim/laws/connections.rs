//! Which connection a request uses, and how connections begin and end (rule: pass-through).

use std::net::IpAddr;
use std::time::Duration;

use super::{Case, TICK, slow};
use crate::plan::{ATTEMPT_DELAY, Address};
use crate::upstream::{Attempt, AttemptEnd};
use crate::wire::At;

/// A ping after 3 s without a frame, and the end of the connection 5 s later.
pub(super) const PING_TIMES: Duration = Duration::from_secs(8);

/// How long an address that failed is tried last.
const FAILURE_MEMORY: Duration = Duration::from_secs(60);

impl Case {
    pub(super) fn connections(&mut self) {
        self.old_connections_take_no_request();
        self.http2_connections_end();
        self.failed_addresses_are_last();
        self.dead_addresses_are_not_waited_for();
    }

    fn old_connections_take_no_request(&mut self) {
        const LAW: &str = "a connection that is too old takes no request";
        let upstream = &self.seen.upstream;
        let arrivals = upstream.arrivals.iter();
        let arrivals = arrivals.map(|it| (it.at, it.tag, it.connection));
        let refusals = upstream.refusals.iter();
        let refusals = refusals.map(|it| (it.at, it.tag, it.connection));
        let mut late = Vec::new();
        for (at, tag, number) in arrivals.chain(refusals) {
            let connection = &upstream.connections[number];
            let max_age = self.config.upstream.max_age;
            let by_age = (!max_age.is_zero()).then(|| connection.opened + max_age);
            let reload = self.reload.as_ref().map(|(reload, _)| *reload);
            let by_reload = reload.filter(|reload| connection.dialled + TICK < *reload);
            let Some(end) = by_age.into_iter().chain(by_reload).min() else {
                continue;
            };
            // The request for which it was made is sent all the same.
            let end = end.max(connection.opened) + 2 * TICK;
            let outcome = self.seen.outcomes.iter().find(|it| it.step.tag == tag);
            if at > end + outcome.map_or(Duration::ZERO, slow) {
                late.push(format!("{tag} at {at:?} on {number} {connection:?}"));
            }
        }
        for what in late {
            self.breaks(LAW, what);
        }
    }

    /// A connection on which nothing arrives ends, and takes no request meanwhile; nor does one
    /// behind a GOAWAY.
    fn http2_connections_end(&mut self) {
        if self.behaviour.http2.is_none() {
            return;
        }
        for (number, connection) in self.seen.upstream.connections.clone().iter().enumerate() {
            let what = format!("{number} {connection:?}");
            let closed = connection.closed.unwrap_or(At::MAX);
            if let Some(loss) = connection.loss()
                && closed > loss + PING_TIMES + 5 * TICK
            {
                self.breaks("a connection on which nothing arrives ends", &what);
            }
            if connection.late_streams > 0 {
                self.breaks("no request begins on a connection that ends", &what);
            }
        }
    }

    /// An address that failed within the last minute, and has not responded since, is not tried
    /// before one of which nothing is known, or which has responded.
    fn failed_addresses_are_last(&mut self) {
        if self.cluster.is_some() {
            // Each gateway has its own experience, and the record does not say whose attempt it was.
            return;
        }
        let mut wrong = Vec::new();
        let attempts = &self.seen.upstream.attempts;
        for attempt in attempts.iter().filter(|attempt| attempt.is_first) {
            let has_failed = |ip| self.has_failed(ip, attempt.at);
            let addresses = self.behaviour.names.at(attempt.at);
            let is_better = |other: &Address| has_failed(other.ip) == Some(false);
            if has_failed(attempt.ip) == Some(true) && addresses.iter().any(is_better) {
                wrong.push(format!("{attempt:?}"));
            }
        }
        for what in wrong {
            self.breaks("an address that failed comes last", what);
        }
    }

    /// Whether the last attempt at an address that ended before `now` has failed; `None` if that
    /// is unknown.
    fn has_failed(&self, ip: IpAddr, now: At) -> Option<bool> {
        let attempts = self.seen.upstream.attempts.iter();
        let ended = attempts.filter(|other| other.ip == ip).filter_map(|other| {
            let (at, end) = other.ended?;
            (at <= now && now < at + FAILURE_MEMORY + TICK).then_some((at, end, other))
        });
        let ended: Vec<_> = ended.collect();
        let last = ended.iter().map(|(at, ..)| *at).max();
        let mut of_last = ended.iter().filter(|(at, ..)| Some(*at) == last);
        let (at, end, attempt) = match (of_last.next(), of_last.next()) {
            (None, _) => return Some(false),
            // Of several at the same time, any may be the last one.
            (Some(_), Some(_)) => return None,
            (Some(last), None) => *last,
        };
        let is_certain = at < now && now + TICK < at + FAILURE_MEMORY;
        let has_failed = match end {
            AttemptEnd::Connected => Some(false),
            AttemptEnd::Failed => Some(true),
            // Another address was faster, although it was tried later.
            AttemptEnd::Abandoned => {
                let timeout = self.config.upstream.connect_timeout;
                let is_overtaken = attempt.is_first && at + TICK < attempt.at + timeout;
                is_overtaken.then_some(true)
            }
        };
        has_failed.filter(|_| is_certain)
    }

    /// The next address is tried while one does not respond.
    fn dead_addresses_are_not_waited_for(&mut self) {
        let attempts = &self.seen.upstream.attempts;
        let waits = |attempt: &&Attempt| {
            let next = attempt.at + ATTEMPT_DELAY + TICK;
            let is_next = |other: &Attempt| {
                other.ip != attempt.ip && other.at > attempt.at && other.at <= next
            };
            attempt.is_first
                && self.behaviour.names.at(attempt.at).len() > 1
                && attempt.ended.is_none_or(|(ended, _)| ended > next)
                && !attempts.iter().any(is_next)
        };
        let waiting = attempts.iter().find(waits).map(|it| format!("{it:?}"));
        if let Some(what) = waiting {
            self.breaks("the next address is tried after 250 ms", what);
        }
    }
}
