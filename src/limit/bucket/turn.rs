//! When the turn of a call would come, and who is refused because of it.
//!
//! Invariant: foretells and takes nothing. Calls that leave the line make a
//! turn come sooner; only receipts that grow too old to yield make it later.

use std::time::Duration;

use tokio::time::Instant;

use super::State;
use crate::config::Quota;
use crate::limit::line::{Grant, Kind};
use crate::limit::{Refusal, Refused, Rules, Scope};

/// When a call would have its tokens, and what keeps it so long.
#[derive(Clone, Copy, Debug)]
pub(in crate::limit) struct Turn {
    pub(in crate::limit) at: Instant,
    pub(in crate::limit) scope: Scope,
    pub(in crate::limit) quota: Option<Quota>,
}

impl<G: Grant> State<G> {
    /// When a call has its token that comes now behind so many others.
    pub(super) fn due(&self, now: Instant, before: usize) -> Instant {
        let before = u32::try_from(before).unwrap_or(u32::MAX);
        let held = self.pause.as_ref().and_then(|pause| pause.holds(now));
        // Tokens come back during a pause, and leave together after it.
        let from = held.unwrap_or(now);
        self.gcra.due(from, before)
    }

    /// Whether a token is there, or when it will be.
    pub(in crate::limit) fn ready(&self, now: Instant) -> Result<(), Instant> {
        match self.due(now, 0) {
            next if next > now => Err(next),
            _ => Ok(()),
        }
    }

    /// Whether a call could be admitted now.
    pub(in crate::limit) fn check(
        &self,
        kind: Kind,
        now: Instant,
        deadline: Instant,
        rules: &Rules,
    ) -> Result<(), Refused> {
        if self.line.is_none() && self.turn(kind, now, rules.max_delay).at <= now {
            return Ok(());
        }
        self.check_turn(kind, now, deadline, rules)
    }

    /// Refuses a call whose turn would come too late or that finds no place.
    pub(super) fn check_turn(
        &self,
        kind: Kind,
        now: Instant,
        deadline: Instant,
        rules: &Rules,
    ) -> Result<(), Refused> {
        let turn = self.turn(kind, now, rules.max_delay);
        if self.waiting() >= rules.max_queue {
            Err(self.refused(Refusal::QueueFull, turn, now))
        } else if turn.at > deadline {
            Err(self.refused(self.too_long(turn, now), turn, now))
        } else {
            Ok(())
        }
    }

    /// The refusal of a call that stood in line until its deadline came.
    pub(in crate::limit) fn too_late(&self, now: Instant, rules: &Rules) -> Refused {
        // A call that came now would have to wait as long, or less.
        let turn = self.turn(Kind::Call, now, rules.max_delay);
        self.refused(self.too_long(turn, now), turn, now)
    }

    /// Why a call would wait so long for its turn.
    fn too_long(&self, turn: Turn, now: Instant) -> Refusal {
        let pause = self.pause.as_ref().and_then(|pause| pause.holds(now));
        match (turn.scope, pause) {
            (Scope::Instance, Some(_)) => Refusal::Paused,
            _ => Refusal::WaitTooLong,
        }
    }

    fn waiting(&self) -> usize {
        self.line.as_ref().map_or(0, |line| line.len())
    }

    fn refused(&self, refusal: Refusal, turn: Turn, now: Instant) -> Refused {
        Refused {
            refusal,
            scope: turn.scope,
            quota: turn.quota,
            waiting: self.waiting(),
            retry_after: turn.at.saturating_duration_since(now),
        }
    }

    /// When a call that joins now would get its token, if nobody else came.
    fn turn(&self, kind: Kind, now: Instant, max_delay: Duration) -> Turn {
        let here = Turn {
            at: self.turn_here(kind, now, max_delay),
            scope: Scope::Instance,
            quota: self.quota(),
        };
        let elsewhere = self
            .share
            .as_ref()
            .map(|share| share.turn(self.waiting(), now));
        elsewhere.filter(|it| it.at > here.at).unwrap_or(here)
    }

    /// The same, if the egress were never scarce: the line is gone through as
    /// [`Line::pop`](crate::limit::line::Line::pop) will.
    fn turn_here(&self, kind: Kind, now: Instant, max_delay: Duration) -> Instant {
        let Some(line) = &self.line else {
            return self.due(now, 0);
        };
        let (before, own) = match kind {
            Kind::Call => (line.receipts.len(), None),
            Kind::Receipt { opened } => (line.older_than(opened), Some(opened)),
        };
        // Mostly there is nothing to go through.
        let in_line = self.due(now, line.calls.len());
        let is_old_by_then = |opened: Instant| opened + max_delay <= in_line;
        match (line.receipts.front(), own) {
            (first, None) if !first.is_some_and(|it| is_old_by_then(it.opened)) => return in_line,
            (_, Some(_)) if line.calls.is_empty() => return self.due(now, before),
            _ => {}
        }
        let receipts = line.receipts.iter().take(before);
        let mut receipts = receipts.map(|it| it.opened).chain(own).peekable();
        let mut calls = line.calls.len();
        let mut turns = line.turns;
        let mut place = 0;
        loop {
            let moment = self.due(now, place);
            let is_old = |opened: &Instant| *opened + max_delay <= moment;
            let calls_wait = own.is_none() || calls > 0;
            if turns.is_receipts(calls_wait, receipts.peek().is_some_and(is_old)) {
                receipts.next();
                if own.is_some() && receipts.peek().is_none() {
                    return moment;
                }
            } else if calls == 0 {
                return moment;
            } else {
                calls -= 1;
            }
            place += 1;
        }
    }
}
