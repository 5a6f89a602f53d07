//! One setting tried on a log's calls, in the log's own time.
//!
//! Invariant: batches and buckets are the gateway's own ([`Batch`], [`Paper`]);
//! this room only turns the clock, and holds nothing but what is open.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::waits::Waits;
use crate::batch::{Batch, Caps, Member};
use crate::config::Config;
use crate::limit::{Entry, Grant, Kind, Paper, Permit, Purse};

/// A call of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Arrival {
    /// Since 1970, in nanoseconds.
    pub(super) at: u64,
    /// Whose bucket it draws on.
    pub(super) purse: Purse,
    pub(super) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    Call,
    Receipt {
        /// Equal for receipts that may merge; `None` where the log cannot tell.
        key: Option<u64>,
        ids: u32,
    },
}

/// What came of a setting.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    pub(super) saved: u64,
    pub(super) refused: u64,
    pub(super) upstream: u64,
    pub(super) receipts: Waits,
    pub(super) calls: Waits,
}

/// A receipt in a batch.
#[derive(Debug)]
struct Guest {
    key: u64,
    ids: Vec<u64>,
    arrived: Instant,
    deadline: Instant,
}

impl Member for Guest {
    type Key = u64;
    type Id = u64;

    fn key(&self) -> &u64 {
        &self.key
    }

    fn ids(&self) -> &[u64] {
        &self.ids
    }

    // A log tells no lengths: the caps alone bound a batch.
    fn cost(&self, _: &u64) -> usize {
        0
    }

    fn room(&self) -> usize {
        usize::MAX
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// Somebody in line, by name: granted tokens are noted for the clock's turner.
struct Slot {
    id: u64,
    granted: Rc<RefCell<Vec<u64>>>,
}

impl Grant for Slot {
    fn grant(self, _: Permit) -> bool {
        self.granted.borrow_mut().push(self.id);
        true
    }
}

/// What is due at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// A bucket may have a token.
    Token(Purse),
    /// A batch's window ends.
    Window(u64),
    /// Somebody's deadline comes.
    Deadline(u64),
}

/// A call or a batch that has not gone yet.
struct Open {
    purse: Purse,
    ticket: Option<u64>,
    what: Waiting,
}

enum Waiting {
    Call(Instant),
    Batch(Batch<Guest>),
}

/// One setting, and what is open under it.
pub(super) struct Play {
    config: Config,
    start: Instant,
    paper: Paper<Slot>,
    /// What each bucket's line is looked at next; others on the heap are stale.
    looks: HashMap<Purse, Instant>,
    due: BinaryHeap<Reverse<(Instant, Due)>>,
    open: HashMap<u64, Open>,
    /// The batch of each key that takes callers.
    taking: HashMap<u64, u64>,
    granted: Rc<RefCell<Vec<u64>>>,
    serial: u64,
    first: Option<u64>,
    outcome: Outcome,
}

impl Play {
    pub(super) fn new(config: Config) -> Self {
        let start = Instant::now();
        Self {
            paper: Paper::new(&config),
            config,
            start,
            looks: HashMap::new(),
            due: BinaryHeap::new(),
            open: HashMap::new(),
            taking: HashMap::new(),
            granted: Rc::default(),
            serial: 0,
            first: None,
            outcome: Outcome::default(),
        }
    }

    /// Plays the next call; they come in the order of their arrival.
    pub(super) fn play(&mut self, arrival: &Arrival) {
        let first = *self.first.get_or_insert(arrival.at);
        let now = self.start + Duration::from_nanos(arrival.at.saturating_sub(first));
        self.turn(Some(now));
        let deadline = now + self.config.limit.max_wait;
        match arrival.what {
            What::Call => {
                let id = self.next();
                let what = Waiting::Call(now);
                self.ask(id, arrival.purse, Kind::Call, now, deadline, what);
            }
            What::Receipt { key, ids } => {
                let alone = self.config.batch.window.is_zero()
                    || key.is_none()
                    || ids as usize > self.config.batch.max_ids;
                // A line may claim any number: beyond the cap they are all alike.
                let most = self.config.batch.max_ids.saturating_add(1);
                let ids = (0..most.min(ids as usize)).map(|_| self.next()).collect();
                let guest = Guest {
                    key: key.unwrap_or_default(),
                    ids,
                    arrived: now,
                    deadline,
                };
                self.join(guest, alone, arrival.purse, now);
            }
        }
    }

    /// Plays what is still open to its end.
    pub(super) fn end(mut self) -> Outcome {
        self.turn(None);
        self.outcome
    }

    fn next(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn join(&mut self, guest: Guest, alone: bool, purse: Purse, now: Instant) {
        let key = guest.key;
        let mut guest = Some(guest);
        if let (false, Some(&id)) = (alone, self.taking.get(&key))
            && let Some(Open {
                what: Waiting::Batch(batch),
                ticket,
                ..
            }) = self.open.get(&id)
        {
            guest = guest.take().and_then(|guest| batch.offer(guest));
            if !batch.is_open() {
                self.taking.remove(&key);
                if ticket.is_none() {
                    self.is_due(id, now);
                }
            }
        }
        let Some(guest) = guest else { return };
        let kind = Kind::Receipt { opened: now };
        if self.paper.check(purse, kind, now, guest.deadline).is_err() {
            self.outcome.refused += 1;
            return;
        }
        let caps = Caps::of(&self.config.batch);
        let batch = Batch::open(guest, now, caps);
        let full = !batch.is_open();
        let id = self.next();
        let open = Open {
            purse,
            ticket: None,
            what: Waiting::Batch(batch),
        };
        self.open.insert(id, open);
        if alone || full {
            self.is_due(id, now);
        } else {
            self.taking.insert(key, id);
            let end = now + self.config.batch.window;
            self.due.push(Reverse((end, Due::Window(id))));
        }
    }

    /// A batch's window is over: it asks for its token.
    fn is_due(&mut self, id: u64, now: Instant) {
        let Some(Open {
            purse,
            ticket: None,
            what: Waiting::Batch(batch),
        }) = self.open.remove(&id)
        else {
            return;
        };
        let kind = Kind::Receipt {
            opened: batch.opened,
        };
        let deadline = batch.last_deadline().unwrap_or(now);
        self.ask(id, purse, kind, now, deadline, Waiting::Batch(batch));
    }

    fn ask(
        &mut self,
        id: u64,
        purse: Purse,
        kind: Kind,
        now: Instant,
        deadline: Instant,
        what: Waiting,
    ) {
        let granted = &self.granted;
        let slot = || Slot {
            id,
            granted: Rc::clone(granted),
        };
        match self.paper.admit(purse, kind, now, deadline, slot) {
            Ok(Entry::Now(_)) => self.go(id, what, now),
            Ok(Entry::Queued { ticket, first }) => {
                let until = match &what {
                    Waiting::Call(_) => deadline,
                    Waiting::Batch(batch) => batch.first_deadline().unwrap_or(deadline),
                };
                let ticket = Some(ticket);
                self.open.insert(
                    id,
                    Open {
                        purse,
                        ticket,
                        what,
                    },
                );
                self.due.push(Reverse((until, Due::Deadline(id))));
                if first {
                    self.look(purse, now);
                }
            }
            Err(_) => match what {
                Waiting::Call(_) => self.outcome.refused += 1,
                Waiting::Batch(batch) => {
                    self.forget(&batch, id);
                    self.outcome.refused += batch.seal().0.len() as u64;
                }
            },
        }
    }

    /// Serves a line, and lets go whoever was given a token.
    fn look(&mut self, purse: Purse, now: Instant) {
        match self.paper.serve(purse, now) {
            Some(next) => {
                self.looks.insert(purse, next);
                self.due.push(Reverse((next, Due::Token(purse))));
            }
            None => drop(self.looks.remove(&purse)),
        }
        let granted = self.granted.take();
        for id in granted {
            if let Some(open) = self.open.remove(&id) {
                self.go(id, open.what, now);
            }
        }
    }

    fn go(&mut self, id: u64, what: Waiting, now: Instant) {
        match what {
            Waiting::Call(arrived) => {
                self.outcome.upstream += 1;
                self.outcome.calls.note(now - arrived);
            }
            Waiting::Batch(batch) => {
                self.forget(&batch, id);
                let (guests, _) = batch.seal();
                if guests.is_empty() {
                    return;
                }
                self.outcome.upstream += 1;
                self.outcome.saved += guests.len() as u64 - 1;
                for guest in guests {
                    self.outcome.receipts.note(now - guest.arrived);
                }
            }
        }
    }

    fn forget(&mut self, batch: &Batch<Guest>, id: u64) {
        if self.taking.get(&batch.key) == Some(&id) {
            self.taking.remove(&batch.key);
        }
    }

    /// Somebody in line runs out of time.
    fn expire(&mut self, id: u64, now: Instant) {
        let Some(open) = self.open.get(&id) else {
            return;
        };
        let (purse, ticket) = (open.purse, open.ticket);
        if let Waiting::Batch(batch) = &open.what {
            self.outcome.refused += batch.expire(now).len() as u64;
            if let Some(next) = batch.first_deadline() {
                self.due.push(Reverse((next, Due::Deadline(id))));
                return;
            }
        } else {
            self.outcome.refused += 1;
        }
        if let Some(Open {
            what: Waiting::Batch(batch),
            ..
        }) = self.open.remove(&id)
        {
            self.forget(&batch, id);
        }
        if let Some(ticket) = ticket {
            self.paper.leave(purse, ticket);
            self.look(purse, now);
        }
    }

    /// Turns the clock to a moment, or to the end of all that is open.
    fn turn(&mut self, until: Option<Instant>) {
        while let Some(&Reverse((at, due))) = self.due.peek() {
            if until.is_some_and(|until| at > until) {
                return;
            }
            self.due.pop();
            match due {
                Due::Window(id) => self.is_due(id, at),
                Due::Deadline(id) => self.expire(id, at),
                Due::Token(purse) if self.looks.get(&purse) == Some(&at) => self.look(purse, at),
                Due::Token(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_claims_endless_ids_makes_no_more_than_matter() {
        let config = Config::default();
        let most = config.batch.max_ids as u64 + 1;
        let mut play = Play::new(config);
        let (key, ids) = (Some(1), 1_000_000);
        play.play(&Arrival {
            at: 0,
            purse: (0, 1),
            what: What::Receipt { key, ids },
        });
        assert!(
            play.serial <= most + 1,
            "{}, and the call's own",
            play.serial
        );
        assert_eq!(play.end().upstream, 1);
    }
}
