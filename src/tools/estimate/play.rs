//! One setting tried on a log's calls, in the log's own time.
//!
//! Invariant: batches and buckets are the gateway's own ([`Batch`], [`OfflineLimiter`]);
//! this room only turns the clock, and holds nothing but what is open.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::offline::{BucketKey, Entry, OfflineLimiter};
use super::waits::Waits;
use crate::batch::{Batch, Caps, Member};
use crate::config::Config;
use crate::limit::{Grant, Kind, Permit, Refused};

/// A call of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Arrival {
    /// Since 1970, in nanoseconds.
    pub(super) at: u64,
    /// Whose bucket it draws on.
    pub(super) bucket: BucketKey,
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

/// A waiter, by number: its verdict is noted, and read after the queue was
/// served.
struct Slot {
    id: u64,
    verdicts: Verdicts,
}

/// The waiters that have a verdict, and whether they got their token.
type Verdicts = Rc<RefCell<Vec<(u64, bool)>>>;

impl Grant for Slot {
    fn settle(self, verdict: Result<Permit, Refused>) -> bool {
        let noted = (self.id, verdict.is_ok());
        self.verdicts.borrow_mut().push(noted);
        true
    }
}

/// What is due at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// A bucket may have a token.
    Token(BucketKey),
    /// A batch's window ends.
    Window(u64),
    /// The deadline of a caller of a batch comes.
    Deadline(u64),
}

/// A call or a batch that has not gone yet.
struct Open {
    bucket: BucketKey,
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
    limiter: OfflineLimiter<Slot>,
    /// When each queue is served next; other entries of the heap are stale.
    looks: HashMap<BucketKey, Instant>,
    due: BinaryHeap<Reverse<(Instant, Due)>>,
    open: HashMap<u64, Open>,
    /// The batch of each key that takes callers.
    taking: HashMap<u64, u64>,
    verdicts: Verdicts,
    serial: u64,
    first: Option<u64>,
    outcome: Outcome,
}

impl Play {
    pub(super) fn new(config: Config) -> Self {
        let start = Instant::now();
        Self {
            limiter: OfflineLimiter::new(&config),
            config,
            start,
            looks: HashMap::new(),
            due: BinaryHeap::new(),
            open: HashMap::new(),
            taking: HashMap::new(),
            verdicts: Rc::default(),
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
                self.ask(id, arrival.bucket, Kind::Request, now, deadline, what);
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
                self.join(guest, alone, arrival.bucket, now);
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

    fn join(&mut self, guest: Guest, alone: bool, bucket: BucketKey, now: Instant) {
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
        if self
            .limiter
            .check(bucket, kind, now, guest.deadline)
            .is_err()
        {
            self.outcome.refused += 1;
            return;
        }
        let caps = Caps::of(&self.config.batch);
        let batch = Batch::open(guest, now, caps);
        let full = !batch.is_open();
        let id = self.next();
        let open = Open {
            bucket,
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
            bucket,
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
        self.ask(id, bucket, kind, now, deadline, Waiting::Batch(batch));
    }

    fn ask(
        &mut self,
        id: u64,
        bucket: BucketKey,
        kind: Kind,
        now: Instant,
        deadline: Instant,
        what: Waiting,
    ) {
        let verdicts = &self.verdicts;
        let slot = || Slot {
            id,
            verdicts: Rc::clone(verdicts),
        };
        match self.limiter.admit(bucket, kind, (now, deadline), slot) {
            Ok(Entry::Now) => self.go(id, what, now),
            Ok(Entry::Queued { ticket, first }) => {
                if let Waiting::Batch(batch) = &what {
                    let until = batch.first_deadline().unwrap_or(deadline);
                    self.due.push(Reverse((until, Due::Deadline(id))));
                }
                let ticket = Some(ticket);
                self.open.insert(
                    id,
                    Open {
                        bucket,
                        ticket,
                        what,
                    },
                );
                if first {
                    self.look(bucket, now);
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

    /// Serves a queue, and lets go what was given a token.
    fn look(&mut self, bucket: BucketKey, now: Instant) {
        match self.limiter.serve(bucket, now) {
            Some(next) => {
                self.looks.insert(bucket, next);
                self.due.push(Reverse((next, Due::Token(bucket))));
            }
            None => drop(self.looks.remove(&bucket)),
        }
        let verdicts = self.verdicts.take();
        for (id, is_granted) in verdicts {
            match self.open.remove(&id) {
                Some(open) if is_granted => self.go(id, open.what, now),
                Some(_) => self.outcome.refused += 1,
                None => {}
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

    /// The deadline of a caller of a batch that waits.
    fn expire(&mut self, id: u64, now: Instant) {
        let Some(open) = self.open.get(&id) else {
            return;
        };
        let (bucket, ticket) = (open.bucket, open.ticket);
        if let Waiting::Batch(batch) = &open.what {
            self.outcome.refused += batch.expire(now).len() as u64;
            if let Some(next) = batch.first_deadline() {
                self.due.push(Reverse((next, Due::Deadline(id))));
                return;
            }
        }
        if let Some(Open {
            what: Waiting::Batch(batch),
            ..
        }) = self.open.remove(&id)
        {
            self.forget(&batch, id);
        }
        if let Some(ticket) = ticket {
            self.limiter.leave(bucket, ticket);
            self.look(bucket, now);
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
                Due::Token(bucket) if self.looks.get(&bucket) == Some(&at) => self.look(bucket, at),
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
            bucket: (0, 1),
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
