//! When a newcomer would get its token, and whether it is admitted.
//!
//! A forecast runs the code that serves ([`Bucket::serve`],
//! [`SharedQueue::serve`]) on a copy of the queue with the newcomer in it, so
//! the two cannot disagree (rule: admission). Invariant: a request is admitted
//! if and only if it would be served by its deadline given no further arrivals.
//! Two cases count as late as well, because promises would be broken:
//!
//! - at its own bucket, a newcomer that makes a waiter late which was admitted
//!   before;
//! - at a contended shared budget, a newcomer that would be late if the tenants
//!   and instances that were active lately use their shares meanwhile
//!   ([`Flows::guaranteed`](super::flow::Flows::guaranteed)). Their requests go
//!   first when they come, so a queue that is filled with a tenant's excess
//!   would break up to every third of its promises. A tenant within its share
//!   is not affected: no other tenant has a smaller start tag.
//!
//! Cost: at a bucket where only requests or only receipts wait, a few
//! multiplications. Otherwise one step for each waiter, at most `rate ×
//! max_wait + burst` of them, because no more are admitted. A step costs a few
//! comparisons; only where an overdue receipt may go before requests does it
//! inspect each waiting request. At shared budgets the waiters of all buckets
//! count, with the rate of the egress (or the rates of the tenants, where the
//! egress has none), and a step searches an ordered set.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use super::bucket::Bucket;
use super::flow::FlowId;
use super::request::{Completion, Kind, Newcomer, Permit, RateLimited, Refusal, Scope};
use super::shared_queue::{EntryId, SharedQueue};
use super::wait_queue::{Side, Waiter};
use crate::config::Quota;
use crate::tokens::gcra::Gcra;

/// The newcomer's ticket number in a simulation: the last.
const NEWCOMER: u64 = u64::MAX;

/// The least by which a token can be late.
const JUST_AFTER: Duration = Duration::from_nanos(1);

/// Longer than any wait.
const FAR: Duration = Duration::from_secs(365 * 86_400);

/// The result for a newcomer if nothing else arrives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forecast {
    /// When it gets its token.
    pub(crate) at: Instant,
    /// A waiter that was admitted before would be late because of it.
    pub(crate) breaks_promise: bool,
    /// The budget that it waits for.
    pub(crate) scope: Scope,
    pub(crate) quota: Option<Quota>,
}

/// The results of one simulation.
#[derive(Debug, Default)]
struct Results {
    newcomer: Cell<Option<Instant>>,
    late: Cell<usize>,
    /// The newcomer and the counted waiters that still wait.
    open: Cell<usize>,
}

/// A waiter in the copy of a queue.
#[derive(Debug)]
struct SimulatedWaiter<'l> {
    results: &'l Results,
    /// Set for a counted waiter.
    deadline: Option<Instant>,
    is_newcomer: bool,
}

impl Completion for SimulatedWaiter<'_> {
    fn settle(self, verdict: Result<Permit, RateLimited>) -> bool {
        let Self { results, .. } = self;
        let granted = verdict.ok().map(|permit| permit.granted);
        if self.is_newcomer {
            results.newcomer.set(granted);
        } else if let Some(deadline) = self.deadline {
            // A refusal breaks the promise, too.
            let is_late = granted.is_none_or(|granted| granted > deadline);
            results.late.set(results.late.get() + usize::from(is_late));
        } else {
            // Not counted in `open`, so it is not subtracted there.
            return true;
        }
        results.open.set(results.open.get() - 1);
        true
    }
}

impl Results {
    /// The newcomer in a copy.
    fn newcomer(&self) -> SimulatedWaiter<'_> {
        self.open.set(self.open.get() + 1);
        SimulatedWaiter {
            is_newcomer: true,
            ..self.uncounted()
        }
    }

    /// A copy of a waiter, counted if it is late.
    fn counted<G>(&self, waiter: &Waiter<G>) -> SimulatedWaiter<'_> {
        self.open.set(self.open.get() + 1);
        SimulatedWaiter {
            deadline: Some(waiter.deadline),
            ..self.uncounted()
        }
    }

    /// A copy of a waiter whose result does not matter.
    fn uncounted(&self) -> SimulatedWaiter<'_> {
        SimulatedWaiter {
            results: self,
            deadline: None,
            is_newcomer: false,
        }
    }

    /// Runs the simulation until the newcomer and all counted waiters are settled.
    fn run(&self, newcomer: &Newcomer, mut serve: impl FnMut(Instant) -> Option<Instant>) {
        let mut now = newcomer.now;
        while let Some(next) = serve(now) {
            let is_late = |at| at > newcomer.deadline;
            // The result of the newcomer alone is not enough: a receipt that is served after
            // it may be late because of it. A newcomer that is late is refused in any case.
            if self.open.get() == 0 || self.newcomer.get().is_some_and(is_late) {
                return;
            }
            now = next;
        }
    }
}

/// Whether a newcomer is admitted at a bucket that shares no budget.
///
/// # Errors
/// The newcomer is refused.
pub(crate) fn admit<G: Completion>(
    bucket: &Bucket<G>,
    newcomer: &Newcomer,
    max_delay: Duration,
    max_queue: usize,
) -> Result<(), RateLimited> {
    if matches!(newcomer.kind, Kind::FollowUp { .. }) {
        // Its batch was admitted already, so only a pause can refuse it (rule: splitting).
        return bucket.check_pause(newcomer.now, newcomer.deadline);
    }
    let forecast = of_bucket(bucket, newcomer, max_delay);
    decide(bucket, newcomer, &forecast, max_queue)
}

/// Whether a newcomer of this forecast is admitted.
fn decide<G: Completion>(
    bucket: &Bucket<G>,
    newcomer: &Newcomer,
    forecast: &Forecast,
    max_queue: usize,
) -> Result<(), RateLimited> {
    let Newcomer { now, deadline, .. } = *newcomer;
    let refuse = |refusal, at: Instant| {
        let of_bucket = bucket.refused(refusal, at, now);
        // Where a shared budget is the reason, a bound on calls in flight is not.
        let is_own = forecast.scope == Scope::Instance;
        Err(RateLimited {
            scope: forecast.scope,
            quota: forecast.quota,
            max_in_flight: of_bucket.max_in_flight.filter(|_| is_own),
            ..of_bucket
        })
    };
    // Where the tokens are there, the queue is full only because its task has not run yet.
    if forecast.at > now && bucket.len() >= max_queue {
        return refuse(Refusal::QueueFull, forecast.at);
    }
    let why = match forecast.scope {
        Scope::Instance => bucket.why_late(now),
        Scope::Tenant | Scope::Egress => Refusal::WaitTooLong,
    };
    if forecast.at > deadline {
        return refuse(why, forecast.at);
    }
    if forecast.breaks_promise {
        // For `Retry-After`: when all that waits has its token, none of it can be made late.
        let all_served = bucket.due(now, bucket.len());
        return refuse(why, all_served.max(forecast.at));
    }
    Ok(())
}

/// The forecast at a bucket that shares no budget.
pub(crate) fn of_bucket<G: Completion>(
    bucket: &Bucket<G>,
    newcomer: &Newcomer,
    max_delay: Duration,
) -> Forecast {
    let now = newcomer.now;
    let forecast = |at, breaks_promise| Forecast {
        at,
        breaks_promise,
        scope: Scope::Instance,
        quota: bucket.quota(),
    };
    let Some(queue) = bucket.waiting() else {
        return forecast(bucket.due(now, 0), false);
    };
    let (side, overdue) = newcomer.queue_key(max_delay);
    match (side, queue.counts()) {
        // First come, first served: what waits is not affected.
        (Side::Requests, (requests, 0)) => return forecast(bucket.due(now, requests), false),
        (Side::Receipts, (0, _)) => {
            // By age: each younger receipt gets its token one later. One that
            // is late without the newcomer as well is no broken promise.
            let before = queue.receipts_before(overdue);
            let behind = (before..).zip(queue.receipts().skip(before));
            let mut late = behind.filter(|(index, receipt)| {
                bucket.due(now, index + 1) > receipt.deadline
                    && bucket.due(now, *index) <= receipt.deadline
            });
            return forecast(bucket.due(now, before), late.next().is_some());
        }
        _ => {}
    }
    let simulate = |results: &Results, newcomer: &Newcomer, joins: bool| {
        let mut copy = bucket.copy(now, |waiter| results.counted(waiter));
        if joins {
            copy.push(newcomer, max_delay, NEWCOMER, results.newcomer());
        }
        results.run(newcomer, |now| copy.tick(now));
    };
    let (at, breaks_promise) = outcome(newcomer, simulate);
    forecast(at, breaks_promise)
}

/// When a newcomer is served, and whether a counted waiter is late because of
/// it. `simulate` runs a copy with or without the newcomer.
fn outcome(newcomer: &Newcomer, simulate: impl Fn(&Results, &Newcomer, bool)) -> (Instant, bool) {
    let results = Results::default();
    simulate(&results, newcomer, true);
    let Some(at) = results.newcomer.get() else {
        // It would be refused at its deadline: simulate it with a far deadline, to
        // know when it would be served.
        let results = Results::default();
        let with_far_deadline = Newcomer {
            deadline: newcomer.deadline + FAR,
            ..*newcomer
        };
        simulate(&results, &with_far_deadline, true);
        let at = results.newcomer.get().unwrap_or(with_far_deadline.deadline);
        // It was refused in the first simulation, so it must not count as in time.
        return (at.max(newcomer.deadline + JUST_AFTER), false);
    };
    let breaks_promise = results.late.get() > 0 && at <= newcomer.deadline && {
        // Some may be late in any case, after a pause.
        let without = Results::default();
        simulate(&without, newcomer, false);
        results.late.get() > without.late.get()
    };
    (at, breaks_promise)
}

/// Where the bucket of a newcomer is.
#[derive(Debug)]
pub(crate) enum BucketRef<'b, G> {
    /// Nothing waits there yet.
    Outside(&'b Bucket<G>),
    /// Among those that wait for shared budgets.
    Registered(EntryId),
}

impl<G> Clone for BucketRef<'_, G> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<G> Copy for BucketRef<'_, G> {}

/// Whether a newcomer is admitted at a bucket that shares budgets.
///
/// # Errors
/// The newcomer is refused.
pub(crate) fn admit_shared<G: Completion>(
    shared: &mut SharedQueue<G>,
    flow: FlowId,
    bucket_ref: BucketRef<'_, G>,
    newcomer: &Newcomer,
    (max_delay, max_queue): (Duration, usize),
) -> Result<(), RateLimited> {
    let (side, _) = newcomer.queue_key(max_delay);
    let entry = match bucket_ref {
        BucketRef::Outside(_) => None,
        BucketRef::Registered(id) => Some(id),
    };
    // Before `bucket` borrows from `shared`: this also records how many buckets compete.
    let guaranteed = shared.guaranteed(flow, entry, side, newcomer.now);
    let bucket = match bucket_ref {
        BucketRef::Outside(bucket) => bucket,
        BucketRef::Registered(id) => match shared.bucket_of(id) {
            Some(bucket) => bucket,
            None => return Ok(()),
        },
    };
    if matches!(newcomer.kind, Kind::FollowUp { .. }) {
        return bucket.check_pause(newcomer.now, newcomer.deadline);
    }
    let own = of_bucket(bucket, newcomer, max_delay);
    // Spares a simulation over all waiting buckets.
    if is_ample(shared, flow, bucket.quota(), newcomer.now) {
        return decide(bucket, newcomer, &own, max_queue);
    }
    let served = in_shared(shared, flow, bucket_ref, newcomer, max_delay);
    let (guaranteed_at, scope, quota) = guaranteed;
    // A newcomer served now competes with no later arrivals. One that is late in
    // any case gets its simulated time as `Retry-After`.
    let at = if served > newcomer.now && served <= newcomer.deadline {
        served.max(guaranteed_at)
    } else {
        served
    };
    // The refusal names the budget whose token comes last.
    let forecast = if at > own.at {
        Forecast {
            at,
            breaks_promise: false,
            scope,
            quota,
        }
    } else {
        Forecast { at, ..own }
    };
    decide(bucket, newcomer, &forecast, max_queue)
}

/// Whether no shared budget can keep a bucket of this flow waiting: the shared
/// budget has a token for each waiting bucket now, and its rate is at least the
/// sum of theirs. Then the forecast of the bucket alone is exact.
fn is_ample<G: Completion>(
    shared: &SharedQueue<G>,
    flow: FlowId,
    newcomer: Option<Quota>,
    now: Instant,
) -> bool {
    let is_ample = |budget: Gcra, quotas: &mut dyn Iterator<Item = Option<Quota>>| {
        let (Some(quota), Some(tokens)) = (budget.quota(), budget.tokens(now)) else {
            return true;
        };
        // A bucket without a quota can use up any budget.
        let rate = |quota: Option<Quota>| quota.map_or(f64::INFINITY, |quota| quota.rate);
        let all = quotas.map(rate).fold((1.0, rate(newcomer)), |sum, rate| {
            (sum.0 + 1.0, sum.1 + rate)
        });
        // The newcomer itself takes one more.
        all.0 < tokens && all.1 <= quota.rate
    };
    let Some([egress, own]) = shared.flows.budgets_of(flow, now) else {
        return false;
    };
    let mut of_flow = shared.quotas().filter(|(id, _)| *id == flow).map(|it| it.1);
    let mut all = shared.quotas().map(|it| it.1);
    is_ample(own, &mut of_flow) && is_ample(egress, &mut all)
}

/// When a newcomer is served at the shared budgets.
pub(crate) fn in_shared<G: Completion>(
    shared: &SharedQueue<G>,
    flow: FlowId,
    bucket_ref: BucketRef<'_, G>,
    newcomer: &Newcomer,
    max_delay: Duration,
) -> Instant {
    let now = newcomer.now;
    let simulate = |results: &Results, newcomer: &Newcomer, joins: bool| {
        // Only the newcomer counts: `guaranteed` leaves the others their shares.
        let mut copy = shared.copy(flow, now, |_| results.uncounted());
        let id = match bucket_ref {
            BucketRef::Registered(id) => id,
            BucketRef::Outside(bucket) => {
                copy.register(bucket.copy(now, |_| results.uncounted()), flow)
            }
        };
        if let (Some(bucket), true) = (copy.bucket(id), joins) {
            bucket.push(newcomer, max_delay, NEWCOMER, results.newcomer());
        }
        let mut agenda = copy.agenda(now);
        results.run(newcomer, |now| copy.serve_by(&mut agenda, now));
    };
    outcome(newcomer, simulate).0
}
