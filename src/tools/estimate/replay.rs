//! One setting tried on the requests of a log, in the time of the log.
//!
//! Invariant: batches and buckets are the gateway's own ([`Batch`],
//! [`OfflineLimiter`]). This file only moves the clock and holds what is open. A
//! call of a batch takes as long as the log shows for its first receipt, or no
//! time if it shows none.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::arrival::{Arrival, RequestKind};
use super::offline::{BucketKey, Entry, OfflineLimiter};
use super::outcome::Outcome;
use super::pending::{Open, Pending};
use super::replayed::{LoggedReceipt, Verdicts, Waiter};
use crate::batch::{Batch, Caps};
use crate::config::{BatchEdge, Config};
use crate::limit::{Kind, Permit};
use crate::tokens::in_flight::Place;

/// What happens at a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A bucket may have a token.
    Token(BucketKey),
    /// The window of a batch ends.
    WindowEnd(u64),
    /// The deadline of a receipt in a batch that waits.
    Deadline(u64),
    /// A merge key is idle, unless another batch of it has been opened since.
    Idle(u64, u64),
    /// A call ends that holds a place.
    CallEnd(u64, BucketKey),
}

/// One setting, and what is open under it.
pub(super) struct Replay {
    config: Config,
    start: Instant,
    limiter: OfflineLimiter<Waiter>,
    /// When the queue of each bucket is served next. Events with another time are stale.
    next_serve: HashMap<BucketKey, Instant>,
    events: BinaryHeap<Reverse<(Instant, Event)>>,
    open: HashMap<u64, Open>,
    /// For each merge key that is not idle its last batch.
    last_batch: HashMap<u64, u64>,
    /// The places of calls, where calls in flight are bounded.
    in_flight: HashMap<u64, Place>,
    verdicts: Verdicts,
    last_id: u64,
    /// The first arrival, which is `start` in the time of the log.
    first: Option<u64>,
    outcome: Outcome,
}

impl Replay {
    pub(super) fn new(config: Config) -> Self {
        Self {
            limiter: OfflineLimiter::new(&config),
            config,
            start: Instant::now(),
            next_serve: HashMap::new(),
            events: BinaryHeap::new(),
            open: HashMap::new(),
            last_batch: HashMap::new(),
            in_flight: HashMap::new(),
            verdicts: Rc::default(),
            last_id: 0,
            first: None,
            outcome: Outcome::default(),
        }
    }

    /// Replays the next request. Requests must be given in the order of their arrival.
    pub(super) fn arrive(&mut self, arrival: &Arrival) {
        let first = *self.first.get_or_insert(arrival.at);
        // The limiter needs tokio's instants. The first arrival is `start`; no clock is read after
        // that.
        let now = self.start + Duration::from_nanos(arrival.at.saturating_sub(first));
        // Everything due before this arrival happens first, so that it finds buckets and batches as
        // they were.
        self.advance(Some(now));
        self.outcome.record_arrival(arrival.at);
        match arrival.kind {
            RequestKind::Other => {
                let id = self.next_id();
                let took = Duration::from_nanos(arrival.took);
                self.acquire(id, arrival.bucket, Pending::Other(now, took), now);
            }
            RequestKind::Receipt { key, ids } => {
                // Merging is off, the log does not show the chat, or the receipt alone exceeds the
                // cap.
                let is_alone = self.config.batch.window.is_zero()
                    || key.is_none()
                    || ids as usize > self.config.batch.max_ids;
                // A log may name any number; beyond the cap all are equal.
                let most = self.config.batch.max_ids.saturating_add(1);
                let receipt = LoggedReceipt {
                    key: key.unwrap_or_default(),
                    // New numbers: the log does not show which ids are equal, and duplicates are
                    // rare.
                    ids: (0..most.min(ids as usize))
                        .map(|_| self.next_id())
                        .collect(),
                    arrived: now,
                    deadline: now + self.config.limit.max_wait,
                    took: Duration::from_nanos(arrival.took),
                };
                let receipt = if is_alone {
                    Some(receipt)
                } else {
                    self.join(receipt, now)
                };
                if let Some(receipt) = receipt {
                    self.open_batch(receipt, is_alone, arrival.bucket, now);
                }
            }
        }
    }

    /// Replays to the end of all that is open.
    pub(super) fn finish(mut self) -> Outcome {
        self.advance(None);
        self.outcome
    }

    fn refuse(&mut self, count: usize, now: Instant) {
        let at = self.log_time(now);
        self.outcome.record_refused(count as u64, at);
    }

    /// The time in the log, in nanoseconds since 1970.
    fn log_time(&self, now: Instant) -> u64 {
        let since = u64::try_from((now - self.start).as_nanos()).unwrap_or(0);
        self.first.unwrap_or(0) + since
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Joins the open batch of the receipt's key; returns the receipt if there
    /// is none or it is full.
    fn join(&mut self, receipt: LoggedReceipt, now: Instant) -> Option<LoggedReceipt> {
        let key = receipt.key;
        let Some(&id) = self.last_batch.get(&key) else {
            return Some(receipt);
        };
        let Some(Open {
            pending: Pending::Batch(batch),
            ticket,
            ..
        }) = self.open.get(&id)
        else {
            return Some(receipt);
        };
        let rest = batch.join(receipt);
        // A full batch is sealed. Its window may still be open: then it needs its token now.
        if !batch.is_open() && ticket.is_none() {
            self.close_window(id, now);
        }
        rest
    }

    /// Opens a batch with its first receipt, unless admission refuses it.
    fn open_batch(
        &mut self,
        receipt: LoggedReceipt,
        is_alone: bool,
        bucket: BucketKey,
        now: Instant,
    ) {
        // As in the gateway, a receipt that would miss its deadline is refused when it arrives
        // (rule: admission).
        let kind = Kind::Receipt { opened: now };
        if self
            .limiter
            .check(bucket, kind, now, receipt.deadline)
            .is_err()
        {
            self.refuse(1, now);
            return;
        }
        let key = receipt.key;
        let batch = Batch::open(receipt, now, Caps::of(&self.config.batch));
        let is_full = !batch.is_open();
        let id = self.next_id();
        let open = Open {
            bucket,
            ticket: None,
            pending: Pending::Batch(batch),
        };
        self.open.insert(id, open);
        if is_alone {
            return self.close_window(id, now);
        }
        let was_idle = self.last_batch.insert(key, id).is_none();
        if is_full || was_idle && self.is_leading() {
            self.close_window(id, now);
        } else {
            let end = now + self.config.batch.window;
            self.events.push(Reverse((end, Event::WindowEnd(id))));
        }
    }

    /// The window of a batch has ended: it needs a token now.
    fn close_window(&mut self, id: u64, now: Instant) {
        // A batch in the queue has closed before, when it was full.
        if self.open.get(&id).is_some_and(|open| open.ticket.is_none())
            && let Some(open) = self.open.remove(&id)
        {
            self.acquire(id, open.bucket, open.pending, now);
        }
    }

    /// Takes a token and sends, or enters the queue, or is refused.
    fn acquire(&mut self, id: u64, bucket: BucketKey, pending: Pending, now: Instant) {
        let (kind, deadline) = pending.request(self.config.limit.max_wait, now);
        let first_deadline = pending.first_deadline();
        let verdicts = Rc::clone(&self.verdicts);
        let waiter = || Waiter { id, verdicts };
        match self.limiter.admit(bucket, kind, (now, deadline), waiter) {
            Ok(Entry::Now(permit)) => self.send((id, bucket), pending, permit, now),
            Ok(Entry::Queued { ticket, first }) => {
                let open = Open {
                    bucket,
                    ticket: Some(ticket),
                    pending,
                };
                self.open.insert(id, open);
                // The queue itself watches the deadlines of requests.
                let deadline = first_deadline.map(|at| Reverse((at, Event::Deadline(id))));
                self.events.extend(deadline);
                // The queue was empty, so no event serves it yet.
                if first {
                    self.serve(bucket, now);
                }
            }
            Err(_) => match pending {
                Pending::Other(..) => self.refuse(1, now),
                Pending::Batch(batch) => {
                    self.idle(batch.key, id);
                    // Every caller of the batch is refused.
                    self.refuse(batch.seal().len(), now);
                }
            },
        }
    }

    /// Serves the queue of a bucket, and sends what was granted a token.
    fn serve(&mut self, bucket: BucketKey, now: Instant) {
        match self.limiter.serve(bucket, now) {
            Some(next) => {
                self.next_serve.insert(bucket, next);
                self.events.push(Reverse((next, Event::Token(bucket))));
            }
            None => drop(self.next_serve.remove(&bucket)),
        }
        // Serving may completion several tokens at once, for example after an idle time.
        let verdicts = self.verdicts.take();
        for (id, permit) in verdicts {
            match (self.open.remove(&id), permit) {
                (Some(open), Some(permit)) => self.send((id, bucket), open.pending, permit, now),
                (Some(_), None) => self.refuse(1, now),
                (None, _) => {}
            }
        }
    }

    /// Counts an upstream call, and the waits of its callers.
    fn send(
        &mut self,
        (id, bucket): (u64, BucketKey),
        pending: Pending,
        mut permit: Permit,
        now: Instant,
    ) {
        let took = match pending {
            Pending::Other(arrived, took) => {
                let at = self.log_time(now);
                self.outcome.record_request(now - arrived, at);
                took
            }
            Pending::Batch(batch) => {
                let receipts = batch.seal();
                // All of its callers have reached their deadlines while it waited.
                let Some(first) = receipts.first() else {
                    return self.idle(batch.key, id);
                };
                let took = first.took;
                if self.is_leading() {
                    let busy = self.config.batch.window.max(took);
                    let idle = Event::Idle(batch.key, id);
                    self.events.push(Reverse((now + busy, idle)));
                } else {
                    self.idle(batch.key, id);
                }
                let waits = receipts.iter().map(|receipt| now - receipt.arrived);
                let (waits, at) = (waits.collect::<Vec<_>>(), self.log_time(now));
                self.outcome.record_batch(&waits, at);
                took
            }
        };
        if let Some(place) = permit.take_place() {
            self.in_flight.insert(id, place);
            let end = Event::CallEnd(id, bucket);
            self.events.push(Reverse((now + took, end)));
        }
    }

    /// A call has ended: its place is free.
    fn end_call(&mut self, id: u64, bucket: BucketKey, now: Instant) {
        if let Some(place) = self.in_flight.remove(&id) {
            place.end(now);
        }
        if self.next_serve.contains_key(&bucket) {
            self.serve(bucket, now);
        }
    }

    fn is_leading(&self) -> bool {
        self.config.batch.edge == BatchEdge::Leading
    }

    /// The key is idle after this batch, unless a later one has been opened.
    fn idle(&mut self, key: u64, id: u64) {
        if self.last_batch.get(&key) == Some(&id) {
            self.last_batch.remove(&key);
        }
    }

    /// The deadline of a receipt in a batch that waits has passed.
    fn expire(&mut self, id: u64, now: Instant) {
        // It was sent before its deadline; the event is stale.
        let Some(open) = self.open.get(&id) else {
            return;
        };
        if let Pending::Batch(batch) = &open.pending {
            let expired = batch.take_late(|deadline| deadline <= now).len();
            let next = batch.first_deadline();
            self.refuse(expired, now);
            // Receipts that joined later keep the batch in the queue.
            if let Some(next) = next {
                self.events.push(Reverse((next, Event::Deadline(id))));
                return;
            }
        }
        let Some(open) = self.open.remove(&id) else {
            return;
        };
        if let Pending::Batch(batch) = &open.pending {
            self.idle(batch.key, id);
        }
        if let Some(ticket) = open.ticket {
            self.limiter.leave(open.bucket, ticket);
            // The next waiter may be served earlier than planned.
            self.serve(open.bucket, now);
        }
    }

    /// Moves the clock to a time, or to the end of all that is open.
    fn advance(&mut self, until: Option<Instant>) {
        while let Some(&Reverse((at, event))) = self.events.peek() {
            // Events at the time of an arrival happen before it: a window that ends now takes no
            // more receipts.
            if until.is_some_and(|until| at > until) {
                return;
            }
            self.events.pop();
            match event {
                Event::WindowEnd(id) => self.close_window(id, at),
                Event::Deadline(id) => self.expire(id, at),
                Event::Idle(key, id) => self.idle(key, id),
                Event::CallEnd(id, bucket) => self.end_call(id, bucket, at),
                Event::Token(bucket) => {
                    // An event is not removed from the heap when its time changes; it is skipped
                    // here.
                    if self.next_serve.get(&bucket) == Some(&at) {
                        self.serve(bucket, at);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_with_a_huge_number_of_ids_takes_bounded_memory() {
        let config = Config::default();
        let most = config.batch.max_ids as u64 + 1;
        let mut replay = Replay::new(config);
        let (key, ids) = (Some(1), 1_000_000);
        replay.arrive(&Arrival {
            at: 0,
            bucket: (0, 1),
            kind: RequestKind::Receipt { key, ids },
            took: 0,
        });
        assert!(replay.last_id <= most + 1, "{}", replay.last_id);
        assert_eq!(replay.finish().upstream, 1);
    }
}
